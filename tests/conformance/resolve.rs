//! `weir resolve` against the real server: what a user sees and the exit code a program sees.

use crate::dns::{Fixture, shared};
use std::process::Command;

fn resolve(server: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let output = command.env_clear().arg("resolve").args(["--server", server]).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn prints_records_as_a_table_and_as_json() {
    let server = shared().address.to_string();
    let (code, out, error) = resolve(&server, &["web"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.starts_with("NAME") && out.lines().count() == 3 && out.contains("10.1.0.2"), "{out}");
    let (code, out, _) = resolve(&server, &["_http._tcp.web.default", "srv", "-o", "json"]);
    assert_eq!(code, 0);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((found["answers"].as_array().unwrap().len(), &found["type"]), (3, &"SRV".into()));
    assert!(out.contains("0 10 8080 web-1.web.default.weir.internal."), "{out}");
    let (code, out, _) = resolve(&server, &["10.1.0.1"]);
    assert_eq!(code, 0);
    assert!(out.contains("web-1.web.default.weir.internal."), "{out}");
}

#[test]
fn what_does_not_exist_is_3() {
    let server = shared().address.to_string();
    let (code, out, error) = resolve(&server, &["nope"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert_eq!(error, format!("weir: failed to resolve nope: {server} knows no such name\n"));
    let (code, _, error) = resolve(&server, &["web", "MX"]);
    assert_eq!(code, 3);
    assert!(error.contains("web has no MX record"), "{error}");
}

#[test]
fn a_refusal_is_1_a_wrong_name_or_type_2_and_nobody_there_6() {
    let server = shared().address.to_string();
    let (code, _, error) = resolve(&server, &["example.com."]);
    assert_eq!(code, 1, "{error}");
    assert!(error.to_lowercase().contains("refused"), "{error}");
    let starting = Fixture::start(|_| {});
    let (code, _, error) = resolve(&starting.address.to_string(), &["web"]);
    assert_eq!(code, 1, "{error}");
    assert_eq!(resolve(&server, &["a..b"]).0, 2);
    assert_eq!(resolve(&server, &["web", "NOTYPE"]).0, 2);
    let (code, _, error) = resolve("127.0.0.1:1", &["web"]);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("127.0.0.1:1") && error.contains("--server"), "{error}");
}
