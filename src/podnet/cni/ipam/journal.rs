//! The journal's lines.
//!
//! ```text
//! ferrovia-ipam 1 7d0ea3ba-4f1c-4c5c-9a1e-6f3d0a5b8c11
//! 3f2c…9a ---------- 5021 c1f0… eth0 10.244.1.5,fd00:244:1::5
//! 91bb…04 0000005400 5017 77ab… eth0 10.244.1.4,fd00:244:1::4
//! ```
//!
//! The first line names the boot. Each other is one lease: a checksum of what comes after the next field, when it was
//! released, when it was taken, by whom, what. The time of release has a fixed width, so that it is written over the dashes
//! without needing room on the disk.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::IpAddr;

use super::super::attachment::{AttachmentKey, fnv};
use super::super::parameters::{is_container_id, is_interface_name};

const HEADER: &str = "ferrovia-ipam 1 ";
const ANY_HEADER: &str = "ferrovia-ipam ";
const CHECKSUM_WIDTH: usize = 16;
const RELEASED_WIDTH: usize = 10;
const NOT_RELEASED: &str = "----------";
/// So many lines more than needed are cheaper than writing all again.
const WASTE: usize = 64;

/// Who has which addresses, since when in seconds after the boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub key: AttachmentKey,
    pub since: u64,
    pub addresses: Vec<IpAddr>,
}

/// When a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released(u64);

impl Released {
    /// Before anything that anybody remembers.
    pub const LONG_AGO: Released = Released(0);

    pub fn at(now: u64) -> Self {
        Released(now.max(1))
    }

    /// Whether there may still be packets on the way, or neighbours that remember.
    pub fn is_within(self, grace: u64, now: u64) -> bool {
        self != Released::LONG_AGO && now.saturating_sub(self.0) < grace
    }

    pub fn field(self) -> String {
        format!("{:0RELEASED_WIDTH$}", self.0)
    }

    /// A field of dashes is no release. One that is neither is a release that was cut short: its holder was gone by then.
    fn parse(field: &str) -> Option<Self> {
        if field == NOT_RELEASED {
            return None;
        }
        Some(field.parse().map_or(Released::LONG_AGO, Released))
    }
}

/// Of equal times, the earlier line was released first.
pub type LastReleases = HashMap<IpAddr, Option<(Released, usize)>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where in the file the time of release is written.
    pub at: u64,
    pub released: Option<Released>,
    pub hold: Hold,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Empty if there is no journal yet, or none that says.
    pub boot: String,
    pub entries: Vec<Entry>,
    /// Where the next line goes: after the last whole one.
    pub end: u64,
    /// Lines whose checksum is wrong.
    pub damaged: usize,
}

impl Journal {
    /// A journal whose first line is of another version is returned as an error, anything else is read as far as it goes.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let mut journal = Journal::default();
        let mut lines = content.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().and_then(whole_line).unwrap_or_default();
        let Some(boot) = header.strip_prefix(HEADER) else {
            return if header.starts_with(ANY_HEADER) { Err(header.to_owned()) } else { Ok(journal) };
        };
        boot.clone_into(&mut journal.boot);
        journal.end = header.len() as u64 + 1;
        for line in lines {
            if line.last() != Some(&b'\n') {
                break;
            }
            journal.take(line);
        }
        Ok(journal)
    }

    fn take(&mut self, line: &[u8]) {
        match whole_line(line).and_then(parse_line) {
            Some((released, hold)) => {
                let at = self.end + CHECKSUM_WIDTH as u64 + 1;
                self.entries.push(Entry { at, released, hold });
            }
            None => self.damaged += 1,
        }
        self.end += line.len() as u64;
    }

    /// A line of this length was appended.
    pub fn push(&mut self, hold: Hold, length: usize) {
        self.entries.push(Entry { at: self.end + CHECKSUM_WIDTH as u64 + 1, released: None, hold });
        self.end += length as u64;
    }

    /// When each address was last released, and by which line. Those that are held have none.
    pub fn last_releases(&self) -> LastReleases {
        let mut last = HashMap::new();
        for (place, entry) in self.entries.iter().enumerate() {
            let released = entry.released.map(|released| (released, place));
            for address in &entry.hold.addresses {
                let known = last.entry(*address).or_insert(released);
                *known = known.zip(released).map(|(one, other)| one.max(other));
            }
        }
        last
    }

    /// Whether most lines tell nothing that others do not.
    pub fn is_wasteful(&self) -> bool {
        self.entries.len() + self.damaged > WASTE
            && self.compact_entries().len() * 2 < self.entries.len() + self.damaged
    }

    /// The same without what is known from later lines.
    pub fn compacted(&self) -> String {
        render(&self.boot, self.compact_entries().into_iter().map(|entry| (entry.released, &entry.hold)))
    }

    /// The same after another boot: nobody holds anything, and what was released first still was.
    pub fn after_boot(&self, boot: &str) -> String {
        let mut entries = self.compact_entries();
        entries.sort_by_key(|entry| entry.released.map_or((1, Released::LONG_AGO), |released| (0, released)));
        render(boot, entries.into_iter().map(|entry| (Some(Released::LONG_AGO), &entry.hold)))
    }

    /// Those that are held, and the last lease of each other address.
    fn compact_entries(&self) -> Vec<&Entry> {
        let mut told = HashSet::new();
        let mut kept: Vec<&Entry> = Vec::new();
        for entry in self.entries.iter().rev() {
            let addresses = &entry.hold.addresses;
            let is_news = addresses.iter().filter(|address| told.insert(**address)).count() > 0;
            if entry.released.is_none() || is_news {
                kept.push(entry);
            }
        }
        kept.reverse();
        kept
    }
}

fn render<'a>(boot: &str, leases: impl Iterator<Item = (Option<Released>, &'a Hold)>) -> String {
    let mut content = format!("{HEADER}{boot}\n");
    leases.for_each(|(released, hold)| content.push_str(&line(released, hold)));
    content
}

/// A line of the file, with its end.
pub fn line(released: Option<Released>, hold: &Hold) -> String {
    let addresses: Vec<String> = hold.addresses.iter().map(IpAddr::to_string).collect();
    let Hold { key: AttachmentKey { container_id, interface }, since, .. } = hold;
    let body = format!("{since} {container_id} {interface} {}", addresses.join(","));
    let released = released.map_or_else(|| NOT_RELEASED.to_owned(), Released::field);
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{:0CHECKSUM_WIDTH$x} {released} {body}", fnv(body.as_bytes()));
    line
}

fn whole_line(line: &[u8]) -> Option<&str> {
    str::from_utf8(line).ok()?.strip_suffix('\n')
}

fn parse_line(line: &str) -> Option<(Option<Released>, Hold)> {
    let (checksum, rest) = line.split_once(' ')?;
    let (released, body) = rest.split_at_checked(RELEASED_WIDTH)?;
    let body = body.strip_prefix(' ')?;
    if checksum.len() != CHECKSUM_WIDTH || u64::from_str_radix(checksum, 16).ok()? != fnv(body.as_bytes()) {
        return None;
    }
    let mut words = body.split(' ');
    let since = words.next()?.parse().ok()?;
    let container_id = words.next().filter(|word| is_container_id(word))?.to_owned();
    let interface = words.next().filter(|word| is_interface_name(word))?.to_owned();
    let addresses = words.next()?.split(',').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let hold = Hold { key: AttachmentKey { container_id, interface }, since, addresses };
    Some((Released::parse(released), hold))
}
