//! The file of a running Weir, read again and again: where it is, what lies over it, what it says now.

use crate::config::environment::{Environment, Flags};
use crate::config::error::{ConfigError, Problem};
use crate::config::load::{Source, load_text, locate, read};
use crate::config::loaded::Loaded;
use crate::config::parse;
use crate::spec::KeyPath;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Reads one configuration as often as it is asked to.
#[derive(Debug, Clone)]
pub struct Reader {
    source: Source,
    environment: Environment,
    flags: Flags,
}

/// A text of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// As it is named in problems.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Reader {
    /// Makes a reader; a file that is not named is looked for now, so that later reads take the same one.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(source: &Source, environment: Environment, flags: Flags) -> Result<Self, ConfigError> {
        let source = match source {
            Source::File(None) => Source::File(Some(locate(&environment)?)),
            named => named.clone(),
        };
        Ok(Self { source, environment, flags })
    }

    /// Returns the file; `None` for a text of the program's own.
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => path.as_deref(),
            Source::Text { .. } => None,
        }
    }

    /// Reads the text as it is now.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is not UTF-8.
    pub fn read(&self) -> Result<Text, ConfigError> {
        match &self.source {
            Source::Text { name, text } => Ok(Text { name: (*name).to_owned(), text: (*text).to_owned() }),
            Source::File(path) => {
                let path = path.clone().unwrap_or_default();
                let name = path.display().to_string();
                Ok(Text { text: read(&path, &name)?, name })
            }
        }
    }

    /// Loads a text with this reader's environment and flags.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem.
    pub fn load(&self, text: &Text) -> Result<Loaded, ConfigError> {
        load_text(&text.name, &text.text, &self.environment, &self.flags)
    }

    /// Returns the state directory that a text names, also one that is refused, as far as that can be read; `None` without
    /// any.
    pub fn state(&self, text: Option<&Text>) -> Option<PathBuf> {
        let mut file = text.map(|text| parse::parse(&text.text).file).unwrap_or_default();
        // What is wrong with a variable is told by whoever loads the text.
        let _ = self.environment.apply(&mut file, &self.flags);
        let named = file.store.and_then(|store| store.path).filter(|path| !path.is_empty());
        named.map(PathBuf::from).or_else(|| self.environment.default_state())
    }
}

impl Text {
    /// Returns a hash of the text: 16 hexadecimal digits, the same for the same text in every run.
    pub fn hash(&self) -> String {
        format!("{:016x}", xxh3_64(self.text.as_bytes()))
    }

    /// Returns whether there is nothing in it: what a writer that began anew has left so far, or a deletion of everything
    /// that nobody meant.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Makes the refusal of a text that has nothing in it.
    pub fn blank(&self) -> ConfigError {
        let hint = "write what shall run; to stop everything, stop Weir";
        self.refuse([(KeyPath::default(), "is empty".to_owned(), hint.to_owned())])
    }

    /// Makes the refusal of some keys, each with its place in this text.
    pub fn refuse(&self, keys: impl IntoIterator<Item = (KeyPath, String, String)>) -> ConfigError {
        let parsed = parse::parse(&self.text);
        let problem = |(key, message, hint): (KeyPath, String, String)| Problem {
            file: self.name.clone(),
            line: parsed.line_of(&key),
            key: parsed.show(&key),
            message,
            hint: Some(hint),
        };
        ConfigError::new(keys.into_iter().map(problem).collect())
    }
}
