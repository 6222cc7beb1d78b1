//! The door to network namespaces.
//!
//! A [`Namespace`] has no name anywhere: it lives as long as this process holds it or a process runs in it, so that
//! nothing is left behind even by `kill -9`. An [`OpenedNamespace`] is somebody else's.

mod opened;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Signal, getegid, geteuid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

pub use opened::OpenedNamespace;

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("cannot create a network namespace")]
    Create(#[source] io::Error),
    #[error("cannot enter a network namespace")]
    Enter(#[source] io::Error),
    #[error("cannot give a namespace a /run of its own")]
    PrivateRun(#[source] io::Error),
    #[error(
        "neither root nor allowed to become root in a user namespace. Run as root, or let users have user namespaces \
         (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
    )]
    NoUserNamespace(#[source] io::Error),
}

/// A network namespace, with a `/run` of its own for programs that keep locks there, as iptables does.
#[derive(Debug)]
pub struct Namespace {
    network: OwnedFd,
    mounts: OwnedFd,
}

impl Namespace {
    pub fn new() -> Result<Self, NamespaceError> {
        in_own_thread(|| {
            // SAFETY: the flags change nothing that other threads share: not CLONE_FILES.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
                .map_err(|errno| NamespaceError::Create(errno.into()))?;
            private_run().map_err(NamespaceError::PrivateRun)?;
            Ok(Namespace { network: own("net")?, mounts: own("mnt")? })
        })
    }

    /// Runs `work` in this namespace, in a thread of its own. Sockets that it opens belong to the namespace for good,
    /// files that it writes below `/run` are gone with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        in_own_thread(|| {
            self.enter().map_err(NamespaceError::Enter)?;
            Ok(work())
        })
    }

    fn enter(&self) -> io::Result<()> {
        // SAFETY: the flag changes nothing that other threads share: not CLONE_FILES. A thread that shares its working
        // directory cannot change its mount namespace.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        enter(&self.network, &self.mounts)
    }

    /// A program to be run in this namespace. It dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> io::Result<Command> {
        let (network, mounts) = (self.network.try_clone()?, self.mounts.try_clone()?);
        let mut command = Command::new(program);
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                enter(&network, &mounts)
            });
        }
        Ok(command)
    }
}

/// The network namespace, for moving interfaces into it.
impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }
}

/// Makes sure that this process may create network namespaces: as root it may, anybody else becomes root in a new user
/// namespace. To be called before any thread is started, as the kernel gives new user namespaces only to processes with one.
pub fn become_able() -> Result<(), NamespaceError> {
    if Namespace::new().is_ok() {
        return Ok(());
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare_user().and_then(|()| map_to_root(user, group)).map_err(NamespaceError::NoUserNamespace)?;
    Namespace::new().map(drop)
}

/// A thread that was joined is still there for a moment, as far as the kernel is concerned.
fn unshare_user() -> io::Result<()> {
    for _ in 0..100 {
        // SAFETY: the flag changes nothing that other threads share; there are none.
        match unsafe { unshare_unsafe(UnshareFlags::NEWUSER) } {
            Err(Errno::INVAL) => thread::sleep(Duration::from_millis(5)),
            result => return Ok(result?),
        }
    }
    Err(io::Error::other("this process has other threads"))
}

/// `user_namespaces(7)`: without `setgroups` denied, an ordinary user may not write `gid_map`.
fn map_to_root(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn enter(network: &OwnedFd, mounts: &OwnedFd) -> io::Result<()> {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

fn private_run() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
    Ok(())
}

/// A namespace of the calling thread.
fn own(kind: &str) -> Result<OwnedFd, NamespaceError> {
    let file = File::open(format!("/proc/thread-self/ns/{kind}")).map_err(NamespaceError::Create)?;
    Ok(file.into())
}

/// Namespaces belong to threads: a thread that has changed its own must not do anything else afterwards.
fn in_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|payload| panic::resume_unwind(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> String {
        fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
    }

    #[test]
    fn each_namespace_is_another_one_and_the_caller_stays_where_it_is() {
        let before = identity();
        let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let (in_a, in_b) = (a.run(identity).unwrap(), b.run(identity).unwrap());
        assert_ne!(in_a, in_b);
        assert_ne!(in_a, before);
        assert_eq!(in_a, a.run(identity).unwrap());
        assert_eq!(identity(), before);
    }

    #[test]
    fn programs_run_inside_with_a_run_directory_of_their_own() {
        let namespace = Namespace::new().unwrap();
        let script = "readlink /proc/self/ns/net; ls /run; echo seen > /run/witness";
        let shell = || namespace.command("sh").unwrap().args(["-c", script]).output().unwrap();
        let inside = namespace.run(identity).unwrap();
        assert_eq!(String::from_utf8_lossy(&shell().stdout), format!("{inside}\n"));
        assert_eq!(String::from_utf8_lossy(&shell().stdout), format!("{inside}\nwitness\n"));
        assert!(!fs::exists("/run/witness").unwrap());
        assert_eq!(namespace.run(|| fs::read_to_string("/run/witness").unwrap()).unwrap(), "seen\n");
    }

    #[test]
    fn a_panic_inside_comes_out() {
        let namespace = Namespace::new().unwrap();
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| namespace.run(|| panic!("inside"))));
        assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "inside");
    }
}
