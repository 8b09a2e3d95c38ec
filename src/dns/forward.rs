//! Questions about names that are not ours, asked of other resolvers on behalf of clients that may.
//!
//! Owns the upstreams, their cache and who may ask; the bound on questions in flight is the caller's, `tcp.rs`. Never
//! sees a name of the own zone or of an address in the table: `handler.rs` answers those. Against poisoning (RFC 5452 §9):
//! random ports, ids and letter case by hickory, identical questions asked once, and of an answer only the records of the
//! asked name and its CNAME chain are believed. Answers say RA, never AA. Follows RFC 1034 §5.3, 2308, 6891, 8482.

use crate::dns::counters::Forwarded;
use crate::dns::options::{ForwardOptions, Networks};
use crate::dns::view;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;

/// Tries after the first one; each may take the configured time, so that SERVFAIL comes after two of them.
const RETRIES: usize = 1;
/// Longer than all tries together: only a fault of the resolver itself waits for this.
const LAST_RESORT: Duration = Duration::from_millis(500);
/// Upstreams asked at once: the quickest answer counts, and one that is down costs nothing.
const PARALLEL: usize = 2;
/// Answers are kept no longer, whatever their TTL: an hour of a wrong record is enough.
const MAX_CACHE_TTL: Duration = Duration::from_secs(3600);
/// As above for "does not exist": what was asked too early must appear soon.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(60);
/// Longest chain of aliases in one answer.
const MAX_ALIASES: usize = 10;
/// What this server can receive over UDP without fragments, RFC 9715 §3.1.
const OWN_UDP_BYTES: u16 = 1232;
/// Largest message over TCP.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// Asks upstream resolvers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    options: ForwardOptions,
    /// `None` when there is nobody to ask.
    resolver: Option<TokioResolver>,
}

/// An answer from upstream, or why there is none.
#[derive(Debug)]
struct Outcome {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    counted: Forwarded,
}

impl Forwarder {
    /// Makes a forwarder; `own` are this server's addresses, which it never asks. Reads `/etc/resolv.conf` when the
    /// options say so.
    pub(crate) fn new(options: ForwardOptions, own: &[SocketAddr]) -> Self {
        let mut upstreams = options.upstreams.clone();
        if options.system {
            match hickory_resolver::system_conf::read_system_conf() {
                Ok((config, _)) => upstreams.extend(config.name_servers().iter().map(|s| SocketAddr::new(s.ip, 53))),
                Err(error) => tracing::warn!(%error, "failed to read the system's resolvers from /etc/resolv.conf"),
            }
        }
        upstreams.retain(|upstream| {
            let loops = own.iter().any(|own| is_own(*own, *upstream));
            if loops {
                tracing::warn!(%upstream, "this DNS server is listed as its own upstream; it is left out");
            }
            !loops
        });
        upstreams.dedup();
        if upstreams.is_empty() {
            tracing::warn!("DNS forwards to nobody: there is no upstream; names outside the zone get SERVFAIL");
        }
        let resolver = (!upstreams.is_empty()).then(|| resolver(&options, &upstreams)).flatten();
        Self { options, resolver }
    }

    /// Returns what it was made of.
    pub(crate) fn options(&self) -> &ForwardOptions {
        &self.options
    }

    /// Returns whether a client may have names resolved.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        contains(&self.options.allow, client)
    }

    /// Answers a question that `handler.rs` found to be foreign; `None` when it cannot even be read. Takes at most two
    /// tries' time. `max_bytes` bounds the answer over UDP; `None` is TCP.
    pub(crate) async fn answer(&self, message: &[u8], max_udp_bytes: Option<u16>) -> Option<(Vec<u8>, Forwarded, u16)> {
        let request = Message::from_vec(message).ok()?;
        let question = request.queries.first()?;
        let outcome = match local(question) {
            Some(outcome) => outcome,
            None => self.ask(question).await,
        };
        let code = u16::from(outcome.code);
        let counted = outcome.counted;
        Some((encode(&request, outcome, max_udp_bytes)?, counted, code))
    }

    async fn ask(&self, question: &Query) -> Outcome {
        let Some(resolver) = &self.resolver else { return Outcome::failed(Forwarded::Unreachable) };
        let mut name = question.name().clone();
        name.set_fqdn(true);
        let limit = self.options.timeout * u32::try_from(RETRIES + 1).unwrap_or(2) + LAST_RESORT;
        match timeout(limit, resolver.lookup(name, question.query_type())).await {
            Err(_) => Outcome::failed(Forwarded::Unreachable),
            Ok(Ok(lookup)) => self.believed(question, &lookup),
            Ok(Err(error)) => refusal(question, error),
        }
    }

    /// Keeps the records of the asked name and its aliases, without addresses that no answer may name.
    fn believed(&self, question: &Query, lookup: &Lookup) -> Outcome {
        let mut answers = chain(question, lookup.answers());
        let found = answers.len();
        answers.retain(|record| {
            record.data.ip_addr().is_none_or(|address| !contains(&self.options.deny_answers, address))
        });
        if answers.len() < found {
            tracing::debug!(name = %question.name(), "left out addresses that answers from upstream must not name");
        }
        let counted = if answers.is_empty() { Forwarded::NoData } else { Forwarded::Answered };
        Outcome { code: ResponseCode::NoError, answers, authorities: Vec::new(), counted }
    }
}

impl Outcome {
    fn failed(counted: Forwarded) -> Self {
        Self { code: ResponseCode::ServFail, answers: Vec::new(), authorities: Vec::new(), counted }
    }
}

/// Answers what no upstream need be asked: a single label is a short name that no search list completed, and goes no
/// further. Without SOA, so that nobody keeps it.
fn local(question: &Query) -> Option<Outcome> {
    let is_address = matches!(question.query_type(), RecordType::A | RecordType::AAAA);
    let is_short = question.name().num_labels() == 1 && !question.name().is_localhost();
    (is_address && is_short).then(|| Outcome {
        code: ResponseCode::NXDomain,
        answers: Vec::new(),
        authorities: Vec::new(),
        counted: Forwarded::Short,
    })
}

fn resolver(options: &ForwardOptions, upstreams: &[SocketAddr]) -> Option<TokioResolver> {
    let servers = upstreams.iter().map(|upstream| {
        let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = upstream.port();
        }
        NameServerConfig::new(upstream.ip(), true, connections.into())
    });
    let config = ResolverConfig::from_name_servers(servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = resolver_options(options);
    builder.build().inspect_err(|error| tracing::error!(%error, "failed to make the forwarding resolver")).ok()
}

fn resolver_options(options: &ForwardOptions) -> ResolverOpts {
    let mut resolver = ResolverOpts::default();
    resolver.timeout = options.timeout;
    resolver.attempts = RETRIES;
    resolver.cache_size = options.cache as u64;
    resolver.use_hosts_file = ResolveHosts::Never;
    resolver.positive_max_ttl = Some(MAX_CACHE_TTL);
    resolver.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    resolver.num_concurrent_reqs = PARALLEL;
    resolver.max_active_requests = options.max_in_flight;
    resolver.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
    // A second pair of eyes beside port and id; an upstream that loses the case is asked over TCP.
    resolver.case_randomization = true;
    resolver.edns_payload_len = OWN_UDP_BYTES;
    resolver
}

/// Returns the records that answer the question: those of the asked name, of the names that its aliases lead to, and the
/// aliases. Whatever else an answer carries was not asked for.
fn chain(question: &Query, records: &[Record]) -> Vec<Record> {
    let mut names = vec![question.name().clone()];
    let mut kept = vec![false; records.len()];
    for _ in 0..=MAX_ALIASES {
        let mut grew = false;
        for (record, kept) in records.iter().zip(&mut kept) {
            if *kept || record.dns_class != DNSClass::IN || !is_of(record, &names) {
                continue;
            }
            let wanted = record.record_type() == question.query_type();
            match &record.data {
                RData::CNAME(target) => names.push(target.0.clone()),
                _ if wanted => {}
                _ => continue,
            }
            *kept = true;
            grew = true;
        }
        if !grew {
            break;
        }
    }
    records.iter().zip(kept).filter(|(_, kept)| *kept).map(|(record, _)| record.clone()).collect()
}

fn is_of(record: &Record, names: &[Name]) -> bool {
    names.contains(&record.name)
}

/// Passes an error of upstream on as it is; what is none of upstream's answers is SERVFAIL.
fn refusal(question: &Query, error: NetError) -> Outcome {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let counted = match none.response_code {
                ResponseCode::NXDomain => Forwarded::NxDomain,
                _ => Forwarded::NoData,
            };
            let soa = none.soa.map(|soa| (*soa).into_record_of_rdata());
            let ttl = none.negative_ttl;
            let authorities = soa.into_iter().map(|mut soa: Record| {
                soa.ttl = ttl.unwrap_or(soa.ttl).min(soa.ttl);
                soa
            });
            let authorities = authorities.collect();
            Outcome { code: none.response_code, answers: Vec::new(), authorities, counted }
        }
        error => {
            let counted = match &error {
                NetError::Dns(_) => Forwarded::Failed,
                _ => Forwarded::Unreachable,
            };
            tracing::debug!(name = %question.name(), %error, "failed to forward a DNS question");
            Outcome::failed(counted)
        }
    }
}

/// Encodes an answer for the client; over UDP with TC and no records when they do not fit.
fn encode(request: &Message, outcome: Outcome, max_udp_bytes: Option<u16>) -> Option<Vec<u8>> {
    let mut message = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.metadata.response_code = outcome.code;
    message.queries = request.queries.clone();
    message.answers = outcome.answers;
    message.authorities = outcome.authorities;
    let asked = request.edns.as_ref();
    message.edns = asked.map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(OWN_UDP_BYTES);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let room = match max_udp_bytes {
        None => MAX_MESSAGE_BYTES,
        Some(own) => usize::from(asked.map_or(512, |asked| asked.max_payload().min(own).max(512))),
    };
    let octets = message.to_vec().ok().filter(|octets| octets.len() <= room);
    if octets.is_some() {
        return octets;
    }
    if max_udp_bytes.is_none() {
        message.metadata.response_code = ResponseCode::ServFail;
    }
    message.metadata.truncation = max_udp_bytes.is_some();
    message.answers.clear();
    message.authorities.clear();
    message.to_vec().ok()
}

/// Returns whether an address is in one of the networks; an IPv4 address in IPv6 form counts as IPv4.
fn contains(networks: &Networks, address: IpAddr) -> bool {
    networks.iter().any(|network| view::contains(*network, address))
}

/// Returns whether `address` reaches a socket that is bound to `own`: the same, or any local one where it is a wildcard.
fn is_own(own: SocketAddr, address: SocketAddr) -> bool {
    let ip = own.ip();
    own.port() == address.port()
        && (ip == address.ip()
            || (ip.is_unspecified() && (address.ip().is_loopback() || address.ip().is_unspecified())))
}
