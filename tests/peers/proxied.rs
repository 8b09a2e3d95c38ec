//! The PROXY protocol with HAProxy in front, and with HAProxy and nginx behind.

use crate::course::Origin;
use crate::program::{Keys, Program, World, run};
use crate::support::process::free_address;
use std::net::SocketAddr;

/// Asks from 127.0.0.2, over TLS with a host that is told, or in clear text.
async fn ask(keys: &Keys, address: SocketAddr, tls: bool) -> String {
    let folder = crate::support::process::Folder::new("ca");
    let ca = folder.write("ca.pem", &keys.authority.pem());
    let (connect, ca) = (format!("app.test:443:127.0.0.1:{}", address.port()), ca.display().to_string());
    let url = if tls { "https://app.test/".to_owned() } else { format!("http://{address}/") };
    let mut arguments = vec!["-sS", "--noproxy", "*", "--interface", "127.0.0.2", "--max-time", "20"];
    if tls {
        arguments.extend(["--cacert", &ca, "--connect-to", &connect]);
    }
    arguments.push(&url);
    run("curl", &arguments).await
}

/// HAProxy that passes octets on to an address and says whose they are.
async fn haproxy_that_tells(to: SocketAddr, how: &str) -> Program {
    Program::start("haproxy", &["-db", "-f"], |[plain, tls, h2c], _| {
        format!(
            "global\n  nbthread 1
defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s
frontend all\n  bind {plain}\n  bind {tls}\n  bind {h2c}\n  default_backend be
backend be\n  server s {to} {how}\n"
        )
    })
    .await
}

#[tokio::test]
async fn whom_haproxy_tells_of_is_the_client() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let https = free_address();
    let listener = "[listener.proxy_protocol]\nfrom = [\"127.0.0.1/32\"]\n";
    let folder = crate::support::process::Folder::new("proxied");
    let entry = keys.pair.write(&folder, "app");
    let more = format!(
        "{listener}[[listener]]\nname = \"told\"\naddress = \"{https}\"\n{listener}[listener.tls]\ncertificates = [{entry}]\n"
    );
    let world = World::start(&keys, origin.whoami(), &more, "").await;
    for how in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        for (to, tls) in [(world.weir.http, false), (https, true)] {
            let haproxy = haproxy_that_tells(to, how).await;
            let said = ask(&keys, if tls { haproxy.tls } else { haproxy.plain }, tls).await.to_ascii_lowercase();
            assert!(said.contains("x-forwarded-for: 127.0.0.2\n"), "{how}: {said}");
        }
    }
    world.none_refused().await;
}

/// A server that answers with whom it was told of.
async fn told(name: &str) -> Program {
    let arguments: &[&str] = if name == "nginx" { &["-e", "error.log", "-p", ".", "-c"] } else { &["-db", "-f"] };
    Program::start(name, arguments, |[plain, tls, h2c], folder| {
        let dir = folder.0.display();
        match name {
            "nginx" => format!(
                "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log info; events {{ }}
http {{ access_log off; default_type text/plain;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{ listen {plain} proxy_protocol; listen {tls} proxy_protocol; listen {h2c} proxy_protocol;
    location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_server_port\"; }} }} }}\n"
            ),
            _ => format!(
                "global\n  nbthread 1
defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s
frontend all\n  bind {plain} accept-proxy\n  bind {tls} accept-proxy\n  bind {h2c} accept-proxy
  http-request return status 200 content-type text/plain lf-string \"%[src] %[dst_port] %[fc_pp_authority]\"\n"
            ),
        }
    })
    .await
}

#[tokio::test]
async fn haproxy_and_nginx_are_told_whose_connection_it_is() {
    let keys = Keys::new();
    let check = "[service.health]\ntype = \"http\"\ninterval = \"100ms\"\n";
    for name in ["haproxy", "nginx"] {
        let server = told(name).await;
        for version in ["v1", "v2"] {
            let raw = free_address();
            let more =
                format!("[[listener]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\nservice = \"app\"\n");
            // The checks say that they are Weir's own, else no endpoint would be ready.
            let service = format!("proxy_protocol = \"{version}\"\n{check}");
            let world = World::start(&keys, server.plain, &more, &service).await;
            for (to, tls) in [(world.weir.http, false), (raw, false), (world.https, true)] {
                // This nginx shows no authority.
                let host = if version == "v2" && tls && name == "haproxy" { "app.test" } else { "" };
                for _ in 0..2 {
                    let said = ask(&keys, to, tls).await.replace(" -", " ");
                    let words: Vec<&str> = said.split_whitespace().collect();
                    let port = to.port().to_string();
                    let expected = ["127.0.0.2", &port, host];
                    assert_eq!(
                        words,
                        expected[..if host.is_empty() { 2 } else { 3 }],
                        "{name} {version}\n{}",
                        server.log()
                    );
                }
            }
            world.none_refused().await;
        }
    }
}
