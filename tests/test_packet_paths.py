"""The packet path tables, row by row: who reaches what through the rules that kube-proxy writes (PP-1 … PP-8, PP-12).

Every row of ``packet_path_rows`` is followed through N's hooks, and asked as a probe.
"""

from dataclasses import replace
from functools import cache

import pytest
from packet_path_rows import IN_OTHER_MODES, ROWS
from packet_paths import V4, Case, N, World, is_local, table, with_policy_drop, world
from packets import flags

from kpsim.addresses import Family
from kpsim.config import Host, Mode
from kpsim.fabric import send
from kpsim.netfilter import Disposition, walk
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.routing import Routing
from kpsim.replay import START_NS
from kpsim.simulation.attempts import refusal
from kpsim.simulation.runlog import Fate, Reason


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_first_packets(case: Case) -> None:
    place = world(case.family, case.configuration)
    assert place.walked(case.source, case.protocol, case.destination) == case.expected
    assert place.probed(case.source, case.protocol, case.destination) == case.summary


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("mode", IN_OTHER_MODES)
def test_first_packets_in_other_modes(family: Family, mode: Mode) -> None:
    """All rows of one family; ``IN_OTHER_MODES`` says which of them end otherwise."""
    other = {_row(case): case.expected for case in IN_OTHER_MODES[mode]}
    rows = {_row(case): case for case in ROWS if case.family is family}
    assert set(other) <= {_row(case) for case in ROWS}
    told = {
        key: world(family, case.configuration, mode).walked(case.source, case.protocol, case.destination)
        for key, case in rows.items()
    }
    assert {key: found for key, found in told.items() if found != other.get(key, rows[key].expected)} == {}
    assert all(found != rows[key].expected for key, found in told.items() if key in other)


@pytest.mark.parametrize(
    "case",
    table("""
    2/12.3     P,Q,X,H  tcp  unallocated:80           → DROP
    2/12.3     P,X,H    icmp unallocated:0            → DROP
    2          X        tcp  web.C                    → a1 b1 masq
    2          P,H      tcp  elsewhere:443            → PASS out
    """),
    ids=str,
)
def test_unallocated_service_addresses_in_nftables_mode(case: Case) -> None:
    """NFT-5.9: if kube-proxy knows the ServiceCIDRs."""
    place = _with_service_cidrs(case.family)
    assert place.walked(case.source, case.protocol, case.destination) == case.expected


@pytest.mark.parametrize(
    ("source", "destination", "fate", "reason"),
    [
        ("P", "none.C", Fate.REJECTED, Reason.NO_ENDPOINTS),
        ("P", "far.C", Fate.DROPPED, Reason.NO_LOCAL_ENDPOINTS),
        ("B", "guarded.V", Fate.DROPPED, Reason.SOURCE_RANGES),
        ("P", "web.C:81", Fate.REJECTED, Reason.NOT_CAPTURED),
        ("P", "unallocated:80", Fate.DROPPED, Reason.NOT_CAPTURED),
        ("P", "web.C", Fate.DELIVERED, Reason.NONE),
    ],
)
def test_causes_of_losses_in_nftables_mode(source: str, destination: str, fate: Fate, reason: Reason) -> None:
    """What a run reports: NFT-5.4, 6.4, 6.8, 5.8, 5.9."""
    place = _with_service_cidrs(V4)
    sent = place.packet(source, "tcp", destination)
    journey = send(place.fabric(), sent, at_node=N, now_ns=START_NS, chooser=ScriptedChooser())
    assert refusal(journey) == (fate, reason)


@cache
def _with_service_cidrs(family: Family) -> World:
    return World(family, mode=Mode.NFTABLES, host=Host(service_cidrs=("172.30.0.0/16", "fd00:172:30::/112")))


def _row(case: Case) -> tuple[Family, str, str, str, str]:
    return case.family, case.configuration, case.source, case.protocol, case.destination


# --- what needs more than a row --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(("configuration", "forwarded"), [("detector", False), ("be_liberal", True)])
def test_invalid_packets_between_pods_are_dropped_unless_liberal(
    family: Family, configuration: str, forwarded: bool
) -> None:
    """PP-2.1, K-6.3: a SYN-ACK of no known connection."""
    place = world(family, configuration)
    stray = place.packet("P", "tcp", "b1:8080")
    stray.tcp_flags = flags("SYN ACK")
    step = walk(place.node, stray, now_ns=START_NS, chooser=ScriptedChooser())
    assert step.ct_state == "INVALID"
    assert step.disposition is (Disposition.FORWARDED if forwarded else Disposition.DROPPED)


@pytest.mark.parametrize(
    "case",
    table("""
    2.2        H        tcp  web.C,E,V                → REJ ENETUNREACH
    2.2        P        tcp  web.C                    → a1 b1 keep
    v4 2.2     P,Q      tcp  none.C,V                 → REJ icmp-net-unreachable
    v6 2.2     P,Q      tcp  none.C,V                 → REJ icmp6-no-route
    v4 2.2     P        tcp  far.C                    → REJ icmp-net-unreachable
    """),
    ids=str,
)
def test_without_a_route_to_the_service_addresses(case: Case) -> None:
    netns = world(case.family).fabric().nodes[N]
    routing = netns.routing
    netns.routing = Routing(routing.interfaces.values(), [route for route in routing.routes if route.network.prefix])
    assert world(case.family).walked(case.source, case.protocol, case.destination, netns=netns) == case.expected


@pytest.mark.parametrize(
    "case",
    table("""
    2          P,X      tcp  outer.hc                 → PASS in
    2          P,X      tcp  N:22                     → DROP chain policy
    2          P,X      tcp  web.n                    → a1 b1 masq
    """),
    ids=str,
)
def test_health_check_node_ports_pass_a_closed_input(case: Case) -> None:
    assert _with_closed(case, "INPUT") == case.expected


@pytest.mark.parametrize(
    "case",
    table("""
    # masqueraded first packets carry the mark that is accepted; the others depend on somebody else's rules
    11.14      X        tcp  web.C,E,V,n              → a1 b1 masq
    11.14      P        tcp  web.E,V,n                → a1 b1 masq
    11.14      P        tcp  web.C                    → DROP chain policy
    11.14      X        tcp  outer.E,V,n              → DROP chain policy
    11.14      P        tcp  outer.E,V,n              → DROP chain policy
    11.14      a1       tcp  here.C                   → a1 masq
    11.14      P        tcp  none.C                   → REJ
    11.14      X        tcp  outerfar.V               → DROP
    11.14      P        tcp  b1:8080                  → DROP chain policy
    11.14      H        tcp  web.C,V,n                → a1 b1 masq
    """),
    ids=str,
)
def test_first_packets_through_a_closed_forward(case: Case) -> None:
    assert _with_closed(case, "FORWARD") == case.expected


def _with_closed(case: Case, chain: str) -> str:
    place = world(case.family)
    netns = place.fabric().nodes[N]
    netns.load_rules(with_policy_drop(place.rules(N), chain))
    return place.walked(case.source, case.protocol, case.destination, netns=netns)


@pytest.mark.parametrize(
    "case",
    table("""
    6.2        P,Q,X    tcp  none.C,E,V,n             → 0
    6.2        P,X      tcp  far.C                    → 0
    6.2        X        tcp  outerfar.E,V,n           → 0
    6.2        B,P      tcp  guarded.V                → 0
    6.2        H        tcp  none.C                   → 0
    6.2        H        tcp  far.C                    → 0
    6.2        H        tcp  clientsonly.V            → 0
    # over lo the entry is confirmed before INPUT says no
    6.2        H        tcp  none.n                   → 1
    6.2        H        tcp  nobodyonnode.E           → 1
    6.2        L        tcp  none.n@lo                → 1
    v6 6.2     L        tcp  outerfar.n@lo            → 1
    # what passes or is delivered is remembered
    6.2        H        tcp  none.E                   → 1
    6.2        X        tcp  here.V                   → 1
    """),
    ids=str,
)
def test_connections_that_are_remembered(case: Case) -> None:
    """PP-6.2, K-1.4."""
    place = world(case.family)
    netns = place.fabric().nodes[N]
    sent = place.packet(case.source, case.protocol, case.destination)
    step = walk(netns, sent, now_ns=START_NS, chooser=ScriptedChooser(), local=is_local(case.source))
    netns.commit(step.effects, START_NS)
    assert len(netns.conntrack) == int(case.expected)


@pytest.mark.parametrize("destination", ["web.n@lo", "outer.n@lo"])
def test_node_ports_on_localhost_need_route_localnet(destination: str) -> None:
    """PP-7.3, K-7.1: else routing drops what DNAT sends from 127.0.0.1 to a pod. Other programs may reset it."""
    netns = world(V4).fabric().nodes[N]
    assert netns.sysctls.route_localnet
    assert world(V4).walked("L", "tcp", destination, netns=netns) == "a1 b1 masq"
    netns.sysctls = replace(netns.sysctls, route_localnet=False)
    assert world(V4).walked("L", "tcp", destination, netns=netns) == "DROP martian source"


@pytest.mark.parametrize(
    "case",
    table("""
    8          H        tcp  guarded.V                → a1 b1 masq
    8          H        tcp  guardedlocal.V           → a1 b1 masq
    8          H        tcp  clientsonly.V            → DROP
    8          X        tcp  guarded.V                → a1 b1 masq
    # INPUT instead of FORWARD
    8          B,P      tcp  guarded.V                → DROP
    5.3        X        tcp  outerfar.V               → DROP
    6          X,H      tcp  none.V                   → REJ
    6          B        tcp  guardednone.V            → REJ
    """),
    ids=str,
)
def test_where_the_node_itself_has_the_vip(case: Case) -> None:
    place = world(case.family)
    netns = place.fabric(interfaces=[place.dummy(case.destination)]).nodes[N]
    assert place.walked(case.source, case.protocol, case.destination, netns=netns) == case.expected


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(("source", "destination"), [("X", "web.V"), ("P", "web.C"), ("H", "web.C"), ("a1", "here.C")])
def test_the_masquerade_mark_stays_on_the_node(family: Family, source: str, destination: str) -> None:
    """I-5: POSTROUTING takes it off again, so that no encapsulated packet is masqueraded a second time."""
    place = world(family)
    sent = place.packet(source, "tcp", destination)
    step = walk(place.node, sent, now_ns=START_NS, chooser=ScriptedChooser(), local=is_local(source))
    assert (step.disposition, step.packet.mark) == (Disposition.FORWARDED, 0)
