//! A guest kernel over the host's files, for what the host's kernel lacks: Debian's user-mode-linux, an ordinary program.
//!
//! It reads the host's files and writes to none of them. What crosses is a directory, and its console.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

const KERNEL: &str = "/usr/bin/linux.uml";
const INIT: &str = include_str!("guest/init.sh");
/// What a case may need, and what the kernel does not load by itself when it is asked from within a namespace. Not sctp:
/// the lab speaks SCTP itself, and relies on the kernel's saying that it does not.
const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_sh",
    "ip_vs_dh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_mh",
    "ip_vs_fo",
    "ip_vs_ovf",
    "ip_set",
    "ip_set_bitmap_port",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_ipportip",
    "ip_set_hash_ipportnet",
    "ip_set_hash_net",
    "ip_set_hash_netnet",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_nat",
    "ipt_REJECT",
    "ip6t_REJECT",
    "xt_addrtype",
    "xt_comment",
    "xt_connmark",
    "xt_conntrack",
    "xt_ipvs",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_recent",
    "xt_set",
    "xt_socket",
    "xt_statistic",
    "xt_tcpudp",
    "xt_TPROXY",
    "nf_conntrack_netlink",
    "bridge",
    "dummy",
    "veth",
];
const MIB: u64 = 1 << 20;
/// Of the guest, which takes from the host only what it uses.
const MEMORY: u64 = 2048 * MIB;

/// A guest kernel that runs one command. Dropping it ends it, with everything that runs in it.
pub struct Guest {
    crossing: TempDir,
    child: Child,
    console: Receiver<String>,
    deadline: Instant,
}

impl Guest {
    /// Boots, for a command of absolute path that may take this long.
    pub fn boot(command: &[String], limit: Duration) -> Self {
        assert!(Path::new(KERNEL).exists(), "this test needs the package user-mode-linux: no {KERNEL}");
        let crossing = TempDir::new().unwrap();
        prepare(crossing.path(), command);
        let (output, input) = io::pipe().unwrap();
        let mut kernel = kernel(crossing.path());
        kernel.stdin(Stdio::null()).stdout(input.try_clone().unwrap()).stderr(input);
        let child = kernel.spawn().unwrap_or_else(|error| panic!("this test needs unshare: {error}"));
        Guest { crossing, child, console: lines_of(output), deadline: Instant::now() + limit }
    }

    /// Waits for the end, shows every line of the console as it comes, and returns the exit status of the command.
    pub fn wait(mut self, mut show: impl FnMut(&str)) -> i32 {
        loop {
            match self.console.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => show(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the guest kernel did not come to its end in time"),
            }
        }
        let _ = self.child.wait();
        let crossed = |file: &str| fs::read_to_string(self.crossing.path().join(file)).ok();
        if let Some(failure) = crossed("failure") {
            panic!("{}", failure.trim_end());
        }
        let status = crossed("status").and_then(|status| status.trim_end().parse().ok());
        status.expect("the guest kernel ended early. It needs root and ptrace, and its last words are above")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes what the guest reads.
fn prepare(crossing: &Path, command: &[String]) {
    let init = crossing.join("init");
    fs::write(&init, INIT.replace("@MODULES@", &MODULES.join("\n\t"))).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(crossing.join("arguments"), command.join("\n") + "\n").unwrap();
}

/// User-mode Linux is many processes of the host, also where it is killed: a PID namespace ends them all together.
fn kernel(crossing: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", KERNEL]);
    command.args(["rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null", "con0=fd:0,fd:1"]);
    command.arg(format!("mem={}M", MEMORY / MIB));
    // Where its control socket is: by default below $HOME, under a name that other guests share.
    command.arg(format!("uml_dir={}/", crossing.display())).arg("umid=guest");
    command.arg(format!("init={}/init", crossing.display()));
    command.arg(format!("crossing={}", crossing.display()));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TMPDIR", memory_directory());
    // Ctrl-C is for who runs the tests.
    command.process_group(0);
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command
}

/// Where the guest's memory is a file: it is executed from there, and a file system that is full kills the guest.
fn memory_directory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    let will_do = statvfs(&shared).is_ok_and(|shared| {
        !shared.f_flag.contains(StatVfsMountFlags::NOEXEC) && shared.f_bavail * shared.f_frsize >= MEMORY
    });
    if will_do { shared } else { std::env::temp_dir() }
}

fn lines_of(output: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
