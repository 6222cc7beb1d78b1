//! The golden cases: for each, objects and what must become of packets. Here the packets are the oracle's.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use ferrovia::cli::assemble::compile_settings;
use ferrovia::cli::proxy::Schedulers;
use ferrovia::config::{self, Flags};
use ferrovia::lab::flows::{self, Flow, FlowTable};
use ferrovia::lab::proxy::CLUSTER_CIDR;
use ferrovia::model::route::{Packet, route};
use ferrovia::model::{Family, Scheduler, ServiceTable};
use ferrovia::modes::{iptables, ipvs, nftables, userspace};
use ferrovia::sync::sources::manifests::read_once;
use ferrovia::sync::{Compiled, compile_once};

/// The node of the lab that cases are written for.
const NODE: &str = "here";

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    flags: Flags,
}

/// Every case of `tests/golden`, by name.
fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

fn flow_table(case: &Path) -> FlowTable {
    let text = fs::read_to_string(case.join("flows.txt")).unwrap();
    flows::parse(&text).unwrap_or_else(|error| panic!("{}/flows.txt: {error}", case.display()))
}

/// What the proxy of the lab makes of a case with its settings, for a mode with these schedulers.
fn compile_for(schedulers: &[Scheduler], case: &Path, table: &FlowTable) -> Compiled {
    let mut arguments = ["proxy", "--manifests=.", "--hostname-override", NODE].map(str::to_owned).to_vec();
    arguments.push(format!("--cluster-cidr={CLUSTER_CIDR}"));
    arguments.extend(table.settings.iter().map(|(flag, value)| format!("--{flag}={value}")));
    let config = config::resolve(&CommandLine::parse_from(arguments).flags, None, NODE).unwrap();
    let listing = read_once(case, NODE).unwrap();
    assert!(listing.malformed.is_empty(), "{}: {:?}", case.display(), listing.malformed);
    compile_once(listing.events, compile_settings(&config, Schedulers::all(schedulers, None)))
}

fn compile(case: &Path, table: &FlowTable) -> Compiled {
    compile_for(&[Scheduler::Random], case, table)
}

/// The line as it would have to be written.
fn actual(tables: &[ServiceTable], flow: &Flow) -> String {
    let packet = Packet {
        source: flow.source,
        interface: None,
        protocol: flow.protocol,
        destination: flow.destination,
        port: flow.port,
    };
    let family = Family::of(flow.source);
    let table = tables.iter().find(|table| table.family() == family).expect("both families are compiled");
    let destination = SocketAddr::new(flow.destination, flow.port);
    format!("{} {} {destination} -> {}", flow.source, flow.protocol.lowercase(), route(table, &packet))
}

fn expected(flow: &Flow) -> String {
    let destination = SocketAddr::new(flow.destination, flow.port);
    format!("{} {} {destination} -> {}", flow.source, flow.protocol.lowercase(), flow.outcome)
}

#[test]
fn the_oracle_agrees_with_every_flow_table() {
    let mut wrong = String::new();
    for case in cases() {
        let table = flow_table(&case);
        assert!(!table.flows.is_empty(), "{} says nothing", case.display());
        let tables = compile(&case, &table).tables;
        for flow in &table.flows {
            let (expected, actual) = (expected(flow), actual(&tables, flow));
            if expected != actual {
                wrong += &format!("{}/flows.txt:{}\n  {expected}\n  {actual}\n", case.display(), flow.line);
            }
        }
    }
    assert!(wrong.is_empty(), "expected, then actual:\n{wrong}");
}

#[test]
fn every_case_has_a_line_that_a_node_without_services_would_get_wrong() {
    for case in cases() {
        let empty = Family::ALL.map(ServiceTable::new);
        let fails = |flow: &Flow| expected(flow) != actual(&empty, flow);
        assert!(flow_table(&case).flows.iter().any(fails), "{} tests nothing", case.display());
    }
}

/// Cases about objects that make no sense in part say so; all others are sound.
#[test]
fn problems_are_those_that_cases_are_about() {
    let with_problems: Vec<String> = cases()
        .into_iter()
        .filter(|case| !compile(case, &flow_table(case)).problems.is_empty())
        .filter_map(|case| case.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    assert_eq!(with_problems, ["contested-address", "external-ip", "external-ip-refused", "slices"]);
}

/// Holds what a mode makes of each case against the case's file of that name. `UPDATE_GOLDEN=1 cargo test golden` writes
/// the files anew, for review.
fn assert_golden(file: &str, schedulers: &[Scheduler], render: impl Fn(&ServiceTable) -> String) {
    assert_golden_of(cases(), file, schedulers, render);
}

fn assert_golden_of(
    cases: Vec<PathBuf>,
    file: &str,
    schedulers: &[Scheduler],
    render: impl Fn(&ServiceTable) -> String,
) {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let tables = compile_for(schedulers, &case, &flow_table(&case)).tables;
        let text: String =
            tables.iter().map(|table| format!("# {}\n{}", table.family(), render(table))).collect();
        let golden = case.join(file);
        if update {
            fs::write(&golden, &text).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != text {
            wrong.push(golden.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "differ; UPDATE_GOLDEN=1 shows how: {wrong:#?}");
}

#[test]
fn the_iptables_mode_writes_what_the_golden_files_say() {
    assert_golden("iptables.txt", &[Scheduler::Random], |table| {
        iptables::render(&iptables::Settings::default(), table)
    });
}

/// Without the sets' definitions and the rules that ask them: nearly all of that is the same for every case.
#[test]
fn the_ipvs_mode_writes_what_the_golden_files_say() {
    const SHOWN: [&str; 4] = ["ipset add ", "ipvsadm ", "ip ", "-A FERRO-CLUSTER-IPS "];
    assert_golden("ipvs.txt", &[Scheduler::RoundRobin], |table| {
        let text = ipvs::render(&ipvs::Settings::default(), table);
        let is_shown = |line: &&str| SHOWN.iter().any(|start| line.starts_with(start));
        text.lines().filter(is_shown).map(|line| format!("{line}\n")).collect()
    });
}

/// Without tables, sets and chains: the names of chains say what is in them, and the skeleton is the same for every case
/// but for the node's settings.
#[test]
fn the_nftables_mode_writes_what_the_golden_files_say() {
    assert_golden("nftables.txt", &[Scheduler::Random], |table| {
        let text = nftables::render(&nftables::Settings::default(), table);
        // What depends on `--masquerade-all`, `--detect-local-mode` and `--nodeport-addresses`.
        let settings =
            ["add element ", "add rule ip ferrovia prerouting ", "add rule ip6 ferrovia prerouting "];
        let is_shown = |line: &&str| settings.iter().any(|start| line.starts_with(start));
        text.lines().filter(is_shown).map(|line| format!("{line}\n")).collect()
    });
}

/// What is captured, refused and dropped, and what the listeners are told. The skeleton is the same for every case.
#[test]
fn the_userspace_mode_writes_what_the_golden_files_say() {
    assert_golden("userspace.txt", &[Scheduler::RoundRobin], |table| {
        let text = userspace::render(&userspace::Settings::default(), table);
        let is_shown = |line: &&str| ["add element ", "# serve "].iter().any(|start| line.starts_with(start));
        text.lines().filter(is_shown).map(|line| format!("{line}\n")).collect()
    });
}

/// All that is written where iptables and sets capture: what is in the sets is as in `userspace.txt`, so that one case is enough.
#[test]
fn the_capture_by_iptables_writes_what_the_golden_file_says() {
    let cases = cases().into_iter().filter(|case| case.ends_with("source-ranges")).collect();
    assert_golden_of(cases, "userspace-by-iptables.txt", &[Scheduler::RoundRobin], |table| {
        userspace::render_for_iptables(&userspace::Settings::default(), table)
    });
}
