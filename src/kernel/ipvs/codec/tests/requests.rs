use super::super::constants::{destination as d, service as s, top};
use super::{bytes, captured};
use crate::kernel::ipvs::{
    Command, Destination, Flags, ForwardingMethod, Service, Timeouts, VirtualServer, codec,
};
use crate::kernel::netlink::generic::Family as Generic;
use crate::kernel::netlink::{Attributes, Replies, Request, generic};
use crate::model::{Family, Protocol};

/// The number that the family had in the kernel of the captures.
const FAMILY: u16 = 28;

fn family() -> Generic {
    Generic::numbered(FAMILY, codec::VERSION)
}

fn server(protocol: Protocol, at: &str) -> VirtualServer {
    VirtualServer::new(protocol, at.parse().unwrap())
}

fn tcp(at: &str) -> VirtualServer {
    server(Protocol::Tcp, at)
}

fn mark(family: Family) -> VirtualServer {
    VirtualServer::Mark { family, mark: 7 }
}

fn service(server: VirtualServer, scheduler: &str, flags: Flags) -> Service {
    Service { flags, ..Service::new(server, scheduler) }
}

fn to(at: &str, weight: u32, method: ForwardingMethod) -> Destination {
    Destination { method, ..Destination::new(at.parse().unwrap(), weight) }
}

/// In the order of [`captured::REQUESTS`].
fn commands() -> Vec<Command> {
    [
        services_added(),
        services_set(),
        destinations_added(),
        destinations_set_and_deleted(),
        services_deleted(),
    ]
    .concat()
}

fn services_added() -> Vec<Command> {
    let none = Flags::default();
    let persistent = |at, prefix| Service { prefix, ..Service::new(tcp(at), "rr").persistent(10800) };
    let services = [
        service(tcp("10.96.0.10:80"), "rr", none),
        service(server(Protocol::Udp, "10.96.0.10:53"), "wrr", none),
        service(server(Protocol::Sctp, "10.96.0.10:9999"), "lc", none),
        service(tcp("[fd00:96::10]:80"), "rr", none),
        service(mark(Family::V4), "rr", none),
        service(mark(Family::V6), "sh", none),
        persistent("10.96.0.11:80", 32),
        persistent("10.96.0.12:80", 24),
        persistent("[fd00:96::12]:80", 64),
        service(tcp("10.96.0.13:80"), "sh", Flags::SCHED_2),
        service(tcp("10.96.0.14:80"), "sh", Flags::SCHED_1 | Flags::SCHED_2),
        service(tcp("10.96.0.15:80"), "mh", Flags::SCHED_2).persistent(10800),
        service(server(Protocol::Udp, "10.96.0.16:53"), "rr", Flags::ONE_PACKET),
    ];
    services.map(Command::AddService).to_vec()
}

fn services_set() -> Vec<Command> {
    vec![
        Command::SetService(Service::new(tcp("10.96.0.11:80"), "wlc")),
        Command::SetService(service(tcp("10.96.0.10:80"), "sh", Flags::SCHED_1).persistent(60)),
    ]
}

fn destinations_added() -> Vec<Command> {
    use ForwardingMethod::*;
    let limited = to("10.244.1.6:8080", 100, Masquerade);
    let limited = Destination { upper_threshold: 50, lower_threshold: 10, ..limited };
    let udp = server(Protocol::Udp, "10.96.0.10:53");
    vec![
        Command::AddDestination(tcp("10.96.0.10:80"), to("10.244.1.5:8080", 1, Masquerade)),
        Command::AddDestination(tcp("10.96.0.10:80"), limited),
        Command::AddDestination(tcp("[fd00:96::10]:80"), to("[fd00:244:1::5]:8080", 1, Masquerade)),
        Command::AddDestination(mark(Family::V4), to("10.244.1.5:0", 1, DirectRoute)),
        Command::AddDestination(mark(Family::V6), to("[fd00:244:1::5]:0", 1, DirectRoute)),
        Command::AddDestination(udp, to("10.244.1.5:53", 1, Tunnel)),
        Command::AddDestination(udp, to("127.0.0.1:53", 1, Masquerade)),
    ]
}

fn destinations_set_and_deleted() -> Vec<Command> {
    let quiescent = to("10.244.1.5:8080", 0, ForwardingMethod::Masquerade);
    let delete = |server, at: &str| Command::DeleteDestination(server, at.parse().unwrap());
    vec![
        Command::SetDestination(tcp("10.96.0.10:80"), quiescent),
        delete(tcp("10.96.0.10:80"), "10.244.1.6:8080"),
        delete(tcp("[fd00:96::10]:80"), "[fd00:244:1::5]:8080"),
        delete(mark(Family::V4), "10.244.1.5:0"),
    ]
}

fn services_deleted() -> Vec<Command> {
    let udp = server(Protocol::Udp, "10.96.0.10:53");
    let servers = [udp, tcp("[fd00:96::10]:80"), mark(Family::V4), mark(Family::V6)];
    servers.map(Command::DeleteService).to_vec()
}

#[test]
fn commands_print_as_ipvsadm_takes_them() {
    let printed: Vec<_> = commands().iter().map(Command::to_string).collect();
    let taken: Vec<_> = captured::REQUESTS.iter().map(|(arguments, _)| *arguments).collect();
    assert_eq!(printed, taken);
}

#[test]
fn virtual_servers_are_added_and_set_with_the_bytes_of_ipvsadm() {
    for (command, (arguments, theirs)) in commands().iter().zip(captured::REQUESTS) {
        if arguments.starts_with("-A") || arguments.starts_with("-E") {
            assert_eq!(payload(codec::command(family(), command)), payload_of(theirs), "{arguments}");
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    for command in commands() {
        if let Command::AddService(service) | Command::SetService(service) = &command {
            let read = codec::parse_service(&payload(codec::command(family(), &command)));
            assert_eq!(read.unwrap().0, *service);
        }
    }
}

/// ipvsadm says everything about a virtual server also where the kernel only looks for it, everything about a destination
/// that it deletes, and how to tunnel also where there is no tunnel. None of this is read (`ip_vs_genl_parse_service`,
/// `ip_vs_genl_parse_dest`). Without it the bytes are the same.
#[test]
fn other_commands_have_the_bytes_of_ipvsadm_without_what_the_kernel_does_not_read() {
    for (command, (arguments, theirs)) in commands().iter().zip(captured::REQUESTS) {
        if !arguments.starts_with("-A") && !arguments.starts_with("-E") {
            let needed = without_surplus(theirs, command);
            assert_eq!(payload(codec::command(family(), command)), needed, "{arguments}");
        }
    }
}

fn without_surplus(theirs: &str, command: &Command) -> Vec<u8> {
    const TUNNEL: [u16; 3] = [13, 14, 15];
    let is_deletion = matches!(command, Command::DeleteDestination(..));
    let theirs = payload_of(theirs);
    let mut request = Request::new(FAMILY, 0, &theirs[..generic::HEADER]);
    for (level, content) in Attributes::after(generic::HEADER, &theirs) {
        request.nested(level | libc::NLA_F_NESTED as u16, |request| {
            for (kind, value) in Attributes(content) {
                let identifies = kind <= s::MARK;
                let names = [d::FAMILY, d::ADDRESS, d::PORT].contains(&kind);
                let kept = match level {
                    top::SERVICE => identifies,
                    _ if is_deletion => names,
                    _ => !TUNNEL.contains(&kind),
                };
                if kept {
                    request.attribute(kind, value);
                }
            }
        });
    }
    payload(request)
}

/// ipvsadm asks for an acknowledgement of everything, also of dumps, which end without one.
#[test]
fn questions_have_the_bytes_of_ipvsadm() {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    for (ours, theirs) in [
        (codec::version(family()), captured::GET_VERSION),
        (codec::list_services(family()), captured::LIST_SERVICES),
        (codec::list_destinations(family(), &tcp("10.96.0.10:80")), captured::LIST_DESTINATIONS),
        (codec::list_destinations(family(), &mark(Family::V6)), captured::LIST_DESTINATIONS_OF_MARK),
        (codec::timeouts(family()), captured::GET_TIMEOUTS),
        (codec::set_timeouts(family(), timeouts), captured::SET_TIMEOUTS),
    ] {
        assert_eq!(payload(ours), payload_of(theirs));
    }
}

/// ipvsadm has no options for the other two: their numbers are in `linux/ip_vs.h`.
#[test]
fn forwarding_methods_have_their_numbers() {
    use ForwardingMethod::*;
    for (method, number) in [(Masquerade, 0), (Local, 1), (Tunnel, 2), (DirectRoute, 3), (Bypass, 4)] {
        let command = Command::AddDestination(tcp("10.96.0.10:80"), to("10.244.1.5:8080", 1, method));
        let payload = payload(codec::command(family(), &command));
        let find = |bytes, wanted| Attributes(bytes).find(|(kind, _)| *kind == wanted).unwrap().1;
        let destination = find(&payload[generic::HEADER..], top::DESTINATION);
        assert_eq!(find(destination, d::METHOD), [number, 0, 0, 0], "{method}");
    }
}

/// Of a message to the family, without the header: flags, sequence numbers and port ids differ.
fn payload_of(hexadecimal: &str) -> Vec<u8> {
    payload_in(&bytes(hexadecimal))
}

fn payload(request: Request) -> Vec<u8> {
    payload_in(&request.into_bytes(1))
}

fn payload_in(message: &[u8]) -> Vec<u8> {
    let reply = Replies(message).next().unwrap();
    assert_eq!(reply.kind, FAMILY);
    reply.payload.to_vec()
}
