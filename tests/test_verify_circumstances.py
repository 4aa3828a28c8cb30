"""What drawn nodes have beside kube-proxy: routes that prefer a source (K-2.1, K-2.2) or refuse, rules that refuse by a
reset (K-3.2).
"""

from collections import Counter
from functools import cache

import pytest
from drawings import Scripted, cluster

from kpsim.addresses import Family, parse_ip
from kpsim.dialects.iptables import parse
from kpsim.explore import load
from kpsim.nodes import Machine
from kpsim.packetpath.routing import RouteKind
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.circumstances import Circumstances, draw_circumstances, placed
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.sequences.steps import MidStream

V4, V6 = Family.IPV4, Family.IPV6
_PREFERRED = "routes prefer a source of another interface"
_MANIFEST = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.180.0.0/24, "fd00:180::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "2001:db8:1::1"}]}
"""


@cache
def drawn(count: int = 600) -> list[Circumstances]:
    return [draw_circumstances(SeededChoices(seed, "circumstances")) for seed in range(count)]


def node() -> Machine:
    return load(text=_MANIFEST).site.machine("node-1")


def number(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


@pytest.mark.parametrize(
    ("family", "outside", "of_bridge", "of_link"),
    [(V4, "203.0.113.7", "10.180.0.1", "192.168.0.1"), (V6, "2001:db8:cb:71::7", "fd00:180::1", "2001:db8:1::1")],
)
def test_a_preferred_source_is_for_processes_and_not_for_masquerades(
    family: Family, outside: str, of_bridge: str, of_link: str
) -> None:
    usual, changed = node().routing, placed(node(), Circumstances(routes=_PREFERRED)).routing
    to = number(outside)
    assert usual.source_for(family, to) == number(of_link)
    assert changed.source_for(family, to) == number(of_bridge)
    assert changed.masquerade_address(family, "eth0", to, to) == number(of_link)


def test_a_node_of_one_address_prefers_none() -> None:
    alone = load(text=_MANIFEST.replace('podCIDRs: [10.180.0.0/24, "fd00:180::/64"]', "")).site.machine("node-1")
    changed = placed(alone, Circumstances(routes=_PREFERRED))
    assert changed.routing.routes == alone.routing.routes


def test_every_kind_of_route_is_drawn() -> None:
    routes = Counter(each.routes for each in drawn())
    kinds = Counter(r.kind for each in drawn() for r in placed(node(), each).routing.routes)
    assert routes[_PREFERRED] >= 20
    assert min(kinds[kind] for kind in (RouteKind.UNREACHABLE, RouteKind.PROHIBIT, RouteKind.BLACKHOLE)) >= 5
    assert routes["no default route"] >= 10
    assert routes[""] > len(drawn()) // 2


@pytest.mark.parametrize("family", [V4, V6])
def test_drawn_rules_can_be_read(family: Family) -> None:
    for each in drawn():
        parse(each.foreign.text(family), family)


def test_some_rules_refuse_resets_by_a_reset() -> None:
    rules = [rule for each in drawn() for _, _, rule in each.foreign.rules if "tcp-reset" in rule]
    assert sum("--tcp-flags RST RST" in rule for rule in rules) >= 10
    assert sum("! --tcp-flags SYN,ACK,RST SYN" in rule for rule in rules) >= 10
    assert all(each.foreign.resets == ("tcp-reset" in each.foreign.text(V4)) for each in drawn())


def test_where_rules_refuse_by_a_reset_resets_come_often() -> None:
    of = cluster(2)
    family = V6 if ":" in next(iter(of.state.nodes)).ips[0] else V4

    def resets(often: bool) -> int:
        steps = draw_sequence(
            SeededChoices(1, "resets"), of.site, of.node_names[0], family, 400, of.state, resets=often
        )
        return sum(isinstance(step, MidStream) and step.says.startswith("RST") for step in steps)

    assert resets(True) >= 40 > 10 * resets(False)


def test_the_simplest_circumstances_are_the_usual_ones() -> None:
    assert draw_circumstances(Scripted()) == Circumstances()
