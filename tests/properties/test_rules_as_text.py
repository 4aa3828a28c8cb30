"""parse(render(rules)) == rules, for every ruleset that the model can express, in every style that can be read back.

These are whole documents with all matches and targets (I-4, I-17). ``test_dialect_iptables`` tests the words of single
rules.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import any_world, rulesets, small_world

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_rule, render_ruleset
from kpsim.ruleset import Rule, Ruleset

FAMILIES = pytest.mark.parametrize("family", Family)


@FAMILIES
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_written_is_read_back(family: Family, data: st.DataObject) -> None:
    ruleset = data.draw(st.one_of(rulesets(any_world(family)), rulesets(small_world(family))))
    for style in Style:
        text = render_ruleset(ruleset, style)
        read = parse(text, family)
        assert read == ruleset
        assert render_ruleset(read, style) == text


@FAMILIES
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_what_a_kernel_keeps_is_kept(family: Family, data: st.DataObject) -> None:
    """Saved, restored and saved again, a document stays the same, and so it does in kube-proxy's words."""
    saved = render_ruleset(data.draw(rulesets(any_world(family))), Style.SAVE)
    kept = parse(saved, family)
    assert render_ruleset(kept, Style.SAVE) == saved
    assert render_ruleset(parse(render_ruleset(kept, Style.KUBE_PROXY), family), Style.SAVE) == saved


@FAMILIES
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_nothing_of_a_rule_is_lost(family: Family, data: st.DataObject) -> None:
    """Different rules have different texts: a writer that left something out would make two of them one."""
    ruleset: Ruleset = data.draw(rulesets(small_world(family)))
    by_text: dict[str, set[Rule]] = {}
    for rule in {rule for table in ruleset.tables.values() for chain in table.chains.values() for rule in chain.rules}:
        by_text.setdefault(rendered(rule, family), set()).add(rule)
    assert [rules for rules in by_text.values() if len(rules) > 1] == []


def rendered(rule: Rule, family: Family) -> str:
    return render_rule("C", rule, Style.KUBE_PROXY, family)
