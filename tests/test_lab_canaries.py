"""The guards of the canaries: rules in front of each base chain of the rules under test, as values."""

import pytest

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.lab.canaries import guarded
from kpsim.lab.tools.iptables import GUARD_COMMENT

FAMILIES = pytest.mark.parametrize("family", Family)
RULES = (
    "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-mark 0x1\nCOMMIT\n"
    "*filter\n:FORWARD DROP [0:0]\n:OWN - [0:0]\n-A FORWARD -j OWN\n-A OWN -j ACCEPT\nCOMMIT\n"
)


def lines_of(text: str, chain: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"-A {chain} ")]


@FAMILIES
@pytest.mark.parametrize("silent", [False, True])
def test_guards_come_first_in_base_chains_and_nowhere_else(family: Family, silent: bool) -> None:
    rules = parse(RULES, family)
    for key, table in guarded(rules, silent=silent).tables.items():
        for chain in table.ordered():
            text = render_ruleset(guarded(rules, silent=silent), Style.SAVE, tables=[key.name])
            are_guards = [GUARD_COMMENT in line for line in lines_of(text, chain.name)]
            assert are_guards == sorted(are_guards, reverse=True)
            assert not any(are_guards) or chain.policy is not None


@FAMILIES
def test_the_rules_under_test_stay_as_they_are(family: Family) -> None:
    rules = parse(RULES, family)
    text = render_ruleset(guarded(rules), Style.SAVE)
    kept = "".join(line for line in text.splitlines(keepends=True) if GUARD_COMMENT not in line)
    nothing = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
    )
    assert kept == render_ruleset(rules, Style.SAVE) + nothing


def test_tables_are_added_only_where_canaries_need_them() -> None:
    rules = parse("*mangle\nCOMMIT\n", Family.IPV4)
    assert set(map(str, guarded(rules).tables)) == {"mangle", "filter", "nat"}
    assert set(map(str, guarded(rules, silent=True).tables)) == {"mangle", "filter", "nat", "raw"}


def test_a_silent_node_drops_the_resets_that_no_user_sent_before_anything_else() -> None:
    text = render_ruleset(guarded(parse("*filter\nCOMMIT\n", Family.IPV4), silent=True), Style.SAVE, tables=["raw"])
    first = lines_of(text, "OUTPUT")[0]
    assert "--tcp-flags RST RST" in first
    assert "-m owner ! --uid-owner 0 " in first
    assert first.endswith("-j DROP")
