//! `weir ps`, `weir services`, `weir endpoints`: what the running Weir has.

use crate::admin::{Endpoints, Instances, Port, RunBy, Services};
use crate::cli::args::ServiceArgs;
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use anyhow::Result;

/// Lists the instances.
pub(super) async fn ps(global: &Global, args: &ServiceArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Instances = remote.get(&of_service("/v1/instances", args)).await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let mut table = Table::new(&[
        "ID", "SERVICE", "STATE", "HEALTH", "ADDRESS", "PID", "INFLIGHT", "RPS", "LATENCY", "AGE", "REASON",
    ]);
    for instance in found.instances {
        let is_gone = instance.state == "gone";
        table.row([
            instance.id,
            output::service(&instance.namespace, &instance.service),
            instance.state,
            // What was found last says nothing of what is no more.
            if is_gone { "-".to_owned() } else { instance.health },
            output::socket(&instance.address, &instance.ports),
            match instance.workload {
                RunBy::Container { container } => container.chars().take(12).collect(),
                RunBy::Process { pid } => pid.map(|pid| pid.to_string()).unwrap_or_default(),
            },
            instance.in_flight.to_string(),
            format!("{:.1}", instance.rps),
            latency(instance.latency_ms),
            output::age(instance.age_s),
            instance.reason,
        ]);
    }
    Ok(output::table(&table)?)
}

/// Lists the services.
pub(super) async fn services(global: &Global) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Services = remote.get("/v1/services").await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let mut table = Table::new(&[
        "SERVICE",
        "REPLICAS",
        "ENDPOINTS",
        "STATE",
        "POLICY",
        "PORTS",
        "ADDRESS",
        "CHECK",
        "INFLIGHT",
        "WAITING",
        "RPS",
    ]);
    for service in found.services {
        let ports: Vec<String> = service.ports.iter().map(port).collect();
        let replicas =
            if service.scalable { format!("{}/{}", service.running, service.replicas) } else { String::new() };
        table.row([
            output::service(&service.namespace, &service.name),
            replicas,
            format!("{}/{}", service.usable, service.endpoints),
            state(service.quarantined, service.fail_open, service.usable).to_owned(),
            service.policy,
            ports.join(","),
            service.address.unwrap_or_default(),
            service.check.unwrap_or_default(),
            service.in_flight.to_string(),
            service.waiting.to_string(),
            format!("{:.1}", service.rps),
        ]);
    }
    Ok(output::table(&table)?)
}

/// Lists the endpoints.
pub(super) async fn endpoints(global: &Global, args: &ServiceArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Endpoints = remote.get(&of_service("/v1/endpoints", args)).await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let mut table = Table::new(&[
        "ID", "SERVICE", "STATE", "ADDRESS", "WEIGHT", "WARM", "INFLIGHT", "RPS", "LATENCY", "REQUESTS", "FAILURES",
    ]);
    for endpoint in found.endpoints {
        table.row([
            endpoint.id,
            output::service(&endpoint.namespace, &endpoint.service),
            endpoint.state,
            output::socket(&endpoint.address, &endpoint.ports),
            endpoint.weight.to_string(),
            format!("{:.0}%", endpoint.warm * 100.0),
            endpoint.in_flight.to_string(),
            format!("{:.1}", endpoint.rps),
            latency(endpoint.latency_ms),
            endpoint.requests.to_string(),
            endpoint.failures.to_string(),
        ]);
    }
    Ok(output::table(&table)?)
}

/// Writes a port as `http/tcp`, or `http:80/tcp` where the service's own address has it at a number.
fn port(port: &Port) -> String {
    let number = port.served.map(|number| format!(":{number}")).unwrap_or_default();
    format!("{}{number}/{}", port.name, port.protocol)
}

fn of_service(path: &str, args: &ServiceArgs) -> String {
    match &args.service {
        Some(service) => format!("{path}?service={}", encode(service)),
        None => path.to_owned(),
    }
}

fn latency(ms: f64) -> String {
    if ms > 0.0 { format!("{ms:.1}ms") } else { String::new() }
}

fn state(quarantined: u32, fail_open: bool, usable: u32) -> &'static str {
    match (quarantined, fail_open, usable) {
        (1.., ..) => "quarantined",
        (_, true, _) => "fail_open",
        (_, _, 0) => "unavailable",
        _ => "ready",
    }
}
