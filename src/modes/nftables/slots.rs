//! Slots: what a number that is drawn leads to. Each endpoint has as many as its weight.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::Endpoint;

/// An endpoint's address and port.
pub type Target = (IpAddr, u16);

/// As far as they are filled; [`Packed`] as long as nobody looks.
pub type Slots = Box<[Option<Target>]>;

/// Slots as they are kept: of all that a node knows there are most of these. One after the other, with the number of octets
/// of its address, these and its port; without anything more if it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

impl Packed {
    pub fn of(slots: &[Option<Target>]) -> Self {
        let mut bytes = Vec::with_capacity(slots.len() * 7);
        for slot in slots {
            match slot {
                None => bytes.push(0),
                Some((IpAddr::V4(address), port)) => put(&mut bytes, &address.octets(), *port),
                Some((IpAddr::V6(address), port)) => put(&mut bytes, &address.octets(), *port),
            }
        }
        Packed(bytes.into())
    }

    pub fn unpacked(&self) -> Slots {
        let mut rest = &self.0[..];
        std::iter::from_fn(|| take_slot(&mut rest)).collect()
    }
}

fn put(bytes: &mut Vec<u8>, octets: &[u8], port: u16) {
    bytes.push(octets.len() as u8);
    bytes.extend_from_slice(octets);
    bytes.extend_from_slice(&port.to_ne_bytes());
}

fn take_slot(rest: &mut &[u8]) -> Option<Option<Target>> {
    let (length, after) = rest.split_first()?;
    *rest = after;
    let address: IpAddr = match length {
        0 => return Some(None),
        4 => take_bytes::<4>(rest)?.into(),
        _ => take_bytes::<16>(rest)?.into(),
    };
    Some(Some((address, u16::from_ne_bytes(take_bytes(rest)?))))
}

fn take_bytes<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*bytes)
}

/// Weights are made smaller where they would need more than this.
const LIMIT: u64 = 1024;

/// Each endpoint with its number of slots.
pub fn shares(endpoints: &[Endpoint]) -> Vec<(Target, u32)> {
    let weights = endpoints.iter().map(|endpoint| u64::from(endpoint.weight));
    let divisor = weights.clone().fold(0, greatest_common_divisor).max(1);
    let total: u64 = weights.map(|weight| weight / divisor).sum();
    let scaled = |weight: u64| if total > LIMIT { (weight * LIMIT / total).max(1) } else { weight };
    let share = |endpoint: &Endpoint| {
        ((endpoint.address, endpoint.port), scaled(u64::from(endpoint.weight) / divisor) as u32)
    };
    endpoints.iter().map(share).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

pub fn count(shares: &[(Target, u32)]) -> u32 {
    shares.iter().map(|(_, slots)| slots).sum()
}

/// Who stays keeps its slots, and who comes takes those of who left: one endpoint for another is one element.
pub fn assign(shares: &[(Target, u32)], held: &[Option<Target>]) -> Slots {
    let mut left: BTreeMap<Target, u32> = shares.iter().copied().collect();
    let mut slots: Vec<Option<Target>> = vec![None; count(shares) as usize];
    for (slot, held) in slots.iter_mut().zip(held) {
        *slot = held.filter(|target| take(&mut left, target));
    }
    let mut rest = shares.iter().flat_map(|(target, _)| {
        std::iter::repeat_n(*target, left.get(target).copied().unwrap_or_default() as usize)
    });
    slots.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = rest.next());
    slots.into()
}

fn take(left: &mut BTreeMap<Target, u32>, target: &Target) -> bool {
    match left.get_mut(target) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Locality;

    fn endpoints(weights: &[u16]) -> Vec<Endpoint> {
        let endpoint = |(at, weight): (usize, &u16)| Endpoint {
            address: [10, 0, 0, at as u8].into(),
            port: 80,
            locality: Locality::Local,
            weight: *weight,
        };
        weights.iter().enumerate().map(endpoint).collect()
    }

    fn numbers(slots: &[Option<Target>]) -> Vec<u8> {
        let last = |slot: &Option<Target>| match slot {
            Some((IpAddr::V4(address), _)) => address.octets()[3],
            _ => u8::MAX,
        };
        slots.iter().map(last).collect()
    }

    #[test]
    fn weights_become_slots() {
        let counts = |weights: &[u16]| -> Vec<u32> {
            shares(&endpoints(weights)).into_iter().map(|(_, slots)| slots).collect()
        };
        assert_eq!(counts(&[1, 1, 1]), [1, 1, 1]);
        assert_eq!(counts(&[100, 50]), [2, 1]);
        assert_eq!(counts(&[65535, 1]), [1023, 1], "scaled down, and nobody is left out");
        assert!(counts(&[]).is_empty());
    }

    #[test]
    fn packed_slots_are_what_they_were() {
        let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd; 16]));
        let slots = [None, Some((v4, 80)), Some((v6, 65535)), Some((v6, 0)), None, Some((v4, 0)), None];
        for length in 0..=slots.len() {
            assert_eq!(*Packed::of(&slots[..length]).unpacked(), slots[..length]);
        }
        assert_eq!(Packed::of(&[Some((v4, 80)); 10]).0.len(), 70);
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_slot() {
        let before = assign(&shares(&endpoints(&[1, 1, 1])), &[]);
        assert_eq!(numbers(&before), [0, 1, 2]);
        let mut changed = endpoints(&[1, 1, 1, 1]);
        changed.remove(1);
        assert_eq!(numbers(&assign(&shares(&changed), &before)), [0, 3, 2]);
        changed.remove(0);
        assert_eq!(numbers(&assign(&shares(&changed), &before)), [2, 3], "those behind the end move");
        let holes = [None, before[0], before[0]];
        assert_eq!(numbers(&assign(&shares(&endpoints(&[1, 1, 1])), &holes)), [1, 0, 2]);
    }
}
