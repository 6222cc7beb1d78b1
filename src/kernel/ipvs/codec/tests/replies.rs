use super::super::constants::{destination as d, service as s, top};
use super::{bytes, captured};
use crate::kernel::ipvs::{
    Command, Connections, Destination, Statistics, Timeouts, Version, VirtualServer, codec,
};
use crate::kernel::netlink::{Attributes, Replies, Request, generic};
use crate::model::{Family, Protocol};

fn payload(hexadecimal: &str) -> Vec<u8> {
    Replies(&bytes(hexadecimal)).next().unwrap().payload.to_vec()
}

#[test]
fn reads_virtual_servers() {
    let mut saved: Vec<_> = captured::SERVICES
        .iter()
        .map(|message| codec::parse_service(&payload(message)).unwrap().0)
        .map(|service| Command::AddService(service).to_string())
        .collect();
    saved.sort();
    // As `ipvsadm-save -n` printed them, but for the order of options.
    let expected = [
        "-A --sctp-service 10.96.0.10:9999 -s lc",
        "-A -f 7 -6 -s sh",
        "-A -f 7 -s rr",
        "-A -t 10.96.0.10:80 -s sh -b sh-fallback -p 60",
        "-A -t 10.96.0.11:80 -s wlc",
        "-A -t 10.96.0.12:80 -s rr -p 10800 -M 255.255.255.0",
        "-A -t 10.96.0.13:80 -s sh -b sh-port",
        "-A -t 10.96.0.14:80 -s sh -b sh-fallback,sh-port",
        "-A -t 10.96.0.15:80 -s mh -b mh-port -p 10800",
        "-A -t [fd00:96::10]:80 -s rr",
        "-A -t [fd00:96::12]:80 -s rr -p 10800 -M 64",
        "-A -u 10.96.0.10:53 -s wrr",
        "-A -u 10.96.0.16:53 -s rr -o",
    ];
    assert_eq!(saved, expected);
}

#[test]
fn reads_destinations() {
    let read: Vec<_> = captured::DESTINATIONS
        .iter()
        .map(|message| codec::parse_destination(Family::V4, &payload(message)).unwrap().0.to_string())
        .collect();
    let expected = [
        "-r 10.244.1.6:8080 -m -w 100 -x 50 -y 10",
        "-r 10.244.1.5:8080 -m -w 0",
        "-r 127.0.0.1:53 -m -w 1",
        "-r 10.244.1.5:53 -i -w 1",
        "-r [fd00:244:1::5]:8080 -m -w 1",
        "-r 10.244.1.5:0 -g -w 1",
        "-r [fd00:244:1::5]:0 -g -w 1",
    ];
    assert_eq!(read, expected);
}

const COUNTED: Statistics =
    Statistics { connections: 3, packets_in: 14, packets_out: 10, bytes_in: 1052, bytes_out: 15544 };

#[test]
fn reads_connections_and_statistics() {
    let (service, statistics) = codec::parse_service(&payload(captured::BUSY_SERVICE)).unwrap();
    assert_eq!(service.server, VirtualServer::new(Protocol::Tcp, "10.96.0.10:80".parse().unwrap()));
    assert_eq!(statistics, COUNTED);
    let (destination, connections, statistics) =
        codec::parse_destination(Family::V4, &payload(captured::BUSY_DESTINATION)).unwrap();
    assert_eq!(destination, Destination::new("127.0.0.1:8080".parse().unwrap(), 1));
    assert_eq!(connections, Connections { active: 2, inactive: 1, persistent: 1 });
    assert_eq!(statistics, COUNTED);
}

/// Before Linux 4.1 there were the 32-bit ones only, before 3.18 no family of a destination.
#[test]
fn reads_what_old_kernels_say() {
    let old = without(&payload(captured::BUSY_SERVICE), top::SERVICE, &[s::STATISTICS_64]);
    assert_eq!(codec::parse_service(&old).unwrap().1, COUNTED);
    let message = payload(captured::BUSY_DESTINATION);
    let old = without(&message, top::DESTINATION, &[d::STATISTICS_64, d::FAMILY]);
    assert_eq!(codec::parse_destination(Family::V4, &old), codec::parse_destination(Family::V4, &message));
    let none = without(&message, top::DESTINATION, &[d::STATISTICS_64, d::STATISTICS]);
    assert_eq!(codec::parse_destination(Family::V4, &none).unwrap().2, Statistics::default());
}

/// The payload without some attributes of a level.
fn without(payload: &[u8], level: u16, kinds: &[u16]) -> Vec<u8> {
    let (_, content) = Attributes::after(generic::HEADER, payload).next().unwrap();
    let mut request = Request::new(28, 0, &payload[..generic::HEADER]);
    request.nested(level, |request| {
        for (kind, value) in Attributes(content).filter(|(kind, _)| !kinds.contains(kind)) {
            request.attribute(kind, value);
        }
    });
    request.into_bytes(1)[16..].to_vec()
}

#[test]
fn reads_timeouts_and_version() {
    let timeouts = codec::parse_timeouts(&payload(captured::TIMEOUTS));
    assert_eq!(timeouts, Some(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }));
    let version = codec::parse_version(&payload(captured::VERSION)).unwrap();
    assert_eq!(version, Version { major: 1, minor: 2, patch: 1, connection_table_size: 4096 });
    assert_eq!(version.to_string(), "1.2.1");
}

/// Cut off, or shorter by its own account. Nothing panics, and nothing that is read differs from the whole.
#[test]
fn what_is_cut_off_anywhere_is_left_out() {
    let (service, _) = codec::parse_service(&payload(captured::BUSY_SERVICE)).unwrap();
    let (destination, ..) =
        codec::parse_destination(Family::V4, &payload(captured::BUSY_DESTINATION)).unwrap();
    for shortened in shortenings(&payload(captured::BUSY_SERVICE)) {
        assert!(codec::parse_service(&shortened).is_none_or(|(read, _)| read == service));
    }
    for shortened in shortenings(&payload(captured::BUSY_DESTINATION)) {
        let read = codec::parse_destination(Family::V4, &shortened);
        assert!(read.is_none_or(|(read, ..)| read == destination));
    }
    for message in [captured::TIMEOUTS, captured::VERSION] {
        let whole = payload(message);
        for length in 0..whole.len() {
            assert_eq!(codec::parse_timeouts(&whole[..length]), None);
            assert_eq!(codec::parse_version(&whole[..length]), None);
        }
    }
}

/// The payload cut off at each byte, as it is and with the length of the outer attribute saying so.
fn shortenings(payload: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..payload.len()).map(|length| payload[..length].to_vec());
    let admitted = (generic::HEADER + 4..payload.len()).map(|length| {
        let mut shortened = payload[..length].to_vec();
        let attribute = (length - generic::HEADER) as u16;
        shortened[generic::HEADER..generic::HEADER + 2].copy_from_slice(&attribute.to_ne_bytes());
        shortened
    });
    cut.chain(admitted).collect()
}

proptest::proptest! {
    #[test]
    fn noise_is_left_out(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        codec::parse_service(&noise);
        codec::parse_destination(Family::V6, &noise);
        codec::parse_timeouts(&noise);
        codec::parse_version(&noise);
    }

    /// One byte of a real message is wrong.
    #[test]
    fn a_wrong_byte_does_no_harm(at in 0usize..340, byte: u8) {
        let mut message = payload(captured::BUSY_SERVICE);
        message[at] = byte;
        codec::parse_service(&message);
        let mut message = payload(captured::BUSY_DESTINATION);
        message[at] = byte;
        codec::parse_destination(Family::V4, &message);
    }
}
