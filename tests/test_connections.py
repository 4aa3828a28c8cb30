"""Connections as conntrack lists them. The lines were recorded with conntrack 1.4.7 on Linux 6.18, in each text form."""

import pytest

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import FlowTuple
from kpsim.errors import InputError
from kpsim.explore.connections import parse_connections
from kpsim.flowstate import FlowState
from kpsim.units import SECOND_NS

NOW = 1_000_000 * SECOND_NS
LISTED = """
conntrack v1.4.7 (conntrack-tools): 6 flow entries have been shown.
unknown  50 598 src=10.180.2.5 dst=10.180.2.5 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 packets=0 bytes=0 mark=0 delta-time=1 use=1
tcp      6 431998 ESTABLISHED src=10.180.1.7 dst=172.30.0.53 sport=40002 dport=80 packets=2 bytes=112 src=10.180.2.5 dst=10.180.1.7 sport=8080 dport=40002 packets=1 bytes=60 [ASSURED] mark=0 delta-time=1 use=1
udp      17 28 src=10.180.1.7 dst=172.30.0.53 sport=40001 dport=8125 packets=1 bytes=29 [UNREPLIED] src=10.180.2.5 dst=10.180.1.7 sport=8125 dport=40001 packets=0 bytes=0 mark=16 delta-time=1 use=1
gre      47 28 src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=0 bytes=0 mark=0 delta-time=1 use=1
tcp      6 431998 ESTABLISHED src=fd00::7 dst=fd01::5 sport=40003 dport=80 packets=2 bytes=152 src=fd00::5 dst=fd00::7 sport=8080 dport=40003 packets=1 bytes=80 [ASSURED] mark=0 delta-time=1 use=1
"""
EXTENDED = """
ipv4     2 unknown  50 598 src=10.180.2.5 dst=10.180.2.5 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 packets=0 bytes=0 mark=0 delta-time=1 [start=Mon Nov 30 08:01:02 2026] use=1 id=1311615241
ipv4     2 tcp      6 431998 ESTABLISHED src=10.180.1.7 dst=172.30.0.53 sport=40002 dport=80 packets=2 bytes=112 src=10.180.2.5 dst=10.180.1.7 sport=8080 dport=40002 packets=1 bytes=60 [ASSURED] mark=0 delta-time=1 [start=Mon Nov 30 08:01:02 2026] use=1 id=1771426696
ipv4     2 udp      17 28 src=10.180.1.7 dst=172.30.0.53 sport=40001 dport=8125 packets=1 bytes=29 [UNREPLIED] src=10.180.2.5 dst=10.180.1.7 sport=8125 dport=40001 packets=0 bytes=0 mark=16 delta-time=1 [start=Mon Nov 30 08:01:02 2026] use=1 id=1427129248
ipv4     2 gre      47 28 src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=0 bytes=0 mark=0 delta-time=1 [start=Mon Nov 30 08:01:02 2026] use=1 id=1711169534
ipv6     10 tcp      6 431998 ESTABLISHED src=fd00::7 dst=fd01::5 sport=40003 dport=80 packets=2 bytes=152 src=fd00::5 dst=fd00::7 sport=8080 dport=40003 packets=1 bytes=80 [ASSURED] mark=0 delta-time=1 [start=Mon Nov 30 08:01:02 2026] use=1 id=949325794
"""
PROC = """
ipv4     2 unknown  50 598 src=10.180.2.5 dst=10.180.2.5 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 packets=0 bytes=0 mark=0 zone=0 delta-time=1 use=2
ipv4     2 tcp      6 431998 ESTABLISHED src=10.180.1.7 dst=172.30.0.53 sport=40002 dport=80 packets=2 bytes=112 src=10.180.2.5 dst=10.180.1.7 sport=8080 dport=40002 packets=1 bytes=60 [ASSURED] mark=0 zone=0 delta-time=1 use=2
ipv4     2 udp      17 28 src=10.180.1.7 dst=172.30.0.53 sport=40001 dport=8125 packets=1 bytes=29 [UNREPLIED] src=10.180.2.5 dst=10.180.1.7 sport=8125 dport=40001 packets=0 bytes=0 mark=16 zone=0 delta-time=1 use=2
ipv4     2 gre      47 28 timeout=30, stream_timeout=180 src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=1 bytes=28 [UNREPLIED] src=10.180.2.5 dst=10.180.2.5 srckey=0x0 dstkey=0x0 packets=0 bytes=0 mark=0 zone=0 delta-time=1 use=2
ipv6     10 tcp      6 431998 ESTABLISHED src=fd00:0000:0000:0000:0000:0000:0000:0007 dst=fd01:0000:0000:0000:0000:0000:0000:0005 sport=40003 dport=80 packets=2 bytes=152 src=fd00:0000:0000:0000:0000:0000:0000:0005 dst=fd00:0000:0000:0000:0000:0000:0000:0007 sport=8080 dport=40003 packets=1 bytes=80 [ASSURED] mark=0 zone=0 delta-time=1 use=2
"""
PLAIN = "udp 17 28 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 mark=0 use=1"


def flow(protocol: str, src: str, sport: int, dst: str, dport: int) -> FlowTuple:
    (family, saddr), (_, daddr) = parse_ip(src) or (Family.IPV4, 0), parse_ip(dst) or (Family.IPV4, 0)
    return FlowTuple(family, protocol, saddr, sport, daddr, dport)


def test_what_a_line_says() -> None:
    esp, tcp, udp, gre, tcp6 = parse_connections(LISTED, NOW).entries
    assert tcp[:2] == (
        flow("tcp", "10.180.1.7", 40002, "172.30.0.53", 80), flow("tcp", "10.180.2.5", 8080, "10.180.1.7", 40002),
    )  # fmt: skip
    assert (tcp.state, tcp.seen_reply, tcp.assured, tcp.mark) == (FlowState.ESTABLISHED, True, True, 0)
    assert (tcp.created_ns, tcp.expires_ns) == (NOW - SECOND_NS, NOW + 431998 * SECOND_NS)
    assert (udp.seen_reply, udp.assured, udp.mark, udp.dst_nat, udp.src_nat) == (False, False, 16, True, False)
    assert esp.original == flow("esp", "10.180.2.5", 0, "10.180.2.5", 0)
    assert gre.original.protocol == "gre"
    assert tcp6.reply == flow("tcp", "fd00::5", 8080, "fd00::7", 40003)


def test_a_ping() -> None:
    """The id stands where others have a port, and type and code make the other (CT-3.1)."""
    line = "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 src=10.0.0.2 dst=10.0.0.9 type=0 code=0 id=78 mark=0 use=1"
    (ping,) = parse_connections(line, NOW).entries
    assert ping.original == flow("icmp", "10.0.0.1", 77, "10.0.0.2", 8 * 256)
    assert ping.reply == flow("icmp", "10.0.0.2", 78, "10.0.0.9", 0) and ping.src_nat


@pytest.mark.parametrize("text", [EXTENDED, PROC], ids=["extended", "proc"])
def test_every_form_says_the_same(text: str) -> None:
    assert parse_connections(text, NOW) == parse_connections(LISTED, NOW)


def test_an_offloaded_connection_has_no_timer() -> None:
    line = "ipv4 2 tcp 6 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 [OFFLOAD] mark=0 zone=0 use=3"
    (entry,) = parse_connections(line, NOW).entries
    assert (entry.state, entry.assured) == (FlowState.ESTABLISHED, True) and entry.expires_ns > NOW + 60 * SECOND_NS


def test_other_zones_are_passed_over_by_name() -> None:
    """Packets without a zone do not find them (CT-3.1)."""
    found = parse_connections(f"{PLAIN}\n{PLAIN.replace('mark=0', 'mark=0 zone=3')}", NOW, file="ct.txt")
    assert len(found.entries) == 1
    assert found.notes == ("ct.txt: connections of other conntrack zones are passed over: 1",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('<?xml version="1.0" encoding="utf-8"?>', "the XML form of conntrack"),
        ("-A -t 598 -u UNSET -s 10.180.2.5 -d 10.180.2.5 -r 10.180.2.5 -q 10.180.2.5 -p 50", "conntrack -o save"),
        ("[NEW] udp      17 30 src=10.0.0.1 dst=10.0.0.2", "conntrack -E"),
        ("Chain PREROUTING (policy ACCEPT)", "no connection as `conntrack -L` lists it"),
        ("udp 17 28", "no connection as `conntrack -L` lists it"),
        (PLAIN.partition(" src=10.0.0.2")[0], "src=… dst=… of both directions"),
        (PLAIN.replace("dst=10.0.0.2 sport=1", "dst=fd00::2 sport=1"), "different families"),
        (PLAIN.replace("10.0.0.1", "10.0.0.300"), "'10.0.0.300' is no address"),
        (PLAIN.replace("sport=1", "sport=70000"), "sport '70000' is no number up to 65535"),
        (PLAIN.replace(" dport=1", ""), "dport=… is missing"),
        (PLAIN.replace("17 28", "17 99999999999"), "its timer"),
        (PLAIN.replace("mark=0", "mark=x"), "mark 'x'"),
        (PLAIN.replace("udp 17 28", "tcp 6 28 BUSY"), "'BUSY' is no state of tcp"),
        (PLAIN.replace("udp 17 28", "tcp 6 28"), "'' is no state of tcp"),
    ],
)  # fmt: skip
def test_what_is_no_connection_is_refused_by_its_line(line: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_connections(f"{PLAIN}\n{line}", NOW, file="ct.txt")
    (problem,) = refused.value.problems
    assert says in problem.message and (problem.file, problem.line) == ("ct.txt", 2)
