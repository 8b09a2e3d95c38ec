//! The log of questions of a whole Weir: what its lines say, and that it is switched on, changed and off while Weir runs.

use crate::resolvers::Liar;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Weir;
use crate::tools::dig;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(15);
const SERVICE: &str = "[[service]]\nname = \"web\"\n[[service.endpoint]]\naddress = \"10.9.0.1:80\"\n";

/// The lines of the log so far, as JSON.
fn lines(weir: &Weir) -> Vec<serde_json::Value> {
    weir.log()
        .lines()
        .filter(|line| line.starts_with("{\"log\":\"dns\""))
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Replaces the sections that follow `[dns]` and waits until they are taken up.
async fn reload(weir: &Weir, sections: &str) {
    let file = weir.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("[[service]]").unwrap();
    let head = head.split("[dns.log]").next().unwrap();
    std::fs::write(&file, format!("{head}{sections}\n{SERVICE}")).unwrap();
    let finished = weir.cli(&["reload"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_logged_by_whichever_way_they_were_answered_until_it_is_switched_off() {
    let names = Liar::start();
    let forward = format!("[dns.forward]\nservers = [\"{}\"]\nhosts = \"off\"\n", names.address);
    let weir = Weir::start("querylog", &format!("{forward}\n{SERVICE}")).await;
    dig(weir.dns, "+short web.weir.internal A");
    assert!(lines(&weir).is_empty(), "off unless it is asked for");
    reload(&weir, "[dns.log]\none_in = 1\nmax_per_second = 1000").await;
    for words in [
        "WEB.weir.internal A",
        "none.weir.internal AAAA",
        "+tcp web.weir.internal A",
        "web.weir.internal TYPE65280",
        "+noedns www.example A",
        "+noedns www.example A",
        "version.bind CH TXT",
    ] {
        dig(weir.dns, words);
    }
    let all = async || Some(lines(&weir)).filter(|lines| lines.len() >= 7);
    let said = eventually("a line for each question", WAIT, all).await;
    let words = |line: &serde_json::Value| {
        let of = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert!(line["client"] == "127.0.0.1" && line["ts_ms"].is_u64() && line["duration_us"].is_u64(), "{line}");
        ["transport", "name", "type", "rcode", "path"].map(of).join(" ")
    };
    let mut said: Vec<String> = said.iter().map(words).collect();
    said.sort();
    assert_eq!(
        said,
        [
            "tcp web.weir.internal. A NOERROR fast",
            "udp WEB.weir.internal. A NOERROR fast",
            "udp none.weir.internal. AAAA NXDOMAIN fast",
            "udp version.bind. TXT NOERROR full",
            "udp web.weir.internal. TYPE65280 NOERROR fast",
            "udp www.example. A NOERROR cached",
            "udp www.example. A NOERROR forwarded",
        ]
    );
    let metrics = http::get(weir.admin, "/metrics").await.text();
    assert!(metrics.contains("weir_dns_log_lines_total{outcome=\"written\"} 7"), "{metrics}");
    // Fewer than were asked for: what is above the rate is counted.
    reload(&weir, "[dns.log]\none_in = 1\nmax_per_second = 1").await;
    let before = lines(&weir).len();
    for _ in 0..20 {
        dig(weir.dns, "+short web.weir.internal A");
    }
    let counted = async || {
        let metrics = http::get(weir.admin, "/metrics").await.text();
        let of = |outcome: &str| -> u64 {
            let line = format!("weir_dns_log_lines_total{{outcome=\"{outcome}\"}} ");
            metrics.lines().find_map(|l| l.strip_prefix(&line)).and_then(|n| n.parse().ok()).unwrap_or_default()
        };
        (of("written") + of("dropped") == 27).then_some(of("dropped"))
    };
    let dropped = eventually("each question is written or counted", WAIT, counted).await;
    assert!(dropped >= 1, "{dropped}");
    let written = async || (lines(&weir).len() - before == 20 - dropped as usize).then_some(());
    eventually("the lines that were counted as written", WAIT, written).await;
    reload(&weir, "").await;
    let before = lines(&weir).len();
    dig(weir.dns, "+short web.weir.internal A");
    assert_eq!(lines(&weir).len(), before);
}
