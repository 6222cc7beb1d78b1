//! What is to be done so that the sets hold what they should.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::{Member, OF_PLACES, of_address, of_place};
use crate::model::{Changes, Frontend, FrontendKey, ServicePort, ServiceTable};

/// What the sets hold and should not, and what they should and do not.
pub fn differences(
    held: &BTreeSet<Member>,
    want: &ServiceTable,
    changes: Changes<'_>,
) -> (Vec<Member>, Vec<Member>) {
    let mut touched = Touched::default();
    match changes {
        Changes::Some(changes) => {
            for (name, change) in changes {
                change.before.iter().chain(want.get(name)).for_each(|port| touched.add(port));
            }
        }
        Changes::Everything => {
            want.ports().for_each(|port| touched.add(port));
            held.iter().for_each(|member| touched.note(member));
        }
    }
    let (mut gone, mut added) = (Vec::new(), Vec::new());
    let mut compare = |found: Vec<Member>, wanted: Vec<Member>| {
        gone.extend(found.iter().filter(|member| !wanted.contains(member)));
        added.extend(wanted.into_iter().filter(|member| !found.contains(member)));
    };
    for place in touched.places {
        compare(held_at(held, place), of_place(want, place));
    }
    for address in touched.addresses {
        let found = Some(Member::VirtualIp(address)).filter(|member| held.contains(member));
        compare(found.into_iter().collect(), of_address(want, address).into_iter().collect());
    }
    (gone, added)
}

fn held_at(held: &BTreeSet<Member>, place: FrontendKey) -> Vec<Member> {
    let fixed = OF_PLACES.into_iter().map(|set| Member::Place(set, place));
    let fixed = fixed.filter(|member| held.contains(member));
    let is_here = |member: &Member| matches!(member, Member::Range(of, _) if *of == place);
    let ranges = held.range(first_range(place)..).copied().take_while(is_here);
    fixed.chain(ranges).collect()
}

/// The first in order of the clients that may use a frontend.
fn first_range(place: FrontendKey) -> Member {
    Member::Range(place, Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into())
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

    fn note(&mut self, member: &Member) {
        match member {
            Member::Place(_, place) | Member::Range(place, _) => drop(self.places.insert(*place)),
            Member::VirtualIp(address) => drop(self.addresses.insert(*address)),
        }
    }
}
