#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a program of the tests")]
//! The open-loop client as a program, for trying a running Weir by hand.
//!
//! `cargo run --release --example loop_client -- --target 127.0.0.1:8080 --rate 2000 --seconds 60 --stats 5`

#[path = "../mod.rs"]
mod support;

use std::time::Duration;
use support::traffic::{Plan, Traffic};

const HELP: &str =
    "usage: loop_client [--target ADDR] [--rate N] [--seconds S] [--stats S] [--path PATH] [--method GET|POST]
                   [--keepalive N] [--fresh N] [--failures N]
";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut plan = Plan::new("127.0.0.1:8080".parse().unwrap());
    let (mut seconds, mut stats, mut failures) = (10.0, 0.0, 20);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--help" || flag == "-h" {
            print!("{HELP}");
            return;
        }
        let value = arguments.next().unwrap_or_else(|| panic!("{flag} needs a value\n{HELP}"));
        match flag.as_str() {
            "--target" => plan.target = value.parse().unwrap(),
            "--rate" => plan.rate = value.parse().unwrap(),
            "--seconds" => seconds = value.parse().unwrap(),
            "--stats" => stats = value.parse().unwrap(),
            "--path" => plan.path = value,
            "--method" => plan.method = if value == "POST" { "POST" } else { "GET" },
            "--keepalive" => plan.keepalive = value.parse().unwrap(),
            "--fresh" => plan.fresh = value.parse().unwrap(),
            "--failures" => failures = value.parse().unwrap(),
            other => panic!("unknown option {other}\n{HELP}"),
        }
    }
    let traffic = Traffic::start(plan);
    let mut left = Duration::from_secs_f64(seconds);
    while !left.is_zero() {
        let step = if stats > 0.0 { left.min(Duration::from_secs_f64(stats)) } else { left };
        tokio::time::sleep(step).await;
        left -= step;
        if stats > 0.0 {
            println!("{}", traffic.report().line());
        }
    }
    let report = traffic.stop().await;
    println!("{}", report.line());
    println!("instances: {:?}", report.instances);
    for failure in report.failures.iter().take(failures) {
        println!("{:?} t{} at {:.3} s: {}", failure.kind, failure.tag, failure.at.as_secs_f64(), failure.detail);
    }
    assert_eq!(report.failed(), 0, "requests failed");
}
