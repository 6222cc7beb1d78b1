//! The cases that need IPVS, in guest kernels that have it.
//!
//! While working on some of them: `GUEST_CASES=flows::ipvs::e5 cargo test --test suite -- --nocapture guest::`

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::guest::Guest;

/// Which of the ignored cases are run.
const FILTER: &str = "ipvs::";
/// Fewer than this were lost on the way.
const FEWEST_CASES: usize = 25;
/// Each guest has one processor.
const MOST_GUESTS: usize = 4;
/// Cases of one guest. Most of them wait for something.
const CASES_AT_ONCE: usize = 2;
/// If more than this fail, it is not for want of time.
const MOST_AGAIN: usize = 8;
/// Only a guest that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(1800);

#[test]
fn the_ipvs_cases_pass_in_the_guest_kernel() {
    let (filter, fewest) = match env::var("GUEST_CASES") {
        Ok(chosen) => (chosen, 1),
        Err(_) => (FILTER.to_owned(), FEWEST_CASES),
    };
    let cases = ignored_cases(&filter);
    assert!(cases.len() >= fewest, "{filter} is only {cases:?}");
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let shares = share(cases, processors.min(MOST_GUESTS));
    let failed: Vec<String> = thread::scope(|scope| {
        let guests: Vec<_> = (1..)
            .zip(&shares)
            .map(|(number, cases)| scope.spawn(move || run(&format!("guest {number}"), cases, CASES_AT_ONCE)))
            .collect();
        // All of them first: one that fails must not hide what another one says.
        let results: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        let failed = |result| match result {
            Ok(failed) => failed,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        results.into_iter().flat_map(failed).collect()
    });
    // As `tests/run.sh` does outside: what fails because of all the others passes alone, a fault fails again.
    let lost = match failed.len() {
        0 => return,
        number if number <= MOST_AGAIN => run("guest again", &failed, 1),
        _ => failed,
    };
    assert!(lost.is_empty(), "not all cases passed in the guest: {lost:#?}");
}

fn this_program() -> String {
    env::current_exe().unwrap().into_os_string().into_string().unwrap()
}

fn ignored_cases(filter: &str) -> Vec<String> {
    let mut command = Command::new(this_program());
    let output = command.args(["--list", "--ignored", "--format", "terse", filter]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Deals cases to guests so that all have about the same to do.
fn share(mut cases: Vec<String>, guests: usize) -> Vec<Vec<String>> {
    // All directories of `tests/golden` are one case, and 60,000 connections another.
    let work = |case: &String| match &**case {
        case if case.contains("golden_cases") => 14,
        case if case.contains("reused_ports") => 14,
        _ => 1,
    };
    cases.sort_by_key(|case| std::cmp::Reverse(work(case)));
    let mut shares: BTreeMap<usize, (usize, Vec<String>)> =
        (0..guests.min(cases.len())).map(|guest| (guest, (0, Vec::new()))).collect();
    for case in cases {
        let (total, share) = shares
            .values_mut()
            .min_by_key(|(total, _)| *total)
            .expect("there are cases, so there are guests");
        *total += work(&case);
        share.push(case);
    }
    shares.into_values().map(|(_, share)| share).collect()
}

/// Returns the cases that did not pass.
fn run(guest: &str, cases: &[String], at_once: usize) -> Vec<String> {
    let options = ["--ignored", "--exact", "--color", "never", "--test-threads", &at_once.to_string()];
    let options = options.map(str::to_owned);
    let command: Vec<_> = [this_program()].into_iter().chain(options).chain(cases.iter().cloned()).collect();
    let mut passed = BTreeSet::new();
    let status = Guest::boot(&command, LIMIT).wait(|line| {
        println!("{guest}: {line}");
        passed.extend(
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... ok")).map(str::to_owned),
        );
    });
    let failed: Vec<_> = cases.iter().filter(|case| !passed.contains(*case)).cloned().collect();
    assert!(status == 0 || !failed.is_empty(), "{guest} ended with {status}, though all cases passed");
    failed
}
