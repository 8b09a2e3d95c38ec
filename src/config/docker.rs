//! `[docker]` → the options of the Docker runtime, and back.

use crate::config::bounds::time;
use crate::config::environment::Environment;
use crate::config::file::{Docker, File};
use crate::control::DockerOptions;
use crate::dns::Options as DnsOptions;
use crate::spec::Problems;
use std::path::{Component, Path, PathBuf};
use std::time::Duration as Time;

/// What the address of an engine begins with.
const SCHEME: &str = "unix://";
/// Bounds of `docker.call_timeout`: below, a busy engine looks stuck; above, a stuck one is found out late.
const CALL_TIMEOUT: std::ops::RangeInclusive<Time> = Time::from_secs(1)..=Time::from_secs(300);

/// Where containers ask for names: their resolvers know no other port.
const DNS_PORT: u16 = 53;
/// Folders that give a container the machine.
const FORBIDDEN: [&str; 6] = ["/", "/proc", "/sys", "/dev", "/run", "/var/run"];

/// Reads the section.
pub(super) fn read(p: &mut Problems, file: &File, environment: &Environment) -> DockerOptions {
    let section = &file.docker.clone().unwrap_or_default();
    let asks = file.dns.as_ref().filter(|dns| dns.listen.iter().flatten().any(|place| place.port() == Some(DNS_PORT)));
    let defaults = DockerOptions::default();
    let host = section.host.as_deref().or_else(|| environment.get("DOCKER_HOST"));
    let network = section.network.clone().unwrap_or(defaults.network);
    if network.is_empty() || ["host", "none", "default"].contains(&network.as_str()) {
        p.add(
            "docker.network",
            format!("{network:?} is no bridge"),
            "write a name of your own; \"weir\" is the default",
        );
    }
    DockerOptions {
        socket: host.map_or(defaults.socket, |host| read_host(p, host)),
        network,
        call_timeout: time(p, "docker.call_timeout", section.call_timeout, defaults.call_timeout, CALL_TIMEOUT),
        zone: asks.map(|dns| dns.zone.clone().unwrap_or_else(|| DnsOptions::default().zone)),
        dns: section.dns.clone().unwrap_or_default(),
        binds: section.binds.iter().flatten().enumerate().filter_map(|(i, folder)| read_bind(p, i, folder)).collect(),
    }
}

fn read_host(p: &mut Problems, host: &str) -> PathBuf {
    let path = host.strip_prefix(SCHEME).unwrap_or(host);
    if !path.starts_with('/') {
        p.add(
            "docker.host",
            format!("{host:?} is no Unix socket"),
            "write \"unix:///var/run/docker.sock\"; an engine of another machine is reached through ssh -L",
        );
    }
    PathBuf::from(path)
}

fn read_bind(p: &mut Problems, index: usize, folder: &str) -> Option<PathBuf> {
    let path = Path::new(folder);
    let plain =
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let forbidden = FORBIDDEN.iter().any(|forbidden| *forbidden == folder.trim_end_matches('/') || folder == "/");
    let found = if !plain {
        Some((format!("{folder:?} is no absolute path"), "write a folder such as \"/srv\""))
    } else if forbidden {
        Some((format!("{folder} would give containers the whole machine"), "name a folder of data, such as \"/srv\""))
    } else {
        None
    };
    match found {
        Some((message, hint)) => p.within("docker.binds", index, |p| p.add("", message, hint)),
        None => return Some(path.to_owned()),
    }
    None
}

/// Writes the section.
pub(super) fn write(options: &DockerOptions) -> Docker {
    Docker {
        host: Some(format!("{SCHEME}{}", options.socket.display())),
        network: Some(options.network.clone()),
        call_timeout: Some(options.call_timeout.into()),
        dns: Some(options.dns.clone()),
        binds: Some(options.binds.iter().map(|folder| folder.to_string_lossy().into_owned()).collect()),
    }
}
