//! Histories of leases on a disk that fails, and what each address has been through.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const BOOT: &str = "00000000-0000-4000-8000-000000000001";
const NEXT_BOOT: &str = "00000000-0000-4000-8000-000000000002";

/// A file that a process which is killed leaves in any state that it could have.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<Content>>);

#[derive(Default)]
struct Content {
    bytes: Option<Vec<u8>>,
    /// After so many more steps, of a byte each, the process is killed.
    steps_left: Option<usize>,
    room: Option<usize>,
}

fn killed() -> io::Error {
    io::Error::other("killed")
}

impl Content {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => Err(killed()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn bytes(&mut self) -> io::Result<&mut Vec<u8>> {
        self.bytes.as_mut().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }
}

impl Disk {
    fn kill_after(&self, steps: usize) {
        self.0.borrow_mut().steps_left = Some(steps);
    }

    fn recover(&self) {
        self.0.borrow_mut().steps_left = None;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().bytes.clone().unwrap_or_default()).unwrap()
    }

    fn put(&self, text: &str) {
        self.0.borrow_mut().bytes = Some(text.as_bytes().to_vec());
    }
}

impl Storage for Disk {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().bytes.clone())
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.0.borrow_mut();
        content.step()?;
        content.bytes()?.truncate(at as usize);
        for byte in bytes {
            content.step()?;
            let room = content.room.unwrap_or(usize::MAX);
            let file = content.bytes()?;
            if file.len() >= room {
                file.truncate(at as usize);
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            file.push(*byte);
        }
        content.step()
    }

    fn overwrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.0.borrow_mut();
        for (place, byte) in bytes.iter().enumerate() {
            content.step()?;
            content.bytes()?[at as usize + place] = *byte;
        }
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.0.borrow_mut();
        content.step()?;
        if content.room.is_some_and(|room| bytes.len() > room) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        content.bytes = Some(bytes.to_vec());
        content.step()
    }
}

/// A kernel in which certain attachments have interfaces, and certain addresses routes.
#[derive(Default)]
struct Kernel {
    attached: BTreeSet<AttachmentKey>,
    routed: BTreeSet<IpAddr>,
}

impl Evidence for Kernel {
    fn is_routed(&mut self, address: IpAddr) -> bool {
        self.routed.contains(&address)
    }

    fn is_attached(&mut self, key: &AttachmentKey) -> bool {
        self.attached.contains(key)
    }
}

fn key(number: u8) -> AttachmentKey {
    AttachmentKey { container_id: format!("c{number}"), interface: "eth0".into() }
}

fn pool(ranges: &[&str]) -> Pool {
    Pool::new(&ranges.iter().map(|range| range.parse().unwrap()).collect::<Vec<_>>())
}

fn ipam(disk: &Disk, now: u64) -> Ipam<Disk> {
    Ipam::open(disk.clone(), BOOT, now).unwrap()
}

/// The last parts of the addresses that attachments get, one after the other.
fn lease(disk: &Disk, now: u64, number: u8, range: &str) -> Result<String, IpamError> {
    let mut kernel = Kernel::default();
    kernel.attached.extend((0..=255).map(key));
    let lease = ipam(disk, now).lease(&key(number), &pool(&[range]), &mut kernel)?;
    Ok(lease.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

fn release(disk: &Disk, now: u64, number: u8) {
    ipam(disk, now).release(&key(number)).unwrap();
}

#[test]
fn an_attachment_gets_one_address_of_each_family() {
    let disk = Disk::default();
    let pool = pool(&["fd00:244:1::/64", "10.244.1.0/24", "10.244.9.0/24"]);
    let lease = ipam(&disk, 5).lease(&key(1), &pool, &mut Kernel::default()).unwrap();
    let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.1.1", "fd00:244:1::1"]);
    let again = ipam(&disk, 6).lease(&key(1), &pool, &mut Kernel::default()).unwrap();
    assert_eq!((again.addresses, again.origin), (lease.addresses, Origin::Earlier));
    let lines: Vec<String> = disk.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], format!("ferrovia-ipam 1 {BOOT}"));
    assert!(lines[1].ends_with(" ---------- 5 c1 eth0 10.244.1.1,fd00:244:1::1"), "{}", lines[1]);
}

#[test]
fn networks_of_any_size_have_the_addresses_that_hosts_may_have() {
    let count = |range: &str| {
        let pool = pool(&[range]);
        let family = pool.families().next().unwrap();
        let addresses: Vec<IpAddr> = pool.addresses(family).collect();
        (addresses.len(), addresses[0].to_string())
    };
    assert_eq!(count("10.0.0.0/24"), (254, "10.0.0.1".into()));
    assert_eq!(count("10.0.0.4/30"), (2, "10.0.0.5".into()));
    assert_eq!(count("10.0.0.4/31"), (2, "10.0.0.4".into()));
    assert_eq!(count("10.0.0.4/32"), (1, "10.0.0.4".into()));
    assert_eq!(count("10.0.0.0/8"), (4096, "10.0.0.1".into()));
    assert_eq!(count("fd00::/64"), (4096, "fd00::1".into()));
    assert_eq!(count("fd00::4/126"), (3, "fd00::5".into()));
    assert_eq!(count("fd00::4/127"), (2, "fd00::4".into()));
}

/// Row N9: an address that comes back at once still has packets of its last holder on the way to it.
#[test]
fn n9_the_address_released_longest_ago_is_next_and_rests_first() {
    let (disk, range) = (Disk::default(), "10.0.0.0/29");
    for number in 1..=4 {
        assert_eq!(lease(&disk, 10, number, range).unwrap(), format!("10.0.0.{number}"));
    }
    release(&disk, 100, 2);
    release(&disk, 101, 1);
    assert_eq!(lease(&disk, 102, 5, range).unwrap(), "10.0.0.5", "never used ones come first");
    assert_eq!(lease(&disk, 102, 6, range).unwrap(), "10.0.0.6");
    assert_eq!(lease(&disk, 103, 7, range).unwrap(), "10.0.0.2", "there is no other than those that rest");
    release(&disk, 103, 7);
    assert_eq!(lease(&disk, 162, 8, range).unwrap(), "10.0.0.1", "rested");
    assert_eq!(lease(&disk, 163, 9, range).unwrap(), "10.0.0.2");
    assert!(matches!(lease(&disk, 163, 10, range), Err(IpamError::Exhausted(Family::V4))));
}

/// Row N9: a DEL that comes late is about what its container had.
#[test]
fn n9_a_release_by_another_container_is_none() {
    let (disk, range) = (Disk::default(), "10.0.0.0/30");
    lease(&disk, 10, 1, range).unwrap();
    lease(&disk, 10, 2, range).unwrap();
    release(&disk, 20, 1);
    assert_eq!(lease(&disk, 200, 3, range).unwrap(), "10.0.0.1");
    release(&disk, 210, 1);
    assert_eq!(ipam(&disk, 220).held_by(&key(3)).unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    let other = AttachmentKey { interface: "eth1".into(), ..key(3) };
    ipam(&disk, 220).release(&other).unwrap();
    assert!(ipam(&disk, 220).held_by(&key(3)).is_some());
}

/// Row N7: nothing of before a boot is alive.
#[test]
fn n7_a_boot_ends_all_leases_and_keeps_their_order() {
    let (disk, range) = (Disk::default(), "10.0.0.0/29");
    for number in 1..=6 {
        lease(&disk, 10, number, range).unwrap();
    }
    release(&disk, 30, 3);
    let mut after = Ipam::open(disk.clone(), NEXT_BOOT, 3).unwrap();
    assert_eq!(after.holders(), []);
    let lease = after.lease(&key(9), &pool(&[range]), &mut Kernel::default()).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()], "released first, and rested");
    let mut after = Ipam::open(disk, NEXT_BOOT, 4).unwrap();
    assert_eq!(after.holders(), [key(9)]);
    after.release(&key(1)).unwrap();
    assert_eq!(after.holders(), [key(9)], "a DEL for a container of before the boot");
}

/// Row N7: what a missing DEL leaves comes back when it is needed.
#[test]
fn n7_attachments_without_an_interface_are_taken_back_when_addresses_run_short() {
    let disk = Disk::default();
    let pool = pool(&["10.0.0.0/30"]);
    let mut kernel = Kernel::default();
    ipam(&disk, 10).lease(&key(1), &pool, &mut kernel).unwrap();
    ipam(&disk, 50).lease(&key(2), &pool, &mut kernel).unwrap();
    kernel.attached.insert(key(2));
    let early = ipam(&disk, 69).lease(&key(3), &pool, &mut kernel);
    assert!(matches!(early, Err(IpamError::Exhausted(_))), "an ADD may be under way");
    assert_eq!(ipam(&disk, 69).exhausted(&pool, &mut kernel), Some(Family::V4));
    assert_eq!(ipam(&disk, 70).exhausted(&pool, &mut kernel), None);
    let lease = ipam(&disk, 70).lease(&key(3), &pool, &mut kernel).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(ipam(&disk, 70).holders(), [key(2), key(3)]);
}

/// Row N8: what a crash of the machine or a bad disk leaves of a record.
#[test]
fn n8_a_torn_record_is_free_after_a_look_at_the_kernel() {
    let (disk, range) = (Disk::default(), "10.0.0.0/29");
    lease(&disk, 10, 1, range).unwrap();
    lease(&disk, 10, 2, range).unwrap();
    let whole = disk.text();
    for cut in 1..whole.lines().nth(2).unwrap().len() {
        disk.put(&whole[..whole.len() - cut]);
        assert_eq!(ipam(&disk, 20).holders(), [key(1)], "{}", disk.text());
        assert_eq!(lease(&disk, 20, 3, range).unwrap(), "10.0.0.2");
        assert_eq!(disk.text().lines().count(), 3, "{}", disk.text());
    }
    disk.put(&whole.replace(" c1 ", " cx "));
    assert_eq!((ipam(&disk, 20).damaged(), ipam(&disk, 20).holders()), (1, vec![key(2)]));
    let mut kernel = Kernel::default();
    kernel.routed.insert("10.0.0.1".parse().unwrap());
    let lease = ipam(&disk, 20).lease(&key(4), &pool(&[range]), &mut kernel).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()], "the first one is in use");
}

#[test]
fn n8_a_file_that_says_nothing_is_begun_again_and_one_of_another_version_is_left_alone() {
    for text in ["", "\0\0\0\0\0\0", "ferrovia-ip", "something else\n"] {
        let disk = Disk::default();
        disk.put(text);
        assert_eq!(lease(&disk, 20, 1, "10.0.0.0/29").unwrap(), "10.0.0.1", "{text:?}");
    }
    let disk = Disk::default();
    disk.put("ferrovia-ipam 2 later\n");
    let refused = Ipam::open(disk, BOOT, 20).err().unwrap();
    assert_eq!((refused.code(), matches!(refused, IpamError::OtherVersion(_))), (101, true));
}

/// Row N12: a record that has no room is not half there, and a release needs none.
#[test]
fn n12_without_room_nothing_is_given_out_and_releases_work() {
    let (disk, range) = (Disk::default(), "10.0.0.0/29");
    lease(&disk, 10, 1, range).unwrap();
    let before = disk.text();
    disk.0.borrow_mut().room = Some(before.len() + 10);
    let refused = lease(&disk, 10, 2, range).unwrap_err();
    assert_eq!((refused.code(), disk.text()), (5, before));
    release(&disk, 10, 1);
    assert_eq!(ipam(&disk, 10).holders(), []);
}

#[test]
fn a_journal_does_not_grow_for_ever() {
    let (disk, range) = (Disk::default(), "10.0.0.0/29");
    for number in 0..=255_u8 {
        let now = 10 + u64::from(number);
        lease(&disk, now, number, range).unwrap();
        release(&disk, now, number);
    }
    assert!(disk.text().lines().count() < 100, "{}", disk.text().lines().count());
}

#[derive(Clone, Debug)]
enum Step {
    Lease(u8),
    Release(u8),
    /// As the first, killed on the way.
    KilledLease(u8, usize),
    KilledRelease(u8, usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..9;
    let step = prop_oneof![
        4 => key.clone().prop_map(Step::Lease),
        3 => key.clone().prop_map(Step::Release),
        2 => (key.clone(), 0_usize..120).prop_map(|(key, after)| Step::KilledLease(key, after)),
        2 => (key, 0_usize..14).prop_map(|(key, after)| Step::KilledRelease(key, after)),
        1 => (0_u64..90).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows N7 and N9: over any history, with processes killed at any write, no address is with two attachments, and when
    /// all are gone none is missing.
    #[test]
    fn n7_n9_no_history_loses_an_address_or_gives_one_out_twice(steps in steps()) {
        let disk = Disk::default();
        let pool = pool(&["10.0.0.0/29", "fd00::/125"]);
        let mut kernel = Kernel::default();
        let mut held: BTreeMap<AttachmentKey, Vec<IpAddr>> = BTreeMap::new();
        let mut now = 10;
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Lease(number) => {
                    if let Ok(lease) = ipam(&disk, now).lease(&key(number), &pool, &mut kernel) {
                        kernel.attached.insert(key(number));
                        let known = held.insert(key(number), lease.addresses.clone());
                        prop_assert!(known.is_none_or(|known| known == lease.addresses));
                    }
                }
                Step::Release(number) => {
                    kernel.attached.remove(&key(number));
                    ipam(&disk, now).release(&key(number)).unwrap();
                    held.remove(&key(number));
                }
                Step::KilledLease(number, after) => {
                    disk.kill_after(after);
                    if let Ok(lease) = ipam(&disk, now).lease(&key(number), &pool, &mut kernel) {
                        kernel.attached.insert(key(number));
                        held.insert(key(number), lease.addresses);
                    }
                }
                Step::KilledRelease(number, after) => {
                    kernel.attached.remove(&key(number));
                    disk.kill_after(after);
                    let _ = ipam(&disk, now).release(&key(number));
                    held.remove(&key(number));
                }
            }
            disk.recover();
            let all: Vec<&IpAddr> = held.values().flatten().collect();
            prop_assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "{:?}", held);
            for (key, addresses) in &held {
                let ipam = ipam(&disk, now);
                prop_assert_eq!(ipam.held_by(key), Some(&addresses[..]));
            }
        }
        (0..9).for_each(|number| release(&disk, now, number));
        for number in 100..106 {
            ipam(&disk, now).lease(&key(number), &pool, &mut kernel).unwrap();
        }
    }
}
