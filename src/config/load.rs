//! File + environment + flags → [`Loaded`], or everything that is wrong with them.

use crate::config::build::build;
use crate::config::environment::{Environment, Flags, Override};
use crate::config::error::{ConfigError, Problem};
use crate::config::loaded::Loaded;
use crate::config::parse::{self, Parsed, split_hint};
use crate::spec;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read, in octets: ten thousand services fit several times.
const MAX_FILE_OCTETS: u64 = 64 * 1024 * 1024;
/// Where the file is looked for when none is named: the working directory, then the system's place.
const PLACES: [&str; 2] = ["weir.toml", "/etc/weir/weir.toml"];

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file; `None`: the one that `WEIR_CONFIG` names, else `weir.toml`, else `/etc/weir/weir.toml`.
    File(Option<PathBuf>),
    /// A text of the program's own, with the name shown in problems.
    Text {
        /// Its name.
        name: &'static str,
        /// The text.
        text: &'static str,
    },
}

/// Loads a configuration.
///
/// # Errors
/// [`ConfigError`] with every problem of the file, the environment and the flags.
pub fn load(source: &Source, environment: &Environment, flags: &Flags) -> Result<Loaded, ConfigError> {
    match source {
        Source::Text { name, text } => load_text(name, text, environment, flags),
        Source::File(path) => {
            let path = match path {
                Some(path) => path.clone(),
                None => locate(environment)?,
            };
            let name = path.display().to_string();
            load_text(&name, &read(&path, &name)?, environment, flags)
        }
    }
}

/// Finds the file that is taken when none is named.
pub(super) fn locate(environment: &Environment) -> Result<PathBuf, ConfigError> {
    if let Some(path) = environment.get("WEIR_CONFIG") {
        return Ok(path.into());
    }
    PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        let hint = "name one with --config FILE or WEIR_CONFIG; `weir demo` needs none";
        unreadable(PLACES.join(" and "), "no configuration file there".to_owned(), hint)
    })
}

/// Reads a file; `name` stands for it in problems.
pub(super) fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_OCTETS + 1).read_to_end(&mut bytes)).map_err(
        |error| unreadable(name.to_owned(), format!("cannot be read: {error}"), "check the path and its permissions"),
    )?;
    if bytes.len() as u64 > MAX_FILE_OCTETS {
        return Err(unreadable(name.to_owned(), "is larger than 64 MiB".to_owned(), "is it a configuration file?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
        ConfigError::new(vec![Problem {
            file: name.to_owned(),
            line: Some(line),
            key: String::new(),
            message: "is not UTF-8".to_owned(),
            hint: Some("save the file as UTF-8".to_owned()),
        }])
    })
}

fn unreadable(file: String, message: String, hint: &str) -> ConfigError {
    ConfigError::new(vec![Problem { file, line: None, key: String::new(), message, hint: Some(hint.to_owned()) }])
}

/// Loads a text; `name` stands for it in problems.
pub(super) fn load_text(
    name: &str,
    text: &str,
    environment: &Environment,
    flags: &Flags,
) -> Result<Loaded, ConfigError> {
    let mut parsed = parse::parse(text);
    let mut file = std::mem::take(&mut parsed.file);
    let overrides = environment.apply(&mut file, flags);
    let (loaded, meant) = build(&file, environment, &|key| parsed.line_of(key));
    let places = Places { name, parsed: &parsed, overrides: &overrides };
    let mut problems: Vec<Problem> = parsed.found.iter().map(|found| places.of_form(found)).collect();
    problems.extend(overrides.iter().filter_map(|over| places.of_override(over)));
    problems.extend(
        meant
            .iter()
            .filter(|problem| !(problem.absent && parsed.explains(&problem.key)))
            .map(|problem| places.of_meaning(problem)),
    );
    match loaded {
        Some(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(ConfigError::new(problems)),
    }
}

/// Turns what was found on the way into problems with places.
struct Places<'a> {
    name: &'a str,
    parsed: &'a Parsed<'a>,
    overrides: &'a [Override],
}

impl Places<'_> {
    fn of_form(&self, found: &parse::Found) -> Problem {
        Problem {
            file: self.name.to_owned(),
            line: found.at.as_ref().map(|at| self.parsed.line_at(at.start)),
            key: found.shown.clone(),
            message: found.message.clone(),
            hint: found.hint.clone(),
        }
    }

    fn of_override(&self, over: &Override) -> Option<Problem> {
        let (message, hint) = split_hint(over.error.as_deref()?);
        Some(Problem { file: over.name.to_owned(), line: None, key: over.key.to_owned(), message, hint })
    }

    fn of_meaning(&self, problem: &spec::Problem) -> Problem {
        let key = problem.key.to_string();
        let over = self.overrides.iter().find(|over| over.key == key);
        Problem {
            file: over.map_or(self.name, |over| over.name).to_owned(),
            line: if over.is_some() { None } else { self.parsed.line_of(&problem.key) },
            key: self.parsed.show(&problem.key),
            message: problem.message.clone(),
            hint: problem.hint.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, load, load_text};
    use crate::config::{Environment, Flags};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn environment() -> Environment {
        Environment { variables: BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]), root: false }
    }

    fn problems(text: &str) -> Vec<String> {
        match load_text("t.toml", text, &environment(), &Flags::default()) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems().iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn an_empty_file_runs_only_the_admin_api() {
        let loaded = load_text("t.toml", "", &environment(), &Flags::default()).unwrap();
        assert!(loaded.dns.is_none() && loaded.listeners.is_empty() && loaded.services.is_empty());
        assert_eq!(loaded.admin.listen.unwrap().to_string(), "127.0.0.1:9600");
        assert_eq!(loaded.admin.socket, Some(PathBuf::from("/home/me/.local/state/weir/weir.sock")));
    }

    #[test]
    fn the_demo_loads() {
        let text = include_str!("../../config/demo.toml");
        let loaded = load(&Source::Text { name: "demo", text }, &environment(), &Flags::default()).unwrap();
        let run = loaded.services[0].run.as_ref().unwrap();
        assert_eq!(run.command, ["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}"]);
        assert_eq!((loaded.services[0].replicas, loaded.listeners[0].address.to_string()), (3, "[::]:8080".to_owned()));
        assert_eq!(loaded.control.state, PathBuf::from("target/demo"));
    }

    #[test]
    fn what_could_not_be_read_is_not_also_called_missing() {
        let found = problems(
            "[[service]]\nname = 5\n[service.health]\ntype = \"htpp\"\n[[listener]]\nname = \"web\"\naddress = \":8080\"\n[[route]]\nname = \"r\"\nservice = \"web\"\n",
        );
        assert_eq!(
            found,
            [
                "t.toml:2: service[0].name: invalid type: integer `5`\n  hint: write a text in quotes",
                "t.toml:4: service[0].health.type: unknown value \"htpp\"\n  hint: did you mean \"http\"?",
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let source = Source::File(Some(PathBuf::from("/nonexistent/weir.toml")));
        let error = load(&source, &environment(), &Flags::default()).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/weir.toml: cannot be read: No such file"), "{error}");
    }

    #[test]
    fn a_variable_is_named_as_the_place_of_its_problem() {
        let mut environment = environment();
        environment.variables.insert("WEIR_ADMIN_LISTEN".to_owned(), "0.0.0.0:9600".to_owned());
        environment.variables.insert("WEIR_LOG_LEVEL".to_owned(), "loud".to_owned());
        let error = load_text("t.toml", "", &environment, &Flags { workers: Some(0) }).unwrap_err();
        let found: Vec<String> =
            error.problems().iter().map(|p| format!("{}: {}: {}", p.file, p.key, p.message)).collect();
        assert_eq!(found.len(), 3, "{error}");
        assert!(
            found.iter().any(|line| line.starts_with("WEIR_ADMIN_LISTEN: admin.listen: 0.0.0.0:9600 is not")),
            "{error}"
        );
        assert!(found.iter().any(|line| line.starts_with("WEIR_LOG_LEVEL: log.level: unknown va")), "{error}");
        assert!(found.iter().any(|line| line == "--workers: node.workers: is 0"), "{error}");
    }
}
