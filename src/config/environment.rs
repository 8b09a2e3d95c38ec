//! What lies over the file: environment variables and flags. A flag wins over a variable, a variable over the file.

use crate::config::file::File;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the configuration takes from around the process; a value, so that tests can make one up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// Whether the process runs as root: decides the default of `store.path`.
    pub root: bool,
}

/// Values of command-line flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--workers N`.
    pub workers: Option<usize>,
}

/// A value that came from a variable or flag: its key and the name that it came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Override {
    /// The dotted key.
    pub key: &'static str,
    /// The variable or flag.
    pub name: &'static str,
    /// Why its value could not be read.
    pub error: Option<String>,
}

/// How a variable's text is laid over the file.
type Apply = fn(&mut File, &str) -> Result<(), String>;

/// Every variable with its key.
const VARIABLES: [(&str, &str, Apply); 12] = [
    ("WEIR_NODE_NAME", "node.name", |file, text| set(&mut section(&mut file.node).name, text)),
    ("WEIR_NODE_WORKERS", "node.workers", |file, text| set_parsed(&mut section(&mut file.node).workers, text)),
    ("WEIR_NODE_PORT_RANGE", "node.port_range", |file, text| set(&mut section(&mut file.node).port_range, text)),
    ("WEIR_ADMIN_LISTEN", "admin.listen", |file, text| set(&mut section(&mut file.admin).listen, text)),
    ("WEIR_ADMIN_SOCKET", "admin.socket", |file, text| set(&mut section(&mut file.admin).socket, text)),
    ("WEIR_DNS_LISTEN", "dns.listen", |file, text| {
        let addresses: Result<Vec<_>, _> = text.split(',').map(|part| read(part.trim())).collect();
        section(&mut file.dns).listen = Some(addresses?);
        Ok(())
    }),
    // A zone alone does not start the DNS server.
    ("WEIR_DNS_ZONE", "dns.zone", |file, text| file.dns.as_mut().map_or(Ok(()), |dns| set(&mut dns.zone, text))),
    ("WEIR_DOCKER_HOST", "docker.host", |file, text| set(&mut section(&mut file.docker).host, text)),
    ("WEIR_STORE_PATH", "store.path", |file, text| set(&mut section(&mut file.store).path, text)),
    ("WEIR_LOG_LEVEL", "log.level", |file, text| set(&mut section(&mut file.log).level, text)),
    ("WEIR_LOG_FORMAT", "log.format", |file, text| set(&mut section(&mut file.log).format, text)),
    ("WEIR_LOG_ACCESS", "log.access", |file, text| set_parsed(&mut section(&mut file.log).access, text)),
];

impl Environment {
    /// Reads the process's own.
    pub fn current() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
        Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            root: uid == Some("0"),
        }
    }

    /// Returns a variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns where state is kept unless the configuration says otherwise: `/var/lib/weir` as root, else
    /// `$XDG_STATE_HOME/weir`, else `~/.local/state/weir`; `None` without a home.
    pub fn default_state(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/var/lib/weir"));
        }
        // The XDG base directory specification has relative paths ignored.
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        base.map(|base| base.join("weir"))
    }

    /// Lays variables and flags over the file; returns what it took from where.
    pub(super) fn apply(&self, file: &mut File, flags: &Flags) -> Vec<Override> {
        let mut overrides = Vec::new();
        for (name, key, apply) in VARIABLES {
            if let Some(text) = self.get(name) {
                overrides.push(Override { key, name, error: apply(file, text).err() });
            }
        }
        if let Some(workers) = flags.workers {
            section(&mut file.node).workers = Some(workers);
            overrides.push(Override { key: "node.workers", name: "--workers", error: None });
        }
        overrides
    }
}

fn section<T: Default>(section: &mut Option<T>) -> &mut T {
    section.get_or_insert_default()
}

fn set<T: for<'de> Deserialize<'de>>(slot: &mut Option<T>, text: &str) -> Result<(), String> {
    *slot = Some(read(text)?);
    Ok(())
}

/// Reads a text with the type's own messages.
fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    T::deserialize(text.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}

fn set_parsed<T: std::str::FromStr<Err: std::fmt::Display>>(slot: &mut Option<T>, text: &str) -> Result<(), String> {
    *slot = Some(text.parse().map_err(|error: T::Err| format!("{text:?}: {error}"))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Environment, Flags};
    use crate::config::file::{File, Level};
    use std::path::PathBuf;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { variables, ..Environment::default() }
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
        let mut file: File = toml::from_str("[node]\nworkers = 1\n[log]\nlevel = \"warn\"").unwrap();
        let environment =
            environment(&[("WEIR_NODE_WORKERS", "2"), ("WEIR_LOG_LEVEL", "debug"), ("WEIR_LOG_FORMAT", "")]);
        assert!(environment.apply(&mut file, &Flags { workers: Some(3) }).iter().all(|o| o.error.is_none()));
        assert_eq!(file.node.unwrap().workers, Some(3));
        let log = file.log.unwrap();
        assert_eq!((log.level, log.format), (Some(Level::Debug), None));
    }

    #[test]
    fn says_which_variable_cannot_be_read() {
        let environment = environment(&[("WEIR_NODE_WORKERS", "many"), ("WEIR_LOG_LEVEL", "loud")]);
        let overrides = environment.apply(&mut File::default(), &Flags::default());
        let wrong: Vec<&str> = overrides.iter().filter(|o| o.error.is_some()).map(|o| o.name).collect();
        assert_eq!(wrong, ["WEIR_NODE_WORKERS", "WEIR_LOG_LEVEL"]);
    }

    #[test]
    fn state_lives_where_the_system_expects_it() {
        let state = |pairs: &[(&str, &str)]| environment(pairs).default_state();
        assert_eq!(Environment { root: true, ..Environment::default() }.default_state(), Some("/var/lib/weir".into()));
        assert_eq!(state(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Some(PathBuf::from("/x/weir")));
        assert_eq!(state(&[("XDG_STATE_HOME", "x"), ("HOME", "/h")]), Some(PathBuf::from("/h/.local/state/weir")));
        assert_eq!(state(&[]), None);
    }
}
