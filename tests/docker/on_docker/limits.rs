//! Bounds and rights of a container, as the kernel has them; cgroups of version 1 and 2.

use crate::engine::Engine;
use crate::support::process::Weir;
use crate::world::{SETTLED, ids, preface, service};
use std::fs;
use std::path::PathBuf;

/// Returns a file of the process's cgroup: the first name is version 1's with its controller, the second version 2's.
fn cgroup(pid: &str, (controller, old): (&str, &str), new: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = |line: &str| line.rsplit_once(':').map(|(_, path)| path.trim_start_matches('/').to_owned());
    let first = groups
        .lines()
        .find(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller)));
    let path = match first.and_then(own) {
        Some(path) => PathBuf::from("/sys/fs/cgroup").join(controller).join(path).join(old),
        None => {
            let path = groups.lines().find(|line| line.starts_with("0::")).and_then(own).unwrap();
            PathBuf::from("/sys/fs/cgroup").join(path).join(new)
        }
    };
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_reach_the_kernel_and_rights_are_dropped() {
    let engine = Engine::start();
    let more = "cpu = 0.25\nmemory = \"96MiB\"\npids = 77\nuser = \"65534:65534\"\nlabels = { team = \"a\" }\n\
                env = { GREETING = \"hello\" }\ndirectory = \"/somewhere\"";
    let weir = Weir::start("limits", &format!("{}{}", preface(&engine), service("web", 1, more))).await;
    let id = ids(&weir.settled("web", 1, SETTLED).await).remove(0);
    let pid = engine.inspect(&id, "{{.State.Pid}}");
    assert_eq!(cgroup(&pid, ("memory", "memory.limit_in_bytes"), "memory.max"), (96 << 20).to_string());
    assert_eq!(cgroup(&pid, ("pids", "pids.max"), "pids.max"), "77");
    let quota = cgroup(&pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("25000"), "a quarter of 100 ms");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("CapEff:").as_str(), field("CapBnd:").as_str()), ("0000000000000000", "0000000000000000"));
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Uid:").split_whitespace().next(), Some("65534"));
    let told = engine.inspect(
        &id,
        "{{.HostConfig.RestartPolicy.Name}} {{index .Config.Labels \"team\"}} {{.Config.WorkingDir}} {{.Config.Env}}",
    );
    assert!(
        told.starts_with("no a /somewhere")
            && told.contains("GREETING=hello")
            && told.contains(&format!("WEIR_INSTANCE={id}")),
        "{told}"
    );
}
