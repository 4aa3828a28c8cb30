"""iptables as one of the dialects of ``kpsim.dialects``."""

import re
from collections.abc import Collection, Mapping

from kpsim.addresses import Family
from kpsim.dialects import Form, OnUnknown, Reason
from kpsim.dialects.iptables import BUILT_IN_CHAINS, Style, parse, render_rule, render_ruleset, words
from kpsim.dialects.iptables.saved import family_by_address, read_saved, rules_by_family
from kpsim.dialects.iptables.spelling import Spelling
from kpsim.ruleset import Chance, Expression, Rule, RuleReference, Ruleset, Set, Space, Statement, TableKey

_STYLES = {Form.SENT: Style.KUBE_PROXY, Form.LISTED: Style.SAVE}
_TABLE_LINE = re.compile(r"^\s*\*\w+\s*$", re.MULTILINE)


class IptablesDialect:
    """The language of iptables-save and iptables-restore. Satisfies :class:`kpsim.dialects.Dialect`."""

    name = "iptables"

    def manages(self, table: TableKey) -> bool:
        return table.space is not Space.INET and table.name in BUILT_IN_CHAINS

    def wrote(self, rule: Rule) -> bool:
        return isinstance(rule.spelling, Spelling)

    def reads(self, text: str) -> bool:
        return _TABLE_LINE.search(text) is not None

    def families(self, text: str, *, file: str | None = None) -> tuple[Family, ...]:
        """The families that the comments above the rules name, else the family of the first address.

        InputError for text of nft.
        """
        if parts := rules_by_family(text):
            return tuple(parts)
        found = family_by_address(text, file)
        return () if found is None else (found,)

    def parse(
        self,
        text: str,
        family: Family | None = None,
        *,
        file: str | None = None,
        unknown: OnUnknown = "refuse",
        elsewhere: Collection[TableKey] = (),
        ipsets: Mapping[str, Set] | None = None,
    ) -> tuple[Ruleset, ...]:
        """The rules of a text.

        Without ``family`` the comments above the rules tell it, else ``.v4`` or ``.v6`` in the name of ``file``, else
        the first address.
        """
        if family is None:
            found = read_saved(text, file=file, unknown=unknown, ipsets=ipsets)
        else:
            part = rules_by_family(text).get(family, text)
            found = (parse(part, family, file=file, unknown=unknown, ipsets=ipsets),)
        return tuple(ruleset.without(elsewhere) for ruleset in found)

    def render(self, ruleset: Ruleset, form: Form) -> str:
        return render_ruleset(ruleset, _STYLES[form])

    def spell(self, reference: RuleReference, family: Family, form: Form) -> str:
        assert reference.rule is not None
        return render_rule(reference.chain, reference.rule, _STYLES[form], family)

    def words(self, reference: RuleReference, family: Family, form: Form) -> str:
        return self.spell(reference, family, form).removeprefix(f"-A {reference.chain}").strip()

    def element(self, reference: RuleReference, family: Family) -> str:
        return ""  # iptables has no maps

    def tried(self, rule: Rule, family: Family) -> list[Expression | Statement]:
        return list(words.tried(rule, family))

    def reason(self, rule: Rule, part: Expression | Statement, family: Family) -> Reason:
        return words.reason(rule, part, family)

    def probability(self, rule: Rule, chance: Chance, family: Family) -> str:
        return words.probability_of(rule, chance, family)

    def does(self, rule: Rule, family: Family) -> str:
        return words.does(rule, family)


DIALECT = IptablesDialect()
