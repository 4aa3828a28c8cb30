"""Unknown is never true: what a walk claims holds whatever the matches say that are not modelled.

Each such match is replaced by one that is always true, or its rule is left out, in every combination. If two of these
rulesets treat the packet differently, the walk must end unknown. If it ends otherwise, all of them end like it.
"""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, POD, node, packet, run

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Disposition, Walk

UNKNOWN = "-m set --match-set s src"
_MARKS = (
    "-m mark --mark 1/1",
    "-m mark ! --mark 1/1",
    "-m mark --mark 3",
    "-m connmark --mark 1/1",
    "-m connmark ! --mark 1/1",
)
_SETTERS = (
    "-j MARK --set-mark 1/1", "-j MARK --xor-mark 3", "-j MARK --set-mark 0", "-j CONNMARK --set-mark 1", "-j CONNMARK --restore-mark",
    "-j CONNMARK --save-mark --mask 1", "-j LOG", "",
)  # fmt: skip
_VERDICTS = ("-j DROP", "-j ACCEPT", "-j REJECT", "-j RETURN", "-j A", "-g A")
_CHAINS = st.sampled_from(["FORWARD", "FORWARD", "A"])
_SETTING = st.tuples(
    _CHAINS, st.booleans(), st.sampled_from(["", "", "-p tcp", "-p udp", *_MARKS]), st.sampled_from(_SETTERS)
)
_DECIDING = st.tuples(
    _CHAINS,
    st.sampled_from([False, False, True]),
    st.sampled_from([*_MARKS, *_MARKS, "", "-p udp"]),
    st.sampled_from(_VERDICTS),
)
_RULES = st.builds(
    list.__add__,
    st.lists(_SETTING, min_size=1, max_size=3),
    st.lists(_SETTING | _DECIDING, min_size=1, max_size=3),
)
Drawn = list[tuple[str, bool, str, str]]


def ruleset(rules: Drawn, holds: dict[int, bool] | None) -> str:
    """The rules as text. ``holds`` says of each unknown match whether it is true; None: they stay as they are."""
    lines = ["*filter", ":FORWARD ACCEPT [0:0]", ":A - [0:0]"]
    for number, (chain, unknown, match, target) in enumerate(rules):
        if chain == "A" and target in ("-j A", "-g A"):
            continue
        if unknown and holds is not None and not holds[number]:
            continue
        words = f"{UNKNOWN} " if unknown and holds is None else ""
        lines.append(f"-A {chain} {words}{match} {target}")
    # the rule with the unknown match is in the kernel in every world, so connections are tracked in every world (K-1.5)
    tracks = ["*mangle", ":FORWARD ACCEPT [0:0]", "-A FORWARD -m conntrack --ctstate INVALID -j LOG", "COMMIT"]
    return "\n".join([*lines, "COMMIT", *tracks, ""])


def end(text: str) -> tuple[Walk, ...]:
    """The walks of a connection's first packet and of the same packet sent again."""
    netns = node(parse(text, Family.IPV4, unknown="keep"))
    first = run(netns, packet(CLIENT, POD, dport=80))
    netns.commit(first.effects, 0)
    return first, run(netns, packet(CLIENT, POD, dport=80), now_ns=1)


def check(rules: Drawn) -> None:
    claimed = end(ruleset(rules, None))
    numbers = [number for number, rule in enumerate(rules) if rule[1]]
    worlds = [
        end(ruleset(rules, dict(zip(numbers, holds, strict=True))))
        for holds in itertools.product((False, True), repeat=len(numbers))
    ]
    for at, walk in enumerate(claimed):
        found = {(world[at].disposition, world[at].answer is None, world[at].ct_state) for world in worlds}
        if walk.disposition is Disposition.UNKNOWN:
            assert at > 0 or len(found) > 1, rules
            return  # a connection that may not exist says nothing about its later packets
        assert found == {(walk.disposition, walk.answer is None, walk.ct_state)}, rules


def test_what_a_mark_may_be_decides_what_is_claimed() -> None:
    """Every kind of statement about marks behind an unknown match, then one that always runs, then one that decides."""
    between = (
        "",
        "-j MARK --xor-mark 3",
        "-j CONNMARK --restore-mark",
        "-j CONNMARK --save-mark --mask 1",
        "-j MARK --set-mark 0",
    )
    for setter, other, match in itertools.product(_SETTERS, between, _MARKS):
        decides = ("FORWARD", False, match, "-j DROP")
        check([("FORWARD", True, "", setter), ("FORWARD", False, "", other), decides])


@settings(deadline=None, max_examples=80)
@given(_RULES)
def test_what_is_claimed_holds_in_every_world(rules: Drawn) -> None:
    check(rules)
