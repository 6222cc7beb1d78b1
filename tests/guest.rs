//! The cases that need what the host may lack, such as IPVS or very many file descriptors, in guest kernels that have it:
//! all that are marked as ignored.
//!
//! While working on some of them: `GUEST_CASES=flows::ipvs::e5 cargo test --test suite -- --nocapture guest::`

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::guest::Guest;

/// Fewer than this were lost on the way.
const FEWEST_CASES: usize = 80;
/// Each guest has one processor.
const MOST_GUESTS: usize = 4;
/// Only a guest that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(1800);

#[test]
fn the_ignored_cases_pass_in_the_guest_kernel() {
    let (filter, fewest) = match env::var("GUEST_CASES") {
        Ok(chosen) => (chosen, 1),
        Err(_) => (String::new(), FEWEST_CASES),
    };
    let cases = ignored_cases(&filter);
    assert!(cases.len() >= fewest, "{filter} is only {cases:?}");
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let guests: Vec<_> = share(cases, processors.min(MOST_GUESTS))
            .into_iter()
            .enumerate()
            .map(|(number, cases)| scope.spawn(move || run(number + 1, &cases)))
            .collect();
        // All of them first: one that fails must not hide what another one says.
        let results: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        results
            .into_iter()
            .for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
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
    // All directories of `tests/golden` are one case, and 60,000 connections another, or 20,000 at once.
    let work = |case: &String| match &**case {
        case if case.contains("golden_cases") => 14,
        case if case.contains("reused_ports") => 14,
        case if case.contains("twenty_thousand") => 10,
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

fn run(number: usize, cases: &[String]) {
    let options = ["--ignored", "--exact", "--color", "never", "--test-threads", "2"].map(str::to_owned);
    let command: Vec<_> = [this_program()].into_iter().chain(options).chain(cases.iter().cloned()).collect();
    let mut passed = false;
    let status = Guest::boot(&command, LIMIT).wait(|line| {
        println!("guest {number}: {line}");
        passed |= line.starts_with(&format!("test result: ok. {} passed;", cases.len()));
    });
    assert!(status == 0 && passed, "not all cases passed in guest {number}: {cases:#?}");
}
