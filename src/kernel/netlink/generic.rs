//! Generic netlink (`linux/genetlink.h`): families of messages that have a name, and a number only at run time.

use super::{Attributes, Connection, NetlinkError, Request};

/// `struct genlmsghdr`: command, version, two reserved bytes.
pub const HEADER: usize = 4;

const CONTROLLER: u16 = 16;
const CONTROLLER_VERSION: u8 = 1;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// A family that this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    id: u16,
    version: u8,
}

impl Family {
    /// `genl ctrl get name NAME`, `None` where the kernel has no such family. The kernel tries to load the module that is
    /// registered for the name.
    pub fn find(connection: &mut Connection, name: &str, version: u8) -> Result<Option<Self>, NetlinkError> {
        let mut id = None;
        match connection.query(get_family(name), &mut |payload| id = id.or(parse_id(payload))) {
            Ok(()) => Ok(id.map(|id| Family { id, version })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn request(self, command: u8) -> Request {
        Request::new(self.id, 0, &[command, self.version, 0, 0])
    }

    /// One with a number of choice, for comparing messages.
    #[cfg(test)]
    pub fn numbered(id: u16, version: u8) -> Self {
        Family { id, version }
    }
}

fn get_family(name: &str) -> Request {
    let mut request = Request::new(CONTROLLER, 0, &[GET_FAMILY, CONTROLLER_VERSION, 0, 0]);
    request.text(FAMILY_NAME, name);
    request
}

fn parse_id(payload: &[u8]) -> Option<u16> {
    let value = Attributes::after(HEADER, payload).value(FAMILY_ID)?;
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use netlink_sys::constants::NETLINK_GENERIC;

    use super::*;

    #[test]
    fn finds_a_family_that_every_kernel_has_and_no_other() {
        let mut connection = Connection::open(NETLINK_GENERIC).unwrap();
        let controller = Family::find(&mut connection, "nlctrl", 2).unwrap();
        assert_eq!(controller, Some(Family::numbered(CONTROLLER, 2)));
        assert_eq!(Family::find(&mut connection, "no-such-family", 1).unwrap(), None);
    }
}
