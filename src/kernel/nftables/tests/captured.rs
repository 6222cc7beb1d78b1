//! Against bytes that nft 1.0.6 sends (`strace -e trace=sendmsg -e write=3 nft -c COMMAND`), each with its command.
//!
//! Left out is what nft adds for its own good, as the ids of sets beside their names, and defaults.

use std::collections::BTreeMap;

use super::super::batch::Batch;
use super::commands::commands;
use crate::kernel::netlink::Attributes;

const CAPTURED: &str = include_str!("captured.txt");

pub(super) fn captured() -> BTreeMap<&'static str, Vec<u8>> {
    let lines: Vec<&str> = CAPTURED.lines().collect();
    lines.chunks(2).map(|pair| (pair[0], bytes(pair[1]))).collect()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A message as lines, one for each attribute, in an order of their own.
fn lines(message: &[u8]) -> Vec<String> {
    let mut lines = vec![format!("{:?}", &message[4..8]), format!("{:?}", &message[16..20])];
    let kind = message[4];
    describe(&message[20..], &format!("{kind}"), &mut lines);
    lines.retain(|line| !is_left_out(line) && !is_end_of_nothing(line));
    lines.sort();
    lines
}

fn describe(bytes: &[u8], path: &str, lines: &mut Vec<String>) {
    let mut instruction = 0;
    let expression = Attributes(bytes).next().map(|(_, name)| String::from_utf8_lossy(name).into_owned());
    let mut at = 0;
    for (kind, value) in Attributes(bytes) {
        let is_nested = bytes[at + 3] & 0x80 != 0;
        at += (value.len() + 4).next_multiple_of(4);
        let expression = expression.as_deref().unwrap_or_default().trim_end_matches('\0');
        match is_nested {
            // nft numbers elements, the kernel does not care.
            true if path == "12/3" || path == "14/3" => lines.push(element(value)),
            // The order of expressions counts.
            true if path == "6/4" && is_without_effect(value) => {}
            true if path == "6/4" => {
                describe(value, &format!("{path}[{instruction}]"), lines);
                instruction += 1;
            }
            true if path.starts_with("6/4[") => describe(value, &format!("{path}/{expression}"), lines),
            true => describe(value, &format!("{path}/{kind}"), lines),
            false => lines.push(format!("{path}/{kind} {value:02x?}")),
        }
    }
}

/// nft turns around the one byte of a protocol in keys with intervals.
fn is_without_effect(expression: &[u8]) -> bool {
    Attributes(expression).next() == Some((1, b"byteorder\0"))
}

fn element(bytes: &[u8]) -> String {
    let mut lines = Vec::new();
    describe(bytes, "element", &mut lines);
    lines.sort();
    lines.join(" ")
}

/// nft closes what is below the first interval; the kernel begins there closed.
fn is_end_of_nothing(line: &str) -> bool {
    line == "element/1/1 [00, 00, 00, 00] element/3 [00, 00, 00, 01]"
}

fn is_left_out(line: &str) -> bool {
    let (path, _) = line.split_once(' ').unwrap();
    ["lookup/4", "objref/5", "dynset/2"].iter().any(|id| path.ends_with(id))
        || ["9/10", "12/4"].contains(&path)
        || line.ends_with("/bitwise/6 [00, 00, 00, 00]")
        || line.ends_with("/nat/7 [00, 00, 00, 02]")
}

#[test]
fn messages_are_those_of_nft() {
    let captured = captured();
    let mut tested = 0;
    for (command, transaction) in commands() {
        let batch = Batch::new(&transaction, 0);
        let nft = lines(captured.get(command).unwrap_or_else(|| panic!("nothing captured of {command}")));
        assert_eq!(lines(batch.bytes(&(0..1))), nft, "{command}\n{transaction}");
        tested += 1;
    }
    assert_eq!(tested, captured.len(), "every command that was captured is tested");
}
