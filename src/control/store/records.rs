//! What is kept, as it is written: JSON values, so that a later version can read what an earlier one wrote.
//!
//! A field that is added has a default; a change that an older Weir would misread raises `file::FORMAT`.

use crate::model::{InstanceId, ServiceName};
use crate::spec;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Where a revision came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeSource {
    /// The configuration file.
    File,
    /// `weir deploy` or the API.
    Deploy,
    /// A rollback, by hand or by a failed rollout.
    Rollback,
}

/// What became of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is being rolled out.
    #[default]
    Progressing,
    /// Its rollout succeeded.
    Completed,
    /// Its rollout failed, and nothing was rolled back.
    Failed,
    /// Its rollout failed, and the last revision that worked is wanted again.
    RolledBack,
    /// A later revision took its place before its rollout was over.
    Superseded,
}

/// One numbered definition of a service; once written, only what became of it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number, from 1, rising within the service.
    pub number: u64,
    /// Where it came from.
    pub source: ChangeSource,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// The definition, as written.
    pub definition: spec::Service,
    /// What people should know of it, such as why a rollback happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What became of it.
    #[serde(default)]
    pub outcome: Outcome,
    /// Why its rollout failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The revision whose failure made this rollback; such a one is not rolled back itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<u64>,
}

/// Where a service stands among its revisions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The revision that is wanted.
    pub wanted: u64,
    /// The last revision whose rollout succeeded.
    #[serde(default)]
    pub stable: Option<u64>,
    /// The highest number given so far; numbers are not reused.
    pub last: u64,
    /// Hash of what the configuration file last contributed; none when it does not list the service.
    #[serde(default)]
    pub file_hash: Option<String>,
    /// Hash of what the file last said of the number of replicas; a change of it drops `pin`.
    #[serde(default)]
    pub size_hash: Option<String>,
    /// Replicas set by hand; overrides definition and autoscaler.
    #[serde(default)]
    pub pin: Option<u32>,
}

/// An instance that registered itself over the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRecord {
    /// The service, as `name` or `namespace/name`.
    pub service: String,
    /// Where it is reached.
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports.
    pub ports: Vec<u16>,
    /// Relative share of traffic.
    pub weight: u32,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What else is said about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Length of its lease in milliseconds.
    pub lease_ms: u64,
}

/// A process or container as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadRecord {
    /// A local process.
    Process {
        /// Its id.
        pid: u32,
        /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`. With the boot it tells a reused id.
        start_ticks: u64,
        /// The boot: `/proc/sys/kernel/random/boot_id`.
        boot: String,
    },
    /// A container by its full id.
    Container(String),
}

/// A replica: written as an intent before it is started, completed once it runs, dropped when nothing of it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// The service, as `name` or `namespace/name`.
    pub service: String,
    /// The revision that it was started for.
    pub revision: u64,
    /// How it runs, as a number: equal means that it need not be replaced.
    pub fingerprint: u64,
    /// Which of the wanted copies it is.
    pub slot: u32,
    /// What runs; none while it is only intended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRecord>,
    /// Where it listens; meaningless before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Port numbers in the order of the service's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// A private key in PEM: written to the store, shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a key in PEM.
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// Returns the key in PEM.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An account at an ACME authority, RFC 8555 §7.1.2; its key in the store is the URL of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Its URL, which is its id.
    pub id: String,
    /// Its private key.
    pub key: Secret,
    /// The address that the authority may write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// Who issued a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// An ACME authority.
    Acme,
    /// The internal authority.
    Internal,
}

/// A certificate with its key; its key in the store is the name that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Who issued it.
    pub origin: Origin,
    /// The certificate and those above it, in PEM.
    pub chain: String,
    /// Its private key.
    pub key: Secret,
    /// When it came, in milliseconds since the epoch.
    pub issued_ms: u64,
    /// Whether a handshake asked for it, and no configuration.
    #[serde(default)]
    pub on_demand: bool,
}

/// An order that has begun: taken up again after a crash instead of ordering once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// URL of the directory that it was placed at.
    pub directory: String,
    /// Its URL.
    pub url: String,
    /// The private key that its certificate will have.
    pub key: Secret,
}

/// How often in a row there was no certificate for a name, so that a restart does not ask sooner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// Failures in a row.
    pub count: u32,
    /// Not before this, in milliseconds since the epoch.
    pub retry_ms: u64,
    /// The last error.
    pub error: String,
}

/// The root of the internal authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Its certificate in PEM.
    pub certificate: String,
    /// Its private key.
    pub key: Secret,
}

/// A service's own address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of the range that it is from.
    pub prefix: u8,
    /// When its service went, in milliseconds since the epoch; none while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_ms: Option<u64>,
}

impl AddressRecord {
    /// Returns the range that it is from: network and prefix length.
    pub fn range(&self) -> (Ipv4Addr, u8) {
        let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        (Ipv4Addr::from_bits(self.address.to_bits() & !host), self.prefix)
    }
}

/// Everything that a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Revisions by service and number.
    pub revisions: BTreeMap<ServiceName, BTreeMap<u64, Revision>>,
    /// Heads by service.
    pub heads: BTreeMap<ServiceName, Head>,
    /// Registrations over the API by instance.
    pub registrations: BTreeMap<InstanceId, RegistrationRecord>,
    /// Instances that are drained by hand.
    pub drains: BTreeSet<InstanceId>,
    /// Replicas by instance.
    pub replicas: BTreeMap<InstanceId, ReplicaRecord>,
    /// Replicas and registered instances that served when last heard of.
    pub ready: BTreeSet<InstanceId>,
    /// Accounts by the URL of their directory.
    pub accounts: BTreeMap<String, AccountRecord>,
    /// Certificates by name.
    pub certificates: BTreeMap<String, CertificateRecord>,
    /// Orders that have begun, by name.
    pub orders: BTreeMap<String, OrderRecord>,
    /// Names without a certificate that somebody wanted, and why.
    pub failures: BTreeMap<String, FailureRecord>,
    /// The root of the internal authority.
    pub root: Option<RootRecord>,
    /// The services' own addresses.
    pub addresses: BTreeMap<ServiceName, AddressRecord>,
}

impl Contents {
    /// Takes out what belongs to certificates.
    pub fn take_certificates(&mut self) -> Self {
        Self {
            accounts: std::mem::take(&mut self.accounts),
            certificates: std::mem::take(&mut self.certificates),
            orders: std::mem::take(&mut self.orders),
            failures: std::mem::take(&mut self.failures),
            root: self.root.take(),
            ..Self::default()
        }
    }
}
