//! Rules and sets without virtual servers, in both flavours of iptables: the guest kernel has no nf_tables for IPv4 and
//! IPv6, and the kernel of this machine may have no IPVS. Who is kept out is, without it.

use std::io::Write;
use std::process::Stdio;

use ferrovia::lab::proxy::CLUSTER_CIDR;

use super::lab::{shell, without_proxy};
use crate::common::rig::{PROGRAM, Rig};

/// What was in the plan for a node.
#[derive(Default)]
struct Planned {
    rules: Vec<String>,
    tables: usize,
}

/// Carries out what `ferrovia plan` prints, with the programs that it names; all but virtual servers.
fn carry_out(rig: &Rig, flavour: &str) -> Planned {
    let plan = rig.run(&format!(
        "{PROGRAM} plan --mode=ipvs --manifests=/run/manifests --node=here --cluster-cidr={CLUSTER_CIDR}"
    ));
    let (mut planned, mut program, mut input) = (Planned::default(), "iptables", String::new());
    for line in plan.lines() {
        match line.split_whitespace().next() {
            Some("#") => program = if line.starts_with("# IPv4") { "iptables" } else { "ip6tables" },
            // Of pods that reach themselves, which needs IPVS, and a kind of set that kernels without IPVS often lack.
            Some("ipset") if line.contains("ipset add") && line.contains("-HAIRPIN ") => {}
            Some("ipset" | "ip") => drop(shell(rig, &line.replace("hash:net,net", "hash:ip,port"))),
            Some("ipvsadm") | None => {}
            Some("COMMIT") => {
                restore(rig, &format!("{program}-{flavour}-restore"), &format!("{input}COMMIT\n"));
                planned.tables += 1;
                input.clear();
            }
            Some(_) => {
                input += &format!("{line}\n");
                let rule = line.strip_prefix("-A ").or_else(|| line.strip_prefix("-I "));
                planned.rules.extend(rule.map(str::to_owned));
            }
        }
    }
    planned
}

fn restore(rig: &Rig, program: &str, input: &str) {
    let mut command = rig.lab.here().command(program).unwrap();
    command.arg("--noflush").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}

fn golden(file: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn case(name: &str, flavour: &str) {
    let rig = without_proxy(&[("cluster.yaml", &golden(&format!("{name}/cluster.yaml")))], &[]);
    let planned = carry_out(&rig, flavour);
    assert_eq!(planned.tables, 6, "three tables of two families");
    let saved = rig.run(&format!("iptables-{flavour}-save")) + &rig.run(&format!("ip6tables-{flavour}-save"));
    for rule in &planned.rules {
        assert!(saved.lines().any(|line| line.strip_prefix("-A ") == Some(rule)), "{rule}\n{saved}");
    }
    let flows = golden(&format!("{name}/flows.txt"));
    let kept_out: Vec<_> =
        flows.lines().filter(|line| line.ends_with("-> drop") || line.ends_with("-> reject")).collect();
    assert!(kept_out.len() >= 4, "{flows}");
    rig.expect(&kept_out.join("\n"));
}

#[test]
fn both_flavours_list_the_rules_as_written_and_keep_out_who_has_to_be() {
    for flavour in ["legacy", "nft"] {
        for name in ["source-ranges", "local-policy-elsewhere", "no-endpoints"] {
            case(name, flavour);
        }
    }
}
