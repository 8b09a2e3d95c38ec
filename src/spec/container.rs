//! The keys of `[service.run]` that are for containers only.

use crate::model::{self, Volume};
use crate::spec::bounds::bounded;
use crate::spec::{ContainerAddress, Cores, ProbeType, Problems, Run, Service, Size};
use std::ops::RangeInclusive;

/// Number of the first port in a container that names none; the next ones follow.
const FIRST_PORT: u16 = 8080;
/// Bound of `run.pids`: the kernel's own.
const PIDS: RangeInclusive<u32> = 1..=4_194_304;
/// Processes and threads of a container that names no bound: a fork bomb ends there.
const DEFAULT_PIDS: u32 = 1024;
/// Least memory of a container: the engine's own bound.
const MIN_MEMORY: u64 = 6 << 20;
/// Longest reference of an image: the bound of registries.
const MAX_IMAGE_OCTETS: usize = 255;

impl Run {
    /// Reads what is for containers only.
    pub(super) fn read_container(&self, p: &mut Problems, service: &Service) -> Option<model::ContainerSpec> {
        let Some(image) = self.image.as_deref() else {
            self.refuse_container_keys(p);
            return None;
        };
        check_image(p, image);
        if self.directory.as_deref().is_some_and(|directory| !directory.is_empty() && !directory.starts_with('/')) {
            p.add("run.directory", "is no absolute path", "write a path in the container that begins with \"/\"");
        }
        if let Some(user) = self.user.as_deref()
            && (user.is_empty() || !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b)))
        {
            p.add("run.user", format!("{user:?} is no user"), "write a name, a uid or uid:gid, such as \"1000:1000\"");
        }
        if self.memory.is_some_and(|memory| memory.get() < MIN_MEMORY) {
            p.add("run.memory", "is below 6MiB", "the engine refuses less: write \"6MiB\" or more");
        }
        let address = self.address.map_or_else(model::ContainerAddress::default, Into::into);
        self.check_network(p, address);
        check_health(p, service, address);
        for name in self.labels.keys().filter(|name| name.is_empty() || name.starts_with("weir.")) {
            p.add(
                "run.labels",
                format!("{name:?} is no label of a user"),
                "names that begin with \"weir.\" are Weir's own",
            );
        }
        Some(model::ContainerSpec {
            image: image.to_owned(),
            user: self.user.clone(),
            cpu_millicores: self.cpu.map(Cores::millicores),
            memory_bytes: self.memory.map(Size::get),
            pids: bounded(p, "run.pids", self.pids, DEFAULT_PIDS, &PIDS),
            volumes: self.read_volumes(p),
            network: self.network.clone(),
            address,
            labels: self.labels.clone(),
            ports: read_ports(p, service, address),
        })
    }

    /// Adds what a container in use says.
    pub(super) fn with_container(self, container: &model::ContainerSpec) -> Self {
        let volume = |volume: &Volume| {
            let end = if volume.read_only { ":ro" } else { "" };
            format!("{}:{}{end}", volume.source, volume.target)
        };
        Self {
            image: Some(container.image.clone()),
            user: container.user.clone(),
            cpu: container.cpu_millicores.map(Cores::from_millicores),
            memory: container.memory_bytes.map(Size::new),
            pids: Some(container.pids),
            volumes: container.volumes.iter().map(volume).collect(),
            network: container.network.clone(),
            address: Some(container.address.into()),
            labels: container.labels.clone(),
            ..self
        }
    }

    fn refuse_container_keys(&self, p: &mut Problems) {
        let bounds = "bound a process with the service manager that runs Weir, or add image";
        let without = "it is for containers: add image, or remove it";
        for (key, written, hint) in [
            ("run.user", self.user.is_some(), "processes run as Weir's own user: add image, or remove it"),
            ("run.cpu", self.cpu.is_some(), bounds),
            ("run.memory", self.memory.is_some(), bounds),
            ("run.pids", self.pids.is_some(), bounds),
            ("run.volumes", !self.volumes.is_empty(), without),
            ("run.network", self.network.is_some(), without),
            ("run.address", self.address.is_some(), without),
            ("run.labels", !self.labels.is_empty(), without),
        ] {
            if written {
                p.add(key, "needs run.image", hint);
            }
        }
    }

    fn check_network(&self, p: &mut Problems, address: model::ContainerAddress) {
        let Some(network) = self.network.as_deref() else { return };
        if address == model::ContainerAddress::Host {
            p.add("run.network", "has no meaning for address = \"host\"", "remove one of them");
        } else if ["host", "none", "default"].contains(&network) || network.starts_with("container:") {
            p.add("run.network", format!("{network:?} is no bridge"), "name a network, or write address = \"host\"");
        } else if !is_name(network) {
            let hint = "use letters, digits, underscores, dots and hyphens, beginning with a letter or digit";
            p.add("run.network", format!("{network:?} is no name of a network"), hint);
        }
    }

    fn read_volumes(&self, p: &mut Problems) -> Vec<Volume> {
        let mut volumes: Vec<Volume> = Vec::with_capacity(self.volumes.len());
        for (i, text) in self.volumes.iter().enumerate() {
            p.within("run.volumes", i, |p| match read_volume(text) {
                Ok(volume) if volumes.iter().any(|other| other.target == volume.target) => {
                    p.add("", format!("{} is the target of two volumes", volume.target), "give each its own target");
                }
                Ok(volume) => volumes.push(volume),
                Err((message, hint)) => p.add("", message, hint),
            });
        }
        volumes
    }
}

impl From<ContainerAddress> for model::ContainerAddress {
    fn from(address: ContainerAddress) -> Self {
        match address {
            ContainerAddress::Container => Self::Container,
            ContainerAddress::Published => Self::Published,
            ContainerAddress::Host => Self::Host,
        }
    }
}

impl From<model::ContainerAddress> for ContainerAddress {
    fn from(address: model::ContainerAddress) -> Self {
        match address {
            model::ContainerAddress::Container => Self::Container,
            model::ContainerAddress::Published => Self::Published,
            model::ContainerAddress::Host => Self::Host,
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn check_image(p: &mut Problems, image: &str) {
    let fits = image.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/@".contains(&b));
    if image.is_empty() || image.len() > MAX_IMAGE_OCTETS || !fits {
        p.add("run.image", format!("{image:?} is no image"), "write NAME:TAG, such as \"shop/web:1.4\"");
    }
}

/// A forwarded port accepts connections whether or not the program behind it listens.
fn check_health(p: &mut Problems, service: &Service, address: model::ContainerAddress) {
    let kind = service.health.as_ref().and_then(|health| health.kind);
    if address == model::ContainerAddress::Published && service.health.is_none() {
        p.add(
            "run.address",
            "\"published\" needs [service.health]: the engine accepts connections for a program that is down",
            "add an http check, or write address = \"container\"",
        );
    } else if address == model::ContainerAddress::Published && kind == Some(ProbeType::Tcp) {
        p.add(
            "health.type",
            "\"tcp\" says nothing with run.address = \"published\": the engine accepts for a program that is down",
            "write type = \"http\", or address = \"container\"",
        );
    }
}

/// Returns the numbers that the container listens on.
fn read_ports(p: &mut Problems, service: &Service, address: model::ContainerAddress) -> Vec<u16> {
    let written: Vec<Option<u16>> =
        if service.ports.is_empty() { vec![None] } else { service.ports.iter().map(|port| port.number).collect() };
    if address == model::ContainerAddress::Host {
        for (i, _) in written.iter().enumerate().filter(|(_, number)| number.is_some()) {
            let hint = "the container gets its numbers from node.port_range, as ${PORT}; remove number";
            p.within("port", i, |p| p.add("number", "has no meaning for run.address = \"host\"", hint));
        }
        return Vec::new();
    }
    let mut numbers: Vec<u16> = Vec::with_capacity(written.len());
    for (i, number) in written.iter().enumerate() {
        if number.is_some_and(|number| written.iter().take(i).any(|other| *other == Some(number))) {
            p.within("port", i, |p| p.add("number", "is the number of two ports", "give each port its own number"));
        }
        let free = |number: &u16| !numbers.contains(number) && !written.contains(&Some(*number));
        numbers.push(number.or_else(|| (FIRST_PORT..=u16::MAX).find(free)).unwrap_or(FIRST_PORT));
    }
    numbers
}

/// Reads `SOURCE:TARGET[:ro|:rw]`; the error is what is wrong and what to do.
fn read_volume(text: &str) -> Result<Volume, (String, &'static str)> {
    const FORM: &str = "write SOURCE:TARGET or SOURCE:TARGET:ro, such as \"/srv/web:/data:ro\"";
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err((format!("{text:?} is no volume"), FORM));
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(mode) => return Err((format!("{mode:?} is no mode of a volume"), "write \"ro\" or leave it out")),
    };
    let escapes = |path: &str| path.split('/').any(|part| part == "..");
    if escapes(source) || escapes(target) {
        return Err((format!("{text:?} holds \"..\""), "write the paths without it"));
    }
    if !(source.starts_with('/') || is_name(source)) {
        return Err((format!("{source:?} is neither an absolute path nor the name of a volume"), FORM));
    }
    if !target.starts_with('/') || target == "/" {
        return Err((format!("{target:?} is no place in a container"), FORM));
    }
    Ok(Volume { source: source.to_owned(), target: target.to_owned(), read_only })
}

#[cfg(test)]
mod tests {
    use crate::model::{ContainerAddress, ContainerSpec, Strategy};
    use crate::spec::{Port, Run, Service};

    fn service(run: Run) -> Service {
        Service { name: Some("web".to_owned()), run: Some(run), ..Service::default() }
    }

    fn image(text: &str) -> Run {
        Run { image: Some(text.to_owned()), ..Run::default() }
    }

    fn container(service: &Service) -> ContainerSpec {
        service.to_model().unwrap().run.unwrap().container.unwrap()
    }

    #[test]
    fn an_image_alone_is_a_container_with_every_default() {
        let spec = container(&service(image("shop/web:1")));
        assert_eq!((spec.pids, spec.ports.as_slice(), spec.address), (1024, &[8080][..], ContainerAddress::Container));
        assert_eq!((spec.cpu_millicores, spec.memory_bytes, spec.network.as_deref()), (None, None, None));
        assert!(!spec.has_writable_volume());
    }

    #[test]
    fn reading_what_was_written_gives_the_same() {
        let run = Run {
            cpu: Some(serde_json::from_str("0.5").unwrap()),
            memory: Some("64MiB".parse().unwrap()),
            pids: Some(7),
            volumes: vec!["data:/data".to_owned(), "/srv/x:/x:ro".to_owned()],
            network: Some("shop".to_owned()),
            user: Some("1000:1000".to_owned()),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            ..image("web")
        };
        let port = |name: &str, number| Port { name: Some(name.to_owned()), number, ..Port::default() };
        let mut service = service(run);
        service.ports = vec![port("http", Some(80)), port("metrics", None), port("admin", Some(8080))];
        let spec = service.to_model().unwrap();
        let container = spec.run.as_ref().unwrap().container.as_ref().unwrap();
        assert_eq!((container.ports.as_slice(), container.cpu_millicores), (&[80, 8081, 8080][..], Some(500)));
        assert!(container.has_writable_volume() && !container.volumes[0].is_bind());
        assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
        let host = Run { address: Some(crate::spec::ContainerAddress::Host), ..image("web") };
        let spec = Service { run: Some(host), ports: vec![port("http", None), port("x", None)], ..service };
        let spec = spec.to_model().unwrap();
        assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
    }

    #[test]
    fn a_writable_volume_is_not_given_to_two_replicas_at_a_time() {
        let strategy = |volume: &str| {
            let run = Run { volumes: vec![volume.to_owned()], ..image("web") };
            service(run).to_model().unwrap().rollout.strategy
        };
        assert_eq!(strategy("data:/data"), Strategy::StopFirst);
        assert_eq!(strategy("data:/data:ro"), Strategy::StartFirst);
    }

    #[test]
    fn volumes_say_what_is_wrong_with_them() {
        for (text, message) in [
            ("data", "is no volume"),
            ("a:/b:ro:x", "is no volume"),
            ("/srv:/b:exec", "is no mode"),
            ("./here:/b", "neither an absolute path"),
            ("/srv/../etc:/b", "holds \"..\""),
            ("/srv:b", "is no place in a container"),
            ("/srv:/", "is no place in a container"),
        ] {
            let run = Run { volumes: vec![text.to_owned()], ..image("web") };
            let problems = service(run).to_model().unwrap_err();
            assert!(problems[0].message.contains(message), "{text}: {}", problems[0]);
            assert_eq!(problems[0].key.to_string(), "run.volumes[0]");
        }
    }
}
