//! What the kernel has counted for each frontend, summed up for each ServicePort.

use std::collections::BTreeMap;

use super::key::Key;
use super::names::{self, Keying, Set, SetId};
use crate::kernel::nftables::element::Count;
use crate::kernel::nftables::{Element, Nftables, NftablesError};
use crate::model::{ServicePortName, ServiceTable};
use crate::modes::Traffic;

/// `--service-counters`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    On,
    #[default]
    Off,
}

/// Frontends of nobody are left out: they have just gone, or are somebody else's work.
pub fn read(
    nftables: &mut dyn Nftables,
    table: &ServiceTable,
) -> Result<BTreeMap<ServicePortName, Traffic>, NftablesError> {
    let (family, of_kernel) = (table.family(), names::table(table.family()));
    let mut all: BTreeMap<ServicePortName, Traffic> = BTreeMap::new();
    for set in Set::COUNTING {
        for keying in [Keying::Address, Keying::Node] {
            let declaration = SetId::Fixed(set, keying).declaration(family);
            let mut note = |element: &Element| {
                let place = Key::new(family, element.key.as_bytes()).place(keying);
                let port = place.and_then(|place| table.frontends().get(&place));
                if let (Some(port), Some(count)) = (port, element.count) {
                    add(all.entry(port.name.clone()).or_default(), set, count);
                }
            };
            nftables.elements(&of_kernel, &declaration, &mut note)?;
        }
    }
    Ok(all)
}

fn add(traffic: &mut Traffic, set: Set, count: Count) {
    match set {
        Set::Connections => traffic.connections += count.packets,
        Set::Requests => {
            traffic.packets_in += count.packets;
            traffic.bytes_in += count.bytes;
        }
        _ => {
            traffic.packets_out += count.packets;
            traffic.bytes_out += count.bytes;
        }
    }
}
