//! The built binary: what a user sees, and the exit code a program sees.

use crate::client::{change, eventually};
use crate::fixture::{Weir, start};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

/// The binary with an environment in which no Weir is found.
fn weir(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(args).env_clear().env("WEIR_ADDR", "127.0.0.1:1").stdin(Stdio::null());
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs a command against a served API; returns exit code, standard output and error.
pub(crate) async fn ask(api: &Weir, args: &[&str]) -> (i32, String, String) {
    let mut command = weir(args);
    command.env("WEIR_ADDR", format!("unix:{}", api.socket.display()));
    seen(run(command).await)
}

fn seen(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_wrong_command_suggests_the_right_one() {
    for (wrong, right) in [("pss", "ps"), ("scael", "scale"), ("endpoint", "endpoints"), ("comletion", "completion")] {
        let (code, out, error) = seen(run(weir(&[wrong])).await);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(error.contains(&format!("'{wrong}'")) && error.contains(&format!("'{right}'")), "{error}");
    }
    let (code, _, error) = seen(run(weir(&["scale", "web", "many"])).await);
    assert_eq!(code, 2);
    assert!(error.contains("many"), "{error}");
    assert_eq!(seen(run(weir(&["ps", "--ouput", "json"])).await).0, 2);
    assert_eq!(seen(run(weir(&[])).await).0, 2);
}

#[tokio::test]
async fn nobody_there_is_6_with_what_to_do() {
    let (code, out, error) = seen(run(weir(&["ps"])).await);
    assert_eq!((code, out.as_str()), (6, ""));
    assert!(error.starts_with("weir: failed to list the instances: no Weir answers (127.0.0.1:1: "), "{error}");
    assert!(error.contains("`weir run`") && error.contains("--addr"), "{error}");
    assert_eq!(error.lines().count(), 1, "printed once: {error}");
    let (code, _, error) = seen(run(weir(&["ps", "--addr", "nonsense"])).await);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("nonsense") && error.contains("HOST:PORT"), "{error}");
}

#[tokio::test]
async fn an_address_of_the_api_is_refused_with_what_to_write_where_it_is_not_asked() {
    for (args, instead) in [
        (&["resolve", "web"][..], "--server"),
        (&["run"], "[[listener]]"),
        (&["sidecar"], "--from"),
        (&["whoami"], "--listen"),
        (&["check"], "leave it out"),
        (&["version"], "leave it out"),
    ] {
        for args in
            [[&["--addr", "127.0.0.1:1"], args].concat(), [&args[..1], &["--addr", "127.0.0.1:1"], &args[1..]].concat()]
        {
            let (code, out, error) = seen(run(weir(&args)).await);
            assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {error}");
            assert!(error.contains("--addr") && error.contains(instead), "{args:?}: {error}");
        }
    }
    // The variable is there for all, and those who explain an answer ask the API.
    assert_eq!(seen(run(weir(&["version"])).await).0, 0);
    let (code, _, error) = seen(run(weir(&["resolve", "web", "--explain", "--addr", "127.0.0.1:1"])).await);
    assert_eq!(code, 6, "{error}");
}

#[tokio::test]
async fn without_an_address_the_state_directory_is_tried_first() {
    let api = start("cli-places").await;
    let state = api.directory.join("state");
    std::fs::create_dir_all(state.join("weir")).unwrap();
    std::os::unix::fs::symlink(&api.socket, state.join("weir/weir.sock")).unwrap();
    // As root the place is fixed, so there the demo's socket is what is found.
    std::fs::create_dir_all(api.directory.join("target/demo")).unwrap();
    std::os::unix::fs::symlink(&api.socket, api.directory.join("target/demo/weir.sock")).unwrap();
    let mut command = weir(&["services"]);
    command.env_remove("WEIR_ADDR").env("XDG_STATE_HOME", &state).current_dir(&api.directory);
    let (code, out, error) = seen(run(command).await);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("staging/api"), "{out}");
}

#[tokio::test]
async fn lists_are_plain_columns_in_a_pipe_and_json_on_request() {
    let api = start("cli-lists").await;
    let body = r#"{"id":"web-one","service":"web","address":"127.0.0.1","ports":[7001]}"#;
    change(api.address, "POST", "/v1/instances", body).await;
    api.passes("web-one").await;
    for list in [&["ps"][..], &["services"], &["endpoints"], &["endpoints", "web"], &["ps", "web"], &["events"]] {
        let (code, out, error) = ask(&api, list).await;
        assert_eq!((code, error.as_str()), (0, ""), "{list:?}");
        assert!(out.contains("web") && !out.contains('\x1b'), "{list:?}: {out}");
        let columns = out.lines().next().unwrap().split_whitespace().count();
        let row = out.lines().find(|line| line.contains("web")).unwrap();
        assert!(row.split_whitespace().count() >= columns, "no cell is empty: {out}");
    }
    let (_, out, _) = ask(&api, &["ps", "-o", "json"]).await;
    assert_eq!(out.lines().count(), 1, "one value a line: {out}");
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["instances"][0]["id"], "web-one");
    let (_, out, _) = ask(&api, &["ps", "staging/api"]).await;
    assert_eq!(out.lines().count(), 1, "only the headings: {out}");
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let api = start("cli-codes").await;
    let (code, _, error) = ask(&api, &["scale", "none", "3"]).await;
    assert_eq!(code, 3);
    assert_eq!(
        error,
        "weir: failed to scale none: there is no service none; `weir services` lists them; one of another Weir is changed there\n"
    );
    assert_eq!(ask(&api, &["scale", "No", "3"]).await.0, 2);
    let (code, _, error) = ask(&api, &["drain", "none-aaaaaa"]).await;
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("`weir ps`"), "{error}");
    assert_eq!(ask(&api, &["logs", "none-aaaaaa"]).await.0, 3);
    let (code, _, error) = ask(&api, &["scale", "web", "3"]).await;
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("[service.run]"), "{error}");
}

#[tokio::test]
async fn a_stranger_on_the_address_is_named_as_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stranger = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        }
    });
    let (code, _, error) = seen(run(weir(&["ps", "--addr", &address])).await);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("no Weir of this version") && error.contains(&address), "{error}");
    stranger.abort();
}

#[tokio::test]
async fn events_are_followed_live() {
    let api = start("cli-follow").await;
    let mut command = weir(&["events", "-f", "-o", "json"]);
    command.env("WEIR_ADDR", api.address.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The pipe stays open: a reader that leaves early ends the command without an error.
    let reader = tokio::task::spawn_blocking(move || {
        let found = lines.by_ref().map(Result::unwrap).find(|line| line.contains("web-live"));
        (found, lines)
    });
    let body = r#"{"id":"web-live","service":"web","address":"127.0.0.1","ports":[7001]}"#;
    assert_eq!(change(api.address, "POST", "/v1/instances", body).await.status, 201);
    let (line, _pipe) = reader.await.unwrap();
    let event: serde_json::Value = serde_json::from_str(&line.expect("the event is printed")).unwrap();
    assert_eq!((event["instance"].as_str(), event["service"].as_str()), (Some("web-live"), Some("web")));
    api.stop().await;
    eventually("the command ends with its Weir", async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn version_and_completion_need_no_weir() {
    let (code, out, _) = seen(run(weir(&["version"])).await);
    assert_eq!((code, out), (0, format!("weir {}\n", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = seen(run(weir(&["completion", shell])).await);
        assert_eq!(code, 0);
        assert!(out.contains("weir") && out.contains("scale"), "{shell}");
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_error() {
    let mut command = weir(&["completion", "bash"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
