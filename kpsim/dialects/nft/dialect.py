"""nft as one of the dialects of ``kpsim.dialects``."""

import re
from collections.abc import Collection, Mapping

from kpsim.addresses import Family
from kpsim.dialects import Form, OnUnknown, Reason
from kpsim.dialects.nft import words
from kpsim.dialects.nft.building import Builder
from kpsim.dialects.nft.commands import dump
from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.document_syntax import Item, items_of
from kpsim.dialects.nft.json_form import json_items
from kpsim.dialects.nft.listing import listing, rule_words
from kpsim.dialects.nft.origin import with_origins
from kpsim.dialects.nft.spelling import Spelling
from kpsim.dialects.nft.tokens import SyntaxProblem
from kpsim.errors import InputError, Problem
from kpsim.ruleset import Chance, Expression, Rule, RuleReference, Ruleset, Set, Statement, TableKey

_STYLES = {Form.SENT: Style.SENT, Form.LISTED: Style.LISTED}
_TABLE = re.compile(
    r"^\s*(?:(?:add|create|delete|flush)\s+)?table\s+(?:ip|ip6|inet|arp|bridge|netdev)\s+\S", re.MULTILINE
)
_COMMAND = re.compile(r"^\s*(?:add|insert|create|flush)\s+(?:ruleset|chain|rule|set|map|element)\b", re.MULTILINE)
_JSON = re.compile(r"\s*\{")
_OWNED = re.compile(r"^# Warning: table (ip6?|inet|arp|bridge) (\S+) is managed by iptables-nft", re.MULTILINE)


class NftDialect:
    """The language of nft. Satisfies :class:`kpsim.dialects.Dialect`."""

    name = "nft"

    def manages(self, table: TableKey) -> bool:
        """Every table may be nft's. Tables of iptables are asked for first."""
        return True

    def wrote(self, rule: Rule) -> bool:
        return isinstance(rule.spelling, Spelling)

    def reads(self, text: str) -> bool:
        if _JSON.match(text):
            return '"nftables"' in text
        return _TABLE.search(text) is not None or _COMMAND.search(text) is not None

    def families(self, text: str, *, file: str | None = None) -> tuple[Family, ...]:
        """The families that have a table."""
        found = {item.about.get("family") for item in _items(text, file) if item.verb in ("add", "create")}
        both = {"inet"} & found
        return tuple(
            family for family, name in ((Family.IPV4, "ip"), (Family.IPV6, "ip6")) if both or name in found
        ) or tuple(Family)

    def parse(
        self,
        text: str,
        family: Family | None = None,
        *,
        file: str | None = None,
        unknown: OnUnknown = "refuse",
        elsewhere: Collection[TableKey] = (),
        ipsets: Mapping[str, Set] | None = None,  # nft has no word for them
    ) -> tuple[Ruleset, ...]:
        """The rules of a text, one ruleset for each family that has a table, or the one asked for."""
        builder = Builder(file, keep=unknown == "keep", style=_style_of(text), elsewhere=elsewhere)
        builder.take(_items(text, file))
        builder.refuse_owned({(family_, name) for family_, name in _OWNED.findall(text)})
        found = tuple(with_origins(ruleset) for ruleset in builder.rulesets())
        if family is None:
            return found
        return tuple(ruleset for ruleset in found if ruleset.family is family) or (Ruleset(family),)

    def render(self, ruleset: Ruleset, form: Form) -> str:
        if form is Form.LISTED:
            return listing(ruleset)
        return "".join(f"{line}\n" for table in ruleset.in_order() for line in dump(table))

    def spell(self, reference: RuleReference, family: Family, form: Form) -> str:
        assert reference.rule is not None
        key = reference.table
        bare = reference._replace(element=None)
        return f"add rule {key.space.value} {key.name} {reference.chain} {self.words(bare, family, form)}".rstrip()

    def words(self, reference: RuleReference, family: Family, form: Form) -> str:
        """A rule that was read is shown as it was written."""
        rule = reference.rule
        assert rule is not None
        style = (
            rule.spelling.style if isinstance(rule.spelling, Spelling) and rule.spelling.statements else _STYLES[form]
        )
        words = rule_words(rule, reference.table.space, style)
        element = self.element(reference, family)
        if reference.asked_by is not None:
            return f"{words}, by {element}"
        name, _, _ = element.partition(" ")
        return f"{words} {element.removeprefix(f'{name} ') if words.endswith(f' {name}') else element}".rstrip()

    def element(self, reference: RuleReference, family: Family) -> str:
        return words.element_words(reference)

    def tried(self, rule: Rule, family: Family) -> list[Expression | Statement]:
        return words.tried(rule)

    def reason(self, rule: Rule, part: Expression | Statement, family: Family) -> Reason:
        return words.reason(rule, part, family)

    def probability(self, rule: Rule, chance: Chance, family: Family) -> str:
        return words.probability(chance.threshold)

    def does(self, rule: Rule, family: Family) -> str:
        return words.does(rule, family)


def _style_of(text: str) -> Style:
    return Style.SENT if _COMMAND.search(text) else Style.LISTED


def _items(text: str, file: str | None) -> list[Item]:
    text = text.removeprefix("\ufeff")
    if _JSON.match(text):
        return json_items(text, file)
    try:
        return items_of(text)
    except SyntaxProblem as error:
        raise InputError(Problem(error.message, file=file, line=error.token.line)) from None


DIALECT = NftDialect()
