//! `[service.run]`: how replicas are run, as local processes or as containers.

use crate::model;
use crate::spec::bounds::positive;
use crate::spec::{Cores, Duration, Problems, Service, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration as Time;
use utoipa::ToSchema;

/// How replicas are run: as local processes, or with `image` as containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["command"] }, { "required": ["image"] }]))]
#[schema(as = RunDefinition)]
pub struct Run {
    /// Program and arguments, no shell. `${PORT}` (the first port), `${PORT_<NAME>}`, `${INSTANCE}` and, for processes,
    /// `${WEIR}` (this executable) are replaced. Required without `image`; with it, it stands for the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables; the same replacements. `PORT`, `PORT_<NAME>` and `WEIR_INSTANCE` are set by Weir.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; default Weir's own, or the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Wait after SIGTERM before SIGKILL; default `10s`. The engine of containers counts whole seconds, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Duration>,
    /// An instance that is unhealthy for so long is replaced; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_after: Option<Duration>,
    /// Image of a container, such as `shop/web:1.4`; without it replicas are local processes. Pulled when the engine lacks
    /// it. The keys below are for containers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// User in the container: `name`, `uid` or `uid:gid`; default the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// CPU time in cores, such as `0.5`; default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// Memory, from `6MiB`; above it the kernel kills the container. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Processes and threads at a time, 1 to 4194304; default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub pids: Option<u32>,
    /// What it sees of the machine's files: `SOURCE:TARGET` or `SOURCE:TARGET:ro`. SOURCE is an absolute path below one of
    /// `docker.binds`, or the name of a volume of the engine; TARGET is an absolute path in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Its network; default `docker.network`. Weir makes a bridge network that does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// How Weir reaches it; default `container`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<ContainerAddress>,
    /// Labels beside Weir's own (`weir.…`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How Weir reaches a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerAddress {
    /// At its own address on its network.
    Container,
    /// At ports of 127.0.0.1 that the engine forwards; needs an `http` check, because the engine accepts connections for
    /// a program that does not listen.
    Published,
    /// It shares the machine's network and listens on `${PORT}` from `node.port_range`.
    Host,
}

impl Run {
    /// Converts the definition within its service, with every default filled in.
    pub(super) fn read(&self, p: &mut Problems, service: &Service) -> model::RunSpec {
        let ports = service.port_names();
        self.check_command(p);
        self.check_texts(p, &ports);
        self.check_names(p, &ports);
        if self.directory.as_deref() == Some("") {
            p.add("run.directory", "is empty", "write a directory, or leave it out for Weir's own");
        }
        model::RunSpec {
            command: self.command.clone(),
            env: self.env.clone(),
            directory: self.directory.as_deref().map(Into::into),
            stop_grace: self.stop_grace.map_or(Time::from_secs(10), Duration::get),
            replace_after: positive(p, "run.replace_after", self.replace_after, Time::from_secs(30)),
            container: self.read_container(p, service),
        }
    }

    /// Writes the definition of how replicas in use are run.
    pub(super) fn from_model(run: &model::RunSpec) -> Self {
        let base = Self {
            command: run.command.clone(),
            env: run.env.clone(),
            directory: run.directory.as_ref().map(|directory| directory.to_string_lossy().into_owned()),
            stop_grace: Some(run.stop_grace.into()),
            replace_after: Some(run.replace_after.into()),
            ..Self::default()
        };
        match &run.container {
            Some(container) => base.with_container(container),
            None => base,
        }
    }

    /// Returns true when two copies at a time could write to the same files.
    pub(super) fn has_writable_volume(&self) -> bool {
        self.image.is_some() && self.volumes.iter().any(|volume| !volume.ends_with(":ro"))
    }

    fn check_command(&self, p: &mut Problems) {
        match self.command.first() {
            None if self.image.is_some() => {}
            None => p.absent(
                "run.command",
                "add program and arguments, such as command = [\"./app\", \"--port\", \"${PORT}\"], or an image",
            ),
            Some(program) if program.is_empty() => {
                p.add("run.command", "has an empty program", "write the program first");
            }
            Some(_) => {}
        }
    }

    /// Checks what is replaced in arguments and values of the environment.
    fn check_texts(&self, p: &mut Problems, ports: &[String]) {
        let command = self.command.iter().map(|text| ("run.command", text));
        for (key, text) in command.chain(self.env.values().map(|text| ("run.env", text))) {
            if text.contains('\0') {
                p.add(key, "holds a NUL character", "no argument or variable can hold one: remove it");
            }
            if self.image.is_some() && text.contains("${WEIR}") {
                let hint = "write the path of the program in the image";
                p.add(key, "${WEIR} is a file of this machine, which a container does not see", hint);
            }
            if let Some(name) = unknown_port(text, ports) {
                let known: Vec<String> = ports.iter().map(|port| variable(port)).collect();
                p.unknown(
                    key,
                    format!("${{{name}}} names no port"),
                    format!("known: ${{PORT}}, ${{{}}}", known.join("}, ${")),
                );
            }
        }
    }

    /// Checks the names of the environment.
    fn check_names(&self, p: &mut Problems, ports: &[String]) {
        for name in self.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                p.add("run.env", format!("{name:?} is no name of a variable"), "use letters, digits and underscores");
            } else if name == "PORT" || name == "WEIR_INSTANCE" || ports.iter().any(|port| *name == variable(port)) {
                p.add(
                    "run.env",
                    format!("{name} is set by Weir"),
                    "remove it; read it in the program, or use ${...} in another",
                );
            }
        }
    }
}

/// Returns the name of the variable that holds a port's number.
fn variable(port: &str) -> String {
    format!("PORT_{}", port.to_ascii_uppercase().replace('-', "_"))
}

/// Returns a `PORT_…` between `${` and `}` that is no port's.
fn unknown_port<'a>(text: &'a str, ports: &[String]) -> Option<&'a str> {
    text.split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
        .find(|name| name.starts_with("PORT_") && !ports.iter().any(|port| *name == variable(port)))
}

#[cfg(test)]
mod tests {
    use crate::spec::{Port, Run, Service};

    #[test]
    fn replacements_of_ports_must_name_one() {
        let port = |name: &str| Port { name: Some(name.to_owned()), ..Port::default() };
        let with = |text: &str| {
            let run = Run { command: vec!["app".to_owned(), text.to_owned()], ..Run::default() };
            let ports = vec![port("http"), port("my-admin")];
            Service { name: Some("web".to_owned()), run: Some(run), ports, ..Service::default() }
        };
        for fine in ["${PORT}", "${PORT_HTTP}:${PORT_MY_ADMIN}", "${HOME}", "${PORT", "$PORT_X", "${INSTANCE}"] {
            assert!(with(fine).to_model().is_ok(), "{fine}");
        }
        let problems = with("-x ${PORT_ADMIN}").to_model().unwrap_err();
        assert_eq!(problems[0].to_string(), "run.command: ${PORT_ADMIN} names no port");
        assert_eq!(problems[0].hint.as_deref(), Some("known: ${PORT}, ${PORT_HTTP}, ${PORT_MY_ADMIN}"));
    }
}
