//! `weir resolve`: asks a DNS server as any program would, through hickory's resolver: independent of Weir's own encoder. For
//! another asker, or to say why, it asks the running Weir over the admin API instead, which answers from its own table.

use crate::admin::Resolution;
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use crate::cli::remote::{Remote, encode};
use anyhow::Result;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::proto::serialize::binary::DecodeError;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Wait for one answer; the server is near.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Repetitions before the server counts as unreachable.
const ATTEMPTS: usize = 1;

/// `weir resolve`.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    /// What to look up: a name below the zone (`web`, `web.staging`, `_http._tcp.web`), a whole name, or an address.
    name: String,
    /// Record type. When absent: PTR for an address, SRV for a name that starts with `_`, else A.
    #[arg(value_name = "TYPE", value_parser = record_type)]
    kind: Option<RecordType>,
    /// The DNS server that is asked; `--addr` is for `--from`, `--listener` and `--explain`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8600")]
    server: SocketAddr,
    /// The zone that a short name is below.
    #[arg(long, default_value = "weir.internal")]
    zone: String,
    /// Who is supposed to ask: the running Weir is asked over its admin API what it would answer this address.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// The listener that is supposed to be asked, as `IP:PORT`; with `--from` or `--explain`.
    #[arg(long, value_name = "ADDRESS")]
    listener: Option<SocketAddr>,
    /// Say why the answer is what it is: view, schema, what matched, endpoints, TTL. Over the admin API too.
    #[arg(long)]
    explain: bool,
}

impl ResolveArgs {
    /// Returns what is looked up, as written.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the running Weir is asked, instead of a DNS server.
    pub(super) fn asks_weir(&self) -> bool {
        self.explain || self.from.is_some() || self.listener.is_some()
    }
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Resolved {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    server: SocketAddr,
    answers: Vec<Line>,
    additionals: Vec<Line>,
}

/// One record.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl_s: u32,
    data: String,
}

fn record_type(text: &str) -> Result<RecordType, DecodeError> {
    text.to_ascii_uppercase().parse()
}

/// Looks a name up and prints what the server answers.
pub(super) async fn resolve(global: &Global, args: &ResolveArgs) -> Result<()> {
    let (name, kind) = question(args)?;
    if args.asks_weir() {
        return told(global, args, &name, kind).await;
    }
    let found = resolver(args.server)?.lookup(name.clone(), kind).await.map_err(|error| explain(&error, args, kind))?;
    let resolved = Resolved {
        name: name.to_string(),
        kind: kind.to_string(),
        server: args.server,
        answers: found.answers().iter().map(line).collect(),
        additionals: found.additionals().iter().map(line).collect(),
    };
    if global.output == Format::Json {
        return output::json(&resolved);
    }
    let mut table = Table::new(&["NAME", "TTL", "TYPE", "DATA"]);
    for line in resolved.answers.into_iter().chain(resolved.additionals) {
        table.row([line.name, line.ttl_s.to_string(), line.kind, line.data]);
    }
    Ok(output::table(&table)?)
}

/// Asks the running Weir what it would answer, and why.
async fn told(global: &Global, args: &ResolveArgs, name: &Name, kind: RecordType) -> Result<()> {
    let mut path = format!("/v1/resolve?name={}&type={}", encode(&name.to_string()), encode(&kind.to_string()));
    for (key, value) in [
        ("from", args.from.map(|from| from.to_string())),
        ("listener", args.listener.map(|listener| listener.to_string())),
    ] {
        path.push_str(&value.map(|value| format!("&{key}={}", encode(&value))).unwrap_or_default());
    }
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let found: Resolution = remote.get(&path).await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    if args.explain {
        output::write(&reasons(&found))?;
    }
    let mut table = Table::new(&["NAME", "TTL", "TYPE", "DATA", "SECTION"]);
    for record in &found.records {
        let ttl = record.ttl_s.to_string();
        table.row([record.name.clone(), ttl, record.kind.clone(), record.data.clone(), record.section.clone()]);
    }
    output::table(&table)?;
    if args.explain && !found.endpoints.is_empty() {
        let mut table = Table::new(&["ID", "ADDRESS", "NAMED", "BECAUSE"]);
        for one in &found.endpoints {
            let named = if one.usable { "yes" } else { "no" }.to_owned();
            table.row([one.id.clone(), one.address.clone(), named, one.because.clone()]);
        }
        output::write("\n")?;
        output::table(&table)?;
    }
    match found.rcode.as_str() {
        "NXDOMAIN" => Err(Failure::new(Code::NotFound, format!("{name}: no such name for this asker")).into()),
        "NOERROR" | "-" => Ok(()),
        code => Err(Failure::new(Code::Failure, format!("{name}: {code}")).into()),
    }
}

fn reasons(found: &Resolution) -> String {
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    format!(
        "view       {}, namespace {}\nschema     {}\nmatched    {}\npath       {}\nanswer     {}\nttl        {}\n\
         generation {}\n",
        or_none(&found.view),
        found.namespace,
        or_none(&found.schema),
        found.rule,
        found.path,
        found.rcode,
        or_none(&found.ttl),
        found.generation
    )
}

/// Returns the whole name and the type to ask for.
fn question(args: &ResolveArgs) -> Result<(Name, RecordType)> {
    let usage = |error| Failure::new(Code::Usage, format!("{} is no DNS name: {error}", args.name));
    if let Ok(address) = args.name.parse::<IpAddr>() {
        return Ok((Name::from(address), args.kind.unwrap_or(RecordType::PTR)));
    }
    let zone = args.zone.trim_end_matches('.');
    let below_zone = args.name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let text = if args.name.ends_with('.') || below_zone { args.name.clone() } else { format!("{}.{zone}", args.name) };
    let mut name = Name::from_ascii(&text).map_err(usage)?;
    name.set_fqdn(true);
    let kind = if args.name.starts_with('_') { RecordType::SRV } else { RecordType::A };
    Ok((name, args.kind.unwrap_or(kind)))
}

fn resolver(server: SocketAddr) -> Result<Resolver<TokioRuntimeProvider>> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    Ok(builder.build()?)
}

/// Says what went wrong and what to do, with the exit code for programs.
fn explain(error: &NetError, args: &ResolveArgs, kind: RecordType) -> Failure {
    let (name, server) = (&args.name, args.server);
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::new(Code::NotFound, format!("{server} knows no such name")),
            ResponseCode::NoError => Failure::new(Code::NotFound, format!("{name} has no {kind} record at {server}")),
            code => refused(server, code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => refused(server, *code),
        _ => Failure::new(
            Code::Unreachable,
            format!("no DNS server answers at {server} ({error}); start Weir with a [dns] section, or give --server"),
        ),
    }
}

fn refused(server: SocketAddr, code: ResponseCode) -> Failure {
    Failure::new(Code::Failure, format!("{server} answered: {code}"))
}

fn line(record: &Record) -> Line {
    Line {
        name: record.name.to_string(),
        kind: record.record_type().to_string(),
        ttl_s: record.ttl,
        data: record.data.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ResolveArgs, question};

    fn asked(name: &str) -> (String, String) {
        let args = ResolveArgs {
            name: name.to_owned(),
            kind: None,
            server: ([127, 0, 0, 1], 8600).into(),
            zone: "weir.internal".to_owned(),
            from: None,
            listener: None,
            explain: false,
        };
        let (name, kind) = question(&args).unwrap();
        (name.to_string(), kind.to_string())
    }

    #[test]
    fn short_names_are_below_the_zone_and_the_type_follows_the_name() {
        for (name, whole, kind) in [
            ("web", "web.weir.internal.", "A"),
            ("web.staging", "web.staging.weir.internal.", "A"),
            ("web.weir.internal", "web.weir.internal.", "A"),
            ("webweir.internal", "webweir.internal.weir.internal.", "A"),
            ("weir.internal", "weir.internal.", "A"),
            ("example.com.", "example.com.", "A"),
            ("_http._tcp.web", "_http._tcp.web.weir.internal.", "SRV"),
            ("10.0.0.1", "1.0.0.10.in-addr.arpa.", "PTR"),
        ] {
            assert_eq!(asked(name), (whole.to_owned(), kind.to_owned()), "{name}");
        }
    }
}
