//! Loads by wrk and h2load: no request fails.

use crate::program::{Keys, Whoami, World, run};

#[tokio::test]
async fn wrk_and_h2load_fail_no_request_in_clear_text_and_in_tls() {
    let (keys, whoami) = (Keys::new(), Whoami::start().await);
    let world = World::start(&keys, whoami.address, "", "").await;
    let clear = format!("http://{}/bytes/1000", world.weir.http);
    let secure = format!("https://{}/bytes/1000", world.https);
    // wrk names the address in SNI-less handshakes: the first certificate is shown, for which it has another host.
    for (url, host) in [(&clear, "Host: any.test"), (&secure, "Host: app.test")] {
        let said = run("wrk", &["-t1", "-c16", "-d1s", "-H", host, url]).await;
        let is_whole = !said.contains("Socket errors") && !said.contains("Non-2xx");
        assert!(is_whole, "{said}\n{}", world.told().await);
        let made: u64 = said.lines().find_map(|l| l.trim().split_once(" requests in")).unwrap().0.parse().unwrap();
        assert!(made > 100, "{said}");
    }
    for (scheme, address) in [("http", world.weir.http), ("https", world.https)] {
        for version in ["--h1", "--npn-list=h2"] {
            let (url, to) = (format!("{scheme}://app.test/bytes/1000"), format!("--connect-to={address}"));
            let said = run("h2load", &["-n", "2000", "-c", "8", "-m", "20", version, &to, &url]).await;
            for whole in
                ["2000 succeeded, 0 failed, 0 errored, 0 timeout", "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"]
            {
                assert!(said.contains(whole), "{version}: {said}\n{}", world.told().await);
            }
        }
    }
    world.none_refused().await;
}
