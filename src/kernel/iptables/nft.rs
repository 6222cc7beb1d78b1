//! What nf_tables tells about itself over netlink, without handing out rules.

use std::hash::BuildHasher;
use std::io;

use foldhash::quality::FixedState;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::model::Family;

const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_USE: u16 = 6;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// `nft list ruleset` asks this first: one more for each transaction in the network namespace.
pub(super) fn generation() -> io::Result<u32> {
    let socket = ask(NFT_MSG_GETGEN, libc::AF_UNSPEC, libc::NLM_F_REQUEST)?;
    let (answer, _) = socket.recv_from_full()?;
    parse_generation(&answer)
}

/// A fingerprint of the chains of a family that count: their names, and how many rules are in them and lead to them. Like
/// `nft list chains`. `None` if they changed while they were read.
pub(super) fn chains(family: Family, counts: &dyn Fn(&str) -> bool) -> io::Result<Option<u64>> {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let socket = ask(NFT_MSG_GETCHAIN, family, libc::NLM_F_REQUEST | libc::NLM_F_DUMP)?;
    let mut fingerprint = 0u64;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for message in messages(&answer) {
            let message = message?;
            if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                return Ok(None);
            }
            match message.kind {
                kind if kind == libc::NLMSG_DONE as u16 => return Ok(Some(fingerprint)),
                kind if kind & 0xff == NFT_MSG_NEWCHAIN => {
                    fingerprint = fingerprint.wrapping_add(chain(message.body, counts));
                }
                _ => {}
            }
        }
    }
}

/// Summed up, as the order of chains is of no account.
fn chain(attributes: &[u8], counts: &dyn Fn(&str) -> bool) -> u64 {
    let find =
        |wanted| self::attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let name = find(NFTA_CHAIN_NAME).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.unwrap_or_default().trim_end_matches('\0');
    if !counts(name) {
        return 0;
    }
    FixedState::default().hash_one((name, find(NFTA_CHAIN_TABLE), find(NFTA_CHAIN_USE)))
}

fn ask(kind: u16, family: i32, flags: i32) -> io::Result<Socket> {
    let mut request = Vec::with_capacity(HEADERS);
    request.extend((HEADERS as u32).to_ne_bytes());
    request.extend((((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | kind).to_ne_bytes());
    request.extend((flags as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family as u8, 0, 0, 0]);
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    Ok(socket)
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    /// The attributes.
    body: &'a [u8],
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message")
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// An error message is an error.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = parse_message(bytes);
        // After an error nothing more can be found.
        let length = message.as_ref().map_or(bytes.len(), |(_, length)| *length);
        bytes = bytes.get(length..).unwrap_or_default();
        Some(message.map(|(message, _)| message))
    })
}

fn parse_message(bytes: &[u8]) -> io::Result<(Message<'_>, usize)> {
    let length = word(bytes, 0).ok_or_else(invalid)? as usize;
    let kind = half(bytes, 4).ok_or_else(invalid)?;
    let flags = half(bytes, 6).ok_or_else(invalid)?;
    if kind == libc::NLMSG_ERROR as u16 {
        let errno = word(bytes, HEADER).ok_or_else(invalid)? as i32;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    let message = bytes.get(HEADER..length).ok_or_else(invalid)?;
    let body = message.get(HEADERS - HEADER..).unwrap_or_default();
    Ok((Message { kind, flags, body }, length.next_multiple_of(4)))
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = half(bytes, 2)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn parse_generation(answer: &[u8]) -> io::Result<u32> {
    let message = messages(answer).next().ok_or_else(invalid)??;
    if message.kind & 0xff != NFT_MSG_NEWGEN {
        return Err(invalid());
    }
    attributes(message.body)
        .find(|(kind, _)| *kind == NFTA_GEN_ID)
        .and_then(|(_, value)| value.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(invalid)
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
