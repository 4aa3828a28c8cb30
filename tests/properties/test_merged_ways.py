"""Ways through rules that meet in one state go on as one: that changes no outcome, no probability and no order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_packets import Sending, packets, sendings
from random_rules import V4, rulesets, small_world
from ways import compare, machine

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.traversal import _FIXED, _MUTABLE, Traversal
from kpsim.ruleset import Ruleset

FAMILIES = pytest.mark.parametrize("family", Family)


@FAMILIES
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_merged_ways_give_what_all_ways_give(family: Family, data: st.DataObject) -> None:
    """Any rules; each packet meets the connections, lists and buckets that those before it left."""
    world = small_world(family)
    netns = machine(data.draw(rulesets(world)))
    steps: list[Sending] = data.draw(st.lists(sendings(world), max_size=2))
    now_ns, earlier = 0, list[tuple[Packet, Walk]]()
    for step in steps:
        now_ns += step.after_ns
        packet = step.made(earlier)
        walked = walk(netns, packet, now_ns=now_ns, chooser=ScriptedChooser(), local=step.local)
        netns.commit(walked.effects, now_ns)
        earlier.append((packet, walked))
    packet, local = data.draw(packets(world)), data.draw(st.booleans())
    compare(netns, packet, local=local, as_written=data.draw(st.booleans()), now_ns=now_ns)


#: rules that draw, remember, mark, jump and end: what ways can differ in, and meet again in
PARTS = (
    "-m statistic --mode random --probability 0.50000000000", "-m statistic --mode random --probability 0.33333333349",
    "-m statistic --mode random --probability 1.00000000000", "-m mark --mark 0x1/0x1", "-m mark ! --mark 0x2/0x2", "-p tcp",
    "-m recent --name A --set", "-m recent --name A --rcheck --seconds 5", "-m recent --name B --remove", "-m limit --limit 1/sec --limit-burst 1",
    "-m conntrack --ctstate NEW", "-m nfacct --nfacct-name n",
)  # fmt: skip
ENDS = (
    "-j MARK --set-xmark 0x1/0x1", "-j MARK --set-xmark 0x2/0x2", "-j MARK --set-xmark 0x0/0xffffffff", "-j MARK --set-xmark 0x1/0x0",
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", "-j TTL --ttl-dec 1", "-j LOG", "-j RETURN", "-j ACCEPT", "-j DROP",
    "-j REJECT --reject-with icmp-port-unreachable", "-j A", "-j B", "-j C", "-g B", "-g C", "",
)  # fmt: skip
TRANSLATING = (
    "-p tcp -j DNAT --to-destination 10.180.0.2:80", "-p tcp -j DNAT --to-destination 10.180.1.2:80", "-j REDIRECT",
)  # fmt: skip


@st.composite
def drawing_rules(draw: st.DrawFn) -> Ruleset:
    """Chains that jump to those behind them, so there is no loop, in mangle, nat and filter."""
    names = ("A", "B", "C")
    text = ""
    for table, base in (("mangle", "PREROUTING"), ("nat", "PREROUTING"), ("filter", "FORWARD")):
        lines = [f":{base} ACCEPT [0:0]", *(f":{name} - [0:0]" for name in names)]
        for chain in (base, *names):
            later = names if chain == base else names[names.index(chain) + 1 :]
            ends = [end for end in ENDS if end[-1:] not in names or end[-1] in later]
            if table == "nat":
                ends = [*(end for end in ends if not {"REJECT", "TTL", "DROP"} & set(end.split())), *TRANSLATING]
            if table != "mangle":
                ends = [end for end in ends if "TTL" not in end]
            if table == "mangle":
                ends = [end for end in ends if "REJECT" not in end]
            for _ in range(draw(st.integers(0, 4))):
                parts = draw(st.lists(st.sampled_from(PARTS), max_size=2))
                if draw(st.booleans()):
                    parts.append(PARTS[0])
                end = draw(st.sampled_from(ends))
                if "-p tcp" in end:
                    parts = [part for part in parts if part != "-p tcp"]
                parts.sort(key=lambda part: part != "-p tcp")
                if parts.count("-p tcp") > 1:
                    parts = parts[1:]
                lines.append(" ".join(("-A", chain, *parts, end)).rstrip())
        text += "\n".join((f"*{table}", *lines, "COMMIT", ""))
    return parse(text, V4)


@settings(deadline=None, max_examples=200)
@given(rules=drawing_rules(), as_written=st.booleans(), dport=st.sampled_from((80, 81)))
def test_rules_that_draw_and_meet_again(rules: Ruleset, as_written: bool, dport: int) -> None:
    packet = Packet(V4, "tcp", 0xC0A80009, 0x0AB40005, 1234, dport)
    compare(machine(rules), packet, local=False, as_written=as_written)


@settings(deadline=None, max_examples=40)
@given(rules=drawing_rules())
def test_a_snapshot_holds_all_that_a_walk_changes(rules: Ruleset) -> None:
    """A slot of a traversal that may change in place has to be copied: it is named, or it is an immutable value."""
    seen: list[Traversal] = []

    class Watching(ScriptedChooser):
        pass

    begun = Traversal.__init__

    def remembered(self: Traversal, *arguments: object, **named: object) -> None:
        begun(self, *arguments, **named)  # type: ignore[arg-type]
        seen.append(self)

    Traversal.__init__ = remembered  # type: ignore[assignment, method-assign]
    try:
        walk(machine(rules), Packet(V4, "tcp", 0xC0A80009, 0x0AB40005, 1234, 80), now_ns=0, chooser=Watching())
    finally:
        Traversal.__init__ = begun  # type: ignore[method-assign]
    [traversal] = seen[:1]
    for slot in set(Traversal.__slots__) - _FIXED - set(_MUTABLE):
        assert not isinstance(getattr(traversal, slot), list | dict | set | Packet | bytearray), slot
    hash(traversal.state())
