//! `weir explain`: where a request would go, and why a service has as many replicas as it has.

use crate::admin::{Autoscaler, Explanation, ScaleDecision, ScaleState};
use crate::cli::args::ExplainArgs;
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use anyhow::Result;
use std::fmt::Write;

/// Explains a request, or with `scale` a service's number of replicas.
pub(super) async fn explain(global: &Global, args: &ExplainArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    if args.is_scale() {
        let found: ScaleState = remote.get(&format!("/v1/services/{}/scale", encode(&args.target))).await?;
        return match global.output {
            Format::Json => output::json(&found),
            Format::Table => Ok(output::write(&scale(&found))?),
        };
    }
    let path = format!("/v1/explain?method={}&url={}", encode(&args.method), encode(&args.target));
    let found: Explanation = remote.get(&path).await?;
    match global.output {
        Format::Json => output::json(&found),
        Format::Table => request(&found),
    }
}

fn request(found: &Explanation) -> Result<()> {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let mut text = format!(
        "listener  {}\nroute     {}\nservice   {}\n",
        or_none(&found.listener),
        or_none(&found.route),
        or_none(&found.service)
    );
    if let (Some(policy), Some(port)) = (&found.policy, &found.port) {
        let bound = found.concurrency.map_or_else(|| "no bound".to_owned(), |limit| format!("{limit} at once"));
        let (waiting, retries) = (found.waiting, found.retries);
        let _ = writeln!(
            text,
            "policy    {policy}, port {port}, {bound} per endpoint, {waiting} waiting, {retries} retries"
        );
    }
    let _ = writeln!(text, "outcome   {}: {}", found.outcome, found.because);
    output::write(&text)?;
    if found.endpoints.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        "ID", "ADDRESS", "STATE", "HEALTH", "EJECTED", "INFLIGHT", "WEIGHT", "LATENCY", "SCORE", "REASON",
    ]);
    for endpoint in &found.endpoints {
        table.row([
            endpoint.id.clone(),
            endpoint.address.clone(),
            endpoint.state.clone(),
            if endpoint.healthy { "healthy" } else { "unhealthy" }.to_owned(),
            if endpoint.ejected_ms > 0 { format!("{}ms", endpoint.ejected_ms) } else { String::new() },
            endpoint.in_flight.to_string(),
            endpoint.weight.to_string(),
            format!("{:.1}ms", endpoint.latency_ms),
            endpoint.score.map(|score| format!("{score:.2}")).unwrap_or_default(),
            endpoint.reason.clone().unwrap_or_default(),
        ]);
    }
    output::write("\n")?;
    Ok(output::table(&table)?)
}

fn scale(found: &ScaleState) -> String {
    let name = output::service(&found.namespace, &found.service);
    let mut text = format!("{name}: {} replicas wanted, {} ready\n", found.replicas, found.ready);
    if found.pinned {
        let off = if found.replicas == 0 { ", so that it is off" } else { "" };
        let _ = writeln!(text, "set by hand{off}; `weir scale {name} auto` gives it back");
    }
    match &found.autoscaler {
        None => text.push_str("not scaled automatically: it has no [service.scale]\n"),
        Some(autoscaler) => policy(&mut text, autoscaler),
    }
    text
}

fn policy(text: &mut String, autoscaler: &Autoscaler) {
    let Autoscaler { policy, objective, min, max, .. } = autoscaler;
    let follows = match autoscaler.target {
        Some(target) => format!("{target} {policy} per replica"),
        None => objective.clone(),
    };
    let _ = writeln!(text, "follows      {follows}, {min} to {max} replicas");
    if let Some(timeout_ms) = autoscaler.wake_timeout_ms {
        let (held_s, wakes) = (timeout_ms as f64 / 1000.0, autoscaler.wakes);
        let _ = writeln!(
            text,
            "at zero      a request or stream is held up to {held_s} s for a replica; woken {wakes} times"
        );
    }
    let Some(newest) = &autoscaler.newest else {
        text.push_str("no decision yet\n");
        return;
    };
    decision(text, newest);
    if let Some(changed) = autoscaler.changed.as_ref().filter(|changed| changed.at_unix_ms != newest.at_unix_ms) {
        let at = output::time(changed.at_unix_ms);
        let _ = writeln!(text, "\nlast change at {at}: {} to {}", changed.wanted, changed.recommended);
        decision(text, changed);
    }
}

fn decision(text: &mut String, made: &ScaleDecision) {
    let ScaleDecision { by_forecast, by_backlog, by_window, window_s, rate, forecast, sigma, z, .. } = made;
    let ScaleDecision { staffed_rate, service_ms, cv, slots, in_service, queued, cold_start_s, .. } = made;
    let late = 100.0 * made.late_ratio;
    let _ = write!(
        text,
        "recommended  {} because of {}\n\
         by term      forecast or target {by_forecast}, backlog {by_backlog}, window {by_window} of {window_s:.0} s\n\
         arrivals     {rate:.1}/s now, {forecast:.1}/s forecast, errors {sigma:.1}/s x {z:.2}: staffed for {staffed_rate:.1}/s\n\
         service      {service_ms:.1} ms, cv {cv:.2}, {slots} at once per replica; {in_service} in service, {queued} waiting\n\
         cold start   {cold_start_s:.1} s; late for want of replicas {late:.2} % of the last half hour\n",
        made.recommended, made.because,
    );
    if let Some(after_s) = made.zero_after_s {
        let _ = writeln!(text, "idle         for {:.1} s; the last replica goes after {after_s:.1} s", made.idle_s);
    }
}
