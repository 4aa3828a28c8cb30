"""Random rules of nft: ways that meet change nothing, the index changes nothing, a walk changes nothing by itself."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, CLUSTER_IP, packet, run
from ways import compare, machine

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.netfilter import expand, walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.ruleset import Ruleset

SETS = """
    set few { type ipv4_addr; size 2; flags dynamic,timeout; timeout 3s; }
    set ports { type inet_service; flags interval; elements = { 80, 1000-2000 } }
    map verdicts { type inet_proto . inet_service : verdict; elements = { tcp . 80 : goto b, tcp . 81 : drop, udp . 80 : continue } }
    map ends { type inet_service : ipv4_addr . inet_service; elements = { 80 : 10.180.0.5 . 8080, 81 : 10.180.1.7 . 8081 } }
"""
PARTS = (
    "tcp dport 80", "th dport != 81", "tcp dport @ports", "ip saddr @few", "ip saddr != @few", "add @few { ip saddr }",
    "update @few { ip saddr timeout 1s }", "delete @few { ip saddr }", "meta mark 1", "meta mark set 1", "meta mark set 2",
    "numgen random mod 3 { 0, 1 }", "numgen inc mod 2 0", "jhash ip saddr mod 2 seed 0x7 0", "ct state new", "limit rate 1/second burst 1 packets",
)  # fmt: skip
#: chains lead to later ones only
ENDS = {
    "base": ("jump a", "goto a", "goto b", "meta l4proto . th dport vmap @verdicts", "numgen random mod 2 vmap { 0 : jump a, 1 : goto c }", "numgen random mod 4 vmap { 0 : goto c, 1 : goto c, 3 : jump b }", "accept", "drop", "return", ""),
    "a": ("jump b", "goto c", "numgen inc mod 3 vmap { 0 : goto b, 2 : jump c }", "accept", "return", ""),
    "b": ("jump c", "numgen random mod 2 vmap { 1 : goto c }", "accept", ""),
    "c": ("accept", "return", ""),
}  # fmt: skip
TRANSLATING = (
    "meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.180.0.5 . 8080, 1 : 10.180.1.7 . 8080 }",
    "meta l4proto tcp dnat ip addr . port to numgen random mod 3 map { 0 : 10.180.0.5 . 8080, 1 : 10.180.0.5 . 8080 }",
    "dnat ip addr . port to tcp dport map @ends", "tcp dport 80 redirect to :8080",
)  # fmt: skip


@st.composite
def rulesets(draw: st.DrawFn) -> str:
    """A table with a filter chain and one with a nat chain, each with the same three chains behind it."""
    text = ""
    for name, base in (("f", "filter hook forward priority 0"), ("n", "nat hook prerouting priority -100")):
        text += f"table ip {name} {{{SETS}"
        for chain in ("c", "b", "a", "base"):
            lines = [f"type {base}; policy accept;"] if chain == "base" else []
            for _ in range(draw(st.integers(0, 3))):
                ends = ENDS[chain] if name == "f" else (*ENDS[chain], *TRANSLATING)
                line = " ".join([*draw(st.lists(st.sampled_from(PARTS), max_size=2)), draw(st.sampled_from(ends))])
                lines += [line] if line.strip() else []
            text += f"    chain {chain} {{\n        " + "\n        ".join(lines) + "\n    }\n"
        text += "}\n"
    return text


def parsed(text: str) -> Ruleset:
    (rules,) = dialect_reading(text).parse(text, Family.IPV4)
    return rules


SENT = st.builds(
    lambda number, dport, protocol, flow: packet(f"203.0.113.{number}", CLUSTER_IP, dport, protocol=protocol, sport=40000 + flow),
    st.integers(1, 3), st.sampled_from((80, 81, 1500, 9)), st.sampled_from(("tcp", "udp")), st.integers(0, 3),
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(rules=rulesets(), sent=st.lists(SENT, min_size=1, max_size=4))
def test_random_rules(rules: str, sent: list[object]) -> None:
    netns = machine(parsed(rules))
    *earlier, last = sent
    for number, each in enumerate(earlier):
        run(netns, each, number * 10**9, flow=number)  # type: ignore[arg-type]
    now_ns = len(earlier) * 10**9
    compare(netns, last, local=False, as_written=False, now_ns=now_ns)  # type: ignore[arg-type]
    ways = expand(netns, last, now_ns=now_ns)  # type: ignore[arg-type]
    assert sum((weight for weight, _ in ways), Fraction(0)) == 1
    for flow in range(3):
        plain, indexed = (
            walk(netns, last, now_ns=now_ns, chooser=SeededChooser(1, flow), indexed=each)  # type: ignore[arg-type]
            for each in (False, True)
        )
        assert plain == indexed
        assert any(way.disposition is plain.disposition and way.packet == plain.packet for _, way in ways)


def test_the_drawn_rules_can_do_something() -> None:
    """Of the rules that a run draws some translate, drop, remember and draw: else it would say nothing."""
    seen: set[str] = set()

    @settings(deadline=None, max_examples=25, database=None, derandomize=True)
    @given(rules=rulesets())
    def look(rules: str) -> None:
        ways = expand(machine(parsed(rules)), packet(CLIENT, CLUSTER_IP), now_ns=0)
        seen.update({"draws"} if len(ways) > 1 else ())
        for _, way in ways:
            seen.add(str(way.disposition))
            seen.update({"translates"} if way.dnat_rule else (), {"remembers"} if way.effects.touched.sets else ())

    look()
    assert seen >= {"draws", "translates", "remembers", "dropped", "forwarded"}
