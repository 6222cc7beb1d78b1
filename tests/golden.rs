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
use ferrovia::modes::iptables::{self, Settings};
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

/// What the proxy of the lab makes of a case with its settings.
fn compile(case: &Path, table: &FlowTable) -> Compiled {
    let mut arguments = ["proxy", "--manifests=.", "--hostname-override", NODE].map(str::to_owned).to_vec();
    arguments.push(format!("--cluster-cidr={CLUSTER_CIDR}"));
    arguments.extend(table.settings.iter().map(|(flag, value)| format!("--{flag}={value}")));
    let config = config::resolve(&CommandLine::parse_from(arguments).flags, None, NODE).unwrap();
    let listing = read_once(case, NODE).unwrap();
    assert!(listing.malformed.is_empty(), "{}: {:?}", case.display(), listing.malformed);
    compile_once(listing.events, compile_settings(&config, Schedulers::all(&[Scheduler::Random], None)))
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

/// What the iptables mode writes for each case. `UPDATE_GOLDEN=1 cargo test golden` writes the files anew, for review.
#[test]
fn the_iptables_mode_writes_what_the_golden_files_say() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let text: String = compile(&case, &flow_table(&case))
            .tables
            .iter()
            .map(|table| format!("# {}\n{}", table.family(), iptables::render(&Settings::default(), table)))
            .collect();
        let golden = case.join("iptables.txt");
        if update {
            fs::write(&golden, &text).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != text {
            wrong.push(golden.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "differ; UPDATE_GOLDEN=1 shows how: {wrong:#?}");
}
