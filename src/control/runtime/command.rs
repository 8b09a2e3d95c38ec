//! From a definition to a program, its arguments and its environment: no shell, no surprise.
//!
//! `${PORT}`, `${PORT_<NAME>}`, `${INSTANCE}` and `${WEIR}` are replaced in arguments and in values of the environment;
//! any other `${…}` stays as written, for a shell that the definition may name. The environment is an allow-list
//! (threats: a secret in Weir's own environment must not reach replicas).

use crate::control::runtime::{RuntimeError, StartRequest, procfs};
use crate::sys::process;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Variables of Weir's own environment that workloads inherit.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"];
/// Where programs are looked for when nothing sets PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, OsString>,
}

/// A definition with everything replaced, before anything is looked up on this machine.
pub(super) struct Expanded {
    /// Program and arguments.
    pub words: Vec<String>,
    /// What the workload's environment has whatever it inherits.
    pub environment: BTreeMap<String, String>,
}

/// Replaces `${…}` in a request's command and environment.
pub(super) fn expand(request: &StartRequest, ports: &[u16], weir: &Path) -> Expanded {
    let variables = variables(request, ports, weir);
    let mut environment = BTreeMap::from([
        ("WEIR_INSTANCE".to_owned(), request.id.to_string()),
        ("WEIR_SERVICE".to_owned(), request.service.to_string()),
    ]);
    let for_ports = variables.iter().filter(|(name, _)| name.starts_with("PORT"));
    environment.extend(for_ports.map(|(name, value)| (name.clone(), value.clone())));
    let written = request.run.env.iter();
    environment.extend(written.map(|(name, value)| (name.clone(), replace(value, &variables))));
    Expanded { words: request.run.command.iter().map(|word| replace(word, &variables)).collect(), environment }
}

/// Turns a request with its ports into what is executed; its environment is marked as `owner`'s, whatever is written.
///
/// # Errors
/// [`RuntimeError::Definition`] when the program does not exist, cannot be executed, or others could replace it.
pub(super) fn resolve(
    request: &StartRequest,
    ports: &[u16],
    (weir, owner): (&Path, &str),
    inherited: impl Fn(&str) -> Option<OsString>,
) -> Result<Resolved, RuntimeError> {
    let Expanded { words, environment: own } = expand(request, ports, weir);
    let mut environment: BTreeMap<String, OsString> =
        INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), inherited(name)?))).collect();
    environment.extend(own.into_iter().map(|(name, value)| (name, value.into())));
    environment.extend(marks(request, ports, owner).map(|(name, value)| (name.to_owned(), value.into())));
    let mut words = words.into_iter();
    let program = words.next().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| RuntimeError::Definition("the command is empty".to_owned()))?;
    let path = environment.get("PATH").cloned().unwrap_or_else(|| DEFAULT_PATH.into());
    let program = find_program(&program, request.run.directory.as_deref(), &path)?;
    Ok(Resolved { program, arguments: words.collect(), environment })
}

/// Returns the variables by which a later Weir finds the process.
fn marks(request: &StartRequest, ports: &[u16], owner: &str) -> impl Iterator<Item = (&'static str, String)> {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let marks = [
        (procfs::OWNER, owner.to_owned()),
        (procfs::INSTANCE, request.id.to_string()),
        (procfs::SERVICE, request.service.to_string()),
        (procfs::PORTS, ports.join(",")),
    ];
    marks.into_iter()
}

/// Returns the values of `${…}`.
fn variables(request: &StartRequest, ports: &[u16], weir: &Path) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([
        ("INSTANCE".to_owned(), request.id.to_string()),
        ("WEIR".to_owned(), weir.to_string_lossy().into_owned()),
    ]);
    if let Some(first) = ports.first() {
        variables.insert("PORT".to_owned(), first.to_string());
    }
    for (name, port) in request.ports.iter().zip(ports) {
        variables.insert(format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_")), port.to_string());
    }
    variables
}

/// Replaces each known `${NAME}` once; what it is replaced by is not looked at again.
fn replace(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        expanded.push_str(before);
        let name = from.get(2..).and_then(|inner| inner.split_once('}')).map(|(name, _)| name);
        if let Some((name, value)) = name.and_then(|name| Some((name, variables.get(name)?))) {
            expanded.push_str(value);
            rest = from.get(name.len() + 3..).unwrap_or_default();
        } else {
            expanded.push_str("${");
            rest = from.get(2..).unwrap_or_default();
        }
    }
    expanded.push_str(rest);
    expanded
}

/// Finds a program as execvp(3) would and checks that it may be run.
fn find_program(program: &str, directory: Option<&Path>, path: &OsString) -> Result<PathBuf, RuntimeError> {
    let refused = |why: &str| Err(RuntimeError::Definition(format!("cannot run {program}: {why}")));
    let found = if program.contains('/') {
        let full = directory.unwrap_or(Path::new("")).join(program);
        std::path::absolute(&full).ok().filter(|full| full.exists())
    } else {
        let candidates = std::env::split_paths(path).filter(|folder| folder.is_absolute());
        candidates.map(|folder| folder.join(program)).find(|full| is_executable(full))
    };
    let Some(found) = found else {
        return refused(if program.contains('/') { "no such file" } else { "no such program in PATH" });
    };
    if !is_executable(&found) {
        return refused("it is not an executable file");
    }
    let Ok(metadata) = fs::metadata(&found) else { return refused("it cannot be inspected") };
    let by_group = metadata.mode() & 0o020 != 0 && metadata.gid() != process::effective_group();
    if metadata.mode() & 0o002 != 0 || by_group {
        return refused("other users may write to it; take that right away with chmod go-w");
    }
    Ok(found)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::{Resolved, replace, resolve};
    use crate::control::runtime::{RuntimeError, StartRequest};
    use crate::model::{InstanceId, RunSpec, ServiceName};
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;

    fn request(command: &[&str], env: &[(&str, &str)]) -> StartRequest {
        StartRequest {
            id: InstanceId::parse("web-abcdef").unwrap(),
            service: ServiceName::parse("web").unwrap(),
            run: RunSpec {
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                directory: None,
                stop_grace: Duration::from_secs(1),
                replace_after: Duration::from_secs(30),
                container: None,
            },
            ports: vec!["http".into(), "my-admin".into()],
            revision: 1,
            fingerprint: 5,
            slot: 0,
        }
    }

    fn resolved(request: &StartRequest) -> Result<Resolved, RuntimeError> {
        resolve(request, &[20_001, 20_002], (Path::new("/opt/weir"), "0123abcd"), |name| {
            let parent = [("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("SECRET", "x"), ("WEIR_ADDR", "y")];
            parent.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn replaces_known_names_in_arguments_and_environment() {
        let request = request(
            &["sh", "--port=${PORT}", "${PORT_MY_ADMIN}${PORT_HTTP}", "${INSTANCE}", "${WEIR}", "${HOME} ${", "$PORT"],
            &[("URL", "http://x:${PORT}/"), ("PORT_X", "1"), ("WEIR_OWNER", "mine"), ("WEIR_PORTS", "1")],
        );
        let resolved = resolved(&request).unwrap();
        assert!(resolved.program.ends_with("bin/sh"), "{:?}", resolved.program);
        assert_eq!(
            resolved.arguments,
            ["--port=20001", "2000220001", "web-abcdef", "/opt/weir", "${HOME} ${", "$PORT"]
        );
        let expected = [
            ("HOME", "/root"),
            ("PATH", "/usr/bin:/bin"),
            ("PORT", "20001"),
            ("PORT_HTTP", "20001"),
            ("PORT_MY_ADMIN", "20002"),
            ("PORT_X", "1"),
            ("URL", "http://x:20001/"),
            ("WEIR_INSTANCE", "web-abcdef"),
            ("WEIR_OWNER", "0123abcd"),
            ("WEIR_PORTS", "20001,20002"),
            ("WEIR_SERVICE", "web"),
        ];
        let expected: BTreeMap<String, OsString> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        assert_eq!(resolved.environment, expected);
    }

    #[test]
    fn does_not_look_at_a_replacement_again() {
        let variables = BTreeMap::from([("A".to_owned(), "${B}".to_owned()), ("B".to_owned(), "x".to_owned())]);
        assert_eq!(replace("${A}${B}${C}$${B}", &variables), "${B}x${C}$x");
        for text in ["", "$", "${", "${}", "}${", "ä${ä}"] {
            assert_eq!(replace(text, &variables), text);
        }
    }

    #[test]
    fn refuses_a_program_that_cannot_or_must_not_be_run() {
        let folder = std::env::temp_dir().join(format!("weir-command-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, mode: u32| {
            let path = folder.join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let cases = [
            (file("plain", 0o644), "not an executable file"),
            (file("shared", 0o757), "other users may write"),
            ("/nowhere/at/all".to_owned(), "no such file"),
            ("no-such-program-here".to_owned(), "no such program in PATH"),
            (folder.to_str().unwrap().to_owned(), "not an executable file"),
            (String::new(), "the command is empty"),
        ];
        for (program, why) in cases {
            let error = resolved(&request(&[&program], &[])).unwrap_err();
            assert!(matches!(error, RuntimeError::Definition(_)) && error.to_string().contains(why), "{error}");
        }
        assert!(resolved(&request(&[], &[])).is_err());
        let own = file("own", 0o755);
        assert_eq!(resolved(&request(&[&own], &[])).unwrap().program, Path::new(&own));
        let mut relative = request(&["./own"], &[]);
        relative.run.directory = Some(folder.clone());
        assert!(resolved(&relative).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
