use std::net::SocketAddr;

use super::super::least::{Least, Load, better_of_two, random};
use super::super::maglev::{Maglev, SLOTS};
use super::super::picker::Picker;
use super::super::round_robin::{RoundRobin, Smooth};
use super::super::{Arrival, SCHEDULERS, hash};
use super::Some as Endpoints;
use crate::model::Scheduler;

const ANY: Arrival = Arrival { hash: 0, draw: 0 };

fn arrivals() -> impl Iterator<Item = Arrival> {
    (0u64..)
        .map(|number| Arrival { hash: hash(&number.to_be_bytes(), 0), draw: hash(&number.to_be_bytes(), 9) })
}

fn address(number: usize) -> SocketAddr {
    format!("10.244.{}.{}:8080", number / 250, number % 250 + 1).parse().unwrap()
}

fn counts(picks: impl Iterator<Item = usize>, of: usize) -> Vec<usize> {
    let mut counts = vec![0; of];
    picks.for_each(|pick| counts[pick] += 1);
    counts
}

#[test]
fn round_robin_goes_around_and_leaves_out_who_is_out() {
    let (endpoints, mut round_robin) = (Endpoints::equal(3), RoundRobin::default());
    let mut next = || round_robin.pick(&endpoints);
    assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(0)]);
    endpoints.out.borrow_mut().push(1);
    assert_eq!([next(), next(), next()], [Some(2), Some(0), Some(2)]);
    endpoints.out.borrow_mut().extend([0, 2]);
    assert_eq!(next(), None);
}

#[test]
fn round_robin_looks_at_one_of_a_thousand() {
    let (endpoints, mut round_robin) = (Endpoints::equal(1000), RoundRobin::default());
    assert_eq!((0..1000).filter_map(|_| round_robin.pick(&endpoints)).count(), 1000);
    assert_eq!(endpoints.looks.get(), 1000);
}

/// nginx's own example.
#[test]
fn weighted_round_robin_spreads_what_an_endpoint_gets() {
    let (endpoints, mut smooth) = (Endpoints::of(&[5, 1, 1]), Smooth::default());
    let order: String = (0..14).map(|_| ['a', 'b', 'c'][smooth.pick(&endpoints).unwrap()]).collect();
    assert_eq!(order, "aabacaaaabacaa");
    endpoints.out.borrow_mut().push(0);
    let order: String = (0..4).map(|_| ['a', 'b', 'c'][smooth.pick(&endpoints).unwrap()]).collect();
    assert_eq!(counts(order.chars().map(|c| c as usize - 'a' as usize), 3)[0], 0, "{order}");
}

#[test]
fn weighted_round_robin_is_exact() {
    let (endpoints, mut smooth) = (Endpoints::of(&[7, 3, 2, 1]), Smooth::default());
    let picks = (0..1300).map(|_| smooth.pick(&endpoints).unwrap());
    assert_eq!(counts(picks, 4), [700, 300, 200, 100]);
}

#[test]
fn least_connection_takes_the_idle_one_and_spreads_over_equals() {
    let (endpoints, mut least) = (Endpoints::equal(3), Least::new(Load::Connections));
    let next = |least: &mut Least| {
        let picked = least.pick(&endpoints).unwrap();
        endpoints.connect(picked);
        picked
    };
    assert_eq!(counts((0..30).map(|_| next(&mut least)), 3), [10, 10, 10]);
    endpoints.connections.borrow_mut()[1] = 2;
    assert_eq!(counts((0..8).map(|_| next(&mut least)), 3), [0, 8, 0]);
    endpoints.out.borrow_mut().push(1);
    assert_ne!(least.pick(&endpoints), Some(1));
}

#[test]
fn weighted_least_connection_fills_by_weight() {
    let (endpoints, mut least) = (Endpoints::of(&[6, 3, 1]), Least::new(Load::ConnectionsPerWeight));
    for _ in 0..100 {
        endpoints.connect(least.pick(&endpoints).unwrap());
    }
    for (connections, share) in endpoints.connections.borrow().iter().zip([60, 30, 10]) {
        assert!(connections.abs_diff(share) <= 1, "{:?}", endpoints.connections);
    }
}

#[test]
fn chance_is_even_and_never_takes_who_is_out() {
    let endpoints = Endpoints::equal(5);
    let even = |counts: Vec<usize>, share: usize| {
        assert!(counts.iter().all(|count| count.abs_diff(share) < share / 10), "{counts:?}");
    };
    even(counts(arrivals().take(50_000).filter_map(|a| random(&endpoints, a.draw)), 5), 10_000);
    even(counts(arrivals().take(50_000).filter_map(|a| better_of_two(&endpoints, a.draw)), 5), 10_000);
    endpoints.out.borrow_mut().extend([0, 3]);
    for choose in [random, better_of_two] {
        let counts = counts(arrivals().take(9_000).filter_map(|a| choose(&endpoints, a.draw)), 5);
        assert_eq!((counts[0], counts[3]), (0, 0));
    }
    endpoints.out.borrow_mut().extend([1, 2]);
    assert_eq!(better_of_two(&endpoints, 7), Some(4));
    endpoints.out.borrow_mut().push(4);
    assert_eq!((random(&endpoints, 7), better_of_two(&endpoints, 7)), (None, None));
}

/// Mitzenmacher's result: the fullest has hardly more than the average, where by chance alone it has far more.
#[test]
fn the_better_of_two_is_nearly_as_even_as_the_best() {
    let endpoints = Endpoints::equal(100);
    for arrival in arrivals().take(10_000) {
        endpoints.connect(better_of_two(&endpoints, arrival.draw).unwrap());
    }
    let most = *endpoints.connections.borrow().iter().max().unwrap();
    assert!(most <= 104, "{most}");
}

fn maglev(numbers: impl Iterator<Item = usize>) -> Maglev {
    Maglev::new(numbers.map(|number| (address(number), 1)))
}

fn owner(maglev: &Maglev, numbers: &[usize], arrival: Arrival) -> usize {
    numbers[maglev.pick(&Endpoints::equal(numbers.len()), arrival).unwrap()]
}

#[test]
fn hashing_is_even_and_by_weight() {
    let ten = maglev(0..10);
    let numbers: Vec<usize> = (0..10).collect();
    let shares = counts(arrivals().take(100_000).map(|arrival| owner(&ten, &numbers, arrival)), 10);
    assert!(shares.iter().all(|share| share.abs_diff(10_000) < 500), "{shares:?}");
    let weighted = Maglev::new([(address(0), 30), (address(1), 10)].into_iter());
    let shares = counts(arrivals().take(100_000).map(|arrival| owner(&weighted, &[0, 1], arrival)), 2);
    assert!(shares[0].abs_diff(75_000) < 1_000, "{shares:?}");
}

/// Only what an endpoint had moves when it goes, and hardly anything else: the paper's figure for such a table is 2 %.
#[test]
fn few_clients_move_when_endpoints_come_and_go() {
    let all: Vec<usize> = (0..50).collect();
    let without: Vec<usize> = all.iter().copied().filter(|number| *number != 17).collect();
    let (before, after) = (maglev(all.iter().copied()), maglev(without.iter().copied()));
    let moved = arrivals().take(20_000).filter(|arrival| {
        let had = owner(&before, &all, *arrival);
        had != 17 && owner(&after, &without, *arrival) != had
    });
    let moved = moved.count();
    assert!(moved < 20_000 / 25, "{moved} of 20,000 moved without need");
}

#[test]
fn who_is_out_is_passed_over_and_nobody_else_moves() {
    let (ten, numbers) = (maglev(0..10), (0..10).collect::<Vec<_>>());
    let endpoints = Endpoints::equal(10);
    endpoints.out.borrow_mut().push(4);
    for arrival in arrivals().take(5_000) {
        let (had, has) = (owner(&ten, &numbers, arrival), ten.pick(&endpoints, arrival).unwrap());
        assert!(has == had || had == 4 && has != 4);
    }
    assert_eq!(maglev(0..0).pick(&Endpoints::equal(0), ANY), None);
    assert!(maglev(0..SLOTS + 9).pick(&Endpoints::equal(SLOTS + 9), ANY).is_some());
}

/// Nodes agree because of this: it must be the same in each version.
#[test]
fn the_hash_stays_what_it_is() {
    assert_eq!(hash(b"", 0), 0xf52a_15e9_a9b5_e89b_u64, "{:#x}", hash(b"", 0));
    assert_eq!(hash(&[10, 0, 0, 1], 0), hash(&[10, 0, 0, 1], 0));
    assert_ne!(hash(&[10, 0, 0, 1], 0), hash(&[10, 0, 0, 1], 1));
}

#[test]
fn every_scheduler_takes_the_only_one_and_no_other() {
    for scheduler in SCHEDULERS {
        let mut picker = Picker::new(*scheduler, (0..3).map(|number| (address(number), 1)));
        let endpoints = Endpoints::equal(3);
        endpoints.out.borrow_mut().extend([0, 2]);
        for arrival in arrivals().take(50) {
            assert_eq!(picker.pick(&endpoints, arrival), Some(1), "{scheduler}");
        }
        endpoints.out.borrow_mut().push(1);
        assert_eq!(picker.pick(&endpoints, ANY), None, "{scheduler}");
        assert!(scheduler.modes().ends_with("userspace"), "{scheduler}");
    }
    let others = Scheduler::ALL.iter().filter(|scheduler| !SCHEDULERS.contains(scheduler));
    others.for_each(|scheduler| assert!(!scheduler.modes().contains("userspace"), "{scheduler}"));
}
