//! Flags of `weir whoami`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Port when neither `--listen` nor `PORT` says one.
const DEFAULT_PORT: u16 = 8000;

/// Flags of `weir whoami`.
#[derive(Debug, Clone, clap::Args)]
pub struct WhoamiArgs {
    /// Where to listen: `ADDRESS:PORT`, or `:PORT` for all addresses [default: 127.0.0.1:$PORT, or :8000 without PORT]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<Listen>,
    /// Answer datagrams too, each by the instance's name, a space and the datagram: `ADDRESS:PORT`
    #[arg(long, value_name = "ADDR")]
    pub udp: Option<SocketAddr>,
    /// Wait before each answer, in milliseconds or with a unit (`50`, `50ms`, `1s`); health checks are not delayed
    #[arg(long, value_name = "MS", value_parser = parse_delay, default_value = "0")]
    pub delay: Duration,
    /// Fail a share of the requests with 500 (`0.1`), or all of them with a status (`503`); health checks still pass
    #[arg(long, value_name = "RATE|STATUS")]
    pub fail: Option<Failure>,
    /// End with status 1 on the request after N answers (`100`), or after a time (`10s`); health checks do not count
    #[arg(long, value_name = "N|DURATION")]
    pub crash_after: Option<Crash>,
    /// Answer `/health` with 503 for this long after the start
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub slow_start: Option<Duration>,
    /// Append a line `TAG INSTANCE EXECUTION` to this file for each POST, before it is answered
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// All addresses, IPv6 with IPv4, falling back to IPv4.
    Any(u16),
    /// One address.
    One(SocketAddr),
}

/// What `--fail` asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Failure {
    /// This share of the requests, 0.0..=1.0, is answered 500.
    Rate(f64),
    /// Every request is answered with this status.
    Status(u16),
}

/// What `--crash-after` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The request after so many answers ends the process.
    Requests(u64),
    /// The process ends after this time.
    Time(Duration),
}

impl Listen {
    /// Returns the default: loopback on the port that the process runtime gave, else all addresses on 8000.
    pub(super) fn from_port_variable(port: Option<&str>) -> Self {
        match port.and_then(|text| text.parse().ok()) {
            Some(port) => Self::One((Ipv4Addr::LOCALHOST, port).into()),
            None => Self::Any(DEFAULT_PORT),
        }
    }

    /// Returns the addresses to try, best first.
    pub(super) fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::Any(port) => vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()],
            Self::One(address) => vec![address],
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let any = text.strip_prefix(':').and_then(|port| port.parse().ok()).map(Self::Any);
        let one = || text.parse().ok().map(Self::One);
        any.or_else(one).ok_or_else(|| "write ADDRESS:PORT or :PORT".to_owned())
    }
}

impl FromStr for Failure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let status = text.parse::<u16>().ok().filter(|status| (200..=599).contains(status)).map(Self::Status);
        let rate = || text.parse::<f64>().ok().filter(|rate| (0.0..=1.0).contains(rate)).map(Self::Rate);
        status.or_else(rate).ok_or_else(|| "write a share 0.0..1.0 or a status 200..599".to_owned())
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().map(Self::Requests);
        let time = || parse_duration(text).ok().map(Self::Time);
        count.or_else(time).ok_or_else(|| "write a number of requests or a time such as 10s".to_owned())
    }
}

/// Parses a whole number with a unit `ms`, `s`, `m` or `h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number with a unit: ms, s, m or h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number with a unit: ms, s, m or h".to_owned())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "this time is too long".to_owned())
}

/// Parses milliseconds, or a duration with a unit.
fn parse_delay(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).or_else(|_| parse_duration(text))
}

#[cfg(test)]
mod tests {
    use super::{Crash, Failure, Listen, parse_delay, parse_duration};
    use std::time::Duration;

    #[test]
    fn reads_each_way_to_write_a_flag() {
        assert_eq!("0.25".parse(), Ok(Failure::Rate(0.25)));
        assert_eq!("1".parse(), Ok(Failure::Rate(1.0)));
        assert_eq!("503".parse(), Ok(Failure::Status(503)));
        assert_eq!("100".parse(), Ok(Crash::Requests(100)));
        assert_eq!("10s".parse(), Ok(Crash::Time(Duration::from_secs(10))));
        assert_eq!(":80".parse(), Ok(Listen::Any(80)));
        assert_eq!("[::1]:80".parse(), Ok(Listen::One(([0, 0, 0, 0, 0, 0, 0, 1], 80).into())));
        assert_eq!(parse_delay("5"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_delay("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        for bad in ["700", "-1", "1.5", "x", ""] {
            assert!(bad.parse::<Failure>().is_err(), "{bad}");
        }
        for bad in ["", "5", "s", "5 s", "99999999999999999999s", "9999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!("80".parse::<Listen>().is_err());
        assert!("ten".parse::<Crash>().is_err());
    }

    #[test]
    fn listens_on_loopback_when_the_runtime_gives_a_port() {
        assert_eq!(Listen::from_port_variable(Some("20001")), Listen::One(([127, 0, 0, 1], 20001).into()));
        assert_eq!(Listen::from_port_variable(None), Listen::Any(8000));
        assert_eq!(Listen::from_port_variable(Some("x")), Listen::Any(8000));
    }
}
