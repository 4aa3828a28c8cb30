"""What changes for each Service: the differences in behaviour, grouped by reason, and whether something stops working."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, Protocol

from kpsim.addresses import Family
from kpsim.comparison.behaviour.spaces import Values, lacking, meet, networks, unite
from kpsim.exchange import Verdict
from kpsim.inputs import Json
from kpsim.tracing.probes import ProbeResult
from kpsim.tracing.site import Sender


class Effect(enum.StrEnum):
    """What a difference does to exchanges, the worst first."""

    STOPS = "stops working"
    STARTS = "starts working"
    DIFFERS = "ends in another way"


@dataclass(frozen=True, slots=True)
class Differing:
    """Packets that fare otherwise in the new mode. ``today`` and ``then`` are answers to a probe, as JSON."""

    service: str  #: ``namespace/name:port``; empty: of no Service
    family: Family
    node: str
    sender: Sender
    protocol: str  #: upper case
    source: Values
    destination: Values
    ports: Values  #: empty for pings
    today: Json
    then: Json
    why: str
    see: str
    prevented: bool = False  #: with the configuration to start with they fare as today


class Client(NamedTuple):
    """Clients of one kind: all of them, those of some sources, or all but some. Both are CIDRs."""

    sender: str
    sources: tuple[str, ...] = ()
    all_but: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Packets of one kind that fare otherwise than today, over all nodes, clients and addresses that fare alike."""

    effect: Effect
    service: str
    clients: tuple[Client, ...]
    nodes: tuple[str, ...]
    targets: tuple[str, ...]  #: CIDRs
    packets: tuple[tuple[str, Values], ...]  #: protocols, each with its ports
    today: str
    then: str
    prevented: bool


@dataclass(frozen=True, slots=True)
class Group:
    """All differences with one reason. ``see`` is the place of the specification."""

    why: str
    see: str
    rows: tuple[Row, ...]

    @property
    def effect(self) -> Effect:
        """The worst effect of its rows."""
        return min((row.effect for row in self.rows), key=list(Effect).index)


class Clients(Protocol):
    """Knows which sources the clients of a kind have."""

    def sources(self, family: Family, node: str, sender: Sender) -> Values: ...


def works(answer: Json) -> Fraction:
    """How likely it is that a client gets its answer."""
    exchange: Mapping[str, str] = answer.get("exchange") or {}
    return Fraction(exchange.get(Verdict.WORKS, "0"))


def noticed(difference: Differing) -> bool:
    """Whether a client notices, or a packet that left the cluster does not leave it any longer."""
    answers = difference.today, difference.then
    if any(works(answer) or Verdict.REFUSED in (answer.get("exchange") or {}) for answer in answers):
        return True
    return [answer["disposition"] for answer in answers] == [ProbeResult.PASSED, ProbeResult.DROPPED]


_ORDER = {effect: number for number, effect in enumerate(Effect)}


def grouped(differences: Iterable[Differing], clients: Clients) -> tuple[Group, ...]:
    """Differences by reason, what stops first, and as few rows as say all of them."""
    by_reason: dict[tuple[str, str], list[Differing]] = {}
    for difference in differences:
        by_reason.setdefault((difference.why, difference.see), []).append(difference)
    groups = [Group(why, see, _rows(found, clients)) for (why, see), found in by_reason.items()]
    return tuple(sorted(groups, key=lambda group: (_ORDER[group.effect], group.why, group.see)))


@dataclass(slots=True)
class _Alike:
    """Clients and addresses to which the same happens."""

    sources: dict[tuple[Family, str, Sender], list[Values]] = field(default_factory=dict)
    targets: dict[Family, list[Values]] = field(default_factory=dict)

    def add(self, difference: Differing) -> None:
        client = difference.family, difference.node, difference.sender
        self.sources.setdefault(client, []).append(difference.source)
        self.targets.setdefault(difference.family, []).append(difference.destination)


_Place = tuple[tuple[Client, ...], tuple[str, ...], tuple[str, ...]]
_MOST_BUT = 3  #: sources of a kind of client that are named as exceptions


def _rows(differences: Iterable[Differing], clients: Clients) -> tuple[Row, ...]:
    alike: dict[tuple[Effect, str, str, str, bool, str, Values], _Alike] = {}
    for each in differences:
        told = _told(each.today, each.then)
        kind = (_effect(each), each.service, *told, each.prevented, each.protocol, each.ports)
        alike.setdefault(kind, _Alike()).add(each)
    rows: dict[tuple[Effect, str, str, str, bool, _Place], list[tuple[str, Values]]] = {}
    for (effect, service, today, then, prevented, protocol, ports), found in alike.items():
        kind_of_row = effect, service, today, then, prevented, _place(found, clients)
        rows.setdefault(kind_of_row, []).append((protocol, ports))
    made = [
        Row(effect, service, *place, tuple(sorted(packets)), today, then, prevented)
        for (effect, service, today, then, prevented, place), packets in rows.items()
    ]
    return tuple(sorted(made, key=lambda row: (_ORDER[row.effect], row.service, row.packets, row.targets, row.clients)))


def _place(found: _Alike, clients: Clients) -> _Place:
    """The clients, nodes and targets, for people."""
    nodes = tuple(sorted({node for _, node, _ in found.sources}))
    senders = [sender for sender in Sender if any(of is sender for _, _, of in found.sources)]
    return tuple(_client(sender, found, clients) for sender in senders), nodes, _cidrs(found.targets)


def _client(sender: Sender, found: _Alike, clients: Clients) -> Client:
    """The clients of one kind. Of a process, routing chooses the source, so that is not said."""
    some: dict[Family, list[Values]] = {}
    missing: dict[Family, list[Values]] = {}
    of_node: list[tuple[Family, Values, Values]] = []  # the sources that clients of a node have, and those left out
    for (family, node, of), sources in found.sources.items():
        if of is sender is not Sender.NODE:
            all_of_node, here = clients.sources(family, node, sender), unite(sources)
            some.setdefault(family, []).extend(sources)
            missing.setdefault(family, []).append(lacking(all_of_node, here))
            of_node.append((family, all_of_node, missing[family][-1]))
    spared = {family: unite(of) for family, of in missing.items()}
    # a source that is left out on one node only is no exception: the row is about all of its nodes
    exact = all(meet(all_of_node, spared[family]) == gone for family, all_of_node, gone in of_node)
    left_out = _cidrs(missing)
    if exact and len(left_out) <= _MOST_BUT:
        return Client(str(sender), all_but=left_out)
    return Client(str(sender), sources=_cidrs(some))


def _cidrs(values: Mapping[Family, list[Values]]) -> tuple[str, ...]:
    return tuple(str(network) for family in sorted(values) for network in networks(family, unite(values[family])))


def _effect(difference: Differing) -> Effect:
    before, after = works(difference.today), works(difference.then)
    if before == after:
        return Effect.DIFFERS
    return Effect.STOPS if after < before else Effect.STARTS


# ----------------------------------------------------------------------------------------------------------------- words

_SAID = {
    Verdict.WORKS: "works",
    Verdict.REFUSED: "refused",
    Verdict.REQUEST_LOST: "no answer",
    Verdict.ANSWER_LOST: "the answer is lost",
    Verdict.MISDELIVERED: "answered by another",
    Verdict.UNKNOWN: "not known",
}


def _told(today: Json, then: Json) -> tuple[str, str]:
    """Two answers in words, with as much detail as it takes to tell them apart."""
    for words in (_in_short, _verdicts, _way, _source_port, _ends):
        before, after = words(today), words(then)
        if before != after:
            break
    return before, after


def _in_short(answer: Json) -> str:
    """What most people want to know: the odds depend on the node."""
    if len(answer.get("exchange") or {}) == 1:
        return _verdicts(answer)
    return "works in part" if works(answer) else "does not work"


def _verdicts(answer: Json) -> str:
    odds = [(Fraction(weight), verdict) for verdict, weight in (answer.get("exchange") or {}).items()]
    if len(odds) == 1:
        return _SAID[Verdict(odds[0][1])]
    return ", ".join(f"{_SAID[Verdict(verdict)]} {weight}" for weight, verdict in sorted(odds, reverse=True))


def _way(answer: Json) -> str:
    """How the packet ends at its node: delivered and how, or refused with what."""
    said = _verdicts(answer)
    outcomes = answer["outcomes"]
    if not outcomes:
        ending = answer.get("with") or answer["disposition"]
        return f"{said} ({ending})"
    masqueraded = {bool(outcome["masquerade"]) for outcome in outcomes}
    source = "source kept" if masqueraded == {False} else "masqueraded" if masqueraded == {True} else "some masqueraded"
    return f"{said} ({len(outcomes)} endpoint{'s' * (len(outcomes) != 1)}, {source})"


def _source_port(answer: Json) -> str:
    """Whether the kernel draws the source port that endpoints see."""
    drawn = {each["seen"]["sport"] is None for each in answer["outcomes"]}
    port = "drawn" if drawn == {True} else "kept" if drawn == {False} else "drawn by some"
    return f"{_verdicts(answer)} (source port {port})"


def _ends(answer: Json) -> str:
    """The endpoints with their odds, and the sources that they see."""
    ends = (f"{each['endpoint']} {each['weight']} from {each['seen']['src']}" for each in answer["outcomes"])
    return f"{_verdicts(answer)} ({', '.join(ends)})"
