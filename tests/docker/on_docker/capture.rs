//! The example of two containers that share their network namespaces with a Weir each, as users run it.

use crate::engine::{Engine, IMAGE};
use crate::image;
use crate::support::example::sees_the_clients_own_address;
use std::process::Command;

const TOOLS: &str = "weir-tools:1";

fn run(engine: &Engine, what: &str) -> String {
    let mut script = Command::new("config/examples/containers");
    script.arg(what).env_remove("DOCKER_CONTEXT").env("DOCKER_HOST", engine.host());
    let output = script.env("WEIR", IMAGE).env("TOOLS", TOOLS).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let logs = |name| engine.try_docker(&["logs", name]).1;
    let logs = || [logs("weir-example-server-sidecar"), logs("weir-example-client-sidecar")].join("\n--\n");
    assert!(output.status.success(), "{what}: {said}\n{}", logs());
    said
}

/// Runs a tool in the network namespace of a container of the example, with what it needs to see and change rules.
fn beside(engine: &Engine, name: &str, words: &[&str]) -> String {
    let network = format!("container:weir-example-{name}");
    engine.docker(&[&["run", "--rm", "--network", &network, "--cap-add", "NET_ADMIN", TOOLS], words].concat())
}

/// Everything that the kernel was told of connections there.
fn rules(engine: &Engine, name: &str) -> String {
    beside(engine, name, &["sh", "-c", "nft list ruleset; ip rule; ip -6 rule; ip route show table all"])
}

/// The user and the capabilities of a container's process.
fn privileges(engine: &Engine, name: &str) -> (String, String) {
    let pid = engine.inspect(name, "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |key| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().split_whitespace().next().unwrap();
    (of("Uid:").to_owned(), of("CapEff:").to_owned())
}

/// Installs what is installed again, removes it, and installs it anew.
fn installed_again(engine: &Engine, name: &str, words: &[&str]) {
    let weir = |what: &str| beside(engine, name, &[&["weir", "sidecar", "rules", what], words].concat());
    let before = rules(engine, name);
    weir("install");
    assert_eq!(rules(engine, name), before, "installing twice is as once");
    beside(engine, name, &["weir", "sidecar", "rules", "remove"]);
    let without = rules(engine, name);
    assert!(["weir", "lookup 87", "table 87"].iter().all(|trace| !without.contains(trace)), "{without}");
    weir("install");
    assert_eq!(rules(engine, name), before);
}

#[test]
fn two_containers_that_share_their_namespaces_with_weir() {
    let engine = Engine::start();
    engine.import_root(TOOLS, &image::with_programs(engine.folder(), &["nft", "ip", "curl", "sh"]), &[]);
    run(&engine, "up");
    installed_again(&engine, "server", &["--user", "0", "--inbound", "15006", "--inbound-mode", "tproxy"]);
    installed_again(&engine, "client", &["--user", "1337"]);
    let shown = run(&engine, "show");
    sees_the_clients_own_address(&shown);
    // What serves can do nothing, or that one thing; who installed the rules is gone.
    let of = |name| privileges(&engine, name);
    assert_eq!(of("weir-example-client-sidecar"), ("1337".into(), "0000000000000000".into()));
    assert_eq!(of("weir-example-server-sidecar"), ("0".into(), "0000000000001000".into()));
    assert_eq!(engine.containers().len(), 5, "{:?}", engine.containers());
    run(&engine, "down");
    assert_eq!(engine.containers(), [""; 0]);
    assert!(!engine.docker(&["network", "ls"]).contains("weir-example"));
}
