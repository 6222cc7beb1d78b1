//! The door to the kernel's sets (`ipset(8)`, `linux/netfilter/ipset/ip_set.h`).
//!
//! A set has a type, which says what its elements are, and lives in a network namespace. Rules refer to it by name.

mod codec;
mod element;
mod error;
#[cfg(test)]
pub mod fake;
mod kernel;
mod parse;
mod replace;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use element::{Element, Member};
pub use error::{Refusal, RefusedChange, SetError};
pub use kernel::KernelSets;
pub use replace::replace;

use crate::model::Family;

/// What the elements of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    HashIp,
    HashIpPort,
    HashIpPortNet,
    HashNetNet,
    BitmapPort,
}

impl SetType {
    pub const ALL: [SetType; 5] = [
        SetType::HashIp,
        SetType::HashIpPort,
        SetType::HashIpPortNet,
        SetType::HashNetNet,
        SetType::BitmapPort,
    ];

    /// As the kernel and `ipset create` call it.
    pub fn name(self) -> &'static str {
        match self {
            SetType::HashIp => "hash:ip",
            SetType::HashIpPort => "hash:ip,port",
            SetType::HashIpPortNet => "hash:ip,port,net",
            SetType::HashNetNet => "hash:net,net",
            SetType::BitmapPort => "bitmap:port",
        }
    }

    fn of_name(name: &str) -> Option<SetType> {
        SetType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The first revision of the type with marks: Linux 3.18, ipset 6.22. Later ones add nothing of use here, and older
    /// `ipset` programs cannot list them.
    fn revision(self) -> u8 {
        match self {
            SetType::HashIp => 4,
            SetType::HashIpPort => 5,
            SetType::HashIpPortNet => 7,
            SetType::HashNetNet => 2,
            SetType::BitmapPort => 3,
        }
    }
}

impl fmt::Display for SetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the elements of a set carry a packet mark each, which `-j SET --map-set SET ... --map-mark` writes to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    With,
    Without,
}

/// A set without its elements. `Display` is what `ipset` takes: `create NAME hash:ip family inet maxelem 65536`.
#[derive(Clone, Debug)]
pub struct Definition {
    /// At most 31 bytes.
    pub name: Box<str>,
    pub kind: SetType,
    /// Means nothing for [`SetType::BitmapPort`], which serves both.
    pub family: Family,
    /// How many elements it may have. The kernel counts large sets in regions and may let a few more in. Means nothing for
    /// [`SetType::BitmapPort`], which has room for every port.
    pub max_elements: u32,
    pub marks: Marks,
}

/// Compares what has a meaning for the type.
impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        let hash = |set: &Self| (set.kind != SetType::BitmapPort).then_some((set.family, set.max_elements));
        (&self.name, self.kind, self.marks, hash(self)) == (&other.name, other.kind, other.marks, hash(other))
    }
}

impl Eq for Definition {}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create {} {}", self.name, self.kind)?;
        match (self.kind, self.family) {
            (SetType::BitmapPort, _) => f.write_str(" range 0-65535")?,
            (_, Family::V4) => write!(f, " family inet maxelem {}", self.max_elements)?,
            (_, Family::V6) => write!(f, " family inet6 maxelem {}", self.max_elements)?,
        }
        match self.marks {
            Marks::With => f.write_str(" skbinfo"),
            Marks::Without => Ok(()),
        }
    }
}

/// A change of the members of a set. `Display` is what `ipset` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// If the element is there, it gets the mark of the new one.
    Add {
        set: Arc<str>,
        member: Member,
    },
    Remove {
        set: Arc<str>,
        element: Element,
    },
}

impl Change {
    fn set(&self) -> &Arc<str> {
        match self {
            Change::Add { set, .. } | Change::Remove { set, .. } => set,
        }
    }

    fn element(&self) -> &Element {
        match self {
            Change::Add { member, .. } => &member.element,
            Change::Remove { element, .. } => element,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add { set, member } => write!(f, "add {set} {member}"),
            Change::Remove { set, element } => write!(f, "del {set} {element}"),
        }
    }
}

/// A set as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Box<str>,
    /// `None` for a type or for options that are not used here.
    pub definition: Option<Definition>,
    pub elements: u32,
    /// How many rules refer to it.
    pub references: u32,
}

/// The sets of one network namespace.
pub trait Sets {
    /// Every set whose name begins with `prefix`, without its members: `ipset list -terse`.
    fn headers(&mut self, prefix: &str) -> Result<Vec<Header>, SetError>;

    /// Hands the members of a set to `each`; none if there is no such set. `each` may see a member twice.
    fn members(&mut self, name: &str, each: &mut dyn FnMut(Member)) -> Result<(), SetError>;

    /// `ipset create -exist`: a set that is there must have been created in the same way.
    fn create(&mut self, definition: &Definition) -> Result<(), SetError>;

    /// `ipset destroy`. Done if there is no such set, refused while a rule refers to it.
    fn destroy(&mut self, name: &str) -> Result<(), SetError>;

    /// `ipset swap`: exchanges the contents of two sets of the same type and family, for the rules that refer to them too.
    fn swap(&mut self, one: &str, other: &str) -> Result<(), SetError>;

    /// `ipset flush`
    fn flush(&mut self, name: &str) -> Result<(), SetError>;

    /// Carries changes out in order. Adding what is there and removing what is not are done. Those that are refused are
    /// told in [`SetError::Refused`], the others are carried out.
    fn change(&mut self, changes: &[Change]) -> Result<(), SetError>;
}
