"""IPVS as pyroute2 sees it: a netlink library for Python with a codec of its own.

`read` prints what is in the kernel, `write` puts a few things there.
"""

import sys
from socket import AF_INET, AF_INET6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

from pyroute2 import IPVS, IPVSDest, IPVSService
from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.generic.ipvs import IPVS_CMD_GET_CONFIG, GENL_VERSION, ipvsmsg

# Its service attribute for the netmask is an IPv4 address, also where the kernel means the length of an IPv6 prefix.
PREFIX_64, PREFIX_128 = "64.0.0.0", "128.0.0.0"


def attributes(message, what):
    prefix = {"SERVICE": "IPVS_SVC_ATTR_", "DEST": "IPVS_DEST_ATTR_"}[what]
    found = message.get("IPVS_CMD_ATTR_" + what)["attrs"]
    return {name.removeprefix(prefix).lower(): value for name, value in found}


def place(of):
    if "fwmark" in of:
        return f"mark {of['fwmark']} of family {of['af']}"
    return f"protocol {of['protocol']} {of['addr']} port {of['port']}"


def read(ipvs):
    for message in ipvs.service("dump"):
        service = attributes(message, "SERVICE")
        flags = service["flags"]["flags"]
        print(
            f"{place(service)}: {service['sched_name']} flags {flags:#x}"
            f" timeout {service['timeout']} netmask {service['netmask']}"
        )
        for message in ipvs.dest("dump", service=IPVSService.from_message(message)):
            to = attributes(message, "DEST")
            print(
                f"{place(service)} -> {to['addr']} port {to['port']}: method {to['fwd_method']}"
                f" weight {to['weight']} thresholds {to['u_thresh']} {to['l_thresh']}"
            )
    print("timeouts", *timeouts(ipvs))


def timeouts(ipvs):
    """pyroute2 knows the message, but has no method for it."""
    request = ipvsmsg()
    request["cmd"], request["version"] = IPVS_CMD_GET_CONFIG, GENL_VERSION
    (answer,) = ipvs.nlm_request(request, msg_type=ipvs.prid, msg_flags=NLM_F_REQUEST)
    for name in ("TCP", "TCP_FIN", "UDP"):
        octets = bytes.fromhex(answer.get("IPVS_CMD_ATTR_TIMEOUT_" + name).replace(":", ""))
        yield int.from_bytes(octets, sys.byteorder)


def write(ipvs):
    def add(service, *destinations):
        ipvs.service("add", service=service)
        for to in destinations:
            ipvs.dest("add", service=service, dest=to)

    def flags(value):
        return {"flags": value, "mask": 0xFFFFFFFF}

    add(
        IPVSService(addr="10.96.0.10", port=80, protocol=IPPROTO_TCP, sched_name="wrr"),
        IPVSDest(addr="10.244.1.5", port=8080, fwd_method=0, weight=3),
        IPVSDest(addr="10.244.1.6", port=8080, fwd_method=0, weight=100, u_thresh=50, l_thresh=10),
    )
    add(
        IPVSService(
            addr="fd00:96::10", port=443, protocol=IPPROTO_TCP, sched_name="sh",
            flags=flags(0x1 | 0x8 | 0x10), timeout=10800, netmask=PREFIX_64,
        ),
        IPVSDest(addr="fd00:244:1::5", port=8443, fwd_method=0, weight=0),
    )
    add(
        IPVSService(addr="10.96.0.53", port=53, protocol=IPPROTO_UDP, sched_name="rr", flags=flags(0x4)),
        IPVSDest(addr="10.244.1.5", port=53, fwd_method=2),
    )
    add(IPVSService(addr="10.96.0.11", port=9999, protocol=IPPROTO_SCTP, sched_name="lc", netmask="255.255.255.0"))
    add(
        IPVSService(fwmark=7, af=AF_INET, sched_name="sed", netmask="255.255.255.255"),
        IPVSDest(addr="10.244.1.5", port=0, fwd_method=3),
    )
    add(IPVSService(fwmark=7, af=AF_INET6, sched_name="nq", netmask=PREFIX_128))


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](IPVS())
