//! The flags of a virtual server.

use std::ops::BitOr;

/// `IP_VS_SVC_F_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(u32);

impl Flags {
    /// A client keeps its destination.
    pub const PERSISTENT: Flags = Flags(1);
    /// Set by the kernel while a virtual server is in its table. Says nothing, so it never comes out of [`Flags::from_bits`].
    pub const HASHED: Flags = Flags(2);
    /// Each UDP packet is scheduled by itself: `-o`.
    pub const ONE_PACKET: Flags = Flags(4);
    /// `sh-fallback`, `mh-fallback`: the next destination where the one of a hash takes no connections.
    pub const SCHED_1: Flags = Flags(8);
    /// `sh-port`, `mh-port`: hash the port too.
    pub const SCHED_2: Flags = Flags(16);
    /// No scheduler of the kernel's uses it.
    pub const SCHED_3: Flags = Flags(32);

    /// From the kernel's number.
    pub fn from_bits(bits: u32) -> Self {
        Flags(bits & !Flags::HASHED.0)
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_sets_itself_does_not_count() {
        let dumped = Flags::from_bits(0b11);
        assert_eq!(dumped, Flags::PERSISTENT);
        assert!((dumped | Flags::SCHED_1).contains(Flags::SCHED_1));
        assert!(!dumped.contains(Flags::PERSISTENT | Flags::ONE_PACKET));
    }
}
