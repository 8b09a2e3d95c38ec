//! Real DNS servers behind a UDP listener, one of which is killed.

use crate::support::process::{Folder, Weir, free_address};
use crate::support::{eventually, within};
use crate::{WAIT, metric};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// An unbound that says which it is.
fn unbound(folder: &Folder, name: &str, address: SocketAddr) -> Child {
    let text = format!(
        "server:\n interface: {}@{}\n port: {}\n do-daemonize: no\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n use-syslog: no\n \
         logfile: \"\"\n directory: {:?}\n num-threads: 1\n access-control: 127.0.0.0/8 allow\n local-zone: \"test.\" static\n \
         local-data: 'who.test. 60 IN TXT \"{name}\"'\nremote-control:\n control-enable: no\n",
        address.ip(),
        address.port(),
        address.port(),
        folder.0,
    );
    let file = folder.write(&format!("{name}.conf"), &text);
    let log = std::fs::File::create(folder.0.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new("unbound");
    command.args(["-d", "-c"]).arg(file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.kill_on_drop(true).spawn().expect("tests/run installs unbound")
}

/// Asks who is there, from a port of its own; `None`: no answer within six seconds.
async fn ask(address: SocketAddr) -> Option<String> {
    let server = format!("@{}", address.ip());
    let port = address.port().to_string();
    let arguments = [&server, "-p", &port, "+short", "+tries=1", "+time=6", "who.test", "TXT"];
    let mut command = Command::new("dig");
    let output = within("dig", WAIT, command.args(arguments).kill_on_drop(true).output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && said.starts_with('"')).then_some(said)
}

#[tokio::test]
async fn three_dns_servers_share_the_questions_and_one_that_is_killed_gets_none_after_its_check() {
    let folder = Folder::new("names");
    let (address, port) = (free_address(), free_address().port());
    let places = [2, 3, 4].map(|last| SocketAddr::from(([127, 0, 0, last], port)));
    let mut servers: Vec<Child> =
        places.iter().zip(["a", "b", "c"]).map(|(place, name)| unbound(&folder, name, *place)).collect();
    let mut toml = format!(
        "[[listener]]\nname = \"names\"\naddress = \"{address}\"\nprotocol = \"udp\"\nservice = \"names\"\n\
         [[service]]\nname = \"names\"\n[service.health]\ntype = \"tcp\"\nport = \"tcp\"\ninterval = \"200ms\"\nfall = 1\n\
         [[service.port]]\nname = \"udp\"\nprotocol = \"udp\"\n[[service.port]]\nname = \"tcp\"\nnumber = {port}\n"
    );
    for place in places {
        toml += &format!("[[service.endpoint]]\naddress = \"{place}\"\n");
    }
    let weir = Weir::start("names", &toml).await;
    weir.settled("names", 3, WAIT).await;
    eventually("all three answer", WAIT, async || {
        let mut seen = BTreeMap::new();
        for _ in 0..24 {
            *seen.entry(ask(address).await?).or_insert(0) += 1;
        }
        (seen.len() == 3).then_some(())
    })
    .await;
    servers[1].kill().await.unwrap();
    let fallen = async || {
        let known = weir.cli(&["endpoints", "names"]).await;
        // On a busy machine one of the others may be late for a check.
        let dead = places[1].ip().to_string();
        let rows = known.out.lines().filter(|line| line.contains("unhealthy")).collect::<Vec<_>>();
        (rows.len() == 1 && rows[0].contains(&dead)).then_some(())
    };
    eventually("the check has seen it", WAIT, fallen).await;
    for _ in 0..40 {
        let said = ask(address).await;
        assert!(matches!(said.as_deref(), Some("\"a\"" | "\"c\"")), "{said:?}\n{}", weir.log());
    }
    // Each question is a flow of its own, but where dig happened to get a port again.
    assert!(metric(&weir, "weir_streams_total{service=\"names\"}").await >= 60);
}
