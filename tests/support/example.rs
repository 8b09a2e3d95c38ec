//! What the examples of capture show, in namespaces and in containers alike.

/// Asserts of what `show` prints that connections were led to both servers, and that these see the client's own address.
pub fn sees_the_clients_own_address(shown: &str) {
    let (seen, rest) = shown.split_once("== beside the client").unwrap();
    // One was asked for.
    let mut servers: Vec<&str> = seen.lines().filter(|line| line.starts_with("Instance: ")).collect();
    assert_eq!(servers.len(), 5, "{shown}");
    servers.sort_unstable();
    servers.dedup();
    assert_eq!(servers.len(), 2, "{shown}");
    let own = |line: &&str| line.starts_with("Remote: 172.30.88.3:") || line.starts_with("Remote: [fd88::3]:");
    assert_eq!(seen.lines().filter(own).count(), 5, "{shown}");
    for line in [
        "weir_streams_total{service=\"web\"} 4",
        "weir_streams_total{service=\"web-by-ipv6\"} 1",
        "weir_streams_total{service=\"(original)\"} 5",
    ] {
        assert!(rest.contains(line), "{line}: {shown}");
    }
}
