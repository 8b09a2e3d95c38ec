//! Network namespaces for tests: needs root and `ip`; `tests/run` installs it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

/// A network namespace with nothing but loopback and addresses on it.
#[derive(Clone)]
pub struct Space(Arc<File>);

impl Space {
    /// Makes one with these addresses on its loopback device.
    pub fn new(addresses: &[&str]) -> Self {
        let mut script = "ip link set lo up".to_owned();
        for address in addresses {
            script += &format!(" && ip addr add {address} dev lo");
        }
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &format!("{script} && echo up && exec sleep 600")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed and this runs as root");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up", "needs root and `ip` (Debian: iproute2)");
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        Self(Arc::new(file))
    }

    /// Does something inside, on a thread of its own; what it starts is inside too.
    pub fn inside<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let file = self.0.clone();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            body()
        });
        thread.join().unwrap()
    }

    /// Runs a program inside to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        self.inside(move || {
            command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"))
        })
    }

    /// Runs a program inside; returns what it prints.
    pub fn said(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts a program inside, whose words go to the log.
    pub fn start(&self, program: &str, arguments: &[&str], log: File) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(self.inside(move || command.spawn().unwrap()))
    }

    /// Runs a script inside with another namespace as its argument `$0`.
    pub fn link(&self, other: &Self, script: &str) {
        let place = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        let made = self.run("sh", &["-c", script, &place]);
        assert!(made.status.success(), "{made:?}");
    }
}

/// A program; ended when dropped.
pub struct Running(pub Child);

impl Running {
    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            // Killed, Weir's keeper would leave the process that serves behind.
            self.signal("TERM");
            let _ = self.0.wait();
        }
    }
}
