mod captured;
mod commands;
mod committing;
mod fake;
mod installed;
mod parsing;
mod watching;

use super::selector::{Generator, Selector};
use super::*;
use crate::kernel::netns::Namespace;
use crate::model::{Family, Protocol};

/// Runs nft, the independent reader and writer.
fn nft(namespace: &Namespace, arguments: &[&str]) -> String {
    let mut command =
        namespace.command("nft").expect("this test needs the nft program: apt-get install nftables");
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Loads a script with `nft -f`.
fn load(namespace: &Namespace, script: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    nft(namespace, &["-f", file.path().to_str().unwrap()]);
}

fn within<T: Send>(namespace: &Namespace, work: impl FnOnce(&mut KernelNftables) -> T + Send) -> T {
    namespace
        .run(|| work(&mut KernelNftables::open().expect("this test needs a kernel with nf_tables")))
        .expect("this test needs network namespaces")
}

fn name(name: &str) -> Name {
    name.into()
}

fn address(text: &str) -> Value {
    Value::address(text.parse().unwrap())
}

/// `ip daddr . meta l4proto . th dport`
fn service_key(family: Family) -> Vec<Selector> {
    vec![Selector::DestinationAddress(family), Selector::Protocol, Selector::DestinationPort]
}

fn random(modulus: u32) -> Selector {
    Selector::Number(Generator { numbering: expression::Numbering::Random, modulus, offset: 0 })
}

/// `ip daddr . meta l4proto . th dport . numgen random mod N`
fn pick_key(family: Family, modulus: u32) -> Vec<Selector> {
    let mut key = service_key(family);
    key.push(random(modulus));
    key
}

/// `10.96.0.10 . tcp . 80`
fn service(ip: &str, protocol: Protocol, port: u16) -> Value {
    address(ip).and(Value::protocol(protocol)).and(Value::port(port))
}

fn endpoint(ip: &str, port: u16) -> Value {
    address(ip).and(Value::port(port))
}
