//! Programs that others wrote, as clients: each is run to its end and must print.

use std::net::SocketAddr;
use std::process::Command;

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Whether it ended with 0.
    pub(crate) good: bool,
    /// Standard output, then standard error.
    pub(crate) text: String,
}

impl Said {
    /// Asserts that each of the texts is there.
    #[track_caller]
    pub(crate) fn has(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.text.contains(text), "no {text:?} in:\n{}", self.text);
        }
        self
    }

    /// Asserts that none of the texts is there.
    #[track_caller]
    pub(crate) fn lacks(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(!self.text.contains(text), "{text:?} in:\n{}", self.text);
        }
        self
    }

    /// Returns the lines that are neither empty nor comments, sorted.
    pub(crate) fn lines(&self) -> Vec<&str> {
        let mut lines: Vec<&str> =
            self.text.lines().filter(|line| !line.is_empty() && !line.starts_with(';')).collect();
        lines.sort_unstable();
        lines
    }
}

/// Runs a program; panics when it is not installed (`tests/run` installs it).
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> Said {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; tests/run installs it");
    });
    let text = [output.stdout, output.stderr].concat();
    Said { good: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// Runs dig once: no second try, no file of the user, and what it is told is told to the server as it is.
#[track_caller]
pub(crate) fn dig(server: SocketAddr, words: &str) -> Said {
    client("dig", &["-r", &format!("@{}", server.ip()), "-p", &server.port().to_string(), "+tries=1", "+time=5"], words)
}

/// Runs kdig once.
#[track_caller]
pub(crate) fn kdig(server: SocketAddr, words: &str) -> Said {
    client("kdig", &[&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+retry=0", "+timeout=5"], words)
}

/// Runs drill.
#[track_caller]
pub(crate) fn drill(server: SocketAddr, words: &str) -> Said {
    client("drill", &["-p", &server.port().to_string(), &format!("@{}", server.ip())], words)
}

fn client(program: &str, first: &[&str], words: &str) -> Said {
    let arguments: Vec<&str> = first.iter().copied().chain(words.split_whitespace()).collect();
    run(program, &arguments)
}

/// Runs a Python program with dnspython; it gets the server's address and port as arguments, and must end with 0.
#[track_caller]
pub(crate) fn python(server: SocketAddr, program: &str) -> Said {
    let said = run("/usr/bin/python3", &["-c", program, &server.ip().to_string(), &server.port().to_string()]);
    assert!(said.good, "{}", said.text);
    said
}
