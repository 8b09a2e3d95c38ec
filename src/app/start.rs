//! Which configuration a process starts with: the file's, or the last good one where the file is bad.
//!
//! A process that is started again must serve on, so a file that is refused is no reason to end when there is a copy of
//! what was in use (`app/last_good.rs`). The refusal is told as that of a reload is, and the file is watched: the first
//! good text is taken up. Without a copy for this file the start is refused with every problem.

use crate::app::last_good::{self, Copy};
use crate::config::{ConfigError, Environment, Flags, Loaded, Reader, Source, Text};
use crate::net::Link;
use crate::spec::KeyPath;
use std::path::Path;

/// What a process starts with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) reader: Reader,
    /// What is in use from the start.
    pub(super) text: Text,
    pub(super) loaded: Loaded,
    /// The file's present text and what is wrong with it; `None`: it is what is in use.
    pub(super) refused: Option<Refused>,
}

/// A text that is not in use.
#[derive(Debug)]
pub(super) struct Refused {
    /// Hash of the text; empty when there was none to read.
    pub(super) hash: String,
    pub(super) error: ConfigError,
}

/// Reads the configuration; falls back on the last good one.
///
/// # Errors
/// [`ConfigError`] when the file is bad and no copy can be used.
pub(super) fn read(
    source: &Source,
    environment: Environment,
    flags: &Flags,
    link: Option<&Link>,
) -> Result<Beginning, ConfigError> {
    let held = link.and_then(last_good::held);
    let reader = match Reader::open(source, environment.clone(), flags.clone()) {
        Ok(reader) => reader,
        // The file was not named, and is gone from where it was found.
        Err(error) => {
            let Some(file) = held.as_ref().map(|copy| copy.file.clone()) else { return Err(error) };
            Reader::open(&Source::File(Some(file)), environment, flags.clone())?
        }
    };
    let read = reader.read();
    let text = read.as_ref().ok();
    let loaded = read.as_ref().map_err(Clone::clone).and_then(|text| reader.load(text));
    let copy = || held.filter(|copy| is_of(copy, &reader)).or_else(|| stored(&reader, text));
    let (error, copy) = match loaded {
        // As a reload does: an empty file is what a writer that began anew has left so far.
        Ok(loaded) => match text {
            Some(text) if !text.is_blank() => {
                return Ok(Beginning { text: text.clone(), reader, loaded, refused: None });
            }
            _ => match (copy().filter(|copy| !copy.text.is_blank()), text) {
                (Some(copy), Some(text)) => (text.blank(), Some(copy)),
                (_, text) => {
                    let text = text.cloned().unwrap_or_default();
                    return Ok(Beginning { text, reader, loaded, refused: None });
                }
            },
        },
        Err(error) => (error, copy()),
    };
    let hash = text.map(Text::hash).unwrap_or_default();
    let last = copy.and_then(|copy| Some((reader.load(&copy.text).ok()?, copy.text)));
    match last {
        Some((loaded, text)) => Ok(Beginning { reader, text, loaded, refused: Some(Refused { hash, error }) }),
        None => Err(error),
    }
}

/// Returns what to start with instead, when the parts could not be made from a text that was read well: what the keeper
/// holds, when that is another text. A start of the whole program has no such copy, so it ends with its reason.
pub(super) fn instead(reader: &Reader, text: &Text, error: &anyhow::Error, link: &Link) -> Option<Beginning> {
    let copy = last_good::held(link).filter(|copy| is_of(copy, reader) && copy.text.text != text.text)?;
    let hint = "mend the file, or what it asks for; it is looked at again when it changes, and by `weir reload`";
    let error = text.refuse([(KeyPath::default(), format!("cannot be taken up: {error:#}"), hint.to_owned())]);
    let loaded = reader.load(&copy.text).ok()?;
    let refused = Some(Refused { hash: text.hash(), error });
    Some(Beginning { reader: reader.clone(), text: copy.text, loaded, refused })
}

/// Returns the copy in the state directory that the file, as far as it can be read, or the environment names.
fn stored(reader: &Reader, text: Option<&Text>) -> Option<Copy> {
    last_good::stored(&reader.state(text)?).filter(|copy| is_of(copy, reader))
}

fn is_of(copy: &Copy, reader: &Reader) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    reader.path().and_then(absolute).is_some_and(|path| path == copy.file)
}
