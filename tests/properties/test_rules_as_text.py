"""parse(render(rules)) == rules, for every ruleset that the model can express, in every style that is meant to be read.

The words of single rules are in ``test_dialect_iptables``; here whole documents, with all matches and targets (I-4, I-17).
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import any_world, rulesets, small_world

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset, stored
from kpsim.ruleset import Chain, Rule, Ruleset

FAMILIES = pytest.mark.parametrize("family", Family)


def in_the_kernel(ruleset: Ruleset) -> Ruleset:
    """The rules as a kernel keeps them and iptables-save tells them (I-17)."""
    tables = {}
    for name, table in ruleset.tables.items():
        chains = {
            chain.name: Chain(chain.name, tuple(stored(rule, ruleset.family) for rule in chain.rules), chain.policy)
            for chain in table.chains.values()
        }
        tables[name] = replace(table, chains=table.chains.update(chains))
    return Ruleset(ruleset.family, ruleset.tables.update(tables))


@FAMILIES
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_written_is_read_back(family: Family, data: st.DataObject) -> None:
    ruleset = data.draw(st.one_of(rulesets(any_world(family)), rulesets(small_world(family))))
    for style in Style:
        text = render_ruleset(ruleset, style)
        read = parse(text, family)
        # what iptables-save tells is what the kernel keeps; kube-proxy's own text is all there
        assert read == (in_the_kernel(ruleset) if style is Style.SAVE else ruleset)
        assert render_ruleset(read, style) == text


@FAMILIES
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_what_a_kernel_keeps_is_kept(family: Family, data: st.DataObject) -> None:
    """Saved, restored and saved again, a document stays the same, and so it does in kube-proxy's words."""
    kept = in_the_kernel(data.draw(rulesets(any_world(family))))
    assert in_the_kernel(kept) == kept
    assert parse(render_ruleset(kept, Style.SAVE), family) == kept
    assert parse(render_ruleset(kept, Style.KUBE_PROXY), family) == kept


@FAMILIES
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_nothing_of_a_rule_is_lost(family: Family, data: st.DataObject) -> None:
    """Different rules have different texts: a writer that left something out would make two of them one."""
    ruleset: Ruleset = data.draw(rulesets(small_world(family)))
    rules = {rule for table in ruleset.tables.values() for chain in table.chains.values() for rule in chain.rules}
    texts = {rendered(rule, family) for rule in rules}
    assert len(texts) == len(rules)


def rendered(rule: Rule, family: Family) -> str:
    from kpsim.dialects.iptables import render_rule

    return render_rule("C", rule, Style.KUBE_PROXY, family)
