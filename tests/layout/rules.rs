//! The rules, as functions from sources to complaints.

use crate::source::{Source, has_word, paths};
use std::collections::{BTreeMap, BTreeSet};

const LEAVES: &[&str] = &["clock", "rng", "lifecycle", "telemetry"];
const MAX_LINES: usize = 500;

/// What each top-level module may use inside the crate, besides itself.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    let (own, leaves): (&[&str], bool) = match module {
        "clock" | "rng" | "model" | "http1" | "dnswire" | "sys" => (&[], false),
        "http2" => (&["http1"], false),
        "spec" => (&["model"], false),
        "lifecycle" | "telemetry" => (&["clock"], false),
        "balance" => (&["model", "rng"], false),
        "table" => (&["model", "balance", "dnswire", "rng"], false),
        "net" => (&["model", "sys", "clock", "lifecycle", "telemetry"], false),
        "proxy" => (&["http1", "http2", "model", "balance", "table", "net", "sys"], true),
        "dns" => (&["dnswire", "model", "table", "net", "sys"], true),
        "control" => (&["spec", "model", "balance", "table", "net", "sys"], true),
        "admin" => (&["spec", "model", "balance", "table", "control", "net"], true),
        "config" => (&["spec", "model", "net", "proxy", "dns", "control", "admin", "telemetry"], false),
        "app" => (
            &[
                "http1", "http2", "dnswire", "spec", "model", "sys", "balance", "table", "net", "proxy", "dns",
                "control", "admin", "config",
            ],
            true,
        ),
        "cli" => (&["http1", "app", "config", "admin", "spec", "model", "sys"], true),
        "main" => (&["cli"], false),
        // The crate root declares modules; it uses none.
        "lib" => (&[], false),
        _ => return None,
    };
    Some(own.iter().chain(if leaves { LEAVES } else { &[] }).copied().collect())
}

/// What `config` may name of the modules that it only fills options for.
const OPTION_TYPES: &[&str] = &["Limits", "Timeouts", "Format"];
const OPTION_OWNERS: &[&str] = &["net", "proxy", "dns", "control", "admin", "telemetry"];

/// Every rule over the sources of `src`, `tests` and `benches`.
pub(crate) fn complaints(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        found.extend(size(source));
        let Some(module) = source.module() else { continue };
        found.extend(imports(source, module[0]));
        found.extend(words(source));
    }
    found.extend(cycles(sources));
    found
}

/// A file has at most 500 lines.
fn size(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| format!("{}: {lines} lines, at most {MAX_LINES}", source.path))
}

/// The import table.
fn imports(source: &Source, module: &str) -> Vec<String> {
    let Some(allowed) = allowed(module) else {
        return vec![format!("{}: module `{module}` is not in the import table", source.path)];
    };
    let root = if module == "main" { "weir" } else { "crate" };
    let mut found = Vec::new();
    for path in paths(source.production(), root) {
        let (target, rest) = path.split_once("::").unwrap_or((&path, ""));
        if target == module || target.is_empty() {
            continue;
        }
        let last = rest.rsplit("::").next().unwrap_or_default();
        if !allowed.contains(&target) {
            found.push(format!("{}: `{module}` must not use `{target}` ({root}::{path})", source.path));
        } else if module == "config"
            && OPTION_OWNERS.contains(&target)
            && !last.ends_with("Options")
            && !OPTION_TYPES.contains(&last)
        {
            found.push(format!("{}: `config` may use only option types of `{target}` ({root}::{path})", source.path));
        }
    }
    if has_word(&source.code, "super::super") {
        found.push(format!("{}: write `crate::…`, not `super::super`", source.path));
    }
    found
}

/// A word that only some files may use.
struct Word {
    word: &'static str,
    /// Path prefixes below `src/` where it may stand.
    only_in: &'static [&'static str],
    /// Path prefixes below `src/` that the rule looks at; empty: all.
    within: &'static [&'static str],
    /// Whether unit tests are looked at too.
    tests: bool,
    why: &'static str,
}

const fn everywhere(word: &'static str, only_in: &'static [&'static str], why: &'static str) -> Word {
    Word { word, only_in, within: &[], tests: true, why }
}

const fn never_on_the_data_plane(word: &'static str) -> Word {
    Word {
        word,
        only_in: &[],
        within: &["proxy/", "dns/"],
        tests: false,
        why: "the data plane spawns locally and never blocks",
    }
}

const FORMATS: &[&str] = &[
    "spec/",
    "config/",
    "admin/",
    "control/store",
    "cli/",
    "control/runtime/docker",
    "control/discovery",
    // The table between Weirs is JSON lines.
    "control/feed",
    "telemetry/access",
];

const WORDS: &[Word] = &[
    everywhere("unsafe", &["sys/"], "only `sys` has unsafe code"),
    everywhere("allow(unsafe_code", &["sys/"], "only `sys` has unsafe code"),
    everywhere("expect(unsafe_code", &["sys/"], "only `sys` has unsafe code"),
    everywhere("Instant::now", &["clock.rs"], "only `clock` reads time"),
    everywhere("SystemTime::now", &["clock.rs"], "only `clock` reads time"),
    everywhere("RandomState", &["rng.rs"], "only `rng` asks for a seed"),
    everywhere("getrandom", &["rng.rs"], "only `rng` asks for a seed"),
    Word { word: "serde", only_in: FORMATS, within: &[], tests: false, why: "serde stays in what faces a format" },
    Word { word: "serde_json", only_in: FORMATS, within: &[], tests: false, why: "serde stays in what faces a format" },
    Word {
        word: "anyhow",
        only_in: &["main.rs", "cli/", "app/"],
        within: &[],
        tests: false,
        why: "only the edges use anyhow",
    },
    Word {
        word: "Publisher",
        only_in: &["table/", "control/publisher.rs", "control/plane.rs", "control/mod.rs", "app/"],
        within: &[],
        tests: false,
        why: "only `control::publisher` holds the publisher",
    },
    Word {
        word: "tracing_subscriber",
        only_in: &["telemetry/"],
        within: &[],
        tests: false,
        why: "only `telemetry::log` configures logging",
    },
    never_on_the_data_plane("tokio::spawn"),
    never_on_the_data_plane("task::spawn"),
    never_on_the_data_plane("spawn_blocking"),
    never_on_the_data_plane("block_in_place"),
    never_on_the_data_plane("thread::sleep"),
];

/// Words that belong to one place.
fn words(source: &Source) -> Vec<String> {
    let inside = source.path.strip_prefix("src/").unwrap_or(&source.path);
    let covers = |prefixes: &[&str]| prefixes.iter().any(|p| inside.starts_with(p));
    let mut found = Vec::new();
    for rule in WORDS {
        let looked_at = rule.within.is_empty() || covers(rule.within);
        let code = if rule.tests { &source.code } else { source.production() };
        if looked_at && !covers(rule.only_in) && has_word(code, rule.word) {
            found.push(format!("{}: `{}`: {}", source.path, rule.word, rule.why));
        }
    }
    found
}

/// Siblings that know each other on purpose, by folder, in alphabetical order.
const KNOWN_PAIRS: &[(&str, &str, &str)] =
    // A policy is a method of the round that it is given; the pool of tokens is state of the picker.
    &[("balance", "expected_delay", "picker")];

/// No cycle between top-level modules, and none between the children of one module (edges by full path; what a
/// `mod.rs` re-exports is its folder's face and makes no edge).
fn cycles(sources: &[Source]) -> Vec<String> {
    let mut top: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut inner: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in sources {
        let Some(module) = source.module() else { continue };
        for path in paths(source.production(), "crate") {
            let parts: Vec<&str> = path.split("::").collect();
            if parts[0] != module[0] {
                top.entry(module[0].to_owned()).or_default().insert(parts[0].to_owned());
            } else if let (Some(from), Some(to)) = (module.get(1), parts.get(1))
                && from != to
            {
                let folder = inner.entry(module[0].to_owned()).or_default();
                folder.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
        }
    }
    let mut found = Vec::new();
    for pair in cyclic_pairs(&top) {
        found.push(format!("src: `{}` and `{}` use each other", pair.0, pair.1));
    }
    for (folder, mut graph) in inner {
        for (_, a, b) in KNOWN_PAIRS.iter().filter(|(known, ..)| *known == folder) {
            graph.entry((*b).to_owned()).or_default().remove(*a);
        }
        for (a, b) in cyclic_pairs(&graph) {
            found.push(format!("src/{folder}: `{a}` and `{b}` use each other"));
        }
    }
    found
}

/// Returns pairs that reach each other, directly or through others.
fn cyclic_pairs(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<(String, String)> {
    let reach = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut todo = vec![from.to_owned()];
        while let Some(node) = todo.pop() {
            for next in graph.get(&node).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    todo.push(next.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|k| (k, reach(k))).collect();
    let mut pairs = Vec::new();
    for (a, from_a) in &all {
        for b in from_a.iter().filter(|b| *a < *b) {
            if all.get(b).is_some_and(|from_b| from_b.contains(*a)) {
                pairs.push(((*a).clone(), b.clone()));
            }
        }
    }
    pairs
}

/// Every `file.rs` and `file.rs::name` that a document mentions exists in the sources.
pub(crate) fn names(document: &str, text: &str, sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for mention in text.split('`').skip(1).step_by(2) {
        let Some(end) = mention.find(".rs") else { continue };
        let (file, rest) = mention.split_at(end + 3);
        if file.contains([' ', '{', '*', '<']) || !(rest.is_empty() || rest.starts_with("::")) {
            continue;
        }
        let suffix = format!("/{file}");
        let candidates: Vec<&Source> =
            sources.iter().filter(|s| s.path == file || format!("/{}", s.path).ends_with(&suffix)).collect();
        let parts: Vec<&str> = rest.split("::").skip(1).map(|p| p.trim_end_matches(['(', ')'])).collect();
        if candidates.is_empty() {
            found.push(format!("{document}: `{mention}`: no such file"));
        } else if !candidates.iter().any(|s| parts.iter().all(|part| has_word(&s.code, part))) {
            found.push(format!("{document}: `{mention}`: no such name in {}", candidates[0].path));
        }
    }
    found
}
