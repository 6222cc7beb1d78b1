//! The parts of the kernel that this mode writes to, other than rules.

use std::fmt;

use crate::kernel::ipset::Sets;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::virtual_addresses::VirtualAddresses;

pub struct Doors {
    pub ipvs: Box<dyn Ipvs>,
    pub sets: Box<dyn Sets>,
    pub addresses: Box<dyn VirtualAddresses>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doors")
    }
}
