//! A Weir with a listener in clear text, one with TLS, and one backend.

use super::backend::{Backend, Script};
use super::http;
use super::process::{Weir, free_address};
use std::net::SocketAddr;

/// It; everything ends with this.
pub struct World {
    pub weir: Weir,
    /// The listener with TLS, of the name `https`.
    pub https: SocketAddr,
    pub backend: Backend,
}

impl World {
    /// Starts it: `tls` is what stands in `[listener.tls]`, `before` and `after` whatever else.
    pub async fn around(name: &str, script: Script, (before, tls, after): (&str, &str, &str)) -> Self {
        let backend = Backend::start(script).await;
        let https = free_address();
        let toml = format!(
            "{before}[[listener]]\nname = \"https\"\naddress = \"{https}\"\n[listener.tls]\n{tls}\n\n\
             [[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\n\
             [[service.endpoint]]\naddress = \"{}\"\n{after}\n",
            backend.address
        );
        Self { weir: Weir::start(name, &toml).await, https, backend }
    }

    /// Returns the value of a metric line; 0 where it is not there.
    pub async fn metric(&self, line: &str) -> u64 {
        let answer = http::get(self.weir.admin, "/metrics").await;
        let text = answer.text();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0").to_owned();
        value.parse::<f64>().unwrap() as u64
    }
}
