//! What DNS names look like: `[dns] schemas`, `[dns.kubernetes]`, `[dns.consul]` and `[[dns.alias]]`, and the way back.

use crate::config::bounds::time;
use crate::dns::{AliasOptions, AliasTargetOptions, Options as DnsOptions, SchemaOptions};
use crate::model::{ServiceName, parse_label};
use crate::spec::{Duration, KeyPath, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration as Time;

/// Longest label of a name.
const LABEL: usize = 63;
/// Longest name in dotted form.
const MAX_NAME: usize = 253;
const DAY: Time = Time::from_secs(24 * 3600);
const DEFAULT_TTL: Time = Time::from_secs(5);
const DEFAULT_NAMESPACE: &str = "default";
const CLUSTER: &str = "cluster.local";
const CONSUL: &str = "consul";
const DATACENTER: &str = "dc1";

/// What names look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DnsSchema {
    /// Names below the zone of the server.
    Native,
    /// Names of the Kubernetes DNS specification.
    Kubernetes,
    /// Names of Consul.
    Consul,
    /// Short names of Docker.
    Docker,
}

/// Names of Kubernetes: `<service>.<namespace>.svc.<zone>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsKubernetes {
    /// Their zone; default `cluster.local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// Names of Consul: `<service>.service[.<datacenter>].<zone>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsConsul {
    /// Their zone; default `consul`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The data center, one label; default `dc1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
}

/// A name that stands for another name: answered with a CNAME and what that name has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsAlias {
    /// Its name in its namespace: labels such as `db`, `*` for whatever else the namespace is asked for, or `*.apps` for
    /// whatever is below `apps`.
    #[serde(default)]
    pub name: String,
    /// Its namespace; default `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service or alias that it leads to, as `name` or `namespace/name`; or `target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The name that it leads to, such as `db.example.com`; or `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// TTL of the CNAME, whole seconds up to `1d`; default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// Reads the schemas; `zone` is the zone of native names.
pub(super) fn read_schemas(
    p: &mut Problems,
    listed: Option<&[DnsSchema]>,
    sections: (Option<&DnsKubernetes>, Option<&DnsConsul>),
    zone: &str,
) -> Vec<SchemaOptions> {
    let listed = listed.unwrap_or(&[DnsSchema::Native]);
    if listed.is_empty() {
        p.unknown("dns.schemas", "is empty", "write \"native\", or remove [dns] to run no DNS server");
    }
    let mut zones = HashSet::from([zone.to_owned()]);
    let mut zone_of = |p: &mut Problems, key: &str, text: Option<&String>, default: &str| {
        let zone = lower(text.map_or(default, String::as_str));
        if !is_name(&zone) {
            p.add(key, format!("{zone:?} is no zone"), format!("write labels separated by dots, such as {default:?}"));
        } else if !zones.insert(zone.clone()) {
            p.add(key, format!("{zone:?} is the zone of another schema"), "give each schema a zone of its own");
        }
        zone
    };
    let mut read = Vec::with_capacity(listed.len());
    for (i, schema) in listed.iter().enumerate() {
        if listed.iter().take(i).any(|other| other == schema) {
            p.at(&element("dns.schemas", i), "is listed twice", "list each schema once");
            continue;
        }
        read.push(match schema {
            DnsSchema::Native => SchemaOptions::Native,
            DnsSchema::Docker => SchemaOptions::Docker,
            DnsSchema::Kubernetes => SchemaOptions::Kubernetes {
                zone: zone_of(p, "dns.kubernetes.zone", sections.0.and_then(|s| s.zone.as_ref()), CLUSTER),
            },
            DnsSchema::Consul => {
                let datacenter = sections.1.and_then(|s| s.datacenter.as_deref()).unwrap_or(DATACENTER);
                if let Err(error) = parse_label(datacenter, LABEL) {
                    p.add("dns.consul.datacenter", error.to_string(), "use one label, such as \"dc1\"");
                }
                let zone = zone_of(p, "dns.consul.zone", sections.1.and_then(|s| s.zone.as_ref()), CONSUL);
                SchemaOptions::Consul { zone, datacenter: datacenter.to_owned() }
            }
        });
    }
    read
}

/// Reads the aliases; `known` says whether a service is defined.
pub(super) fn read_aliases(p: &mut Problems, aliases: &[DnsAlias]) -> Vec<AliasOptions> {
    let mut names = HashSet::new();
    let mut read = Vec::with_capacity(aliases.len());
    for (i, alias) in aliases.iter().enumerate() {
        p.within("dns.alias", i, |p| {
            let option = read_alias(p, alias);
            if option.as_ref().is_some_and(|option| !names.insert((option.namespace.clone(), option.name.clone()))) {
                p.add("name", format!("{:?} is defined twice", alias.name), "a name leads to one place");
            }
            read.extend(option);
        });
    }
    read
}

fn read_alias(p: &mut Problems, alias: &DnsAlias) -> Option<AliasOptions> {
    let name = lower(&alias.name);
    let labels = name.strip_prefix('*').map_or(name.as_str(), |rest| rest.strip_prefix('.').unwrap_or(rest));
    let namespace = alias.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    if name.is_empty() {
        p.absent("name", "write name = \"…\": the name that stands for another");
    } else if !(is_name(labels) || name == "*") || name == "*." {
        p.add("name", format!("{:?} is no name", alias.name), "write labels such as \"db\", \"*\" or \"*.apps\"");
    }
    if let Err(error) = parse_label(namespace, LABEL) {
        p.add("namespace", error.to_string(), "write a namespace, such as \"default\"");
    }
    let ttl = time(p, "ttl", alias.ttl, DEFAULT_TTL, Time::ZERO..=DAY);
    if ttl.subsec_nanos() != 0 {
        let message = format!("{} is not in whole seconds", Duration::new(ttl));
        p.add("ttl", message, "DNS counts in seconds: write \"1s\"");
    }
    let to = match (&alias.service, &alias.target) {
        (Some(service), None) => match ServiceName::parse(service) {
            Ok(service) => AliasTargetOptions::Service(service),
            Err(error) => {
                p.add("service", error.to_string(), "write a service as \"name\" or \"namespace/name\"");
                return None;
            }
        },
        (None, Some(target)) => {
            let target = lower(target);
            if !is_name(&target) {
                p.add("target", format!("{target:?} is no name"), "write a whole name, such as \"db.example.com\"");
            }
            AliasTargetOptions::Name(target)
        }
        _ => {
            p.absent("target", "write either service = \"…\" or target = \"…\": where it leads");
            return None;
        }
    };
    Some(AliasOptions { name, namespace: namespace.into(), to, ttl })
}

/// Returns a name in lower case without its final dot.
pub(super) fn lower(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Returns whether a text is a name: labels that may begin with an underscore.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(|label| parse_label(label.trim_start_matches('_'), LABEL).is_ok())
}

/// Returns the path of an element of a list.
pub(super) fn element(list: &str, index: usize) -> KeyPath {
    KeyPath::default().key(list).index(index)
}

/// Writes the schemas with their sections.
pub(super) fn write_schemas(options: &DnsOptions) -> (Vec<DnsSchema>, Option<DnsKubernetes>, Option<DnsConsul>) {
    let (mut kubernetes, mut consul) = (DnsKubernetes { zone: Some(CLUSTER.to_owned()) }, None);
    let mut listed = Vec::new();
    for schema in &options.schemas {
        listed.push(match schema {
            SchemaOptions::Native => DnsSchema::Native,
            SchemaOptions::Docker => DnsSchema::Docker,
            SchemaOptions::Kubernetes { zone } => {
                kubernetes.zone = Some(zone.clone());
                DnsSchema::Kubernetes
            }
            SchemaOptions::Consul { zone, datacenter } => {
                consul = Some(DnsConsul { zone: Some(zone.clone()), datacenter: Some(datacenter.clone()) });
                DnsSchema::Consul
            }
        });
    }
    let default = DnsConsul { zone: Some(CONSUL.to_owned()), datacenter: Some(DATACENTER.to_owned()) };
    (listed, Some(kubernetes), Some(consul.unwrap_or(default)))
}

/// Writes the aliases.
pub(super) fn write_aliases(aliases: &[AliasOptions]) -> Vec<DnsAlias> {
    let one = |alias: &AliasOptions| {
        let (service, target) = match &alias.to {
            AliasTargetOptions::Service(name) => (Some(name.to_string()), None),
            AliasTargetOptions::Name(name) => (None, Some(name.clone())),
        };
        let namespace = Some(alias.namespace.to_string());
        DnsAlias { name: alias.name.clone(), namespace, service, target, ttl: Some(alias.ttl.into()) }
    };
    aliases.iter().map(one).collect()
}
