//! dig, kdig, drill and dnspython resolve what the table holds, over UDP and TCP.

use crate::server::shared;
use crate::support::eventually;
use crate::support::process::Weir;
use crate::tools::{dig, drill, kdig, python};
use std::time::Duration;

const WEB: [&str; 2] = ["10.1.0.1", "10.1.0.2"];

#[test]
fn four_clients_read_the_same_addresses() {
    let server = shared().address;
    for transport in ["", "+tcp"] {
        assert_eq!(dig(server, &format!("{transport} +short web.weir.internal A")).lines(), WEB);
        assert_eq!(kdig(server, &format!("{transport} +short web.weir.internal A")).lines(), WEB);
    }
    drill(server, "web.weir.internal A").has(&["rcode: NOERROR", "10.1.0.1", "10.1.0.2"]);
    drill(server, "-t web.weir.internal A").has(&["rcode: NOERROR", "10.1.0.1", "10.1.0.2"]);
    let said = python(
        server,
        "import sys, dns.resolver
r = dns.resolver.Resolver(configure=False)
r.nameservers, r.port = [sys.argv[1]], int(sys.argv[2])
for tcp in (False, True):
    print(sorted(a.address for a in r.resolve('web.weir.internal.', 'A', tcp=tcp)))
print(sorted((s.port, str(s.target)) for s in r.resolve('_admin._tcp.web.weir.internal.', 'SRV')))
print([str(p.target) for p in r.resolve_address('10.1.0.1')])",
    );
    said.has(&[
        "['10.1.0.1', '10.1.0.2']\n['10.1.0.1', '10.1.0.2']",
        "(9000, 'web-1.web.default.weir.internal.'), (9000, 'web-3.web.default.weir.internal.')",
        "['web-1.web.default.weir.internal.']",
    ]);
}

#[tokio::test]
async fn a_whole_weir_answers_on_a_free_port() {
    // Somebody listens there: the endpoint is healthy.
    let listener = std::net::TcpListener::bind("127.0.0.7:0").unwrap();
    let endpoint = listener.local_addr().unwrap();
    let text = format!("[[service]]\nname = \"api\"\n\n[[service.endpoint]]\naddress = \"{endpoint}\"\n");
    let weir = Weir::start("dns-clients", &text).await;
    let address = weir.dns;
    eventually("the endpoint's address", Duration::from_secs(10), async || {
        let asked = tokio::task::spawn_blocking(move || dig(address, "+short api.weir.internal A"));
        (asked.await.unwrap().lines() == ["127.0.0.7"]).then_some(())
    })
    .await;
}
