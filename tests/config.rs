#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
//! Configuration from outside: the files in `config/`, what refused files say, and that no input panics.

use proptest::prelude::{ProptestConfig, Strategy, any, prop, proptest};
use schemars::Schema;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use weir::config::{ConfigError, Environment, File, Flags, Loaded, Source, load, schema};
use weir::model::TlsVersion;
use weir::{admin, control, dns, proxy, spec, telemetry};

const EXAMPLE: &str = include_str!("../config/example.toml");

fn environment() -> Environment {
    Environment { variables: BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]), root: false }
}

fn load_file(path: &Path) -> Result<Loaded, ConfigError> {
    load(&Source::File(Some(path.to_owned())), &environment(), &Flags::default())
}

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    load(&Source::Text { name: "text", text }, &environment(), &Flags::default())
}

/// Turns the lines of every section that begins with `#[name]` into ones that count.
fn with_sections(text: &str) -> String {
    let mut inside = false;
    let line = |line: &'_ str| {
        inside = if line.starts_with("#[") { true } else { inside && !line.is_empty() };
        line.strip_prefix('#').filter(|rest| inside && !rest.starts_with(' ')).unwrap_or(line).to_owned()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Turns every line such as `#name = "node-1"` into one that counts.
fn uncommented(text: &str) -> String {
    let key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    text.lines()
        .map(|line| line.strip_prefix('#').filter(|rest| key(rest)).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn each_invalid_file_is_refused_with_the_message_beside_it() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    // Relative, as in the expected messages: cargo runs tests in the package's folder.
    let mut paths: Vec<PathBuf> = fs::read_dir("config/invalid").unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")) {
        seen += 1;
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let said = match load_file(path) {
            Ok(_) => "nothing: it was accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if said.trim_end() != expected.trim_end() {
            wrong.push(format!("--- {}\n{said}", path.display()));
        }
    }
    assert!(seen >= 15, "{seen} files");
    assert!(wrong.is_empty(), "{} files say something else:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_example_shows_the_default_of_every_key() {
    let example = with_sections(EXAMPLE);
    let loaded = load_text(&example).unwrap();
    let state = PathBuf::from("/var/lib/weir");
    let acme = Some(control::AcmeOptions::default());
    let sources = loaded.control.sources.clone();
    assert_eq!(sources.as_ref().map(|sources| sources.places.len()), Some(1));
    assert_eq!(loaded.control, control::Options { state: state.clone(), acme, sources, ..control::Options::default() });
    assert_eq!(loaded.proxy, proxy::Options::default());
    let zones = loaded.dns.as_ref().and_then(|dns| dns.forward.as_ref()).unwrap().zones.clone();
    assert_eq!(zones.len(), 1);
    let forward = Some(dns::ForwardOptions { zones, ..dns::ForwardOptions::default() });
    let alias = |name: &str, to| dns::AliasOptions {
        name: name.to_owned(),
        namespace: "default".into(),
        to,
        ttl: std::time::Duration::from_secs(5),
    };
    let web = dns::AliasTargetOptions::Service(weir::model::ServiceName::parse("web").unwrap());
    let docs = dns::AliasTargetOptions::Name("docs.example.com".to_owned());
    let aliases = vec![alias("website", web), alias("docs", docs)];
    let views = vec![dns::ViewOptions { name: "all".into(), ..dns::ViewOptions::default() }];
    let tls = loaded.dns.as_ref().and_then(|dns| dns.tls.clone());
    let listen = tls.as_ref().map(|tls| (tls.listen.clone(), tls.https.clone(), tls.spec.minimum_version));
    assert_eq!(listen, Some((vec!["127.0.0.1:8853".parse().unwrap()], Vec::new(), TlsVersion::V12)));
    let log = Some(dns::QueryLogOptions::default());
    assert_eq!(loaded.dns, Some(dns::Options { forward, aliases, views, tls, log, ..dns::Options::default() }));
    let (socket, remote) = (Some(state.join("weir.sock")), loaded.admin.remote.clone());
    assert_eq!(loaded.admin, admin::Options { socket, remote, ..admin::Options::default() });
    assert_eq!(loaded.log, telemetry::LogOptions::default());

    // A definition with only what is required, filled with defaults, is the one in the example.
    let written: File = toml::from_str(&example).unwrap();
    let shown = &written.services[0];
    let bare = spec::Service {
        name: shown.name.clone(),
        run: Some(spec::Run { command: shown.run.clone().unwrap().command, ..spec::Run::default() }),
        health: Some(spec::Health { kind: Some(spec::ProbeType::Http), ..spec::Health::default() }),
        scale: Some(spec::Scale::default()),
        ..spec::Service::default()
    };
    assert_eq!(spec::Service::from_model(&bare.to_model().unwrap()), *shown);

    // What the code would write out stands in the file: no default is left unsaid.
    let normal = loaded.to_file();
    assert_eq!(normal.services[0], *shown);
    assert_eq!(File { services: Vec::new(), ..normal }, File { services: Vec::new(), ..written });
}

#[test]
fn the_example_can_be_used_as_it_is_and_names_no_file_that_a_machine_has_not() {
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(["check", "config/example.toml"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_example_shows_every_key_that_the_schema_knows() {
    let text = uncommented(&with_sections(EXAMPLE));
    let loaded = load_text(&text);
    assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
    let root = schema();
    let mut missing = Vec::new();
    let document = toml::from_str::<toml::Table>(&text).unwrap();
    compare(&root, root.as_value(), &[&toml::Value::Table(document)], "", &mut missing);
    assert!(missing.is_empty(), "not in config/example.toml: {missing:?}");
}

#[test]
fn the_documentation_of_each_key_names_the_default_that_the_example_shows() {
    let root = schema();
    let document = toml::from_str::<toml::Table>(&with_sections(EXAMPLE)).unwrap();
    let mut compared = 0;
    defaults(&root, root.as_value(), &toml::Value::Table(document), "", &mut compared);
    assert!(compared > 50, "only {compared} defaults compared");
}

/// Compares "default `x`" in each description with the value in the example.
fn defaults(root: &Schema, object: &Value, shown: &toml::Value, at: &str, compared: &mut usize) {
    let reference = object.get("$ref").and_then(Value::as_str);
    let object = reference.map_or(object, |reference| root.pointer(reference.trim_start_matches('#')).unwrap());
    if let (Some(items), Some(first)) = (object.get("items"), shown.as_array().and_then(|list| list.first())) {
        defaults(root, items, first, at, compared);
    }
    for (key, inner) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Some(value) = shown.get(key) else { continue };
        let at = format!("{at}.{key}");
        defaults(root, inner, value, &at, compared);
        let said = inner["description"].as_str().and_then(|text| text.split_once("efault ")).map(|(_, rest)| rest);
        let said = said.and_then(|rest| match rest.strip_prefix('`') {
            Some(quoted) => quoted.split('`').next(),
            None => {
                rest.split([';', ',', '.', ' ']).next().filter(|word| word.parse::<u64>().is_ok() || *word == "true")
            }
        });
        // The admin socket and the store name a rule, not a value.
        let Some(said) = said.filter(|_| !matches!(at.as_str(), ".admin.socket" | ".store.path")) else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let same = |a: &str, b: &str| matches!((a.parse::<spec::Duration>(), b.parse()), (Ok(a), Ok(b)) if a == b);
        assert!(value == said || same(&value, said), "{at}: documented as {said}, shown as {value}");
        *compared += 1;
    }
}

/// Compares an object of the schema with all tables of the example that stand for it.
fn compare(root: &Schema, object: &Value, shown: &[&toml::Value], at: &str, missing: &mut Vec<String>) {
    let object = match object.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => object,
    };
    if let Some(items) = object.get("items") {
        let elements: Vec<&toml::Value> = shown.iter().flat_map(|v| v.as_array().into_iter().flatten()).collect();
        compare(root, items, &elements, at, missing);
    }
    for (key, inner) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let at = format!("{at}.{key}");
        assert!(inner.get("description").is_some(), "{at} has no description");
        let values: Vec<&toml::Value> = shown.iter().filter_map(|value| value.get(key)).collect();
        if values.is_empty() {
            missing.push(at);
        } else {
            compare(root, inner, &values, &at, missing);
        }
    }
}

#[test]
fn the_committed_schema_is_current() {
    let committed = fs::read_to_string("config/schema.json").unwrap_or_default();
    let current = serde_json::to_string_pretty(&schema()).unwrap();
    assert_eq!(committed.trim_end(), current, "run `weir schema > config/schema.json`");
}

#[test]
fn what_is_printed_loads_as_the_same() {
    for file in ["example", "minimal", "demo"] {
        let loaded = load_file(Path::new(&format!("config/{file}.toml"))).unwrap();
        let printed = loaded.to_toml().unwrap();
        assert_eq!(load_text(&printed).unwrap(), loaded, "{printed}");
    }
}

/// Runs the program with an environment of its own; returns exit code, standard output and standard error.
fn weir(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args)
        .env_clear()
        .env("HOME", "/home/me")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_prints_what_is_valid_with_every_default_and_what_is_not_with_every_problem() {
    let (code, printed, said) = weir(&["check", "config/demo.toml"], &[("WEIR_LOG_LEVEL", "debug")]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(printed.contains("level = \"debug\"") && printed.contains("${WEIR}"), "{printed}");
    let demo = load_file(Path::new("config/demo.toml")).unwrap();
    let debug = telemetry::LogOptions { level: tracing::Level::DEBUG, ..demo.log.clone() };
    assert_eq!(load_text(&printed).unwrap(), Loaded { log: debug, ..demo });

    let (code, printed, said) = weir(&["check", "config/invalid/unknown-keys.toml"], &[]);
    let expected = fs::read_to_string("config/invalid/unknown-keys.txt").unwrap();
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert_eq!(said, format!("{expected}7 problems: the configuration is refused\n"));
}

#[test]
fn run_says_the_same_as_check_and_starts_nothing() {
    for file in ["unknown-service", "same-address", "not-toml"] {
        let path = format!("config/invalid/{file}.toml");
        let (code, _, said) = weir(&["run", "--config", &path], &[]);
        assert_eq!(code, Some(2), "{said}");
        assert_eq!(said, weir(&["check", &path], &[]).2);
    }
}

#[test]
fn without_a_file_the_program_says_where_it_looked() {
    let (code, _, said) = weir(&["check"], &[("WEIR_CONFIG", "/nonexistent/weir.toml")]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("/nonexistent/weir.toml: cannot be read: No such file"), "{said}");
}

#[test]
fn check_opens_the_authorities_of_resolvers() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("forward-ca-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (ca, file) = (folder.join("ca.pem"), folder.join("weir.toml"));
    fs::write(&file, format!("[dns]\n[dns.forward]\nservers = [\"tls://127.0.0.53\"]\nca = {ca:?}\n")).unwrap();
    let check = || weir(&["check", file.to_str().unwrap()], &[]);
    let (code, _, said) = check();
    assert_eq!(code, Some(2));
    assert!(said.contains("weir.toml:4: dns.forward.ca: ") && said.contains("No such file"), "{said}");
    fs::write(&ca, "no certificate").unwrap();
    let (code, _, said) = check();
    assert_eq!(code, Some(2), "{said}");
    fs::write(&ca, rcgen::generate_simple_self_signed(["dns.test".to_owned()]).unwrap().cert.pem()).unwrap();
    let (code, _, said) = check();
    assert_eq!(code, Some(0), "{said}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_program_prints_the_schema() {
    let (code, printed, _) = weir(&["schema"], &[]);
    assert_eq!((code, printed), (Some(0), fs::read_to_string("config/schema.json").unwrap()));
}

/// Texts that are nearly a configuration: the example with pieces cut out, doubled or replaced.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (0..EXAMPLE.len(), 0_usize..60, "[\\[\\]=\"#{}0-9a-z.\n]{0,12}");
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, length, put) in edits {
            let from = at.min(text.len());
            let to = (from + length).min(text.len());
            text.splice(from..to, put.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}.toml", std::process::id()));
        fs::write(&path, &bytes).unwrap();
        let _ = load_file(&path);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn no_damage_panics_and_each_problem_has_a_place(text in damaged()) {
        if let Err(error) = load_text(&text) {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                assert!(problem.line.is_some() || problem.file != "text", "{problem}");
            }
        }
    }
}
