//! Change stamps: what the kernel tells about its rules without handing them out.

use std::cell::Cell;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Error, Flavour, Table, nft};
use crate::model::Family;

/// Equal while nobody changed the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Number of entries, their size and where the hooks enter them, for each table that exists. A change that keeps
    /// all of these is not seen.
    Legacy(Vec<(Table, Layout)>),
    /// The generation of the network namespace's ruleset, one more for each transaction, without those of this thread.
    Nft(u32),
    /// For doors that count their own changes.
    #[cfg(test)]
    Fake(u64),
}

impl Stamp {
    /// Whether writing through a door leaves its stamps as they are, so that they tell of others' changes alone.
    pub fn is_others_alone(&self) -> bool {
        matches!(self, Stamp::Nft(_))
    }
}

thread_local! {
    /// Transactions of this thread. Both families count in one generation, and a write of the one is no drift of the
    /// other. Of the thread, as its network namespace is.
    static OWN_COMMITS: Cell<u32> = const { Cell::new(0) };
}

pub(super) fn note_own_commits(commits: u32) {
    OWN_COMMITS.set(OWN_COMMITS.get().wrapping_add(commits));
}

/// What `IPT_SO_GET_INFO` tells: `struct ipt_getinfo` without the name. `struct ip6t_getinfo` is the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

#[repr(C)]
struct GetInfo {
    name: [u8; 32],
    layout: Layout,
}

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`: both `*T_BASE_CTL`.
const SO_GET_INFO: libc::c_int = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct StampReader {
    family: Family,
    flavour: Flavour,
}

impl StampReader {
    pub(super) fn new(family: Family, flavour: Flavour) -> Self {
        StampReader { family, flavour }
    }

    pub(super) fn read(&self) -> Result<Stamp, Error> {
        match self.flavour {
            Flavour::Legacy => self
                .layouts()
                .map(Stamp::Legacy)
                .map_err(|source| Error::Stamp { what: "IPT_SO_GET_INFO", source }),
            Flavour::Nft => nft::generation()
                .map(|generation| Stamp::Nft(generation.wrapping_sub(OWN_COMMITS.get())))
                .map_err(|source| Error::Stamp { what: "NFT_MSG_GETGEN", source }),
        }
    }

    /// Whether a table can be looked at without creating it. nft has no such side effect.
    pub(super) fn exists(&self, table: Table) -> bool {
        let name = table.to_string();
        self.flavour == Flavour::Nft || self.table_names().lines().any(|line| line == name)
    }

    /// Of the thread: namespaces are per thread, and /proc/net shows that of the process's first one.
    fn table_names(&self) -> String {
        let path = match self.family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        // Absent where the kernel or the module is not there: no tables.
        fs::read_to_string(path).unwrap_or_default()
    }

    fn layouts(&self) -> io::Result<Vec<(Table, Layout)>> {
        let (family, level) = match self.family {
            Family::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
            Family::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
        };
        // Any socket of the family will do; a raw one would need CAP_NET_RAW beside CAP_NET_ADMIN.
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // SO_GET_INFO on a table that does not exist would create it.
        Table::ALL
            .into_iter()
            .filter(|&table| self.exists(table))
            .map(|table| Ok((table, layout(&socket, level, table)?)))
            .collect()
    }
}

fn layout(socket: &impl AsRawFd, level: libc::c_int, table: Table) -> io::Result<Layout> {
    let mut info = GetInfo { name: [0; 32], layout: Layout::default() };
    let name = table.to_string();
    info.name[..name.len()].copy_from_slice(name.as_bytes());
    let mut length = mem::size_of::<GetInfo>() as libc::socklen_t;
    // SAFETY: `info` is a live, writable C struct of `length` bytes without padding, any bit pattern of which is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            SO_GET_INFO,
            (&raw mut info).cast::<libc::c_void>(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info.layout) } else { Err(io::Error::last_os_error()) }
}
