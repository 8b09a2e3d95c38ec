//! Programs that others wrote: started in a folder of their own, ended when dropped.

use crate::authority::{Authority, Pair};
use crate::support::eventually;
use crate::support::process::{Folder, Weir, free_address};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longest wait for anything that is not about time.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Program {
    /// Where it listens: in clear text, in TLS, and in clear text with HTTP/2 only.
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) h2c: SocketAddr,
    folder: Folder,
    child: Child,
}

impl Program {
    /// Starts a command whose configuration `text` makes of its addresses and folder; waits until it listens.
    pub(crate) async fn start(
        name: &str,
        arguments: &[&str],
        text: impl FnOnce([SocketAddr; 3], &Folder) -> String,
    ) -> Self {
        let folder = Folder::new(name);
        let addresses = [free_address(), free_address(), free_address()];
        let text = text(addresses, &folder);
        let file = folder.write("conf", &text);
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let child = Command::new(name)
            .args(arguments)
            .arg(&file)
            .current_dir(&folder.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; apt install {name}"));
        let [plain, tls, h2c] = addresses;
        let mut program = Self { plain, tls, h2c, folder, child };
        for address in addresses {
            eventually(&format!("{name} listens"), WAIT, async || TcpStream::connect(address).await.ok()).await;
        }
        assert!(program.child.try_wait().unwrap().is_none(), "{}", program.log());
        program
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.0.join(name)).unwrap_or_default();
        read("log") + &read("error.log")
    }
}

/// The key of TLS that everybody here shows.
pub(crate) struct Keys {
    pub(crate) authority: Authority,
    pub(crate) pair: Pair,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let pair = authority.issue(&["app.test"]);
        Self { authority, pair }
    }
}

/// Starts nginx with one process; `server` is what stands in its three servers, `http` what stands around them.
pub(crate) async fn nginx(keys: &Keys, http: &str, server: &str) -> Program {
    let (certificate, key) = (&keys.pair.certificate, &keys.pair.key);
    Program::start("nginx", &["-e", "error.log", "-p", ".", "-c"], |[plain, tls, h2c], folder| {
        folder.write("app.pem", certificate);
        folder.write("app.key", key);
        let dir = folder.0.display();
        format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log info;
events {{ worker_connections 2000; }}
http {{
  access_log off; default_type text/plain; ssl_certificate {dir}/app.pem; ssl_certificate_key {dir}/app.key;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  client_max_body_size 100m;
  {http}
  server {{ listen {plain}; {server} }}
  server {{ listen {tls} ssl http2; {server} }}
  server {{ listen {h2c} http2; {server} }}
}}\n"
        )
    })
    .await
}

/// Starts HAProxy with one thread; `defaults` and `backend` are added to those sections.
pub(crate) async fn haproxy(keys: &Keys, defaults: &str, backend: &str) -> Program {
    let both = format!("{}{}", keys.pair.certificate, keys.pair.key);
    Program::start("haproxy", &["-db", "-f"], |[plain, tls, h2c], folder| {
        let pem = folder.write("both.pem", &both);
        folder.write("ca.pem", &keys.authority.pem());
        format!(
            "global\n  nbthread 1\n  maxconn 2000
defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{defaults}
frontend all\n  bind {plain}\n  bind {tls} ssl crt {} alpn h2,http/1.1\n  bind {h2c} proto h2\n  default_backend be
backend be\n{backend}\n",
            pem.display()
        )
    })
    .await
}

/// Starts HAProxy as a relay of octets to an address.
pub(crate) async fn haproxy_of_octets(to: SocketAddr) -> Program {
    Program::start("haproxy", &["-db", "-f"], |[plain, tls, h2c], _| {
        format!(
            "global\n  nbthread 1
defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s
frontend all\n  bind {plain}\n  bind {tls}\n  bind {h2c}\n  default_backend be
backend be\n  server s {to}\n"
        )
    })
    .await
}

/// A Weir with a listener `web` in clear text and one in TLS, both in front of `endpoint`.
pub(crate) struct World {
    pub(crate) weir: Weir,
    pub(crate) https: SocketAddr,
    _keys: Folder,
}

impl World {
    /// Starts it; `listener` is added to the listener in clear text, `service` to the service.
    pub(crate) async fn start(keys: &Keys, endpoint: SocketAddr, listener: &str, service: &str) -> Self {
        let (https, folder) = (free_address(), Folder::new("keys"));
        let entry = keys.pair.write(&folder, "app");
        let ca = folder.write("ca.pem", &keys.authority.pem());
        let service = service.replace("CA", &format!("{ca:?}"));
        let toml = format!(
            "{listener}\n[[listener]]\nname = \"https\"\naddress = \"{https}\"\n[listener.tls]\ncertificates = [{entry}]\n\n\
             [[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\n{service}\n\
             [[service.endpoint]]\naddress = \"{endpoint}\"\n"
        );
        let weir = Weir::start("peers", &toml).await;
        weir.settled("app", 1, WAIT).await;
        Self { weir, https, _keys: folder }
    }

    /// Returns the value of a metric line; 0 where it is not there.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let text = crate::support::http::get(self.weir.admin, "/metrics").await.text();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0").to_owned();
        value.parse::<f64>().unwrap() as u64
    }

    /// Asserts that nothing was refused and nothing failed.
    pub(crate) async fn none_refused(&self) {
        let refused = self.counted(&["weir_refused_total{", "weir_panics_total"]).await;
        assert!(refused.is_empty(), "{refused:?}\n{}", self.weir.log());
    }

    /// What it counted as refused and failed, and its log: for messages.
    pub(crate) async fn told(&self) -> String {
        let names =
            ["weir_refused_total{", "weir_upstream_", "weir_endpoint", "weir_requests_total{", "weir_panics_total"];
        format!("{}\n{}", self.counted(&names).await.join("\n"), self.weir.log())
    }

    /// Returns the lines of metrics that begin with one of these and are not 0.
    async fn counted(&self, names: &[&str]) -> Vec<String> {
        let text = crate::support::http::get(self.weir.admin, "/metrics").await.text();
        let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }
}

/// `weir whoami`, the server that knows what each answer must be.
pub(crate) struct Whoami {
    pub(crate) address: SocketAddr,
    _child: Child,
}

impl Whoami {
    pub(crate) async fn start() -> Self {
        let address = free_address();
        let child = Command::new(crate::support::process::WEIR)
            .args(["whoami", "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("whoami listens", WAIT, async || TcpStream::connect(address).await.ok()).await;
        Self { address, _child: child }
    }
}

/// Runs a client to its end; returns what it printed.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = crate::support::within(program, WAIT, command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
