//! What the engine is asked to make, and what it says of what it made.

use crate::control::DockerOptions;
use crate::control::runtime::command::{Expanded, expand};
use crate::control::runtime::docker::networks::Bridge;
use crate::control::runtime::{Running, RuntimeError, StartRequest, Started};
use crate::model::{ContainerAddress, ContainerSpec, InstanceId, ServiceName, Volume, Workload};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, PortBinding, PortMap,
    RestartPolicy, RestartPolicyNameEnum,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// Label of the Weir that a container belongs to: the random id of its store.
pub(super) const OWNER: &str = "weir.owner";
/// Label of the instance that a container is.
pub(super) const INSTANCE: &str = "weir.instance";
const SERVICE: &str = "weir.service";
const REVISION: &str = "weir.revision";
const FINGERPRINT: &str = "weir.fingerprint";
const SLOT: &str = "weir.slot";
/// Numbers that the container listens on, separated by commas, in the order of the service's ports.
const PORTS: &str = "weir.ports";
/// How the container is reached.
const ADDRESS: &str = "weir.address";
/// Its network.
const NETWORK: &str = "weir.network";

/// How a container is to be made.
pub(super) struct Order<'a> {
    pub(super) request: &'a StartRequest,
    pub(super) container: &'a ContainerSpec,
    /// Whose it is.
    pub(super) owner: &'a str,
    /// The network that it is reached on; not for `ContainerAddress::Host`.
    pub(super) network: &'a str,
    /// Numbers that it listens on.
    pub(super) ports: &'a [u16],
    /// What [`binds`] said.
    pub(super) binds: &'a [String],
    /// Whom it asks for names.
    pub(super) names: &'a Names,
}

/// Whom a container asks for names, and where it looks for short ones; empty: what the engine says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    servers: Vec<String>,
    search: Vec<String>,
}

impl Names {
    /// Asks Weir at the gateways of the container's network, and others where it does not answer.
    pub(super) fn new(options: &DockerOptions, gateways: &[Bridge], service: &ServiceName) -> Self {
        let others = options.dns.iter().map(ToString::to_string);
        let Some(zone) = &options.zone else { return Self { servers: others.collect(), search: Vec::new() } };
        let servers = gateways.iter().map(|bridge| bridge.gateway.to_string()).chain(others).collect();
        Self { servers, search: vec![format!("{}.{zone}", service.namespace()), zone.clone()] }
    }
}

impl Order<'_> {
    /// Returns the body of the request that makes the container.
    pub(super) fn body(&self) -> ContainerCreateBody {
        let (request, container) = (self.request, self.container);
        let Expanded { words, environment } = expand(request, self.ports, Path::new("${WEIR}"));
        let ports = || self.ports.iter().map(|port| format!("{port}/tcp"));
        ContainerCreateBody {
            image: Some(container.image.clone()),
            cmd: (!words.is_empty()).then_some(words),
            env: Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: request.run.directory.as_ref().map(|path| path.to_string_lossy().into_owned()),
            user: container.user.clone(),
            labels: Some(self.labels()),
            exposed_ports: (container.address == ContainerAddress::Published).then(|| ports().collect()),
            // For an engine that shuts down by itself; our own stops say it again.
            stop_timeout: Some(whole_seconds(request.run.stop_grace).into()),
            host_config: Some(self.host()),
            ..ContainerCreateBody::default()
        }
    }

    fn host(&self) -> HostConfig {
        let (container, names) = (self.container, self.names);
        let network = match container.address {
            ContainerAddress::Host => "host",
            ContainerAddress::Container | ContainerAddress::Published => self.network,
        };
        let loopback = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
        let published: PortMap =
            self.ports.iter().map(|port| (format!("{port}/tcp"), Some(vec![loopback.clone()]))).collect();
        let memory = container.memory_bytes.map(|octets| i64::try_from(octets).unwrap_or(i64::MAX));
        // What the engine keeps of the output; Weir copies it.
        let log = HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from(
                [("max-size", "10m"), ("max-file", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())),
            )),
        };
        HostConfig {
            network_mode: Some(network.to_owned()),
            port_bindings: (container.address == ContainerAddress::Published).then_some(published),
            binds: Some(self.binds.to_owned()),
            nano_cpus: container.cpu_millicores.map(|millicores| i64::from(millicores) * 1_000_000),
            memory,
            // The same as memory: none of it is swapped.
            memory_swap: memory,
            pids_limit: Some(container.pids.into()),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            cap_drop: Some(vec!["ALL".to_owned()]),
            dns: (!names.servers.is_empty()).then(|| names.servers.clone()),
            dns_search: (!names.search.is_empty()).then(|| names.search.clone()),
            // The engine would have names without a dot never be searched for.
            dns_options: (!names.search.is_empty()).then(|| vec!["ndots:1".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            log_config: Some(log),
            ..HostConfig::default()
        }
    }

    fn labels(&self) -> HashMap<String, String> {
        let request = self.request;
        let own = [
            (OWNER, self.owner.to_owned()),
            (INSTANCE, request.id.to_string()),
            (SERVICE, request.service.to_string()),
            (REVISION, request.revision.to_string()),
            (FINGERPRINT, request.fingerprint.to_string()),
            (SLOT, request.slot.to_string()),
            (PORTS, self.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")),
            (NETWORK, self.network.to_owned()),
            (
                ADDRESS,
                match self.container.address {
                    ContainerAddress::Container => "container",
                    ContainerAddress::Published => "published",
                    ContainerAddress::Host => "host",
                }
                .to_owned(),
            ),
        ];
        let users = self.container.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
        users.chain(own.into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
    }
}

/// The engine counts whole seconds; at least as long.
pub(super) fn whole_seconds(time: std::time::Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// Reads the instance from labels.
pub(super) fn instance(labels: &HashMap<String, String>) -> Option<InstanceId> {
    InstanceId::parse(labels.get(INSTANCE)?).ok()
}

/// Reads what runs from the engine's own words; `None` when it does not run, has no address or is not ours.
pub(super) fn running(found: &ContainerInspectResponse) -> Option<Running> {
    if found.state.as_ref()?.running != Some(true) {
        return None;
    }
    let labels = found.config.as_ref()?.labels.as_ref()?;
    let (address, ports) = reached(found, labels)?;
    Some(Running {
        id: instance(labels)?,
        service: ServiceName::parse(labels.get(SERVICE)?).ok()?,
        revision: labels.get(REVISION)?.parse().ok()?,
        fingerprint: labels.get(FINGERPRINT)?.parse().ok()?,
        slot: labels.get(SLOT)?.parse().ok()?,
        started: Started { workload: Workload::Container(found.id.as_deref()?.into()), address, ports },
    })
}

/// Returns where a container is reached now.
fn reached(found: &ContainerInspectResponse, labels: &HashMap<String, String>) -> Option<(IpAddr, Vec<u16>)> {
    let inside: Vec<u16> = labels.get(PORTS)?.split(',').filter_map(|port| port.parse().ok()).collect();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let network = found.network_settings.as_ref()?;
    match labels.get(ADDRESS)?.as_str() {
        "host" => Some((loopback, inside)),
        "published" => {
            let map = network.ports.as_ref()?;
            let outside = |port: &u16| {
                let bindings = map.get(&format!("{port}/tcp"))?.as_ref()?;
                bindings.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok())
            };
            Some((loopback, inside.iter().map(outside).collect::<Option<_>>()?))
        }
        _ => {
            let endpoint = network.networks.as_ref()?.get(labels.get(NETWORK)?)?;
            let addresses = [endpoint.ip_address.as_deref(), endpoint.global_ipv6_address.as_deref()];
            Some((addresses.into_iter().flatten().find_map(|address| address.parse().ok())?, inside))
        }
    }
}

/// Returns the volumes as the engine takes them. Links are resolved, so that none leads out of an allowed folder, also when
/// it is changed later.
///
/// # Errors
/// [`RuntimeError::Definition`] with what to do.
pub(super) fn binds(container: &ContainerSpec, folders: &[PathBuf]) -> Result<Vec<String>, RuntimeError> {
    let bind = |volume: &Volume| {
        let source = if volume.is_bind() { resolved(&volume.source, folders)? } else { volume.source.clone() };
        Ok(format!("{source}:{}:{}", volume.target, if volume.read_only { "ro" } else { "rw" }))
    };
    container.volumes.iter().map(bind).collect()
}

fn resolved(source: &str, folders: &[PathBuf]) -> Result<String, RuntimeError> {
    let real = Path::new(source).canonicalize();
    let real = real.map_err(|error| RuntimeError::Definition(format!("the volume {source}: {error}")))?;
    let is_below = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| real.starts_with(folder));
    if !folders.iter().any(is_below) {
        let real = real.display();
        let text = format!("{real} is not below a folder of docker.binds: add it there, or mount another folder");
        return Err(RuntimeError::Definition(text));
    }
    real.into_os_string().into_string().map_err(|_| RuntimeError::Definition(format!("{source} is no text")))
}

#[cfg(test)]
mod tests {
    use super::{Names, Order, binds, running, whole_seconds};
    use crate::control::DockerOptions;
    use crate::control::runtime::StartRequest;
    use crate::control::runtime::docker::Bridge;
    use crate::model::{ContainerAddress, InstanceId, ServiceName, Workload};
    use crate::spec::{Run, Service};
    use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};
    use std::time::Duration;

    fn request(run: Run) -> StartRequest {
        let service = Service { name: Some("web".to_owned()), run: Some(run), ..Service::default() };
        let spec = service.to_model().unwrap();
        StartRequest {
            id: InstanceId::parse("web-abcdef").unwrap(),
            service: ServiceName::parse("shop/web").unwrap(),
            run: spec.run.unwrap(),
            ports: vec!["http".into()],
            revision: 3,
            fingerprint: u64::MAX,
            slot: 1,
        }
    }

    fn image() -> Run {
        Run { image: Some("web:1".to_owned()), ..Run::default() }
    }

    #[test]
    fn a_container_gets_no_rights_and_every_bound() {
        let run = Run {
            cpu: Some(serde_json::from_str("0.5").unwrap()),
            memory: Some("64MiB".parse().unwrap()),
            pids: Some(9),
            volumes: vec!["data:/data:ro".to_owned()],
            ..image()
        };
        let request = request(run);
        let container = request.run.container.as_ref().unwrap();
        let body = Order {
            request: &request,
            container,
            owner: "me",
            network: "weir",
            ports: &[8080],
            binds: &[],
            names: &Names::default(),
        }
        .body();
        assert_eq!(body.cmd, None, "the image says");
        assert!(body.env.unwrap().contains(&"PORT=8080".to_owned()));
        let host = body.host_config.unwrap();
        assert_eq!(
            (host.nano_cpus, host.memory, host.memory_swap),
            (Some(500_000_000), Some(64 << 20), Some(64 << 20))
        );
        assert_eq!((host.pids_limit, host.network_mode.as_deref()), (Some(9), Some("weir")));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert!(host.port_bindings.is_none());
    }

    #[test]
    fn what_a_container_is_stands_in_its_labels() {
        let request = request(image());
        let container = request.run.container.as_ref().unwrap();
        let body = Order {
            request: &request,
            container,
            owner: "me",
            network: "weir",
            ports: &[8080],
            binds: &[],
            names: &Names::default(),
        }
        .body();
        let found = |running: bool| {
            let state = serde_json::json!({ "Running": running });
            let networks = serde_json::json!({ "Networks": { "weir": { "IPAddress": "172.18.0.2" } } });
            let config = serde_json::json!({ "Labels": body.labels });
            let all =
                serde_json::json!({ "Id": "c0ffee", "State": state, "NetworkSettings": networks, "Config": config });
            serde_json::from_value::<ContainerInspectResponse>(all).unwrap()
        };
        let known = running(&found(true)).unwrap();
        assert_eq!((known.id.as_str(), known.service.as_str(), known.revision), ("web-abcdef", "shop/web", 3));
        assert_eq!((known.fingerprint, known.slot), (u64::MAX, 1));
        assert_eq!(known.started.workload, Workload::Container("c0ffee".into()));
        assert_eq!((known.started.address.to_string().as_str(), &known.started.ports[..]), ("172.18.0.2", &[8080][..]));
        assert_eq!(running(&found(false)), None);
    }

    #[test]
    fn published_ports_are_the_engines() {
        let mut request = request(image());
        request.run.container.as_mut().unwrap().address = ContainerAddress::Published;
        let container = request.run.container.as_ref().unwrap();
        let body = Order {
            request: &request,
            container,
            owner: "me",
            network: "weir",
            ports: &[8080],
            binds: &[],
            names: &Names::default(),
        }
        .body();
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        assert_eq!(bindings["8080/tcp"].as_ref().unwrap()[0].host_ip.as_deref(), Some("127.0.0.1"));
        let all = serde_json::json!({
            "Id": "c0ffee", "State": { "Running": true }, "Config": { "Labels": body.labels },
            "NetworkSettings": { "Ports": { "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "49153" }] } },
        });
        let known = running(&serde_json::from_value(all).unwrap()).unwrap();
        assert_eq!((known.started.address.is_loopback(), &known.started.ports[..]), (true, &[49_153][..]));
    }

    #[test]
    fn short_names_are_asked_of_weir_at_the_gateway_and_of_others_when_it_is_away() {
        let bridge = |gateway: &str| Bridge {
            gateway: gateway.parse().unwrap(),
            network: ("172.18.0.0".parse().unwrap(), 16),
            name: "weir".into(),
        };
        let service = ServiceName::parse("shop/web").unwrap();
        let options = DockerOptions {
            zone: Some("weir.internal".to_owned()),
            dns: vec!["10.0.0.2".parse().unwrap()],
            ..DockerOptions::default()
        };
        let names = Names::new(&options, &[bridge("172.18.0.1")], &service);
        let request = request(image());
        let container = request.run.container.as_ref().unwrap();
        let order =
            Order { request: &request, container, owner: "me", network: "weir", ports: &[], binds: &[], names: &names };
        let body = order.body();
        let host = body.host_config.unwrap();
        assert_eq!(host.dns.unwrap(), ["172.18.0.1", "10.0.0.2"]);
        assert_eq!(host.dns_search.unwrap(), ["shop.weir.internal", "weir.internal"]);
        assert_eq!(host.dns_options.unwrap(), ["ndots:1"]);
        assert!(body.networking_config.is_none(), "an alias would be answered by the engine's own resolver");
        let none = Names::new(&DockerOptions::default(), &[bridge("172.18.0.1")], &service);
        assert_eq!(none, Names::default());
    }

    #[test]
    fn a_link_does_not_lead_out_of_an_allowed_folder() {
        let root = std::env::temp_dir().join(format!("weir-binds-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("srv/data")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("srv/out")).unwrap();
        let of = |source: &str| {
            let volumes = vec![format!("{}/{source}:/x", root.display()), "named:/y:ro".to_owned()];
            let request = request(Run { volumes, ..image() });
            binds(request.run.container.as_ref().unwrap(), &[root.join("srv")]).map_err(|error| error.to_string())
        };
        let real = root.canonicalize().unwrap();
        assert_eq!(of("srv/data").unwrap(), [format!("{}/srv/data:/x:rw", real.display()), "named:/y:ro".to_owned()]);
        assert!(of("srv/out").unwrap_err().starts_with("/etc is not below a folder of docker.binds"));
        assert!(of("srv/none").unwrap_err().contains("No such file"));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn grace_is_never_shorter_than_asked_for() {
        for (ms, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds);
        }
    }
}
