//! How a replica runs as a container.

use std::collections::BTreeMap;

/// How the proxy reaches a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ContainerAddress {
    /// At its own address on its network.
    #[default]
    Container,
    /// At ports of 127.0.0.1 that the engine forwards.
    Published,
    /// It shares the machine's network and listens on ports from the port range.
    Host,
}

/// What a container sees of the machine's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// An absolute path of the machine, or the name of a volume of the engine.
    pub source: String,
    /// An absolute path in the container.
    pub target: String,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// A replica as a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image by name and tag, or by id.
    pub image: String,
    /// User in the container, `name`, `uid` or `uid:gid`; the image's when absent.
    pub user: Option<String>,
    /// CPU time per time, in thousandths of a core; `None`: no bound.
    pub cpu_millicores: Option<u32>,
    /// Memory in octets; above it the kernel kills. `None`: no bound.
    pub memory_bytes: Option<u64>,
    /// Processes and threads at a time.
    pub pids: u32,
    /// Files of the machine that it sees.
    pub volumes: Vec<Volume>,
    /// Its network; the default of the Docker runtime when absent.
    pub network: Option<String>,
    /// How it is reached.
    pub address: ContainerAddress,
    /// Labels beside Weir's own.
    pub labels: BTreeMap<String, String>,
    /// Numbers that it listens on, in the order of the service's ports; without meaning for `ContainerAddress::Host`.
    pub ports: Vec<u16>,
}

impl ContainerSpec {
    /// Returns true when two copies at a time could write to the same files: one is stopped before the next starts.
    pub fn has_writable_volume(&self) -> bool {
        self.volumes.iter().any(|volume| !volume.read_only)
    }
}

impl Volume {
    /// Returns true when the source is a path of the machine, not a volume of the engine.
    pub fn is_bind(&self) -> bool {
        self.source.starts_with('/')
    }
}
