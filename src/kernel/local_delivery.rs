//! The door to what brings packets to this node that are for somebody else's address: a routing table in which every
//! address is the node's own, asked for packets with a mark (rtnetlink).
//!
//! ```text
//! ip rule add fwmark 0x4000/0x4000 lookup 102 priority 102 protocol 102
//! ip route add local default dev lo table 102 proto 102
//! ```

use std::fmt;

use netlink_sys::constants::NETLINK_ROUTE;

use super::netlink::address::family_number;
use super::netlink::{Attributes, Connection, NetlinkError, Request};
use super::virtual_addresses::ROUTE_PROTOCOL;
use crate::model::Family;

/// The routing table, and the place of the rule that leads to it: before `main`, after `local`.
const TABLE: u8 = 102;
const PRIORITY: u32 = 102;
/// The interface `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
/// `struct fib_rule_hdr` and `struct rtmsg`.
const FIXED: usize = 12;
/// `FRA_*` and `FR_ACT_TO_TBL` of `linux/fib_rules.h`.
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const RULE_PROTOCOL: u16 = 21;
const TO_TABLE: u8 = 1;

#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted} the local delivery of marked {family} packets")]
pub struct DeliveryError {
    attempted: &'static str,
    family: Family,
    source: NetlinkError,
}

/// Whether packets with a mark are delivered to this node.
pub trait LocalDelivery: fmt::Debug + Send {
    /// Whether the rule and the route are there.
    fn is_set_up(&mut self) -> Result<bool, DeliveryError>;

    /// Adds what is missing. Done if nothing is.
    fn set_up(&mut self) -> Result<(), DeliveryError>;

    /// Removes both, whatever the mark. Done if there is none.
    fn remove(&mut self) -> Result<(), DeliveryError>;
}

/// The kernel's, of the network namespace of the thread that opened it.
pub struct KernelDelivery {
    connection: Connection,
    family: Family,
    mark: u32,
}

impl fmt::Debug for KernelDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelDelivery").field("family", &self.family).finish_non_exhaustive()
    }
}

impl KernelDelivery {
    pub fn open(family: Family, mark: u32) -> Result<Self, DeliveryError> {
        let connection = Connection::open(NETLINK_ROUTE).map_err(|source| DeliveryError {
            attempted: "reach",
            family,
            source,
        })?;
        Ok(KernelDelivery { connection, family, mark })
    }

    fn error(&self, attempted: &'static str) -> impl Fn(NetlinkError) -> DeliveryError + use<> {
        let family = self.family;
        move |source| DeliveryError { attempted, family, source }
    }

    /// Marks of the rules of ours.
    fn rules(&mut self) -> Result<Vec<Mark>, NetlinkError> {
        let list = Request::new(libc::RTM_GETRULE, 0, &rule_message(self.family));
        let mut marks = Vec::new();
        self.connection.dump(list, &mut |payload| marks.extend(parse_rule(payload)))?;
        Ok(marks)
    }

    fn has_route(&mut self) -> Result<bool, NetlinkError> {
        let list = Request::new(libc::RTM_GETROUTE, 0, &route_message(self.family));
        let mut found = false;
        let family = family_number(self.family);
        match self.connection.dump(list, &mut |payload| found |= is_route(family, payload)) {
            Err(error) if error.is_not_found() => Ok(false),
            listed => listed.map(|()| found),
        }
    }

    fn rule(&self, kind: u16, flags: i32, mark: Mark) -> Request {
        let mut request = Request::new(kind, flags, &rule_message(self.family));
        request
            .attribute(RULE_PRIORITY, &PRIORITY.to_ne_bytes())
            .attribute(RULE_MARK, &mark.value.to_ne_bytes())
            .attribute(RULE_MASK, &mark.mask.to_ne_bytes())
            .attribute(RULE_TABLE, &u32::from(TABLE).to_ne_bytes())
            .attribute(RULE_PROTOCOL, &[ROUTE_PROTOCOL]);
        request
    }

    fn route(&self, kind: u16, flags: i32) -> Request {
        let mut request = Request::new(kind, flags, &route_message(self.family));
        request.attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        request
    }

    fn wanted(&self) -> Mark {
        Mark { value: self.mark, mask: self.mark }
    }

    fn try_set_up(&mut self) -> Result<(), NetlinkError> {
        if !self.has_route()? {
            self.connection.execute(self.route(libc::RTM_NEWROUTE, libc::NLM_F_CREATE))?;
        }
        let (wanted, rules) = (self.wanted(), self.rules()?);
        if !rules.contains(&wanted) {
            self.connection.execute(self.rule(libc::RTM_NEWRULE, libc::NLM_F_CREATE, wanted))?;
        }
        // Of a process with another mark.
        for other in rules.into_iter().filter(|rule| *rule != wanted) {
            self.connection.execute(self.rule(libc::RTM_DELRULE, 0, other))?;
        }
        Ok(())
    }

    fn try_remove(&mut self) -> Result<(), NetlinkError> {
        for rule in self.rules()? {
            self.connection.execute(self.rule(libc::RTM_DELRULE, 0, rule))?;
        }
        if self.has_route()? {
            self.connection.execute(self.route(libc::RTM_DELROUTE, 0))?;
        }
        Ok(())
    }
}

impl LocalDelivery for KernelDelivery {
    fn is_set_up(&mut self) -> Result<bool, DeliveryError> {
        let error = self.error("look up");
        let wanted = self.wanted();
        Ok(self.rules().map_err(&error)? == [wanted] && self.has_route().map_err(&error)?)
    }

    fn set_up(&mut self) -> Result<(), DeliveryError> {
        let error = self.error("set up");
        self.try_set_up().map_err(error)
    }

    fn remove(&mut self) -> Result<(), DeliveryError> {
        let error = self.error("remove");
        self.try_remove().map_err(error)
    }
}

/// `fwmark VALUE/MASK`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    value: u32,
    mask: u32,
}

fn rule_message(family: Family) -> [u8; FIXED] {
    [family_number(family), 0, 0, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0]
}

fn route_message(family: Family) -> [u8; FIXED] {
    let (protocol, scope, kind) = (ROUTE_PROTOCOL, libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
    [family_number(family), 0, 0, 0, TABLE, protocol, scope, kind, 0, 0, 0, 0]
}

/// `None` for a rule that is not ours.
fn parse_rule(payload: &[u8]) -> Option<Mark> {
    let &[_, _, _, _, table, _, _, action, ..] = payload else { return None };
    let of_kind = |wanted| {
        let found = Attributes::after(FIXED, payload).value(wanted)?;
        Some(u32::from_ne_bytes(found.get(..4)?.try_into().ok()?))
    };
    let is_ours = (table, action) == (TABLE, TO_TABLE) && of_kind(RULE_PRIORITY) == Some(PRIORITY);
    is_ours.then_some(Mark { value: of_kind(RULE_MARK)?, mask: of_kind(RULE_MASK)? })
}

/// Whether this is the route of ours. IPv6 lists routes of all tables.
fn is_route(family: u8, payload: &[u8]) -> bool {
    matches!(payload, [of, 0, _, _, TABLE, ROUTE_PROTOCOL, _, libc::RTN_LOCAL, ..] if *of == family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netns::Namespace;

    fn listed(namespace: &Namespace, line: &str) -> String {
        let output = namespace.command("ip").unwrap().args(line.split_whitespace()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn within<T: Send>(
        namespace: &Namespace,
        mark: u32,
        work: impl FnOnce(&mut KernelDelivery) -> T + Send,
    ) -> T {
        namespace.run(|| work(&mut KernelDelivery::open(Family::V4, mark).unwrap())).unwrap()
    }

    #[test]
    fn the_rule_and_the_route_come_and_go_as_ip_has_them() {
        let namespace = Namespace::new().unwrap();
        assert!(
            namespace.command("ip").unwrap().args(["link", "set", "lo", "up"]).status().unwrap().success()
        );
        for family in Family::ALL {
            let option = if family == Family::V4 { "-4" } else { "-6" };
            let ours = || listed(&namespace, &format!("{option} rule show priority 102"));
            let routes = || listed(&namespace, &format!("{option} route show table 102"));
            namespace
                .run(|| {
                    let mut delivery = KernelDelivery::open(family, 0x4000).unwrap();
                    assert!(!delivery.is_set_up().unwrap());
                    delivery.set_up().unwrap();
                    delivery.set_up().unwrap();
                    assert!(delivery.is_set_up().unwrap());
                })
                .unwrap();
            assert!(ours().contains("fwmark 0x4000/0x4000 lookup 102"), "{}", ours());
            assert!(routes().starts_with("local default dev lo proto 102"), "{}", routes());
            namespace
                .run(|| {
                    let mut delivery = KernelDelivery::open(family, 0x4000).unwrap();
                    delivery.remove().unwrap();
                    delivery.remove().unwrap();
                })
                .unwrap();
            assert_eq!(ours() + &routes(), "", "{family}");
        }
    }

    #[test]
    fn another_mark_takes_the_place_of_the_first() {
        let namespace = Namespace::new().unwrap();
        assert!(
            namespace.command("ip").unwrap().args(["link", "set", "lo", "up"]).status().unwrap().success()
        );
        within(&namespace, 0x4000, |delivery| delivery.set_up().unwrap());
        within(&namespace, 0x8000, |delivery| {
            assert!(!delivery.is_set_up().unwrap());
            delivery.set_up().unwrap();
            assert!(delivery.is_set_up().unwrap());
        });
        let rules = listed(&namespace, "rule show priority 102");
        assert!(rules.contains("0x8000/0x8000") && !rules.contains("0x4000"), "{rules}");
    }
}
