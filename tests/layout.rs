#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
//! Architecture rules as a test: who may import whom, sizes, `unsafe`, where words may stand, names in the documents.
//!
//! The rules are functions over pairs of path and text in `layout/rules.rs`; the last tests plant violations in a
//! temporary tree and see each one reported.

#[path = "layout/rules.rs"]
mod rules;
#[path = "layout/source.rs"]
mod source;

use rules::{complaints, names};
use source::load;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDERS: &[&str] = &["src", "tests", "benches"];
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_sources_keep_the_rules() {
    let sources = load(Path::new(ROOT), FOLDERS);
    assert!(sources.len() > 30, "only {} files found", sources.len());
    let found = complaints(&sources);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_names_in_the_documents_exist() {
    let sources = load(Path::new(ROOT), FOLDERS);
    let of = |document: &str| {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).expect(document);
        names(document, &text, &sources)
    };
    let found = [of("ARCHITECTURE.md"), of("tests/README.md")].concat();
    assert!(found.is_empty(), "{} names:\n{}", found.len(), found.join("\n"));
}

/// Crates that may appear in more than one version, each with the reason. Keep it short.
const DUPLICATES: &[&str] = &[
    // dashmap 6 stays on hashbrown 0.14; everything else is on a newer one.
    "hashbrown",
    // aws-lc-rs stays on untrusted 0.7 while rustls-webpki has 0.9;
    // the others are of procedural macros and decoders, whose crates move to the next version one after another.
    "base64",
    "syn",
    "synstructure",
    "untrusted",
];

#[test]
fn no_crate_is_built_twice_in_two_versions() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--duplicates", "--depth", "0", "--prefix", "none", "--edges", "normal", "--locked"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut versions: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(" v")).collect();
    versions.sort_unstable();
    versions.dedup();
    let twice: Vec<_> = versions
        .iter()
        .filter(|(name, _)| versions.iter().filter(|(other, _)| other == name).count() > 1)
        .filter(|(name, _)| !DUPLICATES.contains(name))
        .collect();
    assert!(twice.is_empty(), "in more than one version: {twice:?}");
}

/// Lowest versions without a known advisory; a crate that is absent passes.
const FLOORS: &[(&str, [u64; 3])] = &[
    ("h2", [0, 4, 16]),
    ("hickory-proto", [0, 26, 1]),
    ("hickory-resolver", [0, 26, 1]),
    ("hickory-server", [0, 26, 1]),
    ("rustls", [0, 23, 18]),
    ("tokio", [1, 44, 2]),
    ("hyper", [1, 6, 0]),
    ("tracing-subscriber", [0, 3, 20]),
];

/// Returns name and version of each package of a lock file.
fn packages(lock: &str) -> Vec<(&str, &str)> {
    let value = |line: &'static str| move |l: &&str| l.starts_with(line);
    lock.split("[[package]]")
        .skip(1)
        .filter_map(|block| {
            let field = |key: &'static str| block.lines().find(value(key))?.split('"').nth(1);
            Some((field("name")?, field("version")?))
        })
        .collect()
}

/// Returns the packages below their floor.
fn below_floor(lock: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, version) in packages(lock) {
        let Some((_, floor)) = FLOORS.iter().find(|(known, _)| *known == name) else { continue };
        let core = version.split(['-', '+']).next().unwrap_or_default();
        let numbers: Vec<u64> = core.split('.').map(|n| n.parse().unwrap_or(0)).collect();
        if numbers.as_slice() < floor.as_slice() {
            found.push(format!("{name} {version}: below {floor:?}"));
        }
    }
    found
}

#[test]
fn no_dependency_is_below_the_floor_of_an_advisory() {
    let lock = fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).unwrap();
    assert!(packages(&lock).len() > 50);
    assert_eq!(below_floor(&lock), Vec::<String>::new());
    let old = "[[package]]\nname = \"h2\"\nversion = \"0.4.4\"\n\n[[package]]\nname = \"hickory-proto\"\nversion = \"0.26.1\"\n";
    assert_eq!(below_floor(old), ["h2 0.4.4: below [0, 4, 16]"]);
}

/// A temporary tree that is removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn put(&self, path: &str, text: &str) {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn complaints(&self) -> Vec<String> {
        complaints(&load(&self.0, FOLDERS))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn planted_violations_are_each_reported() {
    let tree = Tree::new("planted");
    tree.put("src/model/mod.rs", "//! Values.\npub struct Name;\n");
    tree.put("src/proxy/pool.rs", "use crate::model::Name;\nuse crate::rng::Rng;\n");
    assert_eq!(tree.complaints(), Vec::<String>::new(), "a clean tree is clean");

    // A wrong import, also inside a group, and only in comments, strings and unit tests where it is none.
    tree.put("src/proxy/wrong.rs", "use crate::{\n    model::Name,\n    control::events::Event,\n};\n");
    tree.put(
        "src/dns/fine.rs",
        "// crate::proxy\nconst X: &str = \"crate::proxy\";\n#[cfg(test)]\nmod tests { use crate::proxy::X; }\n",
    );
    tree.put("src/table/long.rs", &"// line\n".repeat(501));
    tree.put("tests/long.rs", &"// line\n".repeat(501));
    tree.put("src/balance/fast.rs", "pub fn f(p: *const u8) -> u8 {\n    unsafe { *p }\n}\n");
    tree.put("src/balance/hidden.rs", "#![allow(unsafe_code, reason = \"x\")]\n");
    let found = tree.complaints();
    let expected = [
        "src/balance/fast.rs: `unsafe`: only `sys` has unsafe code",
        "src/balance/hidden.rs: `allow(unsafe_code`: only `sys` has unsafe code",
        "src/proxy/wrong.rs: `proxy` must not use `control` (crate::control::events::Event)",
        "src/table/long.rs: 501 lines, at most 500",
        "tests/long.rs: 501 lines, at most 500",
    ];
    assert_eq!(found, expected);
}

#[test]
fn misplaced_words_cycles_and_unknown_modules_are_reported() {
    let tree = Tree::new("words");
    tree.put("src/control/clocked.rs", "fn f() { let at = std::time::Instant::now(); }\n");
    tree.put("src/dns/tcp.rs", "fn f() { tokio::spawn(async {}); tokio::task::spawn_local(async {}); }\n");
    tree.put("src/model/format.rs", "#[derive(serde::Serialize)]\nstruct A;\n");
    tree.put("src/helpers/mod.rs", "fn f() {}\n");
    tree.put("src/control/a.rs", "use crate::control::b::B;\n");
    tree.put("src/control/b.rs", "use crate::control::c::C;\n");
    tree.put("src/control/c.rs", "use crate::control::a::A;\n");
    tree.put("src/config/build.rs", "use crate::proxy::{Options, worker::Worker};\n");
    tree.put("src/main.rs", "fn main() { weir::app::run(); }\n");
    let found = tree.complaints().join("\n");
    for part in [
        "src/control/clocked.rs: `Instant::now`",
        "src/dns/tcp.rs: `tokio::spawn`",
        "src/model/format.rs: `serde`",
        "module `helpers` is not in the import table",
        "src/control: `a` and `b` use each other",
        "src/control: `b` and `c` use each other",
        "`config` may use only option types of `proxy` (crate::proxy::worker::Worker)",
        "`main` must not use `app` (weir::app::run)",
    ] {
        assert!(found.contains(part), "missing: {part}\nin:\n{found}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_reported() {
    let tree = Tree::new("names");
    tree.put("src/table/cell.rs", "impl Reader { pub fn load(&mut self) {} }\n");
    let sources = load(&tree.0, FOLDERS);
    let text = "`table/cell.rs::Reader::load` then `cell.rs` and `table/cell.rs::Reader::store`, `proxy/none.rs`.";
    assert_eq!(
        names("A.md", text, &sources),
        [
            "A.md: `table/cell.rs::Reader::store`: no such name in src/table/cell.rs",
            "A.md: `proxy/none.rs`: no such file"
        ]
    );
}
