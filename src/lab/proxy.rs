//! A proxy that runs in "here", fed from a directory of manifests or from what its command line names.
//!
//! The directory is in the namespace's own `/run`, so that it is gone with the lab.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{HERE, Lab, LabError};
use crate::kernel::netns::Namespace;
use crate::model::Family;

/// Every pod of the lab, in both families.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/32";

/// What every proxy in the lab has to be told.
pub const LAB_FLAGS: [&str; 8] = [
    "--hostname-override",
    HERE,
    "--cluster-cidr",
    CLUSTER_CIDR,
    "--healthz-bind-address",
    "0.0.0.0:10256",
    "--metrics-bind-address",
    "127.0.0.1:10249",
];

pub(super) const MANIFESTS: &str = "/run/manifests";
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 18, 0, 2)), 10256);
/// How much of its log is kept for the reason of a failure.
const LOG_LINES: usize = 200;

/// A running proxy. Dropping it kills it, which leaves its rules where they are.
pub struct Proxy {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Proxy {
    /// Starts `program proxy` with the flags that the lab demands, a directory of manifests as its source, then `flags`.
    pub fn start<S: AsRef<OsStr>>(
        lab: &Lab,
        program: &Path,
        flags: impl IntoIterator<Item = S>,
    ) -> Result<Self, LabError> {
        let mut command = Self::command(lab, program)?;
        command.args(flags);
        Self::spawn(command)
    }

    /// What [`start`](Self::start) starts, without further flags.
    pub fn command(lab: &Lab, program: &Path) -> Result<Command, LabError> {
        lab.here().run(|| fs::create_dir_all(MANIFESTS))?.map_err(LabError::Manifests)?;
        let mut command = lab.here().command(program).map_err(LabError::Proxy)?;
        command.args(["proxy", "--manifests", MANIFESTS]).args(LAB_FLAGS);
        Ok(command)
    }

    /// Starts a command of [`Lab::here`] that is a whole command line of a proxy, whatever its source.
    pub fn spawn(mut command: Command) -> Result<Self, LabError> {
        // Ctrl-C is for who runs the lab.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(LabError::Proxy)?;
        let log = Arc::default();
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::spawn(move || keep_last_lines(stderr, &log));
        }
        Ok(Proxy { child, log })
    }

    /// Waits until its first rules are in the kernel. `/healthz` says 200 before that, as kube-proxy's does while nothing
    /// is late, but it lists a family only after that family's first sync.
    pub fn wait_until_healthy(&mut self, lab: &Lab, patience: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + patience;
        loop {
            if self.child.try_wait().map_err(LabError::Proxy)?.is_some() {
                return Err(LabError::ProxyEnded { log: self.log() });
            }
            let answer = healthz(lab);
            if matches!(&answer, Ok((200, body)) if Family::ALL.iter().all(|family| body.contains(&family.to_string())))
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let answer = format!("{answer:?}");
                return Err(LabError::NotHealthy { patience, answer, log: self.log() });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process, as `/proc` names it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines that it wrote to its standard error.
    pub fn log(&self) -> String {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keep_last_lines(stderr: ChildStderr, log: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// Writes or replaces a file of the proxy's directory of manifests, as tools do that know what they do: by rename.
pub fn write_manifest(lab: &Lab, name: &str, text: &str) -> Result<(), LabError> {
    write_manifest_on(lab.here(), name, text)
}

/// The same of any host.
pub fn write_manifest_on(host: &Namespace, name: &str, text: &str) -> Result<(), LabError> {
    let write = || {
        fs::create_dir_all(MANIFESTS)?;
        let draft = format!("{MANIFESTS}/.{name}.draft");
        fs::write(&draft, text)?;
        fs::rename(draft, format!("{MANIFESTS}/{name}"))
    };
    host.run(write)?.map_err(LabError::Manifests)
}

pub fn remove_manifest(lab: &Lab, name: &str) -> Result<(), LabError> {
    lab.here().run(|| fs::remove_file(format!("{MANIFESTS}/{name}")))?.map_err(LabError::Manifests)
}

/// Status and body of `/healthz`.
pub fn healthz(lab: &Lab) -> Result<(u16, String), LabError> {
    get(lab, HEALTH, "/healthz")
}

/// Status and body of what a server in "here" answers to a GET request from there.
pub fn get(lab: &Lab, server: SocketAddr, path: &str) -> Result<(u16, String), LabError> {
    get_from(lab.here(), server, path)
}

/// The same of any host.
pub fn get_from(host: &Namespace, server: SocketAddr, path: &str) -> Result<(u16, String), LabError> {
    let patience = Duration::from_secs(2);
    let request = || -> io::Result<(u16, String)> {
        let mut stream = std::net::TcpStream::connect_timeout(&server, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        parse_http(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer))
    };
    host.run(request)?.map_err(|source| LabError::Get { server, source })
}

/// Status and body.
fn parse_http(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
