//! `weir events`, `weir logs`: what happened, and what goes on.

use crate::admin::{Event, Events};
use crate::cli::args::{EventsArgs, LogsArgs};
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{self, Write};

/// Longest line of the event stream; the server's are below 1 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Shows the last events, or follows them.
pub(super) async fn events(global: &Global, args: &EventsArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    if args.follow {
        let mut lines = Lines { body: remote.stream("/v1/events").await?, buffer: Vec::new() };
        while let Some(line) = lines.next().await.context("follow them")? {
            // Fields other than `data` and comments are for programs that resume (WHATWG HTML §9.2.6).
            let Some(data) = line.strip_prefix("data:") else { continue };
            match (serde_json::from_str(data), data.trim().parse::<u64>()) {
                (Ok(event), _) => follow(global.output, &event)?,
                (Err(_), Ok(missed)) => writeln!(io::stderr(), "weir: {missed} events came too fast to be shown")?,
                (Err(_), Err(_)) => {}
            }
        }
        bail!("Weir has ended");
    }
    let found: Events = remote.get("/v1/events?follow=false").await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let mut table = Table::new(&["TIME", "GENERATION", "EVENT", "SERVICE", "INSTANCE", "MESSAGE"]);
    for event in found.events {
        table.row([
            output::time(event.at_unix_ms),
            event.generation.to_string(),
            event.kind,
            event.service.unwrap_or_default(),
            event.instance.unwrap_or_default(),
            event.message,
        ]);
    }
    Ok(output::table(&table)?)
}

fn follow(format: Format, event: &Event) -> Result<()> {
    if format == Format::Json {
        return output::json(event);
    }
    let subject = event.instance.as_ref().or(event.service.as_ref()).map_or("-", String::as_str);
    let (time, kind) = (output::time(event.at_unix_ms), &event.kind);
    Ok(output::write(&format!("{time}  {:>6}  {kind:<20}  {subject:<24}  {}\n", event.generation, event.message))?)
}

/// Shows what a replica wrote, or follows it.
pub(super) async fn logs(global: &Global, args: &LogsArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let path = format!("/v1/instances/{}/logs?tail={}&follow={}", encode(&args.instance), args.tail, args.follow);
    let mut body = remote.stream(&path).await?;
    let broken = "it broke off: Weir has ended, or cannot read the file, as its own log tells then";
    while let Some(chunk) = next(&mut body).await.context(broken)? {
        let mut out = io::stdout().lock();
        out.write_all(&chunk)?;
        out.flush()?;
    }
    Ok(())
}

/// Returns the next piece of a body.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// The lines of a body.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                bail!("a line of the event stream is longer than {MAX_LINE_BYTES} octets");
            }
            match next(&mut self.body).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}
