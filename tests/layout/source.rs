//! Source files as the rules see them: code without comments and literals, and the paths it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One source file: its path from the repository's root, its text, and its code.
pub(crate) struct Source {
    /// Such as `src/table/cell.rs`.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// The text with comments and the inside of literals blanked; line breaks stay.
    pub(crate) code: String,
}

impl Source {
    /// Makes a source of a path and its text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// Returns the code before the unit tests, which stand last in a file; nothing of a `tests.rs`.
    pub(crate) fn production(&self) -> &str {
        if self.path.ends_with("/tests.rs") {
            return "";
        }
        self.code.split("#[cfg(test)]").next().unwrap_or_default()
    }

    /// Returns the module path inside the crate: `["table", "cell"]` for `src/table/cell.rs`; `None` outside `src`.
    pub(crate) fn module(&self) -> Option<Vec<&str>> {
        let inside = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        Some(inside.split('/').filter(|part| *part != "mod").collect())
    }
}

/// Reads every Rust file below the given folders of `root`.
pub(crate) fn load(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        walk(&root.join(folder), folder, &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, name: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let below = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &below, found);
        } else if below.ends_with(".rs") {
            found.push(Source::new(&below, &fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Blanks comments, strings and characters.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let previous_is_word = at > 0 && is_word(bytes[at - 1]);
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            text[at..].find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest[0] == b'"' {
            string(rest, 1, b"\"", true)
        } else if rest[0] == b'r' && !previous_is_word && raw_hashes(rest).is_some() {
            let hashes = raw_hashes(rest).unwrap();
            let end: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            string(rest, hashes + 2, &end, false)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            0
        };
        if length == 0 {
            out.push(char::from(if rest[0].is_ascii() { rest[0] } else { b'_' }));
            at += 1;
        } else {
            let kept = rest[..length].iter().map(|&b| if b == b'\n' { '\n' } else { ' ' });
            out.extend(kept);
            at += length;
        }
    }
    out
}

/// Returns the number of hashes when a raw string starts here.
fn raw_hashes(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn string(rest: &[u8], start: usize, end: &[u8], escapes: bool) -> usize {
    let mut at = start;
    while at < rest.len() {
        if escapes && rest[at] == b'\\' {
            at += 2;
        } else if rest[at..].starts_with(end) {
            return at + end.len();
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Returns the length of a character literal; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return 3 + rest[3..].iter().position(|&b| b == b'\'').unwrap_or(0);
    }
    let wide = std::str::from_utf8(&rest[1..rest.len().min(5)]).map_or_else(|e| e.valid_up_to(), str::len);
    let first = std::str::from_utf8(&rest[1..=wide]).ok().and_then(|s| s.chars().next()).map_or(1, char::len_utf8);
    if rest.get(1 + first) == Some(&b'\'') { first + 2 } else { 0 }
}

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns whether `word` stands in `code` as a whole identifier or path.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    words(code, word).next().is_some()
}

fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        (at == 0 || !is_word(bytes[at - 1])) && bytes.get(at + word.len()).is_none_or(|&b| !is_word(b))
    })
}

/// Returns every path below `crate::` (or `weir::`) that the code names, groups expanded: `table::cell::Reader`.
pub(crate) fn paths(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let start = format!("{root}::");
    for at in words(code, root) {
        if let Some(rest) = code[at..].strip_prefix(&start) {
            expand(rest, "", &mut found);
        }
    }
    found
}

/// Reads one path or group at the start of `rest`; returns what follows it.
fn expand<'a>(rest: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start().trim_start_matches(',').trim_start();
            if inner.is_empty() {
                return inner;
            }
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            let after = expand(inner, prefix, found);
            // `name as other` or `*`: skip to the next item.
            let stop = after.find([',', '}']).unwrap_or(after.len());
            inner = &after[stop..];
        }
    }
    let end = rest.bytes().position(|b| !is_word(b)).unwrap_or(rest.len());
    let path = if prefix.is_empty() { rest[..end].to_owned() } else { format!("{prefix}::{}", &rest[..end]) };
    match rest[end..].strip_prefix("::") {
        Some(after) => expand(after, &path, found),
        None => {
            found.insert(path.trim_end_matches("::").to_owned());
            &rest[end..]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, paths};

    #[test]
    fn sees_code_only_and_expands_groups() {
        let source = Source::new(
            "src/x.rs",
            "// crate::no\nuse crate::{a::{b, c as d}, e};\nlet s = \"crate::no \\\" // \"; let c = '\"'; f::<'a>(crate::g::h());\nlet r = r#\"\"crate::no\"#;\n",
        );
        let found: Vec<String> = paths(&source.code, "crate").into_iter().collect();
        assert_eq!(found, ["a::b", "a::c", "e", "g::h"]);
        assert_eq!(source.code.lines().count(), source.text.lines().count());
    }
}
