//! Problems of a definition: all of them, each with its key.

use std::fmt;

/// One step of a key path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A key of a table.
    Name(String),
    /// A position in a list, from 0.
    Index(usize),
}

/// Where a value stands inside a definition or a file: `health.path`, `endpoint[0].address`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeyPath(Vec<Key>);

/// Something wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key it is about, relative to the definition.
    pub key: KeyPath,
    /// What is wrong, a fragment.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether something is missing, rather than wrong: in a file that did not parse it may only be unread.
    pub absent: bool,
}

/// Collects problems below one key.
#[derive(Debug, Default)]
pub struct Problems {
    at: KeyPath,
    found: Vec<Problem>,
}

impl KeyPath {
    /// Makes a path from its steps.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Returns the steps.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Returns the path of a key below this one.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let mut keys = self.0.clone();
        keys.extend(name.split('.').filter(|part| !part.is_empty()).map(|part| Key::Name(part.to_owned())));
        Self(keys)
    }

    /// Returns the path of an element below this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut keys = self.0.clone();
        keys.push(Key::Index(index));
        Self(keys)
    }

    /// Returns whether this is the path of `other` or of something around it.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Returns the path of `inner` below this one.
    #[must_use]
    pub fn join(&self, inner: &Self) -> Self {
        Self(self.0.iter().chain(&inner.0).cloned().collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, key) in self.0.iter().enumerate() {
            match key {
                Key::Name(name) => write!(f, "{}{name}", if i > 0 { "." } else { "" })?,
                Key::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Problems {
    /// Collects below the root.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records what is wrong with `key` (dotted, relative to where this collector stands).
    pub fn add(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(key, message.into(), hint.into(), false);
    }

    /// Records what is wrong with a key, relative to where this collector stands.
    pub fn at(&mut self, key: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        let key = self.at.join(key);
        self.found.push(Problem { key, message: message.into(), hint: Some(hint.into()), absent: false });
    }

    /// Records that `key` is missing.
    pub fn absent(&mut self, key: &str, hint: impl Into<String>) {
        self.push(key, "is missing".to_owned(), hint.into(), true);
    }

    /// Records that what `key` names does not exist.
    pub fn unknown(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(key, message.into(), hint.into(), true);
    }

    /// Runs `inner` with this collector standing at element `index` of `key`.
    pub fn within<T>(&mut self, key: &str, index: usize, inner: impl FnOnce(&mut Self) -> T) -> T {
        let below = self.at.key(key).index(index);
        let outer = std::mem::replace(&mut self.at, below);
        let result = inner(self);
        self.at = outer;
        result
    }

    /// Records the problems of a definition that stands where this collector stands.
    pub fn extend(&mut self, inner: Vec<Problem>) {
        let at = &self.at;
        self.found.extend(inner.into_iter().map(|problem| Problem { key: at.join(&problem.key), ..problem }));
    }

    /// Returns whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns what was recorded, in order.
    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }

    fn push(&mut self, key: &str, message: String, hint: String, absent: bool) {
        let hint = (!hint.is_empty()).then_some(hint);
        self.found.push(Problem { key: self.at.key(key), message, hint, absent });
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.keys().is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.key, self.message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyPath, Problems};

    #[test]
    fn a_path_reads_as_written_in_the_file() {
        let path = KeyPath::default().key("service").index(1).key("health.path");
        assert_eq!(path.to_string(), "service[1].health.path");
    }

    #[test]
    fn problems_stand_below_the_element_they_are_about() {
        let mut problems = Problems::new();
        problems.within("endpoint", 2, |p| p.add("weight", "is 0", ""));
        problems.add("retries", "is 9", "write 0 to 5");
        let shown: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["endpoint[2].weight: is 0", "retries: is 9"]);
    }
}
