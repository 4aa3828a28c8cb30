"""Says parts of a rule in words for people, with values as the rule writes them."""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.dialects import Reason
from kpsim.dialects.iptables.extensions import ANSWER_NAMES, UNSAID, connmark_action, probability
from kpsim.dialects.iptables.options import Place, Row
from kpsim.dialects.iptables.spelling import Piece, spelling_of
from kpsim.dialects.iptables.values import ALL_BITS, ANY_ICMP_TYPE, Form, Style, flag_names, write_range
from kpsim.ruleset import (
    Adjust,
    Assign,
    AssignFrom,
    BridgePort,
    Chance,
    Compare,
    Dispatch,
    Dnat,
    EitherPort,
    Expression,
    Field,
    Goto,
    Interval,
    Jump,
    Limit,
    LocalSocket,
    Log,
    Lookup,
    MapNetwork,
    Masquerade,
    NoTrack,
    Recent,
    Redirect,
    Reject,
    ReversePath,
    RoutingHeader,
    Rule,
    Set,
    SetReference,
    SetTimeToLive,
    SetTrafficClass,
    Snat,
    Statement,
    Terminal,
    Unknown,
    Unmodelled,
    UpdateSet,
)

#: what a row compares, in words, if that is not the field's name
_SUBJECTS: Mapping[str, str] = {"--sports": "port", "--dports": "port", "--ports": "port"}
_ELSEWHERE = ("-d", "--dport", "-p")


def tried(rule: Rule, family: Family) -> list[Expression]:
    """The expressions of a rule in the order in which the kernel tries them.

    The kernel compares the options of the header all at once, so those come first, in the order in which they are
    written.
    """
    written = spelling_of(rule, family).written
    header = [piece.at for piece in written if piece.row.place is Place.HEADER and piece.at >= 0]
    rest = (at for at in range(len(rule.body)) if at not in header)
    return [part for part in (rule.body[at] for at in (*header, *rest)) if not isinstance(part, Statement)]


def reason(rule: Rule, part: Expression | Statement, family: Family) -> Reason:
    """Why a part of a rule was false."""
    row, _, detail, _ = _piece(rule, part, family)
    assert isinstance(part, Expression)  # no statement of iptables ends a rule before it acts
    if isinstance(part, Lookup) and isinstance(part.set, SetReference):
        asked = f"the ipset {part.set.name} ({detail})" if detail else f"the ipset {part.set.name}"
        return Reason(f"it is {'' if part.negate else 'not '}in {asked}", elsewhere=False)
    if not isinstance(part, Compare | EitherPort | Lookup):
        return Reason(_special(part, detail, family), elsewhere=False)
    subject, value = _compared(part, row, detail, family)
    verb = "is" if part.negate else "is not"
    return Reason(f"{subject} {verb} {value}", row.name in _ELSEWHERE)


def _piece(rule: Rule, part: Expression | Statement, family: Family) -> Piece:
    at = next(i for i, each in enumerate(rule.body) if each is part)
    return spelling_of(rule, family).by_part[at]


def _compared(part: Compare | EitherPort | Lookup, row: Row, detail: object, family: Family) -> tuple[str, str]:
    """What an expression compares, and the value that it compares with, in words."""
    form = Form(Style.KUBE_PROXY, family)
    if isinstance(part, Lookup):
        assert isinstance(part.set, Set)
        ((kind, code),) = part.set.elements
        return Field.ICMP_TYPE.value, f"{kind}/{code}"
    if isinstance(part, EitherPort):
        return "port", _ports(part.among)
    subject = _SUBJECTS.get(row.name, part.field.value)
    match part.field:
        case Field.SADDR | Field.DADDR if row.name.endswith("-range"):
            return subject, "in the range"
        case Field.SPORT | Field.DPORT | Field.CT_ORIGINAL_DPORT:
            ranges = detail if isinstance(detail, tuple) else part.among
            return subject, _ports(ranges) if isinstance(ranges, tuple) else ""
        case Field.L4PROTO | Field.CT_DIRECTION:
            return subject, str(part.name)
        case Field.MARK | Field.CT_MARK:
            return subject, f"{part.value:#x}/{ALL_BITS if part.mask is None else part.mask:#x}"
        case Field.TCP_FLAGS:
            return f"of {' '.join(sorted(flag_names(part.mask or 0)))}", (
                f"{' '.join(sorted(flag_names(part.value or 0))) or 'none'} set"
            )
        case Field.ICMP_TYPE:
            return subject, str(ANY_ICMP_TYPE if part.value is None else part.value)
        case Field.TTL:
            relation = {"lt": "below ", "gt": "above "}.get(row.name[-2:], "")
            return subject, relation + _value(part, row, detail, form)
        case _:
            return subject, _value(part, row, detail, form).replace(",", " or ")


def _value(part: Compare, row: Row, detail: object, form: Form) -> str:
    """The value of an option as the rule writes it."""
    return row.write(part, detail, form, False).removeprefix("! ").removeprefix(f"{row.name} ")


def _ports(ranges: tuple[Interval, ...]) -> str:
    return " or ".join(write_range(ports, " to ") for ports in ranges)


def _special(part: Expression, detail: object, family: Family) -> str:
    match part:
        case Chance():
            written = detail if isinstance(detail, str) else None
            return f"not drawn (probability {probability(part, written, Form(Style.KUBE_PROXY, family))})"
        case ReversePath(invert=invert):
            return f"an answer would {'' if invert else 'not '}leave by the interface that it came by"
        case RoutingHeader():
            return "there is no routing header"
        case Limit(count, unit, burst):
            return f"the limit of {count} a {unit} and a burst of {burst} is used up"
        case Recent(name):
            return f"the list {name} says no"
        case Unknown(words):
            return f"{words} is not modelled, and this packet does not depend on it"
        case BridgePort(side, name, negate):
            return f"it {'passes' if negate else 'does not pass'} a port of a bridge{'' if name is None else ' of this name'} ({side})"
        case LocalSocket():
            return "no socket of the node would receive it"
        case other:
            return f"{type(other).__name__} does not hold"


def probability_of(rule: Rule, chance: Chance, family: Family) -> str:
    """The probability of a rule's draw as the rule writes it."""
    detail = _piece(rule, chance, family).detail
    return probability(chance, detail, Form(Style.KUBE_PROXY, family))


def does(rule: Rule, family: Family) -> str:  # noqa: C901 - one case per kind of statement
    """What a rule does, in a word or two."""
    target = rule.target
    match target:
        case None:
            return "go on"
        case Terminal(verdict):
            return verdict
        case Jump(chain):
            return f"jump {chain}"
        case Goto(chain):
            return f"goto {chain}"
        case Reject(with_):
            unsaid = _piece(rule, target, family).detail == UNSAID
            return "REJECT" if unsaid else f"REJECT {ANSWER_NAMES[family][with_]}"
        case Dnat() | Redirect():
            return "DNAT"
        case Snat():
            return "SNAT"
        case Masquerade():
            return "MASQUERADE"
        case Assign(Field.MARK, keep, flip, None):
            return f"mark := (mark & ~{keep ^ ALL_BITS:#x}) ^ {flip:#x}"
        case Assign():
            return f"CONNMARK {connmark_action(target)}"
        case SetTimeToLive(action, value):
            return f"{_piece(rule, target, family).row.name.removeprefix('-j ')} {action} {value}"
        case SetTrafficClass(keep, flip):
            return f"traffic class := (traffic class & {keep:#04x}) ^ {flip:#04x}"
        case NoTrack():
            return "NoTrack"
        case MapNetwork():
            return "NETMAP"
        case Unmodelled(words):
            return words
        case Dispatch() | UpdateSet() | AssignFrom():
            raise TypeError("iptables has neither maps nor dynamic sets")
        case Log(_, name) | Adjust(name):
            return name
