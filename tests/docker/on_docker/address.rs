//! How containers are reached: at their own address, at ports that the engine forwards, on the machine's network; and what
//! they see of its files.

use crate::engine::Engine;
use crate::support::process::Weir;
use crate::world::{SETTLED, get, ids, logged, odd, preface, service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_and_host_containers_are_reached_on_loopback() {
    let engine = Engine::start();
    let listen = "command = [\"whoami\", \"--listen\", \"0.0.0.0:${PORT}\"]";
    let weir = Weir::start(
        "address",
        &format!(
            "{}{}{}",
            preface(&engine),
            service("web", 2, &format!("address = \"published\"\n{listen}")),
            service("near", 2, &format!("address = \"host\"\n{listen}")),
        ),
    )
    .await;
    let published = weir.settled("web", 2, SETTLED).await;
    let near = weir.settled("near", 2, SETTLED).await;
    for instance in published.iter().chain(&near) {
        assert_eq!(instance["address"], "127.0.0.1", "{instance}");
    }
    assert_eq!(get(&weir).await.0, 200);
    let port = published[0]["ports"][0].as_u64().unwrap();
    let id = published[0]["id"].as_str().unwrap();
    assert_eq!(engine.docker(&["port", id, "8080/tcp"]), format!("127.0.0.1:{port}"), "on loopback only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_with_a_number_is_the_one_inside_the_container() {
    let engine = Engine::start();
    let port = "[[service.port]]\nname = \"http\"\nnumber = 9191\n\n";
    let listen = "command = [\"whoami\", \"--listen\", \"0.0.0.0:${PORT_HTTP}\"]";
    let weir = Weir::start("number", &format!("{}{}{port}", preface(&engine), service("web", 1, listen))).await;
    let running = weir.settled("web", 1, SETTLED).await;
    assert_eq!(running[0]["ports"][0], 9191);
    assert_eq!(get(&weir).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_folders_are_mounted_also_behind_links() {
    let engine = Engine::start();
    let folder = engine.folder().join("files");
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/etc", folder.join("out")).unwrap();
    let fine = format!("volumes = [\"{}:/files:ro\", \"kept:/kept\"]", folder.display());
    let out = format!("volumes = [\"{}:/out:ro\"]", folder.join("out").display());
    let weir = Weir::start(
        "volumes",
        &format!("{}{}{}", preface(&engine), service("web", 1, &fine), odd("out", crate::engine::IMAGE, &out)),
    )
    .await;
    let id = ids(&weir.settled("web", 1, SETTLED).await).remove(0);
    let mounts = engine.inspect(&id, "{{range .Mounts}}{{.Destination}} {{.RW}};{{end}}");
    let mut mounts: Vec<&str> = mounts.split(';').filter(|mount| !mount.is_empty()).collect();
    mounts.sort_unstable();
    assert_eq!(mounts, ["/files false", "/kept true"]);
    logged(&weir, "/etc is not below a folder of docker.binds").await;
}
