//! The door to IPVS against pyroute2, whose codec is nobody's but its own. (ipvsadm and keepalived share one.)

use ferrovia::kernel::ipvs::{Ipvs, Timeouts};
use ferrovia::kernel::netns::Namespace;

use super::codec::{assert_lists, everything, execute, listed, network, with};

/// Where `make test` installs it.
const LIBRARY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/../python");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ipvs/independent.py");

fn pyroute2(namespace: &Namespace, what: &str) -> String {
    let mut python = namespace.command("python3").unwrap();
    let output = python.args([SCRIPT, what]).env("PYTHONPATH", LIBRARY).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs python3: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs pyroute2, which `make pyroute2` installs: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Numbers as the kernel's headers have them: of protocols and families (`in.h`, `socket.h`), of flags and forwarding
/// methods (`ip_vs.h`; 0x2 is the kernel's own).
const EVERYTHING: &str = "\
mark 7 of family 10 -> fd00:244:1::5 port 0: method 3 weight 1 thresholds 0 0
mark 7 of family 10: nq flags 0x2 timeout 0 netmask 128.0.0.0
mark 7 of family 2 -> 10.244.1.5 port 0: method 3 weight 1 thresholds 0 0
mark 7 of family 2: sed flags 0x2 timeout 0 netmask 255.255.255.255
protocol 132 10.96.0.10 port 9999: lc flags 0x2 timeout 0 netmask 255.255.255.255
protocol 17 10.96.0.10 port 53 -> 10.244.1.5 port 53: method 2 weight 1 thresholds 0 0
protocol 17 10.96.0.10 port 53: wrr flags 0x2 timeout 0 netmask 255.255.255.255
protocol 17 10.96.0.16 port 53: rr flags 0x6 timeout 0 netmask 255.255.255.255
protocol 6 10.96.0.10 port 80 -> 10.244.1.5 port 8080: method 0 weight 1 thresholds 0 0
protocol 6 10.96.0.10 port 80 -> 10.244.1.6 port 8080: method 0 weight 100 thresholds 50 10
protocol 6 10.96.0.10 port 80 -> 10.244.1.7 port 8080: method 0 weight 0 thresholds 0 0
protocol 6 10.96.0.10 port 80: rr flags 0x2 timeout 0 netmask 255.255.255.255
protocol 6 10.96.0.11 port 80: dh flags 0x3 timeout 10800 netmask 255.255.255.255
protocol 6 10.96.0.12 port 80: rr flags 0x3 timeout 60 netmask 255.255.255.0
protocol 6 10.96.0.13 port 80: sh flags 0x12 timeout 0 netmask 255.255.255.255
protocol 6 10.96.0.14 port 80: sh flags 0x1a timeout 0 netmask 255.255.255.255
protocol 6 10.96.0.15 port 80: mh flags 0x13 timeout 10800 netmask 255.255.255.255
protocol 6 fd00:96::10 port 80 -> fd00:244:1::5 port 8080: method 0 weight 1 thresholds 0 0
protocol 6 fd00:96::10 port 80: wlc flags 0x2 timeout 0 netmask 128.0.0.0
protocol 6 fd00:96::12 port 80: rr flags 0x3 timeout 60 netmask 64.0.0.0
timeouts 901 121 302
";

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn what_is_written_is_what_pyroute2_reads() {
    let namespace = network();
    execute(&namespace, &everything()).unwrap();
    let timeouts = Timeouts { tcp: 901, tcp_fin: 121, udp: 302 };
    with(&namespace, |ipvs| ipvs.set_timeouts(timeouts)).unwrap();
    let read = || {
        let mut lines: Vec<_> = pyroute2(&namespace, "read").lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_lists(read, &EVERYTHING.lines().collect::<Vec<_>>());
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn what_pyroute2_writes_is_read() {
    let namespace = network();
    pyroute2(&namespace, "write");
    assert_lists(
        || listed(&namespace),
        &[
            "-A --sctp-service 10.96.0.11:9999 -s lc -M 255.255.255.0",
            "-A -f 7 -6 -s nq",
            "-A -f 7 -s sed",
            "-A -t 10.96.0.10:80 -s wrr",
            "-A -t [fd00:96::10]:443 -s sh -b sh-fallback,sh-port -p 10800 -M 64",
            "-A -u 10.96.0.53:53 -s rr -o",
            "-a -f 7 -r 10.244.1.5:0 -g -w 1",
            "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 3",
            "-a -t 10.96.0.10:80 -r 10.244.1.6:8080 -m -w 100 -x 50 -y 10",
            "-a -t [fd00:96::10]:443 -r [fd00:244:1::5]:8443 -m -w 0",
            "-a -u 10.96.0.53:53 -r 10.244.1.5:53 -i -w 1",
        ],
    );
}
