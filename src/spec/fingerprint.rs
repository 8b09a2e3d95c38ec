//! A number for how the replicas of a service are run: equal means that a running one need not be replaced.
//!
//! The xxh3 hash of the canonical JSON (keys sorted, defaults written out) of what a running replica depends on: its run
//! definition without how it is stopped or given up, and the service's ports. The same after a restart of Weir and in a
//! later build, as long as a key that is added is left out at its default.

use crate::model;
use crate::spec::{Port, Protocol, Service};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// Keys of `[service.run]` that change nothing for a replica that runs.
const IRRELEVANT: [&str; 2] = ["stop_grace", "replace_after"];

/// Returns the fingerprint of how replicas are run; 0 when Weir runs none.
pub fn fingerprint(service: &model::ServiceSpec) -> u64 {
    let written = Service::from_model(service);
    let Some(run) = written.run else { return 0 };
    // A container is made for the numbers that it listens on; a process gets whatever is free.
    let is_container = run.image.is_some();
    let mut run = serde_json::to_value(run).unwrap_or_default();
    if let Value::Object(keys) = &mut run {
        keys.retain(|key, _| !IRRELEVANT.contains(&key.as_str()));
    }
    // What the service's own address does is no matter of the replica's.
    let transport = |port: &Port| port.protocol.filter(|protocol| *protocol != Protocol::Http).or(Some(Protocol::Tcp));
    let port = |port: &Port| match port.number.filter(|_| is_container) {
        Some(number) => serde_json::json!([port.name, transport(port), number]),
        None => serde_json::json!([port.name, transport(port)]),
    };
    let ports = written.ports.iter().map(port).collect();
    let mut text = String::new();
    canonical(&Value::Array(vec![run, Value::Array(ports)]), &mut text);
    xxh3_64(text.as_bytes())
}

/// Writes a value with the keys of objects sorted, whatever order the map keeps.
pub fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<(&String, &Value)> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (key, inner) in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(inner, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(list) => {
            text.push('[');
            for inner in list {
                canonical(inner, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::fingerprint;
    use crate::spec::{Health, Limits, Policy, Port, ProbeType, Run, Service};

    fn web() -> Service {
        let run = Run { command: vec!["./web".to_owned(), "${PORT}".to_owned()], ..Run::default() };
        Service { name: Some("web".to_owned()), run: Some(run), ..Service::default() }
    }

    fn of(service: &Service) -> u64 {
        fingerprint(&service.to_model().unwrap())
    }

    #[test]
    fn it_is_the_same_in_every_build() {
        assert_eq!(of(&web()), 12_573_856_186_309_324_453);
    }

    #[test]
    fn what_a_running_replica_does_not_depend_on_changes_nothing() {
        let limits = Limits { concurrency: Some(4), ..Limits::default() };
        let health = Health { kind: Some(ProbeType::Tcp), ..Health::default() };
        let mut changed = Service {
            policy: Some(Policy::RoundRobin),
            replicas: Some(7),
            limits: Some(limits),
            health: Some(health),
            ..web()
        };
        changed.drain_timeout = Some("1s".parse().unwrap());
        let run = changed.run.as_mut().unwrap();
        run.stop_grace = Some("1s".parse().unwrap());
        run.replace_after = Some("9s".parse().unwrap());
        assert_eq!(of(&changed), of(&web()));
        let default_port = Port { name: Some("http".to_owned()), ..Port::default() };
        assert_eq!(of(&Service { ports: vec![default_port], ..web() }), of(&web()), "a default that is written out");
    }

    #[test]
    fn each_part_of_how_it_is_run_counts() {
        let with = |change: &dyn Fn(&mut Run)| {
            let mut service = web();
            change(service.run.as_mut().unwrap());
            of(&service)
        };
        let port = Port { name: Some("admin".to_owned()), ..Port::default() };
        let others = [
            with(&|run| run.command.push("-v".to_owned())),
            with(&|run| drop(run.env.insert("A".to_owned(), "1".to_owned()))),
            with(&|run| drop(run.env.insert("A".to_owned(), "2".to_owned()))),
            with(&|run| run.directory = Some("/srv".to_owned())),
            of(&Service { ports: vec![port], ..web() }),
        ];
        let different: std::collections::BTreeSet<u64> = others.into_iter().chain([of(&web())]).collect();
        assert_eq!(different.len(), 6);
        assert_eq!(of(&Service { run: None, ..web() }), 0, "nothing is run");
    }
}
