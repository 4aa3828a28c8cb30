"""What a match or target that is not modelled leaves unknown: only what depends on it, and never as true."""

import pytest
from packets import CLIENT, NODE, OTHER_POD, POD, packet
from packets import node as make_node
from packets import run as run_walk

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Disposition, Netns, Walk, expand
from kpsim.packetpath.routing import LOCAL_TABLE, PolicyRule, RouteKind, Routing
from kpsim.packetpath.worlds import MOST_WORLDS

FORWARDED, DROPPED, UNKNOWN = Disposition.FORWARDED, Disposition.DROPPED, Disposition.UNKNOWN
SET = "-m set --match-set peers src"


def node(text: str) -> Netns:
    return make_node(parse(text, Family.IPV4, unknown="keep"))


def forwarding(*rules: str, policy: str = "ACCEPT", chains: str = "", more: str = "") -> Netns:
    """A node with these rules in filter/FORWARD, among them words that are not modelled."""
    lines = [line if line.startswith("-A") else f"-A FORWARD {line}" for line in rules]
    return node("\n".join(["*filter", f":FORWARD {policy} [0:0]", *chains.split("\n"), *lines, "COMMIT", more, ""]))


def walked(netns: Netns) -> Walk:
    return run_walk(netns, packet(CLIENT, POD, dport=80))


def fate(*rules: str, **more: str) -> Disposition:
    return walked(forwarding(*rules, **more)).disposition


def test_two_ends_that_differ_are_unknown_and_the_match_is_named() -> None:
    outcome = walked(forwarding(f"{SET} -j DROP"))
    assert (outcome.disposition, outcome.unknown) == (UNKNOWN, SET)
    assert (outcome.rule, outcome.answer, outcome.effects.created) == (None, None, None)


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        ([f"{SET} -j ACCEPT"], "ACCEPT", FORWARDED),
        ([f"{SET} -j DROP"], "DROP", DROPPED),
        ([f"{SET} -j DROP", "-j DROP"], "ACCEPT", DROPPED),
        ([f"{SET} -j RETURN"], "ACCEPT", FORWARDED),
        ([f"{SET} -p udp -j DROP"], "ACCEPT", FORWARDED),  # unknown and false is false, in either order
        ([f"-p udp {SET} -j DROP"], "ACCEPT", FORWARDED),
        ([f"{SET}"], "ACCEPT", FORWARDED),
        ([f"{SET} -j LOG"], "ACCEPT", FORWARDED),
        ([f"{SET} -j NFLOG --nflog-group 1"], "ACCEPT", FORWARDED),
        ([f"{SET} -p tcp --syn -j TCPMSS --set-mss 1400"], "ACCEPT", FORWARDED),
        ([f"{SET} -j SET --add-set seen src"], "ACCEPT", FORWARDED),
        (["-j TEE --gateway 192.168.0.9", "-j DROP"], "ACCEPT", DROPPED),
        ([f"{SET} -j MARK --set-mark 1"], "ACCEPT", FORWARDED),
        ([f"{SET} -j MARK --set-mark 1", "-m mark --mark 1 -j DROP"], "ACCEPT", UNKNOWN),
        ([f"{SET} -j MARK --set-mark 1", "-m mark --mark 2/2 -j DROP"], "ACCEPT", FORWARDED),  # bits that it never sets
        ([f"{SET} -j MARK --set-mark 1", "-m mark --mark 3/3 -j DROP"], "ACCEPT", FORWARDED),
        ([f"{SET} -j MARK --set-mark 1", "-j MARK --set-mark 0", "-m mark --mark 1 -j DROP"], "ACCEPT", FORWARDED),
        ([f"{SET} -j MARK --set-mark 1", "-m mark --mark 1 -j DROP", "-m mark ! --mark 1 -j DROP"], "ACCEPT", DROPPED),
        (["-j NFQUEUE --queue-num 1"], "ACCEPT", UNKNOWN),
        (["-p udp -j NFQUEUE --queue-num 1"], "ACCEPT", FORWARDED),
        (["-j DROP", f"{SET} -j NFQUEUE --queue-num 1"], "ACCEPT", DROPPED),
    ],
)
def test_only_what_depends_on_it_is_unknown(rules: list[str], policy: str, expected: Disposition) -> None:
    assert fate(*rules, policy=policy) is expected


def test_a_chain_that_it_may_lead_to_counts_like_a_rule() -> None:
    chains = ":A - [0:0]\n:B - [0:0]"
    assert fate(f"{SET} -j A", "-A A -j DROP", chains=chains) is UNKNOWN
    assert fate(f"{SET} -j A", "-A A -p udp -j DROP", chains=chains) is FORWARDED
    assert fate(f"{SET} -j A", "-j B", "-A A -j DROP", "-A B -j DROP", chains=chains) is DROPPED


def test_what_a_draw_decides_stays_a_draw() -> None:
    """The worlds draw alike, so an unknown match that changes nothing leaves the odds as they are."""
    netns = forwarding(f"{SET} -j ACCEPT", "-m statistic --mode random --probability 0.25 -j ACCEPT")
    outcomes = expand(netns, packet(CLIENT, POD, dport=80), now_ns=0)
    assert {step.disposition for _, step in outcomes} == {FORWARDED} and sum(weight for weight, _ in outcomes) == 1
    netns = forwarding("-m statistic --mode random --probability 0.25 -j ACCEPT", f"{SET} -j DROP")
    found: dict[Disposition, float] = {}
    for weight, step in expand(netns, packet(CLIENT, POD, dport=80), now_ns=0):
        found[step.disposition] = found.get(step.disposition, 0) + float(weight)
    assert found == {FORWARDED: 0.25, UNKNOWN: 0.75}


def test_a_mark_that_a_connection_may_have_is_unknown_to_its_later_packets() -> None:
    rules = (
        "-A PREROUTING -m connmark --mark 1/1 -j DROP",
        f"-A PREROUTING {SET} -j CONNMARK --set-mark 1/1",
    )
    netns = node("\n".join(["*mangle", *rules, "COMMIT", "*nat", "COMMIT", ""]))
    first = walked(netns)
    assert first.disposition is FORWARDED and first.effects.created is not None
    assert (first.effects.created.mark, first.effects.created.unsure_mark) == (0, 1)
    netns.commit(first.effects, 0)
    later = run_walk(netns, packet(CLIENT, POD, dport=80), now_ns=1)
    assert later.disposition is UNKNOWN
    netns.commit(first.effects, 0)
    restored = ("-A PREROUTING -j CONNMARK --restore-mark", "-A PREROUTING -m mark --mark 2/2 -j DROP")
    netns.load_rules(parse("\n".join(["*mangle", *restored, "COMMIT", "*nat", "COMMIT", ""]), Family.IPV4))
    assert run_walk(netns, packet(CLIENT, POD, dport=80), now_ns=1).disposition is FORWARDED


def test_whether_a_list_remembers_the_packet_makes_a_difference() -> None:
    """The kernel reaches ``recent`` only if all before it in the rule is true. Whoever asks the list later does not know."""
    for remembered, later in (
        (f"{SET} -m recent --name A --set", UNKNOWN),
        (f"-m recent --name A --set {SET}", DROPPED),
    ):
        netns = forwarding("-m recent --name A --rcheck -j DROP", f"{remembered} -j ACCEPT")
        first = walked(netns)
        assert first.disposition is FORWARDED
        netns.commit(first.effects, 0)
        assert walked(netns).disposition is later
        other = run_walk(netns, packet("203.0.113.77", POD, dport=80))
        assert other.disposition is FORWARDED
    assert walked(forwarding(f"-m recent --name A --set {SET} -j ACCEPT")).effects.touched.recent != ()


def test_a_limit_that_may_be_used_up_is_unknown_later() -> None:
    netns = forwarding(
        f"{SET} -m limit --limit 1/hour --limit-burst 1 -j ACCEPT", "-m limit --limit 1/hour --limit-burst 1 -j LOG"
    )
    for _ in range(3):
        found = walked(netns)
        assert found.disposition is FORWARDED
        netns.commit(found.effects, 0)
    netns = forwarding(f"{SET} -j ACCEPT", "-m limit --limit 1/hour --limit-burst 1 -j ACCEPT", policy="DROP")
    first = walked(netns)
    assert first.disposition is FORWARDED
    netns.commit(first.effects, 0)
    assert walked(netns).disposition is UNKNOWN


def test_a_translation_that_may_happen_is_unknown_unless_it_changes_nothing() -> None:
    def delivered(rule: str) -> Disposition:
        return run_walk(node(f"*nat\n{rule}\nCOMMIT\n"), packet(CLIENT, NODE, dport=80)).disposition

    assert delivered(f"-A PREROUTING {SET} -p tcp -j DNAT --to-destination {OTHER_POD}:80") is UNKNOWN
    assert delivered(f"-A PREROUTING {SET} -p udp -j DNAT --to-destination {OTHER_POD}:80") is Disposition.DELIVERED


def test_too_many_worlds_are_unknown() -> None:
    """Nothing runs without bound; so many worlds could agree only by luck."""
    many = [f"{SET} -m comment --comment {number} -j ACCEPT" for number in range(MOST_WORLDS + 1)]
    assert fate(*many) is UNKNOWN
    assert fate(*many[:20]) is FORWARDED


def test_a_trace_says_what_it_supposes() -> None:
    from kpsim.explore.site import rules_site
    from kpsim.tracing.explain import Depth
    from kpsim.tracing.site import Sender
    from kpsim.tracing.traces import trace_packet

    text = f"*filter\n-A FORWARD {SET} -j MARK --set-mark 1\n-A FORWARD {SET} -j ACCEPT\nCOMMIT\n"
    site = rules_site(parse(text, Family.IPV4, unknown="keep"), node_ips=[f"{NODE}/24"], pod_cidrs=["10.180.0.0/24"])
    trace = trace_packet(site, packet(CLIENT, POD, dport=80), node="node", sender=Sender.EXTERNAL)
    shown = trace.text(Depth.SUMMARY)
    assert f"filter/FORWARD rule 1 may match: {SET} is not modelled, so bits 0x1 of a mark are not known" in shown
    assert f"not modelled, taken as false: {SET}" in shown
    assert trace.text(Depth.MINIMAL).splitlines()[0] == "passed"


def test_a_route_that_a_mark_chooses_is_unknown_with_the_mark() -> None:
    """K-7.9: `ip rule add fwmark 1/1 blackhole`; a bit that no rule of routing asks for makes no difference."""
    for mark, arriving, local in (("1/1", UNKNOWN, UNKNOWN), ("2/2", FORWARDED, FORWARDED)):
        for chain, sent, expected in (("PREROUTING", False, arriving), ("OUTPUT", True, local)):
            netns = node(f"*mangle\n-A {chain} {SET} -j MARK --set-mark {mark}\nCOMMIT\n")
            routing = netns.routing
            rules = [
                PolicyRule(Family.IPV4, 0, LOCAL_TABLE),
                PolicyRule(Family.IPV4, 1, kind=RouteKind.BLACKHOLE, mark=1, mask=1),
                PolicyRule(Family.IPV4, 2),
            ]
            netns.routing = Routing(routing.interfaces.values(), routing.routes, rules)
            source = NODE if sent else CLIENT
            assert run_walk(netns, packet(source, POD, dport=80), local=sent).disposition is expected, (mark, chain)
