"""What holds for every walk over any rules: all matches, targets and tables, both families, packet after packet.

The index changes nothing. Weights sum to 1, and seeded walks come as often as the weights say. ``test_walk_index``
tries chains that stress the index.
"""

from collections import Counter
from fractions import Fraction
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import node_netns, service_rules
from random_packets import Sending, packets, sendings
from random_rules import ARGUMENTS, PLACES, TEXTS, V4, rulesets, small_world

from kpsim.addresses import Family
from kpsim.dialects.iptables.options import EXTENSIONS, OPTIONS
from kpsim.netfilter import Disposition, Netns, Walk, expand, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser, SeededChooser
from kpsim.ruleset import Ruleset

FAMILIES = pytest.mark.parametrize("family", Family)


def machine(rules: Ruleset) -> Netns:
    """n1 with its pods, and n2 behind it, in the family of the rules."""
    if rules.family is V4:
        netns = node_netns("n1", ["192.168.0.1"], ["10.180.0.0/24"], peers={"192.168.0.2": ["10.180.1.0/24"]})
    else:
        netns = node_netns("n1", ["2001:db8::1"], ["2001:db8::/112"], peers={"2001:db8::9:2": ["2001:db8::1:0/112"]})
    netns.load_rules(rules)
    return netns


def test_everything_that_the_model_has_is_drawn() -> None:
    """A match or a target that is new must get values, or it is in no property."""
    changes_others = {
        "--limit-iface-in",
        "--limit-iface-out",
        *("--ipvs", "--vaddr", "--vproto", "--vport", "--vdir", "--vmethod"),
    }  # no part of a rule, but they change the parts beside them; or of ip_vs, which drawn machines do not have
    assert {row.name for row in OPTIONS} - {"-p"} - changes_others == set(TEXTS)
    # sets stand beside rules, which have properties and a fuzzer of their own
    assert {row.name for row in EXTENSIONS} - {"-m set"} == set(ARGUMENTS)


@FAMILIES
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_walks_are_equal_with_and_without_the_index(family: Family, data: st.DataObject) -> None:
    """Also with and without a trace. Each packet meets the connections and lists that those before it left."""
    world = small_world(family)
    netns = machine(data.draw(rulesets(world)))
    steps: list[Sending] = data.draw(st.lists(sendings(world), min_size=1, max_size=6))
    now_ns, earlier = 0, []
    for number, step in enumerate(steps):
        now_ns += step.after_ns
        packet, local = step.made(earlier), step.local

        def walked(*, trace: bool, indexed: bool) -> Walk:
            chooser = SeededChooser(1, number)  # noqa: B023 - called within the round
            return walk(netns, packet, now_ns=now_ns, chooser=chooser, local=local, trace=trace, indexed=indexed)  # noqa: B023

        traced, quick = walked(trace=True, indexed=False), walked(trace=False, indexed=False)
        assert traced == walked(trace=True, indexed=True)
        assert quick == walked(trace=False, indexed=True)
        assert (traced.disposition, traced.packet, traced.effects) == (quick.disposition, quick.packet, quick.effects)
        assert traced.trace and not quick.trace
        netns.commit(traced.effects, now_ns)
        earlier.append((packet, traced))


# --- weights -----------------------------------------------------------------------------------------------------------


def end_of(outcome: Walk) -> tuple[object, ...]:
    """What tells outcomes apart: the fate, the addresses, and the rules that decided; not a port that the kernel draws."""
    seen = outcome.packet
    sport = None if outcome.source_port_drawn else seen.sport
    return (outcome.disposition, seen.saddr, sport, seen.daddr, seen.dport, seen.mark, outcome.rule, outcome.dnat_rule)


def weights_of(netns: Netns, packet: Packet, *, local: bool = False) -> dict[tuple[object, ...], Fraction]:
    """Every end with its probability."""
    weights: dict[tuple[object, ...], Fraction] = {}
    for weight, outcome in expand(netns, packet, now_ns=0, local=local):
        weights[end_of(outcome)] = weights.get(end_of(outcome), Fraction(0)) + weight
    return weights


def surprises(weights: dict[tuple[object, ...], Fraction], found: Counter[tuple[object, ...]]) -> list[str]:
    """Ends that came too often or too seldom: more than five standard deviations from what their weights let expect."""
    total = found.total()
    told = [f"{end} is impossible and came" for end in found if end not in weights]
    for end, weight in weights.items():
        expected, deviation = float(total * weight), sqrt(total * weight * (1 - weight))
        if abs(found[end] - expected) > 5 * deviation + 1e-6:
            told.append(f"{end} came {found[end]} times, not {expected:.0f} ± {deviation:.0f}")
    return told


@FAMILIES
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_weights_sum_to_one_and_seeded_walks_come_as_often_as_they_say(family: Family, data: st.DataObject) -> None:
    world = small_world(family)
    netns = machine(data.draw(rulesets(world)))
    packet, local = data.draw(packets(world)), data.draw(st.booleans())
    outcomes = expand(netns, packet, now_ns=0, local=local)
    assert sum(weight for weight, _ in outcomes) == 1
    assert all(weight > 0 for weight, _ in outcomes)
    if len(outcomes) == 1:
        return
    weights = weights_of(netns, packet, local=local)
    found = Counter(
        end_of(walk(netns, packet, now_ns=0, chooser=SeededChooser(2, flow), local=local, trace=False))
        for flow in range(200)
    )
    assert not surprises(weights, found)


class Biased:
    """A coin that falls on yes a tenth too often."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def chance(self, threshold: int, key: object) -> bool:
        return self._chooser.chance(min(threshold + threshold // 10, 1 << 31), key)

    def uniform(self, limit: int, key: object) -> int:
        return self._chooser.uniform(limit, key)

    def port(self, limit: int, key: object) -> int:
        return self._chooser.port(limit, key)


class Repeating(SeededChooser):
    """Forgets which rule it draws for: draws of one packet are no longer independent (K-5)."""

    def chance(self, threshold: int, key: object) -> bool:
        return super().chance(threshold, "always the same")


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_endpoints_are_chosen_as_often_as_their_weights_say(count: int) -> None:
    """K-5, I-8.2; and the same count notices a coin that is off by a tenth, and draws that depend on each other."""
    netns = machine(service_rules(tuple(f"10.180.1.{n + 1}" for n in range(count))))
    packet = Packet(V4, "tcp", PLACES[V4][1], PLACES[V4][3], 40000, 80)
    weights = weights_of(netns, packet)
    assert len(weights) == count
    assert all(abs(weight - Fraction(1, count)) < Fraction(1, 10**8) for weight in weights.values())

    def came(chooser: type[SeededChooser], *, biased: bool = False) -> Counter[tuple[object, ...]]:
        drawn = (chooser(5, flow) for flow in range(8_000))
        choosers: list[Chooser] = [Biased(each) if biased else each for each in drawn]
        return Counter(end_of(walk(netns, packet, now_ns=0, chooser=each, trace=False)) for each in choosers)

    assert not surprises(weights, came(SeededChooser))
    assert surprises(weights, came(SeededChooser, biased=True))
    if count > 2:
        assert surprises(weights, came(Repeating))


def test_the_properties_meet_what_they_are_about() -> None:
    """Drawn packets end in every way, many are translated, and some walks are a matter of luck."""
    ends = Counter[str]()

    def look(rules: Ruleset, packet: Packet, local: bool) -> None:
        outcomes = expand(machine(rules), packet, now_ns=0, local=local)
        ends["drawn"] += len(outcomes) > 1
        for _, outcome in outcomes:
            ends[outcome.disposition] += 1
            ends["translated"] += outcome.entry is not None and outcome.entry.dst_nat
            ends["masqueraded"] += outcome.masqueraded

    for family in Family:
        world = small_world(family)
        tried = given(rulesets(world), packets(world), st.booleans())(look)
        settings(deadline=None, max_examples=60, database=None, derandomize=True)(tried)()
    wanted = {Disposition.DELIVERED, Disposition.FORWARDED, Disposition.DROPPED, Disposition.REJECTED}
    assert all(ends[what] for what in (*wanted, "drawn", "translated", "masqueraded")), ends
