//! A sidecar beside a Weir with two replicas: memory after it has carried requests, and CPU while nothing happens.

use crate::proxies::cpu;
use crate::proxies::memory::{proportional_kib, resident_kib};
use crate::{Options, figure};
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weir::clock;

const READY: Duration = Duration::from_secs(30);
/// Requests before it is looked at.
const REQUESTS: usize = 200;
/// From the last request until it is looked at: what the start needed is given back after ten seconds.
const REST: Duration = Duration::from_secs(12);

/// Programs and their folder, which end together.
struct Scene {
    folder: PathBuf,
    programs: Vec<Child>,
}

impl Scene {
    fn start(&mut self, binary: &Path, name: &str, arguments: &[&str]) -> io::Result<u32> {
        let log = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let child =
            Command::new(binary).args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let pid = child.id();
        self.programs.push(child);
        Ok(pid)
    }

    fn logs(&self) -> String {
        let names = ["origin.log", "sidecar.log"];
        names.iter().filter_map(|name| fs::read_to_string(self.folder.join(name)).ok()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        while let Some(mut child) = self.programs.pop() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let deadline = clock::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) && clock::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A sidecar's memory and its CPU while idle.
pub(crate) fn sidecar(options: &Options) -> Result<bool, Box<dyn Error>> {
    println!("sidecar: beside a Weir with two replicas (`weir whoami`), {REQUESTS} requests through its port before");
    let folder = std::env::temp_dir().join(format!("weir-sidecar-{}-{}", std::process::id(), clock::now_ms()));
    fs::create_dir_all(&folder)?;
    // The binary on a file of its own shares no page with others of this machine that run the same one.
    let apart = folder.join("weir-apart");
    fs::copy(&options.common.weir, &apart)?;
    let beside = measured(&options.common.weir, &options.common.weir, folder.join("beside"), options.idle_seconds)?;
    let alone = measured(&options.common.weir, &apart, folder.join("alone"), 0.0)?;
    let _ = fs::remove_dir_all(&folder);
    println!(
        "  VmRSS {:.1} MiB; a file of its own, whose pages nobody shares: Pss {:.1} MiB",
        mib(beside.1),
        mib(alone.0)
    );
    Ok(figure("Pss", mib(beside.0), 8.0, "MiB") & figure("CPU while idle", beside.2, 0.5, "ms per second"))
}

/// Returns Pss and VmRSS of a sidecar in KiB, and its CPU in milliseconds a second while idle.
fn measured(
    origin: &Path,
    binary: &Path,
    folder: PathBuf,
    idle_seconds: f64,
) -> Result<(u64, u64, f64), Box<dyn Error>> {
    fs::create_dir_all(&folder)?;
    let mut scene = Scene { folder: folder.clone(), programs: Vec::new() };
    let (admin, dns, port) = (free()?, free()?, free()?);
    let text = format!(
        "[node]\nworkers = 1\nworkloads_on_exit = \"stop\"\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n
[dns]\nlisten = [\"{}\"]\n\n[[service]]\nname = \"web\"\nreplicas = 2\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n",
        folder.join("origin").display(),
        free()?,
    );
    let file = folder.join("weir.toml").display().to_string();
    fs::write(&file, text)?;
    scene.start(origin, "origin", &["run", "--config", &file])?;
    until(&scene, || TcpStream::connect(admin).is_ok())?;
    let state = folder.join("sidecar").display().to_string();
    let (from, dns, upstream) = (admin.to_string(), dns.to_string(), format!("web={port}"));
    let pid = scene.start(
        binary,
        "sidecar",
        &["sidecar", "--from", &from, "--state", &state, "--dns", &dns, "--upstream", &upstream],
    )?;
    until(&scene, || answers(port))?;
    for _ in 0..REQUESTS {
        if !answers(port) {
            return Err(format!("the port does not lead to the service:\n{}", scene.logs()).into());
        }
    }
    std::thread::park_timeout(REST);
    let (shared, resident) = (proportional_kib(&[pid]), resident_kib(&[pid]));
    let mut idle = 0.0;
    if idle_seconds > 0.0 {
        let (before, begun) = (cpu::run_ns(&[pid]), clock::now());
        std::thread::park_timeout(Duration::from_secs_f64(idle_seconds));
        let ran = cpu::run_ns(&[pid]) - before;
        idle = ran as f64 / 1e6 / (clock::now() - begun).as_secs_f64();
    }
    Ok((shared, resident, idle))
}

fn until(scene: &Scene, is_so: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let deadline = clock::now() + READY;
    while !is_so() {
        if clock::now() > deadline {
            return Err(format!("nothing is ready:\n{}", scene.logs()).into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()
}

fn answers(port: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&port, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
