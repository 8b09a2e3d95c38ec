//! `weir doctor dns CONTAINER`: enters the network of a container or process, asks each of its resolvers for each name as the
//! container would, and says who answers, with which TTL, and what to fix.
//!
//! What is found is a value; `advice` turns it into words. Needs root: it enters another's network namespace.

use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output::{self, Table};
use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The engine's own resolver in containers on networks that users made.
const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// The TTL of that resolver's own answers.
const ENGINE_TTL: u32 = 600;
/// Longest answer that is read.
const ANSWER_BYTES: usize = 4096;

/// `weir doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Who answers a container's questions for names.
    Dns(DnsArgs),
}

#[derive(Debug, clap::Args)]
struct DnsArgs {
    /// The container by name or id, or the id of a process.
    container: String,
    /// Names to ask for, as the container would write them.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Socket of the Docker Engine.
    #[arg(long, env = "WEIR_DOCKER_HOST", value_name = "PATH", default_value = "unix:///var/run/docker.sock")]
    docker: String,
    /// Weir's zone.
    #[arg(long, default_value = "weir.internal")]
    zone: String,
}

/// What a container's `/etc/resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Configuration {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: u32,
}

/// One answer of one resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Found {
    /// The name as it was asked for, whole.
    name: String,
    server: IpAddr,
    /// `weir`, `docker` or `other`.
    who: &'static str,
    /// The response code, or why there is none.
    outcome: String,
    /// Whether it did not answer.
    is_silent: bool,
    ttl_s: Option<u32>,
    addresses: Vec<IpAddr>,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    configuration: Configuration,
    answers: Vec<Found>,
    advice: Vec<String>,
}

/// Looks after names.
pub(super) async fn doctor(global: &Global, args: &DoctorArgs) -> Result<()> {
    let Subject::Dns(args) = &args.subject;
    let pid = pid(args).await?;
    let path = PathBuf::from(format!("/proc/{pid}/root/etc/resolv.conf"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {} (needs root)", path.display()))?;
    let configuration = read(&text);
    let (names, zone) = (args.names.clone(), args.zone.clone());
    let asking = std::thread::spawn(move || inside(pid, configuration, &names, &zone));
    let report = asking.join().map_err(|_| anyhow::anyhow!("the thread that asked panicked"))??;
    show(global, &report)
}

fn show(global: &Global, report: &Report) -> Result<()> {
    if global.output == Format::Json {
        return output::json(report);
    }
    let mut table = Table::new(&["NAME", "SERVER", "WHO", "OUTCOME", "TTL", "ADDRESSES"]);
    for found in &report.answers {
        let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        let ttl = found.ttl_s.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string());
        let (server, who) = (found.server.to_string(), found.who.to_owned());
        table.row([found.name.clone(), server, who, found.outcome.clone(), ttl, addresses.join(" ")]);
    }
    output::table(&table)?;
    output::write(&report.advice.iter().map(|line| format!("- {line}\n")).collect::<String>())?;
    Ok(())
}

/// Returns the process that a container is, by number or as the engine says.
async fn pid(args: &DnsArgs) -> Result<u32> {
    if let Ok(pid) = args.container.parse() {
        return Ok(pid);
    }
    let socket = args.docker.strip_prefix("unix://").unwrap_or(&args.docker);
    let away =
        || Failure::new(Code::Unreachable, format!("no Docker Engine answers at {socket}; --docker names another"));
    let engine = bollard::Docker::connect_with_unix(socket, 10, bollard::API_DEFAULT_VERSION).map_err(|_| away())?;
    let found = match engine.inspect_container(&args.container, None).await {
        Ok(found) => found,
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
            let text = format!("there is no container {}; `docker ps` lists them", args.container);
            return Err(Failure::new(Code::NotFound, text).into());
        }
        Err(_) => return Err(away().into()),
    };
    let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
    let stopped = || Failure::new(Code::Conflict, format!("container {} does not run", args.container));
    Ok(u32::try_from(pid.ok_or_else(stopped)?)?)
}

/// Reads what resolvers read (resolv.conf(5)).
fn read(text: &str) -> Configuration {
    let mut found = Configuration { ndots: 1, ..Configuration::default() };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
            Some("search" | "domain") => {
                found.search = words.map(|word| word.trim_end_matches('.').to_owned()).collect()
            }
            Some("options") => {
                let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                found.ndots = ndots.unwrap_or(found.ndots);
            }
            _ => {}
        }
    }
    found
}

/// Returns the whole names that a resolver asks for, in its order.
fn candidates(name: &str, configuration: &Configuration) -> Vec<String> {
    if let Some(whole) = name.strip_suffix('.') {
        return vec![whole.to_owned()];
    }
    let searched = configuration.search.iter().map(|domain| format!("{name}.{domain}"));
    let dots = u32::try_from(name.matches('.').count()).unwrap_or(u32::MAX);
    let own = std::iter::once(name.to_owned());
    if dots >= configuration.ndots { own.chain(searched).collect() } else { searched.chain(own).collect() }
}

/// Asks from inside the network of a process; for a thread of its own, which stays there.
fn inside(pid: u32, configuration: Configuration, names: &[String], zone: &str) -> Result<Report> {
    let path = format!("/proc/{pid}/ns/net");
    let network = File::open(&path).with_context(|| format!("open {path} (needs root)"))?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the network of process {pid} (needs root)"))?;
    let mut answers = Vec::new();
    let weirs: Vec<IpAddr> = configuration.servers.iter().copied().filter(|server| is_weir(*server, zone)).collect();
    for name in names {
        for whole in candidates(name, &configuration) {
            for server in &configuration.servers {
                answers.push(look_up(&whole, *server, &weirs));
            }
        }
    }
    let advice = advice(&configuration, &weirs, &answers, zone);
    Ok(Report { configuration, answers, advice })
}

/// Returns whether a resolver's answers about the zone are Weir's: it tells its version there.
fn is_weir(server: IpAddr, zone: &str) -> bool {
    let Ok(message) = ask(&format!("version.{zone}"), RecordType::TXT, server) else { return false };
    message.answers.iter().any(|record| matches!(&record.data, RData::TXT(text) if text.to_string().contains("weir ")))
}

impl Found {
    /// Takes up an answer: addresses of both families, the shorter TTL, the worse outcome.
    fn take(&mut self, message: &Message) {
        let outcome = message.metadata.response_code;
        if self.outcome.is_empty() || outcome != ResponseCode::NoError {
            self.outcome = outcome.to_string();
        }
        self.ttl_s = message.answers.iter().map(|record| record.ttl).chain(self.ttl_s).min();
        self.addresses.extend(message.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }));
    }
}

fn look_up(name: &str, server: IpAddr, weirs: &[IpAddr]) -> Found {
    let mut found = Found {
        name: name.to_owned(),
        server,
        who: if weirs.contains(&server) { "weir" } else { "other" },
        outcome: String::new(),
        is_silent: false,
        ttl_s: None,
        addresses: Vec::new(),
    };
    // As getaddrinfo(3) does; who does not answer the first is not waited for again.
    for kind in [RecordType::A, RecordType::AAAA] {
        match ask(name, kind, server) {
            Err(error) => {
                found.is_silent = true;
                found.outcome = error.root_cause().to_string();
                return found;
            }
            Ok(message) => found.take(&message),
        }
    }
    if server == ENGINE && found.ttl_s == Some(ENGINE_TTL) {
        found.who = "docker";
    }
    found
}

fn ask(name: &str, kind: RecordType, server: IpAddr) -> Result<Message> {
    let mut name = Name::from_str(name)?;
    name.set_fqdn(true);
    let id = u16::try_from(crate::rng::Rng::from_os().below(usize::from(u16::MAX)))?;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let unspecified = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(unspecified)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.send(&question.to_vec()?)?;
    let mut answer = [0u8; ANSWER_BYTES];
    loop {
        let octets = socket.recv(&mut answer).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => anyhow::anyhow!("no answer in {TIMEOUT:?}"),
            _ => error.into(),
        })?;
        let message = Message::from_vec(answer.get(..octets).unwrap_or_default())?;
        if message.metadata.id == id {
            return Ok(message);
        }
    }
}

/// Says what to fix, most important first.
fn advice(configuration: &Configuration, weirs: &[IpAddr], answers: &[Found], zone: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let silent: BTreeSet<IpAddr> = answers.iter().filter(|found| found.is_silent).map(|found| found.server).collect();
    for server in &silent {
        let who = if *server == ENGINE { ", Docker's own resolver, which asks those of --dns," } else { "" };
        lines.push(format!(
            "{server}{who} does not answer in {TIMEOUT:?}: see whether Weir runs (`weir status`), and where it listens \
             (dns.listen with \"containers:53\", and its log), and whether a firewall drops what containers send there"
        ));
    }
    if weirs.is_empty() && silent.is_empty() {
        lines.push(format!(
            "none of its resolvers leads to Weir: write dns.listen = [\"127.0.0.1:8600\", \"containers:53\"], and run it with \
             --dns GATEWAY --dns-search {zone}, GATEWAY being its network's"
        ));
    }
    if let Some(found) = answers.iter().find(|found| found.who == "docker") {
        lines.push(format!(
            "{} is answered by Docker's own resolver, with a TTL of {ENGINE_TTL} s, from a container name or a network alias: \
             rename it, or ask for {}.{zone}",
            found.name, found.name
        ));
    }
    if !weirs.is_empty() && !configuration.search.iter().any(|domain| domain == zone) {
        lines.push(format!("short names are not looked for in {zone}: run it with --dns-search {zone}"));
    }
    if configuration.ndots == 0 && !configuration.search.is_empty() {
        lines.push(
            "with ndots:0 musl never looks for short names elsewhere: run it with --dns-option ndots:1".to_owned(),
        );
    }
    let others = configuration.servers.iter().any(|server| !weirs.contains(server));
    if !weirs.is_empty() && others {
        lines.push(format!(
            "not every resolver is Weir: glibc asks the next only when one does not answer, musl asks all at once and takes \
             the first answer, so the others must refuse names below {zone}"
        ));
    }
    if lines.is_empty() {
        lines.push("Weir answers".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Configuration, Found, advice, candidates, read};
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(who: &'static str, server: &str) -> Found {
        let (name, outcome) = ("db".to_owned(), "No Error".to_owned());
        Found { name, server: ip(server), who, outcome, is_silent: false, ttl_s: Some(600), addresses: Vec::new() }
    }

    #[test]
    fn reads_what_resolvers_read() {
        let text = "# made by Docker\nnameserver 127.0.0.11\nnameserver fd00::1\nsearch a.internal weir.internal.\noptions edns0 ndots:0\n";
        let configuration = read(text);
        assert_eq!(configuration.servers, [ip("127.0.0.11"), ip("fd00::1")]);
        assert_eq!((configuration.search.len(), configuration.ndots), (2, 0));
        assert_eq!(candidates("web", &configuration), ["web", "web.a.internal", "web.weir.internal"]);
        assert_eq!(candidates("web.", &configuration), ["web"]);
        let other = Configuration { ndots: 2, ..configuration };
        assert_eq!(candidates("web.x", &other), ["web.x.a.internal", "web.x.weir.internal", "web.x"]);
        assert_eq!(read(""), Configuration { ndots: 1, ..Configuration::default() });
    }

    #[test]
    fn says_what_to_fix_and_nothing_else() {
        let gateway = ip("172.18.0.1");
        let good = || Configuration { servers: vec![gateway], search: vec!["weir.internal".to_owned()], ndots: 1 };
        let said = |configuration: &Configuration, weirs: &[IpAddr], answers: &[Found]| {
            advice(configuration, weirs, answers, "weir.internal").join("\n")
        };
        assert_eq!(said(&good(), &[gateway], &[found("weir", "172.18.0.1")]), "Weir answers");
        assert!(said(&good(), &[], &[]).starts_with("none of its resolvers leads to Weir"));
        let silent = Found { is_silent: true, ..found("other", "172.18.0.1") };
        assert!(said(&good(), &[], &[silent]).starts_with("172.18.0.1 does not answer"));
        assert!(said(&good(), &[gateway], &[found("docker", "127.0.0.11")]).contains("a network alias"));
        let bare = Configuration { search: Vec::new(), ..good() };
        assert!(said(&bare, &[gateway], &[]).contains("--dns-search weir.internal"));
        let zero = Configuration { ndots: 0, ..good() };
        assert!(said(&zero, &[gateway], &[]).contains("--dns-option ndots:1"));
        let two = Configuration { servers: vec![gateway, ip("10.0.0.2")], ..good() };
        assert!(said(&two, &[gateway], &[]).contains("musl asks all at once"));
    }
}
