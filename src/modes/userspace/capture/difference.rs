//! What is to be done so that the sets hold what they should.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::members::Members;
use super::{Member, of_address, of_place};
use crate::model::{Changes, Frontend, FrontendKey, ServicePort, ServiceTable};

/// What the sets hold and should not, and what they should and do not.
pub fn differences(held: &Members, want: &ServiceTable, changes: Changes<'_>) -> (Vec<Member>, Vec<Member>) {
    let mut touched = Touched::default();
    match changes {
        Changes::Some(changes) => {
            for (name, change) in changes {
                change.before.iter().chain(want.get(name)).for_each(|port| touched.add(port));
            }
        }
        Changes::Everything => {
            want.ports().for_each(|port| touched.add(port));
            touched.places.extend(held.places());
            touched.addresses.extend(held.addresses());
        }
    }
    let (mut gone, mut added) = (Vec::new(), Vec::new());
    let mut compare = |found: Vec<Member>, wanted: Vec<Member>| {
        gone.extend(found.iter().filter(|member| !wanted.contains(member)));
        added.extend(wanted.into_iter().filter(|member| !found.contains(member)));
    };
    for place in touched.places {
        compare(held.at(place).collect(), of_place(want, place));
    }
    for address in touched.addresses {
        let found = held.has_address(address).then_some(Member::VirtualIp(address));
        compare(found.into_iter().collect(), of_address(want, address).into_iter().collect());
    }
    (gone, added)
}

/// The places that may differ.
#[derive(Default)]
struct Touched {
    places: BTreeSet<FrontendKey>,
    addresses: BTreeSet<IpAddr>,
}

impl Touched {
    fn add(&mut self, port: &Arc<ServicePort>) {
        self.places.extend(port.frontends.iter().map(|frontend| port.key(frontend)));
        self.addresses.extend(port.frontends.iter().filter_map(Frontend::address));
    }
}
