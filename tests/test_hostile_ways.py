"""Rules with more ways through them than could ever be followed one by one: they take no time, or are refused.

The counts of chains stand in for a clock: a walk that does not merge its ways would never end.
"""

from fractions import Fraction

import pytest
from packets import node_netns

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.errors import InputError
from kpsim.netfilter import Disposition, Netns, expand, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser, SeededChooser, TooManyWays, explore

HALF = "-m statistic --mode random --probability 0.50000000000"
HOSTILE = Packet(Family.IPV4, "tcp", 0xC0A80009, 0xC0A80001, 1234, 80)


def netns(*rules: str, chains: int = 0) -> Netns:
    names = "".join(f":C{number} - [0:0]\n" for number in range(chains))
    made = node_netns("n1", ["192.168.0.1"], ["10.180.0.0/24"])
    made.load_rules(parse(f"*filter\n:INPUT ACCEPT [0:0]\n{names}{chr(10).join(rules)}\nCOMMIT\n", Family.IPV4))
    return made


def doubling(rule: str, last: str = "") -> Netns:
    """60 rules: each chain jumps to the next one twice, so there are 2^29 ways to the last."""
    rules = [f"-A C{i} {rule} -j C{i + 1}" for i in range(29) for _ in range(2)]
    return netns("-A INPUT -j C0", *rules, f"-A C29 {last}" if last else "-A C29 -j RETURN", chains=30)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("chooser", [ScriptedChooser(), SeededChooser(1, 1)])
@pytest.mark.parametrize("last", ["", "-j MARK --set-xmark 0x1/0x0"], ids=["nothing", "flips a mark"])
def test_chains_that_are_entered_over_and_over(trace: bool, chooser: ScriptedChooser, last: str) -> None:
    """2^29 flips of one bit are none."""
    walked = walk(doubling("", last), HOSTILE, now_ns=0, chooser=chooser, trace=trace)
    assert (walked.disposition, walked.packet.mark) == (Disposition.DELIVERED, 0)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("rule", ["", HALF], ids=["always", "at random"])
def test_every_outcome_of_chains_that_are_entered_over_and_over(trace: bool, rule: str) -> None:
    [(weight, walked)] = expand(doubling(rule), HOSTILE, now_ns=0, trace=trace)
    assert (weight, walked.disposition) == (1, Disposition.DELIVERED)


def test_every_outcome_of_goto_and_jump() -> None:
    """The chance to get through chain i: past the jump, or without it, and then past the goto."""
    rules = [rule for i in range(29) for rule in (f"-A C{i} {HALF} -j C{i + 1}", f"-A C{i} -g C{i + 1}")]
    outcomes = expand(netns("-A INPUT -j C0", *rules, "-A C29 -j RETURN", chains=30), HOSTILE, now_ns=0)
    assert [(weight, walked.disposition) for weight, walked in outcomes] == [(1, Disposition.DELIVERED)]
    dropping = ["-A INPUT -j C20", *rules, f"-A C29 {HALF} -j DROP"]
    outcomes = expand(netns(*dropping, chains=30), HOSTILE, now_ns=0)
    through = Fraction(1, 2)
    for _ in range(20, 29):
        through = (through + 1) / 2 * through
    assert {walked.disposition: weight for weight, walked in outcomes} == {
        Disposition.DROPPED: 1 - through, Disposition.DELIVERED: through,
    }  # fmt: skip


def test_probabilities_with_more_digits_than_anybody_can_add_are_refused() -> None:
    """29 chains that may drop and enter each other twice: a probability of 2^29 digits."""
    rules = [rule for i in range(29) for rule in (f"-A C{i} {HALF} -j C{i + 1}", f"-A C{i} -g C{i + 1}")]
    with pytest.raises(TooManyWays, match="ways through filter/C"):
        expand(netns("-A INPUT -j C0", *rules, f"-A C29 {HALF} -j DROP", chains=30), HOSTILE, now_ns=0, limit=2000)


def test_draws_that_change_nothing_and_draws_that_set_one_bit() -> None:
    nothing = netns(*[f"-A INPUT {HALF} -j LOG"] * 60)
    assert [weight for weight, _ in expand(nothing, HOSTILE, now_ns=0)] == [1]
    one_bit = netns(*[f"-A INPUT {HALF} -j MARK --set-xmark 0x1/0x1"] * 60, "-A INPUT -m mark --mark 0x1 -j DROP")
    outcomes = [(weight, walked.disposition) for weight, walked in expand(one_bit, HOSTILE, now_ns=0)]
    assert outcomes == [
        (1 - Fraction(1, 2**60), Disposition.DROPPED), (Fraction(1, 2**60), Disposition.DELIVERED),
    ]  # fmt: skip


def test_states_without_end_are_refused_and_the_chain_is_named() -> None:
    bits = [f"-A INPUT {HALF} -j MARK --set-xmark {1 << bit:#x}/{1 << bit:#x}" for bit in range(30)]
    with pytest.raises(TooManyWays, match="more than 500 ways through filter/INPUT"):
        expand(netns(*bits), HOSTILE, now_ns=0, limit=500)
    assert len(expand(netns(*bits[:5]), HOSTILE, now_ns=0, limit=500)) == 32


def test_a_walk_without_end_is_refused_and_the_chain_is_named() -> None:
    """A counter makes every state a new one."""
    rules = doubling("", "-m nfacct --nfacct-name n -j RETURN")
    with pytest.raises(InputError, match=r"a packet enters more than 100,000 chains, filter/C\d+ and those that jump"):
        walk(rules, HOSTILE, now_ns=0, chooser=ScriptedChooser(), trace=False)


def test_outcomes_come_in_the_order_of_the_rules_and_a_service_needs_one_walk_for_each_endpoint() -> None:
    endpoints = 300
    rules = [
        f"-A C0 -m statistic --mode random --probability {1 / (endpoints - i):.10f} -m comment --comment e{i} -j DROP"
        for i in range(endpoints - 1)
    ]
    outcomes = expand(netns("-A INPUT -j C0", *rules, "-A C0 -j DROP", chains=1), HOSTILE, now_ns=0, as_written=True)
    assert [walked.rule.number for _, walked in outcomes if walked.rule] == list(range(1, endpoints + 1))
    assert {weight for weight, _ in outcomes} == {Fraction(1, endpoints)}


def test_a_node_that_changed_between_two_walks_of_an_exploration_is_asked_anew() -> None:
    """What was learnt of a chain holds for one state of the node: after a commit the list says something else."""
    node = netns(
        "-A INPUT -j C0",
        f"-A C0 {HALF} -m recent --name L --set -j RETURN",
        "-A C0 -m recent --name L --rcheck -j DROP",
        chains=1,
    )

    def twice(chooser: ScriptedChooser) -> tuple[Disposition, Disposition]:
        fork = node.fork()
        first = walk(fork, HOSTILE, now_ns=0, chooser=chooser)
        fork.commit(first.effects, 0)
        second = walk(fork, HOSTILE, now_ns=1, chooser=chooser)
        return first.disposition, second.disposition

    for merge in (False, True):
        outcomes = list(explore(twice, merge=merge))
        assert {first for _, (first, _) in outcomes} == {Disposition.DELIVERED}
        # listed by the first packet, and not set again by the second
        assert sum(weight for weight, (_, second) in outcomes if second is Disposition.DROPPED) == Fraction(1, 4)


def test_a_rule_that_is_not_modelled_keeps_ways_apart() -> None:
    """What it may say is asked along each way, so the answer is the same with and without merging."""
    rules = parse(
        f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {HALF} -j DROP\n-A INPUT -m bpf --bytecode x -j ACCEPT\nCOMMIT\n",
        Family.IPV4,
        unknown="keep",
    )
    node = node_netns("n1", ["192.168.0.1"], ["10.180.0.0/24"])
    node.load_rules(rules)
    assert expand(node, HOSTILE, now_ns=0) == expand(node, HOSTILE, now_ns=0, merge=False)
