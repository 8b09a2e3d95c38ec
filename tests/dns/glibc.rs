//! The resolver of the C library, in a network namespace of its own: port 53, a resolv.conf with search domains and `ndots:5`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What Weir runs with inside.
const CONFIGURATION: &str = r#"
[store]
path = "STATE"

[admin]
listen = "off"

[dns]
listen = ["127.0.0.1:53"]
schemas = ["native", "kubernetes", "consul", "docker"]

[[dns.alias]]
name = "website"
service = "web"

[[dns.view]]
name = "pods"
networks = ["127.0.0.0/8"]
search = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]

[[service]]
name = "web"
[[service.endpoint]]
address = "127.0.0.7:8080"

[[service]]
name = "api"
namespace = "staging"
[[service.endpoint]]
address = "127.0.0.8:8080"
"#;

/// Runs inside: `$1` is the folder, `$2` the program.
const SCRIPT: &str = r#"
set -e
ip link set lo up
# getent asks for addresses of kinds that the machine has; loopback does not count.
ip address add 10.99.0.1/32 dev lo
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
"$2" whoami --listen 127.0.0.7:8080 > "$1/web.log" 2>&1 & web=$!
"$2" whoami --listen 127.0.0.8:8080 > "$1/api.log" 2>&1 & api=$!
"$2" run --config "$1/weir.toml" > "$1/weir.log" 2>&1 & weir=$!
for try in $(seq 200); do
    getent ahostsv4 web > /dev/null && getent ahostsv4 api.staging > /dev/null && break
    sleep 0.1
done
for name in web web.default api.staging web.default.svc.cluster.local web.weir.internal website.weir.internal \
    web.service.consul website.service.consul; do
    echo "$name: $(getent ahostsv4 "$name" | cut -d' ' -f1 | sort -u | xargs)"
done
getent ahostsv4 nothing.default > /dev/null || echo "nothing.default: $?"
"$2" --addr "unix:$1/state/weir.sock" resolve api.staging.default.svc.cluster.local. A --from 127.0.0.9 --explain || true
"$2" --addr "unix:$1/state/weir.sock" resolve web.weir.internal A --from 10.0.0.9 --explain || true
kill "$weir" && wait "$weir" || true
kill "$web" "$api"
"#;

#[test]
fn the_c_library_resolves_every_schema_and_completes_short_names() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dns-glibc-{}", std::process::id()));
    fs::create_dir_all(folder.join("state")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("weir.toml", &CONFIGURATION.replace("STATE", &folder.join("state").display().to_string()));
    write(
        "resolv.conf",
        "nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5 timeout:2 attempts:2\n",
    );
    write("nsswitch.conf", "hosts: files dns\n");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "bash", "-c", SCRIPT, "bash"])
        .arg(&folder)
        .arg(env!("CARGO_BIN_EXE_weir"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = fs::read_to_string(folder.join("weir.log")).unwrap_or_default();
    let context = format!("{said}\n{}\n{log}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "web: 127.0.0.7",
        "web.default: 127.0.0.7",
        "api.staging: 127.0.0.8",
        "web.default.svc.cluster.local: 127.0.0.7",
        "web.weir.internal: 127.0.0.7",
        "website.weir.internal: 127.0.0.7",
        "web.service.consul: 127.0.0.7",
        "website.service.consul: 127.0.0.7",
        "nothing.default: 2",
    ] {
        assert!(said.lines().any(|own| own == line), "no {line:?} in\n{context}");
    }
    for part in [
        "view       pods, namespace default",
        "schema     native",
        "matched    service web",
        "CNAME",
        "out of the asker's reach",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{context}");
    }
    fs::remove_dir_all(&folder).unwrap();
}
