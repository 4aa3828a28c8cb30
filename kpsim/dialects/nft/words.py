"""Says parts of a rule in words for people, with values as nft lists them."""

from typing import NamedTuple, assert_never

from kpsim.addresses import Family
from kpsim.dialects import Reason
from kpsim.dialects.nft.datatypes import MARK, Style
from kpsim.dialects.nft.printing import expression_text, value_text
from kpsim.dialects.nft.spelling import texts
from kpsim.dialects.nft.writing import RuleWriter, element_tree
from kpsim.ruleset import (
    AssignFrom,
    Compare,
    Dispatch,
    Dnat,
    Expression,
    Field,
    Hashed,
    Limit,
    Lookup,
    Mapped,
    Masked,
    Numgen,
    Quota,
    Redirect,
    ReversePath,
    Rule,
    RuleReference,
    Set,
    SetReference,
    Snat,
    Source,
    Space,
    Statement,
    Unknown,
    UpdateSet,
)

_ELSEWHERE = (Field.DADDR, Field.DPORT, Field.L4PROTO, Field.NFPROTO)
_LISTED = Style.LISTED


def tried(rule: Rule) -> list[Expression | Statement]:
    """The parts of a rule that may end it, in the order in which the kernel tries them."""
    return [
        part
        for part in rule.body
        if not isinstance(part, Statement) or mapped_of(part) is not None or isinstance(part, UpdateSet)
    ]


class Asked(NamedTuple):
    """A look-up in a map, and the part of a rule that says what comes of it."""

    key: tuple[Source, ...]
    map: Set | SetReference
    said: Dispatch | AssignFrom | Mapped


def mapped_of(part: Expression | Statement) -> Asked | None:
    """The look-up in a map that a statement makes."""
    match part:
        case Dispatch(key, asked) | AssignFrom(_, key, Set() | SetReference() as asked):
            return Asked(key, asked, part)
        case (
            Dnat(mapped=Mapped(key, asked) as said)
            | Snat(mapped=Mapped(key, asked) as said)
            | Redirect(mapped=Mapped(key, asked) as said)
        ):
            return Asked(key, asked, said)
        case _:
            return None


def reason(rule: Rule, part: Expression | Statement, family: Family) -> Reason:
    """Why a part of a rule was false."""
    match part:
        case Compare():
            return _compared(part, family)
        case Lookup(key, of, negate):
            verb = "is" if len(key) == 1 else "are"
            return Reason(f"{_key(key)} {verb} {'' if negate else 'not '}in {_set(of)}", elsewhere=False)
        case Quota(size, over):
            used = "is not used up" if over else "is used up"
            return Reason(f"the quota of {size} bytes {used}", elsewhere=False)
        case Limit(count, unit, burst, over, bytes=True):
            used = "is not used up" if over else "is used up"
            return Reason(f"the limit of {count} bytes a {unit} and a burst of {burst} {used}", elsewhere=False)
        case Limit(count, unit, burst, over):
            used = "is not used up" if over else "is used up"
            return Reason(f"the limit of {count} a {unit} and a burst of {burst} {used}", elsewhere=False)
        case ReversePath(invert=invert):
            return Reason(
                f"an answer would {'' if invert else 'not '}leave by the interface that it came by", elsewhere=False
            )
        case Unknown(words):
            return Reason(f"{words} is not modelled, and this packet does not depend on it", elsewhere=False)
        case UpdateSet(to, key):
            if part.each:
                return Reason(f"{_set(to)} is full, or a limit of the element for {_key(key)} says no", elsewhere=False)
            return Reason(f"{_set(to)} is full, or {_key(key)} could not be put in", elsewhere=False)
        case _ if (found := mapped_of(part)) is not None:
            return Reason(f"{_set(found.map)} has nothing for this {_key(found.key)}", elsewhere=False)
        case _:
            return Reason(f"{type(part).__name__} does not hold", elsewhere=False)


def _compared(part: Compare, family: Family) -> Reason:
    writer = RuleWriter(Space.of(family))
    try:
        tree = writer.tree(part)["match"]
        _, kinds = expression_text(tree["left"], _LISTED)
        right = tree["right"]
        several = (
            right["set"]
            if isinstance(right, dict) and "set" in right
            else right
            if isinstance(right, list)
            else [right]
        )
        value = " or ".join(value_text(each, kinds, _LISTED).strip('"') for each in several)
    except ValueError:
        value = "as asked"
    subject, verb = part.field.value, "is" if part.negate else "is not"
    if part.field is Field.TCP_FLAGS and part.mask is not None and part.value == 0:
        verb = "has none of" if part.negate else "has"
    elif part.field in (Field.MARK, Field.CT_MARK) and part.mask is not None:
        subject = f"{subject} & {part.mask:#010x}"
    return Reason(f"{subject} {verb} {value}", part.field in _ELSEWHERE)


def _set(of: Set | SetReference) -> str:
    return f"@{of.name}" if isinstance(of, SetReference) else "the list in the rule"


def _key(key: tuple[Source, ...]) -> str:
    *others, last = map(_source, key)
    return f"{', '.join(others)} and {last}" if others else last


def _source(source: Source) -> str:
    match source:
        case Field():
            return source.value
        case Masked(field, mask):
            return f"{field.value} & {mask:#x}"
        case Numgen(modulus):
            return f"number below {modulus}"
        case Hashed(modulus=modulus):
            return f"hash below {modulus}"
        case other:
            assert_never(other)


def probability(threshold: int) -> str:
    """The probability of a draw."""
    return f"{threshold / 2**31:.10f}"


def does(rule: Rule, family: Family) -> str:
    """What a rule does: its statements, without the lists of maps."""
    written = texts(rule, Space.of(family), _LISTED)
    ends = [at for _, at in written[1:]] + [len(rule.body)]
    done = [
        text.partition(" map {")[0].partition(" vmap {")[0]
        for (text, at), end in zip(written, ends, strict=True)
        if any(isinstance(part, Statement) for part in rule.body[at:end])
    ]
    return " ".join(done) or "go on"


def element_words(reference: RuleReference) -> str:
    """The element of a map that said what the rule did, as nft lists it."""
    if reference.element is None or reference.rule is None:
        return ""
    name, key, element = reference.element
    writer = RuleWriter(reference.table.space)
    for part in (reference.asked_by or reference.rule).body:
        writer.learn(part)
        found = mapped_of(part)
        if found is None or (found.map.name or "") != name:
            continue
        kinds = [writer.type_of(source) for source in found.key]
        data = (
            writer.data_types(found.said)
            if isinstance(found.said, Mapped)
            else [MARK]
            if isinstance(found.said, AssignFrom)
            else []
        )
        text = value_text(element_tree(key, element, kinds, data), kinds, _LISTED, data)
        return f"@{name} {{ {text} }}" if name else f"{{ {text} }}"
    return ""
