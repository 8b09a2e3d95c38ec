//! `weir status` and `weir reload`: which configuration is in use, and taking up another.

use crate::admin::{self, Configuration, Reloaded, Table};
use crate::cli::diff::line;
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::Remote;
use crate::cli::upgrade;
use anyhow::Result;
use http::Method;
use serde::Serialize;

/// What `weir status -o json` prints.
#[derive(Debug, Serialize)]
struct Status {
    version: String,
    pid: u32,
    keeper: Option<u32>,
    configuration: Configuration,
    table: Table,
    store: Option<admin::StoreStatus>,
    engines: Vec<admin::Engine>,
    warnings: Vec<String>,
}

/// Says who follows this table, and where it comes from.
fn describe_feed(table: &Table) -> String {
    let mut text = String::new();
    for one in &table.subscribers {
        let behind = if one.generation < table.generation { " (behind)" } else { "" };
        let uses = if one.uses > 0 { format!(", still uses {} withdrawn endpoints", one.uses) } else { String::new() };
        let rate: f64 = one.loads.iter().map(|load| load.rate).sum();
        let held: u32 = one.loads.iter().map(|load| load.in_service + load.queued).sum();
        let load = if one.loads.is_empty() { String::new() } else { format!(", carries {rate:.1}/s, {held} held") };
        let (state, heard_ms) = (one.state.replace('_', " "), one.heard_ms);
        text += &format!(
            "follower       {}: {state}, generation {}{behind}, heard {heard_ms} ms ago{load}{uses}\n",
            one.name, one.generation
        );
    }
    for one in &table.sources {
        let used = if one.used && one.state != "used" { ", its last table is in use" } else { "" };
        let why = one.problem.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let (state, since_s) = (&one.state, one.since_s);
        text += &format!(
            "source         {}: {state} for {since_s} s, generation {}{used}{why}\n",
            one.name, one.generation
        );
    }
    text
}

/// Prints what is in use, and everything that is wrong with what is not.
pub(super) async fn status(global: &Global) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let configuration: Configuration = remote.get("/v1/configuration").await?;
    let table: Table = remote.get("/v1/table").await?;
    let admin::Status { store, engines, pid, keeper, version, warnings, .. } = remote.get("/v1/status").await?;
    if global.output == Format::Json {
        return output::json(&Status { version, pid, keeper, configuration, table, store, engines, warnings });
    }
    let Configuration { file, hash, since_unix_ms, cause, generation, watch, reloads, failure } = configuration;
    let file = file.unwrap_or_else(|| "of no file".to_owned());
    let since = output::time(since_unix_ms);
    let kept = keeper.map_or_else(|| "no keeper".to_owned(), |keeper| format!("keeper {keeper}"));
    let mut text = format!("processes      {pid} serves (weir {version}), {kept}\n");
    text += &format!("configuration  {file}, hash {hash}, in use since {since} ({cause}, generation {generation})\n");
    text.push_str(&format!("changes        noticed by {watch}\n"));
    let (applied, unchanged, refused) = (reloads.applied, reloads.unchanged, reloads.refused);
    text.push_str(&format!("reloads        {applied} applied, {unchanged} unchanged, {refused} refused\n"));
    let behind = table.acknowledgers.iter().filter(|who| who.generation < table.generation && !who.idle);
    let behind: Vec<&str> = behind.map(|who| who.name.as_str()).collect();
    let behind = if behind.is_empty() { "everybody".to_owned() } else { format!("all but {}", behind.join(", ")) };
    let (services, endpoints, generation) = (table.services, table.endpoints, table.generation);
    text.push_str(&format!(
        "table          generation {generation}, {services} services, {endpoints} endpoints, loaded by {behind}\n"
    ));
    text.push_str(&describe_feed(&table));
    if let Some(store) = store {
        text.push_str(&describe(store));
    }
    // Nobody need hear of an engine that nothing uses.
    for engine in engines.into_iter().filter(|engine| engine.state != "unused") {
        text.push_str(&describe_engine(&engine));
    }
    for warning in warnings {
        text.push_str(&format!("warning        {warning}\n"));
    }
    if let Some(failure) = failure {
        let at = output::time(failure.at_unix_ms);
        text.push_str(&format!("refused        {at} ({}): the file is not in use\n", failure.cause));
        for problem in failure.problems {
            text.push_str(&format!("{problem}\n"));
        }
    }
    Ok(output::write(&text)?)
}

/// Waits until another process has taken over, and sees whether it took the configuration up.
async fn taken_over(global: &Global, number: u64) -> Result<()> {
    let ended = upgrade::ended(global, number).await?;
    if ended.state != "done" {
        let cause = ended.cause.unwrap_or_else(|| "the keeper does not say why".to_owned());
        return Err(Failure::new(Code::Failure, format!("{cause}; what was in use serves on")).into());
    }
    let now: Configuration = Remote::connect(global.addr.as_deref()).await?.get("/v1/configuration").await?;
    let Some(failure) = now.failure else { return Ok(()) };
    let problems: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
    Err(Failure::new(Code::Usage, problems.join("\n")).into())
}

fn describe(store: admin::StoreStatus) -> String {
    let admin::StoreStatus { path, state, problem, file_bytes, unsaved, commits, failures, .. } = store;
    let how = problem.unwrap_or(state);
    format!(
        "store          {path} ({file_bytes} bytes): {how}; {commits} writes, {failures} failed, {unsaved} records unsaved\n"
    )
}

fn describe_engine(engine: &admin::Engine) -> String {
    let admin::Engine { name, state, problem, since_s, workloads } = engine;
    let problem = problem.as_deref().map_or_else(String::new, |problem| format!(" ({problem})"));
    format!("{name:<14} {state}{problem} for {since_s} s; {workloads} containers\n")
}

/// Has the file taken up now; prints what changed.
pub(super) async fn reload(global: &Global) -> Result<()> {
    let reloaded = loop {
        let mut remote = Remote::connect(global.addr.as_deref()).await?;
        let reloaded: Reloaded = remote.exchange(Method::POST, "/v1/reload", None::<&()>).await?;
        drop(remote);
        // Where it moves the API itself, nobody answers here any more.
        let moves = reloaded.changes.iter().any(|change| change.key.starts_with("admin."));
        match reloaded.upgrade.filter(|_| !moves) {
            // The process that answered has read what the file said before: the next one has yet to look at it.
            Some(number) if reloaded.outcome == "handed_before" => drop(upgrade::ended(global, number).await?),
            Some(number) => break taken_over(global, number).await.map(|()| reloaded)?,
            None => break reloaded,
        }
    };
    if global.output == Format::Json {
        return output::json(&reloaded);
    }
    let head = match reloaded.generation {
        None if reloaded.upgrade.is_some() => {
            format!(
                "another process serves with {} changes; this one ends with its connections\n",
                reloaded.changes.len()
            )
        }
        None => "nothing changed\n".to_owned(),
        Some(generation) => format!("in use, generation {generation}, {} changes\n", reloaded.changes.len()),
    };
    Ok(output::write(&reloaded.changes.iter().map(line).fold(head, |text, line| text + &line))?)
}
