"""Holds ways through rules that go on as one against all ways, one by one."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import assume
from packets import node_netns

from kpsim.addresses import Family
from kpsim.netfilter import Netns, Walk, expand
from kpsim.packet import Packet
from kpsim.packetpath.chooser import MOST_WAYS, TooManyWays
from kpsim.ruleset import Ruleset

MOST = 3000


def machine(rules: Ruleset) -> Netns:
    """n1 with its pods, and n2 behind it, in the family of the rules."""
    if rules.family is Family.IPV4:
        netns = node_netns("n1", ["192.168.0.1"], ["10.180.0.0/24"], peers={"192.168.0.2": ["10.180.1.0/24"]})
    else:
        netns = node_netns("n1", ["2001:db8::1"], ["2001:db8::/112"], peers={"2001:db8::9:2": ["2001:db8::1:0/112"]})
    netns.load_rules(rules)
    return netns


def _without_elements(outcome: Walk) -> Walk:
    """Elements of a map that lead to the same are one outcome, and the first of them is named."""
    rule, dnat, snat = (
        None if at is None else at._replace(element=None, asked_by=None)
        for at in (outcome.rule, outcome.dnat_rule, outcome.snat_rule)
    )
    return replace(outcome, rule=rule, dnat_rule=dnat, snat_rule=snat)


def summed(outcomes: list[tuple[Fraction, Walk]]) -> list[tuple[Walk, Fraction]]:
    """Each different walk once, where it came first, with the sum of its probabilities."""
    found: list[tuple[Walk, Fraction]] = []
    for weight, outcome in ((weight, _without_elements(each)) for weight, each in outcomes):
        for number, (known, sum_) in enumerate(found):
            if known == outcome:
                found[number] = known, sum_ + weight
                break
        else:
            found.append((outcome, weight))
    return found


def compare(netns: Netns, packet: Packet, *, local: bool, as_written: bool, now_ns: int = 0) -> None:
    try:
        plain = expand(
            netns, packet, now_ns=now_ns, local=local, as_written=as_written, limit=MOST, merge=False
        )  # fmt: skip
    except TooManyWays:
        assume(False)
    merged = expand(netns, packet, now_ns=now_ns, local=local, as_written=as_written, limit=MOST_WAYS)
    assert summed(merged) == summed(plain)
    assert expand(netns, packet, now_ns=now_ns, local=local, as_written=as_written) == merged  # one by one, if few
    assert len(merged) <= len(plain)
    traced = expand(
        netns, packet, now_ns=now_ns, local=local, as_written=as_written, trace=True, limit=MOST_WAYS
    )  # fmt: skip
    plainly = expand(netns, packet, now_ns=now_ns, local=local, as_written=as_written, trace=True, merge=False)
    assert traced[0][1].trace == plainly[0][1].trace
    assert {outcome.trace for _, outcome in traced} <= {outcome.trace for _, outcome in plainly}
