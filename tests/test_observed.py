"""A machine as ip and ss tell it: what is read, what is refused, and how packets fare on it."""

from pathlib import Path

import pytest
from packets import ip, net
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.exchange import Verdict
from kpsim.explore import load
from kpsim.explore.observed import Observed, applied, read_observed
from kpsim.nodes import make_machine
from kpsim.packetpath.routing import InterfaceKind, OwnAddress, PolicyRule, Route, RouteKind
from kpsim.packetpath.sockets import Socket
from kpsim.sysctls import Sysctls
from kpsim.tracing.probes import first_packet
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.traces import Trace, trace_packet

V4, V6 = Family.IPV4, Family.IPV6

LINKS = """1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
    inet6 ::1/128 scope host noprefixroute
2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP group default qlen 1000
    inet 192.168.0.1/24 brd 192.168.0.255 scope global eth0
    inet6 2001:db8:1::1/64 scope global
    inet6 2001:db8:1::bad/64 scope global tentative
3: vlan17@eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400 qdisc noqueue state UP
    inet 10.46.0.1/16 brd 10.46.255.255 scope global vlan17
4: cni0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP
    inet 10.180.0.1/24 brd 10.180.0.255 scope global cni0
5: old0: <BROADCAST,MULTICAST> mtu 1500 qdisc noop state DOWN
6: kube-ipvs0: <BROADCAST,NOARP> mtu 1500 qdisc noop state DOWN
"""
ROUTES = """default via 192.168.0.254 dev eth0 proto static metric 100 mtu lock 1480
default via 10.46.0.254 dev vlan17 table vlan onlink
unreachable 10.99.0.0/16 metric 7
blackhole default table 200
10.46.0.0/16 dev vlan17 proto kernel scope link src 10.46.0.1
10.180.1.0/24 via 192.168.0.2 dev eth0
10.180.2.0/24 via 192.168.0.3 dev eth0
local 10.46.0.1 dev vlan17 table local proto kernel scope host src 10.46.0.1
local 192.0.2.0/24 dev lo table local scope host
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
broadcast 10.46.255.255 dev vlan17 table local proto kernel scope link src 10.46.0.1
default via 2001:db8:1::ff dev eth0 metric 1024 pref medium
multicast ff00::/8 dev eth0 table local proto kernel metric 256 pref medium
"""
RULES = """0:\tfrom all lookup local
100:\tfrom 10.46.0.1 lookup vlan
110:\tnot from all fwmark 0x80/0x80 lookup main suppress_prefixlength 0
120:\tfrom all to 10.0.0.0/8 iif vlan17 prohibit
32766:\tfrom all lookup main
0:\tfrom all lookup local
32766:\tfrom all lookup main
"""
SOCKETS = """Netid State  Recv-Q Send-Q Local Address:Port  Peer Address:PortProcess
udp   UNCONN 0      0          127.0.0.1:323        0.0.0.0:*    users:(("chronyd",pid=600,fd=5))
udp   UNCONN 0      0      127.0.0.53%lo:53         0.0.0.0:*
tcp   LISTEN 0      4096         0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=700,fd=3))
tcp   LISTEN 0      4096               *:10250            *:*    users:(("kubelet",pid=800,fd=9))
tcp   LISTEN 0      511             [::]:80            [::]:*
"""


def observed(tmp_path: Path, *texts: str) -> Observed:
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(text)
    return read_observed(files)


def test_interfaces_with_their_addresses(tmp_path: Path) -> None:
    found = {each.name: each for each in observed(tmp_path, LINKS).interfaces}
    assert [str(address) for address in found["eth0"].addresses] == ["192.168.0.1/24", "2001:db8:1::1/64"]
    assert (found["vlan17"].mtu, found["vlan17"].up, found["old0"].up) == (1400, True, False)
    assert (found["lo"].kind, found["kube-ipvs0"].kind, found["lo"].mtu) == (
        InterfaceKind.LOOPBACK,
        InterfaceKind.DUMMY,
        0,
    )


def test_routes_of_all_tables_but_those_that_linux_makes_itself(tmp_path: Path) -> None:
    routes = observed(tmp_path, LINKS, ROUTES).routes
    assert routes[0] == Route(net("0.0.0.0/0"), "eth0", ip("192.168.0.254"), metric=100, mtu=1480)
    assert (routes[1].interface, routes[1].gateway) == ("vlan17", ip("10.46.0.254"))
    assert routes[2:4] == [
        Route(net("10.99.0.0/16"), kind=RouteKind.UNREACHABLE, metric=7), Route(net("0.0.0.0/0"), kind=RouteKind.BLACKHOLE, table=200),
    ]  # fmt: skip
    assert [r.network for r in routes if r.kind is RouteKind.LOCAL] == [net("192.0.2.0/24")]
    assert routes[-2].network == net("::/0")
    assert len(routes) == 9


def test_policy_rules_of_both_families(tmp_path: Path) -> None:
    found = observed(tmp_path, LINKS, ROUTES, RULES)
    named = found.routes[1].table
    assert found.rules == [
        PolicyRule(V4, 0, 255),
        PolicyRule(V4, 100, named, source=net("10.46.0.1/32")),
        PolicyRule(V4, 110, 254, mark=0x80, mask=0x80, invert=True, shortest=0),
        PolicyRule(V4, 120, 254, RouteKind.PROHIBIT, destination=net("10.0.0.0/8"), interface="vlan17"),
        PolicyRule(V4, 32766, 254),
        PolicyRule(V6, 0, 255),
        PolicyRule(V6, 32766, 254),
    ]
    [asked] = observed(tmp_path, "# ip -6 rule\n5:\tfrom all lookup 9\n").rules
    assert (asked.family, asked.table) == (V6, 9)


def test_sockets_that_listen(tmp_path: Path) -> None:
    assert observed(tmp_path, SOCKETS).sockets == [
        Socket("udp", 323, (V4, ip("127.0.0.1")), "", "chronyd"), Socket("udp", 53, (V4, ip("127.0.0.53")), "lo"),
        Socket("tcp", 22, (V4, 0), "", "sshd"), Socket("tcp", 10250, None, "", "kubelet"), Socket("tcp", 80, (V6, 0)),
    ]  # fmt: skip
    assert observed(tmp_path, LINKS).sockets is None
    assert observed(tmp_path, SOCKETS.splitlines()[0]).sockets == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hello world", "begins with 'hello'"),
        ("default", "no such interface"),
        ("10.0.0.0/8 nexthop via 192.168.0.2 dev eth0 weight 1", "several next hops is not modelled"),
        ("10.0.0.0/8 encap mpls 100 via 192.168.0.2 dev eth0", "a route with 'encap' is not modelled"),
        ("10.0.0.0/8 via nowhere dev eth0", "'nowhere' is no address"),
        ("10.0.0.0/8 dev eth0 metric many", "metric 'many' is no number"),
        (
            "192.0.2.77 via inet6 fe80::1 dev eth0",
            "a route of IPv4 with an address of the other family is not modelled",
        ),
        ("10.0.0.0/99 dev eth0", "begins with '10.0.0.0/99'"),
        ("10:\tfrom all uidrange 0-0 lookup 7", "a policy rule with uidrange is not modelled"),
        ("10:\tfrom nowhere lookup 7", "'nowhere' is no address"),
        ("10:\tfrom all fwmark x lookup 7", "fwmark 'x' is no number"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        applied(make_machine(["192.168.0.1"]), observed(tmp_path, f"{LINKS}{line}\n"))
    assert words in str(refused.value)
    if "no such interface" not in words:
        assert f"0.txt:{len(LINKS.splitlines()) + 1}" in str(refused.value)


def test_interfaces_need_their_routes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ip route show table all"):
        applied(make_machine(["192.168.0.1"]), observed(tmp_path, LINKS))


def site(tmp_path: Path, *texts: str, by: str = "vlan17", **sysctls: int) -> Site:
    """The shop, whose node-1 is as these texts say."""
    made = load(
        text=cluster_text(), sysctls={f"net.ipv4.conf.all.{name}": value for name, value in sysctls.items()}
    ).site
    made.place("node-1", applied(made.machine("node-1"), observed(tmp_path, *texts)))
    made.let_in("node-1", by)
    return made


def traced(at: Site, destination: str, source: str = "10.42.0.1") -> Trace:
    return trace_packet(at, first_packet(destination, src=source), node="node-1", sender=Sender.EXTERNAL)


def test_a_client_behind_a_router_of_the_second_interface(tmp_path: Path) -> None:
    """The way back to it is the default route by eth0: with rp_filter its request is dropped, without the answer leaves there."""
    strict = traced(site(tmp_path, LINKS, ROUTES, rp_filter=1), "10.46.0.1:30080")
    assert str(strict.journey.hops[0].walk.cause) == "reverse path filter"
    at = site(tmp_path, LINKS, ROUTES)
    first = traced(at, "10.46.0.1:22")
    assert (first.journey.hops[0].walk.packet.in_interface, str(first.journey.disposition)) == ("vlan17", "delivered")
    machine = at.machine("node-1")
    back = machine.routing.lookup(V4, ip("10.42.0.1"))
    assert back is not None and back.interface == "eth0"


def test_an_answer_that_leaves_by_another_interface_is_told(tmp_path: Path) -> None:
    """Routers between may drop it: its source is an address of the other link."""
    at = site(tmp_path, LINKS, ROUTES)
    far, near = (traced(at, "10.46.0.1:30080", source) for source in ("10.42.0.1", "10.46.9.9"))
    words = "the answer leaves node-1 by eth0; the request came in by vlan17, so a router there may drop it"
    assert far.text().splitlines()[-1] == words and words not in near.text()
    detour = {"node": "node-1", "cameInBy": "vlan17", "leavesBy": "eth0"}
    assert far.to_json()["exchange"]["answer"]["detour"] == detour
    assert "detour" not in near.to_json()["exchange"]["answer"]


def test_masquerading_takes_the_address_of_the_way_to_the_endpoint(tmp_path: Path) -> None:
    at = site(tmp_path, LINKS, ROUTES)
    for destination in ("10.46.0.1:30080", "192.168.0.1:30080"):
        hop = traced(at, destination, "10.46.9.9").journey.hops[0]
        assert (hop.walk.packet.out_interface, hop.walk.packet.source) in [
            ("eth0", "192.168.0.1"),
            ("cni0", "10.180.0.1"),
        ]


def test_who_listens_on_the_node(tmp_path: Path) -> None:
    """K-8: a port that nobody listens on is refused by the node; what listens is named."""
    at = site(tmp_path, LINKS, ROUTES, SOCKETS)
    verdicts = {
        destination: traced(at, destination).exchange
        for destination in ("192.168.0.1:22", "10.46.0.1:10250", "192.168.0.1:23", "192.168.0.1:80")
    }
    assert {where: each.verdict for where, each in verdicts.items() if each} == {
        "192.168.0.1:22": Verdict.WORKS, "10.46.0.1:10250": Verdict.WORKS,
        "192.168.0.1:23": Verdict.REFUSED, "192.168.0.1:80": Verdict.REFUSED,
    }  # fmt: skip
    listener = at.machine("node-1").listener
    assert [found and found.program for found in map(listener, [first_packet("192.168.0.1:22", src="10.42.0.1")])] == [
        "sshd"
    ]


def test_sockets_alone_change_nothing_else(tmp_path: Path) -> None:
    before = make_machine(["192.168.0.1"], ["10.180.0.0/24"], sysctls=Sysctls(rp_filter=1))
    after = applied(before, observed(tmp_path, SOCKETS))
    assert (after.routing, after.sysctls, len(after.sockets or ())) == (before.routing, before.sysctls, 5)
    own = next(iter(after.routing.interfaces["eth0"].addresses))
    assert own == OwnAddress.parse("192.168.0.1/24")


def test_an_interface_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"node-1 has no interface 'eth7'; it has lo, eth0, vlan17"):
        site(tmp_path, LINKS, ROUTES, by="eth7")
