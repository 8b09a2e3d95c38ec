//! Text → [`File`] with places: what cannot be read is recorded, taken out, and reading goes on.
//!
//! The text becomes a table with spans even when parts of it are no TOML. The table is then given to serde again and
//! again: each error names a span, the entry there is recorded as a problem and removed, until the rest can be read. So
//! the messages are serde's and those of `spec`'s types, and one mistake never hides another. The table that remains maps
//! keys to lines for everything that is found later.

use crate::config::file::File;
use crate::config::shape;
use crate::spec::{Key, KeyPath, nearest};
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Problems of form after which reading stops: more would not be read by anyone.
const MAX_FOUND: usize = 100;

/// A problem with the place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The key as written; empty for what is no TOML.
    pub key: KeyPath,
    /// The key as people write it.
    pub shown: String,
    /// Octets of the text.
    pub at: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The key that was probably meant.
    pub meant: Option<String>,
}

/// A text that was read as far as it can be.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    /// The values that could be read.
    pub file: File,
    /// What could not.
    pub found: Vec<Found>,
    /// Whether parts of the text are no TOML, so that what seems absent may only be unread.
    pub broken: bool,
    text: &'a str,
    table: Spanned<DeTable<'a>>,
    removed: Vec<KeyPath>,
}

impl Found {
    /// What is wrong with the text itself.
    fn of_text(message: String) -> Self {
        Self { key: KeyPath::default(), shown: String::new(), at: None, message, hint: None, meant: None }
    }
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Parsed<'_> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    let mut found: Vec<Found> = errors.iter().take(MAX_FOUND).map(|error| malformed(text, error)).collect();
    let mut removed = Vec::new();
    let mut broken = !found.is_empty();
    let schema = crate::config::schema::schema();
    while let Some((path, span)) = shape::misplaced_list(schema.as_value(), table.get_ref())
        && found.len() < MAX_FOUND
    {
        let written = original(&removed, &path);
        let (message, hint) = ("there can be only one".to_owned(), Some(format!("write [{}]", names(&path).join("."))));
        let shown = show(table.get_ref(), &path, &written);
        found.push(Found { key: written.clone(), shown, at: Some(span), message, hint, meant: None });
        remove(table.get_mut(), path.keys());
        removed.push(written);
    }
    let file = loop {
        let error = match File::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(file) => break file,
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        if found.len() >= MAX_FOUND {
            let message = format!("more problems follow; reading stopped after {MAX_FOUND}");
            found.push(Found { at: Some(span), ..Found::of_text(message) });
            broken = true;
            break File::default();
        }
        let Some(path) = locate(table.get_ref(), &span) else {
            found.push(explain(error.message(), KeyPath::default(), String::new(), span));
            broken = true;
            break File::default();
        };
        let written = original(&removed, &path);
        let shown = show(table.get_ref(), &path, &written);
        found.push(explain(error.message(), written.clone(), shown, span));
        remove(table.get_mut(), path.keys());
        removed.push(written);
    };
    let mut parsed = Parsed { file, found, broken, text, table, removed };
    parsed.drop_echoes();
    parsed
}

impl Parsed<'_> {
    /// Drops what is said about a key on a line that is no TOML: its value was made up by the recovery.
    fn drop_echoes(&mut self) {
        let line = |found: &Found| found.at.as_ref().map(|at| self.line_at(at.start));
        let is_form = |found: &Found| found.key.keys().is_empty();
        let lines: Vec<Option<usize>> = self.found.iter().filter(|found| is_form(found)).map(line).collect();
        let kept = self.found.iter().filter(|found| is_form(found) || !lines.contains(&line(found))).cloned().collect();
        self.found = kept;
    }

    /// Returns the line of an octet of the text, from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    /// Returns the line of a key, or of the nearest key above it that is written; `None` when none is.
    pub(super) fn line_of(&self, path: &KeyPath) -> Option<usize> {
        let mut offset = None;
        let mut table = Some(self.table.get_ref());
        let mut list: Option<&[Spanned<DeValue<'_>>]> = None;
        for key in path.keys() {
            let (start, value) = match key {
                Key::Name(name) => {
                    let Some((key, value)) = table.and_then(|t| t.get_key_value(name.as_str())) else { break };
                    (key.span().start, value)
                }
                Key::Index(index) => {
                    let Some(value) = list.and_then(|list| list.get(*index)) else { break };
                    (value.span().start, value)
                }
            };
            offset = Some(start);
            (table, list) = match value.get_ref() {
                DeValue::Table(inner) => (Some(inner), None),
                DeValue::Array(inner) => (None, Some(&**inner)),
                _ => (None, None),
            };
        }
        offset.map(|offset| self.line_at(offset))
    }

    /// Returns a key as people write it.
    pub(super) fn show(&self, path: &KeyPath) -> String {
        show(self.table.get_ref(), path, &original(&self.removed, path))
    }

    /// Returns whether something that seems absent only follows from what was found: it stands in what is no TOML, it was
    /// taken out, or it is written under a misspelled key.
    pub(super) fn explains(&self, absent: &KeyPath) -> bool {
        let absent = original(&self.removed, absent);
        let misspelled = |found: &Found| match (found.key.keys(), absent.keys(), &found.meant) {
            ([around @ .., _], [same @ .., Key::Name(key)], Some(meant)) => around == same && key == meant,
            _ => false,
        };
        self.broken || self.found.iter().any(|found| absent.covers(&found.key) || misspelled(found))
    }
}

/// Returns a key as people write it: elements of `listener`, `route` and `service` by their names. `path` leads through
/// the table, `written` through the text.
fn show(table: &DeTable<'_>, path: &KeyPath, written: &KeyPath) -> String {
    let [Key::Name(list), Key::Index(index), ..] = path.keys() else { return written.to_string() };
    let name = match table.get(list.as_str()).map(Spanned::get_ref) {
        Some(DeValue::Array(elements)) => elements.get(*index).and_then(|element| match element.get_ref() {
            DeValue::Table(table) => table.get("name")?.get_ref().as_str(),
            _ => None,
        }),
        _ => None,
    };
    match (name, written.keys()) {
        (Some(name), [_, _, rest @ ..]) if !name.is_empty() => {
            KeyPath::new(vec![Key::Name(list.clone()), Key::Name(name.to_owned())])
                .join(&KeyPath::new(rest.to_vec()))
                .to_string()
        }
        _ => written.to_string(),
    }
}

/// Returns a path as it is written in the text: what was taken out of lists before it counts again.
fn original(removed: &[KeyPath], path: &KeyPath) -> KeyPath {
    let mut written = KeyPath::default();
    for key in path.keys() {
        let key = match key {
            Key::Name(_) => key.clone(),
            Key::Index(index) => {
                let mut gone: Vec<usize> = removed.iter().filter_map(|path| index_below(&written, path)).collect();
                gone.sort_unstable();
                Key::Index(gone.iter().fold(*index, |index, gone| if *gone <= index { index + 1 } else { index }))
            }
        };
        written = written.join(&KeyPath::new(vec![key]));
    }
    written
}

/// Returns the index of `path` when it is an element of the list at `list`.
fn index_below(list: &KeyPath, path: &KeyPath) -> Option<usize> {
    match path.keys() {
        [around @ .., Key::Index(index)] if around == list.keys() => Some(*index),
        _ => None,
    }
}

/// Finds the entry whose key or value has this span; the innermost one.
fn locate(table: &DeTable<'_>, span: &Range<usize>) -> Option<KeyPath> {
    let mut best: Option<(usize, KeyPath)> = None;
    visit(table, &KeyPath::default(), &mut |path, key, value| {
        let exact = key == Some(span) || value == span;
        // A span inside a value that is no entry of its own counts for the innermost value around it.
        let rank = match exact {
            true => 0,
            false if value.start <= span.start && span.end <= value.end => value.len().max(1),
            false => return,
        };
        if best.as_ref().is_none_or(|(other, _)| rank <= *other) {
            best = Some((rank, path.clone()));
        }
    });
    best.map(|(_, path)| path)
}

/// Is shown path, key span and value span of an entry.
type See<'a> = dyn FnMut(&KeyPath, Option<&Range<usize>>, &Range<usize>) + 'a;

/// Calls `see` with path, key span and value span of every entry, outer ones first.
fn visit(table: &DeTable<'_>, at: &KeyPath, see: &mut See<'_>) {
    for (key, value) in table.iter() {
        let path = at.join(&KeyPath::new(vec![Key::Name(key.get_ref().to_string())]));
        see(&path, Some(&key.span()), &value.span());
        visit_value(value, &path, see);
    }
}

fn visit_value(value: &Spanned<DeValue<'_>>, path: &KeyPath, see: &mut See<'_>) {
    match value.get_ref() {
        DeValue::Table(inner) => visit(inner, path, see),
        DeValue::Array(inner) => {
            for (i, element) in inner.iter().enumerate() {
                let path = path.index(i);
                see(&path, None, &element.span());
                visit_value(element, &path, see);
            }
        }
        _ => {}
    }
}

/// Takes the entry at a path out.
fn remove(table: &mut DeTable<'_>, path: &[Key]) {
    let (Some(Key::Name(name)), rest) = (path.first(), path.get(1..).unwrap_or_default()) else { return };
    if rest.is_empty() {
        table.remove(name.as_str());
    } else if let Some(value) = table.get_mut(name.as_str()) {
        remove_value(value.get_mut(), rest);
    }
}

fn remove_value(value: &mut DeValue<'_>, path: &[Key]) {
    match (value, path) {
        (DeValue::Table(table), _) => remove(table, path),
        (DeValue::Array(list), [Key::Index(index)]) if *index < list.len() => {
            let all = std::mem::replace(list, std::iter::empty().collect()).into_iter().enumerate();
            *list = all.filter(|(i, _)| i != index).map(|(_, element)| element).collect();
        }
        (DeValue::Array(list), [Key::Index(index), rest @ ..]) => {
            if let Some(element) = list.get_mut(*index) {
                remove_value(element.get_mut(), rest);
            }
        }
        _ => {}
    }
}

/// Turns a message about the form of the text into a problem.
fn malformed(text: &str, error: &toml::de::Error) -> Found {
    let at = error.span();
    let start = at.as_ref().map_or(0, |at| at.start.min(text.len()));
    let line = text.get(..start).and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
    let bare: String =
        text.get(start..).unwrap_or_default().chars().take_while(|c| !c.is_whitespace() && *c != '#').collect();
    // The parser takes a bare word for a number, a date or `inf`.
    let unquoted = line.trim_end().ends_with('=') && bare.starts_with(|c: char| c.is_ascii_alphabetic());
    let (message, hint) = if unquoted {
        ("text without quotes".to_owned(), Some(format!("write {line}{bare:?}")))
    } else {
        (error.message().to_owned(), None)
    };
    Found { at, hint, ..Found::of_text(message) }
}

/// Turns serde's message into a problem with a hint.
fn explain(message: &str, key: KeyPath, shown: String, span: Range<usize>) -> Found {
    let known: Vec<&str> = message
        .split_once(", expected")
        .map(|(_, list)| list.split('`').skip(1).step_by(2).collect())
        .unwrap_or_default();
    let quoted = message.split('`').nth(1).unwrap_or_default();
    let near = nearest(quoted, known.iter().copied());
    let did_you = near.map(|near| format!("did you mean {near:?}?"));
    let mut meant = None;
    let (message, hint) = if message.starts_with("unknown field") {
        meant = near.map(str::to_owned);
        ("unknown key".to_owned(), did_you.or_else(|| Some(format!("known keys here: {}", known.join(", ")))))
    } else if message.starts_with("unknown variant") {
        let words = known.join("\", \"");
        (format!("unknown value {quoted:?}"), did_you.or_else(|| Some(format!("write one of \"{words}\""))))
    } else if let Some((wrong, expected)) = message.split_once(", expected ") {
        (wrong.replace("invalid type: map", "invalid type: section"), Some(wanted(expected, &key)))
    } else {
        split_hint(message)
    };
    Found { key, shown, at: Some(span), message, hint, meant }
}

/// Splits a message of a `spec` type at its advice.
pub(super) fn split_hint(message: &str) -> (String, Option<String>) {
    for mark in [": did you mean ", ": write "] {
        if let Some(at) = message.find(mark) {
            let (wrong, hint) = message.split_at(at);
            return (wrong.to_owned(), Some(hint.trim_start_matches(": ").to_owned()));
        }
    }
    (message.to_owned(), None)
}

/// Returns the names in a path, as in the brackets of a section.
fn names(path: &KeyPath) -> Vec<&str> {
    path.keys()
        .iter()
        .filter_map(|key| match key {
            Key::Name(name) => Some(name.as_str()),
            Key::Index(_) => None,
        })
        .collect()
}

/// Says in the words of the file what serde expected.
fn wanted(expected: &str, key: &KeyPath) -> String {
    let path = names(key);
    let name = path.last().copied().unwrap_or("key");
    match expected {
        "a sequence" if matches!(name, "listener" | "route" | "service" | "endpoint" | "port") => {
            format!("write [[{}]]: there may be several", path.join("."))
        }
        "a sequence" => format!("write a list: {name} = [\"...\"]"),
        "a map" => format!("write a section [{}]", path.join(".")),
        "a boolean" => "write true or false".to_owned(),
        "a string" => "write a text in quotes".to_owned(),
        "u16" => "write a whole number from 0 to 65535".to_owned(),
        "u32" => format!("write a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "write a whole number, not below 0".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally") => {
            format!("write a section [{}]", path.join("."))
        }
        other => format!("write {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::spec::KeyPath;

    fn shown(text: &str) -> Vec<String> {
        let parsed = parse(text);
        let line = |found: &super::Found| parsed.line_at(found.at.clone().unwrap().start);
        let mut found = parsed.found.clone();
        found.sort_by_key(line);
        let show =
            |f: &super::Found| format!("{}: {}: {} ({})", line(f), f.shown, f.message, f.hint.as_deref().unwrap_or(""));
        found.iter().map(show).collect()
    }

    #[test]
    fn every_unknown_key_and_wrong_type_is_found() {
        let text = "[nod]\n[log]\nlevl = 1\nformat = \"xml\"\n[[service]]\nname = \"web\"\nretries = \"two\"\n\
                    health = { type = \"http\", interval = 5 }\n[[service]]\nname = \"api\"\nweight = 1\n[proxy.limits]\nhead = \"64\"\n";
        assert_eq!(
            shown(text),
            [
                "1: nod: unknown key (did you mean \"node\"?)",
                "3: log.levl: unknown key (did you mean \"level\"?)",
                "4: log.format: unknown value \"xml\" (write one of \"text\", \"json\")",
                "7: service.web.retries: invalid type: string \"two\" (write a whole number from 0 to 4294967295)",
                "8: service.web.health.interval: invalid type: integer `5` (write a duration with its unit, such as \
                 \"10s\" or \"500ms\")",
                "11: service.api.weight: unknown key (known keys here: name, namespace, protocol, proxy_protocol, policy, replicas, retries, dns_ttl, \
                 slow_start, drain_timeout, health, limits, timeouts, outliers, run, scale, rollout, dns, resolve, tls, port, endpoint)",
                "13: proxy.limits.head: size \"64\" has no unit (write it as \"64B\" or with KiB, MiB or GiB)",
            ]
        );
    }

    #[test]
    fn sections_of_the_wrong_kind_say_how_to_write_them() {
        assert_eq!(
            shown("[service]\nname = \"web\"\n[node]\nworkers = [1]\n[admin]\nlimits = 3\n"),
            [
                "1: service: invalid type: section (write [[service]]: there may be several)",
                "4: node.workers: invalid type: sequence (write a whole number, not below 0)",
                "6: admin.limits: invalid type: integer `3` (write a section [admin.limits])",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_does_not_hide_the_rest() {
        let found = shown("[log]\nlevel = \n[node\nname = \"x\"\n[dns]\nzone = 5\n");
        assert_eq!(found.len(), 3, "{found:#?}");
    }

    #[test]
    fn reading_stops_after_a_hundred_problems_and_says_so() {
        let found = shown(&"[[service]]\nnam = 1\n".repeat(200));
        assert_eq!(found.len(), 101);
        assert!(found[100].ends_with("more problems follow; reading stopped after 100 ()"), "{}", found[100]);
    }

    #[test]
    fn a_key_that_is_not_written_has_the_line_of_what_is_around_it() {
        let parsed = parse("\n[[service]]\nname = \"a\"\n\n[[service]]\n[service.health]\npath = \"/\"\n");
        let service = KeyPath::default().key("service").index(1);
        assert_eq!(parsed.line_of(&service.key("name")), Some(5));
        assert_eq!(parsed.line_of(&service.key("health.type")), Some(6));
        assert_eq!(parsed.line_of(&service.key("health.path")), Some(7));
        assert_eq!(parsed.line_of(&KeyPath::default().key("dns.zone")), None);
        assert_eq!(
            parsed.show(&KeyPath::default().key("service").index(0).key("run.command")),
            "service.a.run.command"
        );
    }
}
