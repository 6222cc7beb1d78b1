//! Change stamps: what the kernel tells about its rules without handing them out.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::{AddressFamily, SocketType, socket};

use super::{Error, Flavour, Table};
use crate::model::Family;

/// Equal while nobody changed the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Number of entries, their size and where the hooks enter them, for each table that exists. A change that keeps
    /// all of these is not seen.
    Legacy(Vec<(Table, Layout)>),
    /// The generation of the whole ruleset of the network namespace: one more for each transaction by anybody.
    Nft(u32),
    /// For doors that count their own changes.
    #[cfg(test)]
    Fake(u64),
}

impl Stamp {
    pub(super) fn after_commits(&self, tables: u32) -> Option<Stamp> {
        match self {
            Stamp::Nft(generation) => Some(Stamp::Nft(generation.wrapping_add(tables))),
            _ => None,
        }
    }
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
            Flavour::Nft => {
                generation().map(Stamp::Nft).map_err(|source| Error::Stamp { what: "NFT_MSG_GETGEN", source })
            }
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
        let socket = socket(family, SocketType::DGRAM, None)?;
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

/// `nft list ruleset` asks the same question first: NFT_MSG_GETGEN, answered by NFT_MSG_NEWGEN with NFTA_GEN_ID.
fn generation() -> io::Result<u32> {
    const NFT_MSG_GETGEN: u16 = 16;
    let mut request = Vec::with_capacity(20);
    request.extend(20u32.to_ne_bytes());
    request.extend((((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | NFT_MSG_GETGEN).to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNSPEC as u8, 0, 0, 0]);
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    parse_generation(&answer)
}

fn parse_generation(answer: &[u8]) -> io::Result<u32> {
    const NFT_MSG_NEWGEN: u16 = 15;
    const NFTA_GEN_ID: u16 = 1;
    const HEADERS: usize = 20;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "malformed answer");
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let half = |at: usize| answer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    let kind = half(4).map(u16::from_ne_bytes).ok_or_else(invalid)?;
    if kind == libc::NLMSG_ERROR as u16 {
        let errno = word(16).map(i32::from_ne_bytes).ok_or_else(invalid)?;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    if kind & 0xff != NFT_MSG_NEWGEN {
        return Err(invalid());
    }
    let mut at = HEADERS;
    while let (Some(length), Some(attribute)) = (half(at), half(at + 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        if u16::from_ne_bytes(attribute) == NFTA_GEN_ID {
            return word(at + 4).map(u32::from_be_bytes).ok_or_else(invalid);
        }
        if length < 4 {
            break;
        }
        at += length.next_multiple_of(4);
    }
    Err(invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_read_from_the_answer() {
        // As `strace -e trace=recvmsg -xx nft list ruleset` shows it: generation, PID and name of the last writer.
        let mut answer = vec![44, 0, 0, 0, 15, 10, 0, 0, 0, 0, 0, 0, 0xbc, 0x2d, 0, 0, 0, 0, 0, 1];
        answer.extend([8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0x2d, 0xbc]);
        answer.extend([8, 0, 3, 0, 0x6e, 0x66, 0x74, 0]);
        assert_eq!(parse_generation(&answer).unwrap(), 1);
    }

    #[test]
    fn an_error_carries_its_number() {
        let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        answer.extend((-1i32).to_ne_bytes());
        answer.extend([0; 16]);
        assert_eq!(parse_generation(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(parse_generation(&answer[..7]).is_err());
    }
}
