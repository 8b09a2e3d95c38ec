//! What `weir sidecar rules` is asked for.

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};

/// The mark of connections that are led to Weir as they are, and the table that routes them here. Weir itself marks those that
/// it makes with a client's address to this machine (`proxy/connect.rs`).
pub(super) const MARK: &str = "87";

/// `weir sidecar rules`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RulesArgs {
    #[command(subcommand)]
    pub(super) what: What,
}

#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// Print what `install` does where there is nothing of Weir's yet, as a script
    Print(Capture),
    /// Lead connections to Weir; what was installed before is replaced, and stays when that fails
    Install(Capture),
    /// Take every rule of Weir's away again
    Remove {
        /// Whose rules; all when absent
        #[arg(long, value_enum)]
        backend: Option<Backend>,
    },
}

/// Who keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Backend {
    /// nftables: a table of Weir's own
    Nft,
    /// iptables and ip6tables: chains of Weir's own in the tables nat and mangle
    Iptables,
}

impl Backend {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Nft => Self::Iptables,
            Self::Iptables => Self::Nft,
        }
    }
}

/// How connections are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// REDIRECT: Weir needs no privilege
    Redirect,
    /// TPROXY: Weir needs CAP_NET_ADMIN
    Tproxy,
}

/// What is led to Weir.
#[derive(Debug, Clone, Args)]
pub(super) struct Capture {
    /// Port of the listener with [listener.capture] that takes what the workload sends; 15001 when no port is named
    #[arg(long, value_name = "PORT", value_parser = port())]
    pub(super) outbound: Option<u16>,
    /// Port of the listener that takes what comes to the workload
    #[arg(long, value_name = "PORT", value_parser = port())]
    pub(super) inbound: Option<u16>,
    /// How that is led to it, as the listener's mode says; with tproxy and keep_source the workload sees its clients' addresses
    #[arg(long, value_enum, default_value_t = Mode::Redirect, requires = "inbound")]
    pub(super) inbound_mode: Mode,
    /// Port of the listener with mode = "tproxy" that takes what is routed through this machine
    #[arg(long, value_name = "PORT", value_parser = port())]
    pub(super) through: Option<u16>,
    /// User that Weir runs as, by number: its own connections are not captured
    #[arg(long, value_name = "UID", value_parser = user)]
    pub(super) user: u32,
    /// Ports of destinations that are not captured, as well as those of Weir's own listeners
    #[arg(long, value_delimiter = ',', value_name = "PORT", value_parser = port())]
    pub(super) exclude: Vec<u16>,
    /// Who keeps the rules; those of the other are removed
    #[arg(long, value_enum, default_value_t = Backend::Nft)]
    pub(super) backend: Backend,
}

/// No connection goes to port 0.
fn port() -> RangedU64ValueParser<u16> {
    RangedU64ValueParser::new().range(1..=65_535)
}

fn user(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("write its number, as `id -u {text}` prints it"))
}

impl Capture {
    pub(super) fn outbound(&self) -> Option<u16> {
        self.outbound.or((self.inbound.is_none() && self.through.is_none()).then_some(15001))
    }

    /// The port that what comes to the workload is led to, if it is led so.
    pub(super) fn inbound(&self, mode: Mode) -> Option<u16> {
        self.inbound.filter(|_| self.inbound_mode == mode)
    }

    /// Whether connections are led to Weir as they are.
    pub(super) fn uses_tproxy(&self) -> bool {
        self.through.is_some() || self.inbound(Mode::Tproxy).is_some()
    }

    /// Returns the ports that are left alone: Weir's own listeners and those that were named.
    pub(super) fn excluded(&self) -> Vec<String> {
        let mut ports: Vec<u16> = [self.outbound(), self.inbound, self.through].into_iter().flatten().collect();
        ports.extend(&self.exclude);
        ports.sort_unstable();
        ports.dedup();
        ports.iter().map(u16::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::RulesArgs;
    use clap::{Args, Command};

    #[test]
    fn what_is_no_port_or_no_number_of_a_user_is_refused_with_what_to_write() {
        let ask = |words: &str| {
            let command = RulesArgs::augment_args(Command::new("rules"));
            command.try_get_matches_from(words.split(' ')).err().map(|error| error.to_string())
        };
        assert_eq!(ask("rules print --user 1337 --outbound 15001 --exclude 22,9600"), None);
        for flag in ["--outbound", "--inbound", "--through", "--exclude"] {
            let said = ask(&format!("rules install --user 1337 {flag} 0")).unwrap();
            assert!(said.contains("0 is not in 1..=65535"), "{said}");
        }
        let said = ask("rules install --user nobody").unwrap();
        assert!(said.contains("write its number, as `id -u nobody` prints it"), "{said}");
    }
}
