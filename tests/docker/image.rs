//! What images are made of: the static Weir and a small program, each built once.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `/tool exit N` says a line on both outputs and ends with N; `/tool hog` takes memory until it is stopped; `/tool deaf`
/// listens nowhere and minds no SIGTERM; `/tool tell N` says at SIGTERM N lines and ends.
const PROGRAM: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile sig_atomic_t told;
static void tell(int signal) { told = 1; }
int main(int count, char **words) {
    setvbuf(stdout, 0, _IOLBF, 0);
    if (count > 2 && !strcmp(words[1], "exit")) {
        printf("going with %s\n", words[2]);
        fprintf(stderr, "something is wrong\n");
        return atoi(words[2]);
    }
    if (count > 1 && !strcmp(words[1], "hog")) {
        for (;;) { char *more = malloc(1 << 20); if (more) memset(more, 1, 1 << 20); }
    }
    if (count > 2 && !strcmp(words[1], "tell")) {
        signal(SIGTERM, tell);
        printf("waiting\n");
        while (!told) usleep(1000);
        for (int line = 1; line <= atoi(words[2]); line++) printf("line %d\n", line);
        return 0;
    }
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
}
"#;

/// Returns the static Weir; builds it unless `WEIR_STATIC` names it. The explicit target keeps the flag away from build
/// scripts and procedural macros.
pub(crate) fn weir() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("WEIR_STATIC") {
            return PathBuf::from(path);
        }
        let version = Command::new("rustc").arg("-vV").output().expect("rustc is installed").stdout;
        let version = String::from_utf8(version).unwrap();
        let target = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let status = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--bin", "weir", "--target", target])
            .current_dir(root)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_DEV_STRIP", "true")
            .status()
            .unwrap();
        assert!(status.success(), "the static weir does not build");
        let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        folder.join(target).join("debug/weir")
    })
}

/// Returns the small program.
pub(crate) fn tool() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tool-{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O1", "-x", "c", "-", "-o"]).arg(&path).stdin(Stdio::piped());
        let mut cc = cc.spawn().expect("a C compiler is installed");
        cc.stdin.take().unwrap().write_all(PROGRAM.as_bytes()).unwrap();
        assert!(cc.wait().unwrap().success());
        path
    })
}

/// Makes a folder that holds Weir and programs of this machine, each where it is on the path, with the libraries that they need.
pub(crate) fn with_programs(folder: &Path, programs: &[&str]) -> PathBuf {
    let root = folder.join("programs");
    put(&root, weir(), "usr/local/bin/weir");
    for program in programs {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|place| format!("{place}/{program}"));
        let path = found.iter().find(|path| Path::new(path).exists());
        let path = path.unwrap_or_else(|| panic!("{program} is missing; tests/run installs it"));
        put(&root, Path::new(path), path);
    }
    root
}

/// Copies a program to a place below a root, and the libraries that it needs, if any, to where they are here.
fn put(root: &Path, program: &Path, to: &str) {
    let copy = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    copy(program, to);
    // `name => /path (address)`, or the loader's `/path (address)`.
    let listed = String::from_utf8(Command::new("ldd").arg(program).output().unwrap().stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
        copy(Path::new(library), library);
    }
}

/// Makes a folder that holds both, as `/weir` and `/tool`.
pub(crate) fn root(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    put(&root, weir(), "weir");
    put(&root, tool(), "tool");
    root
}
