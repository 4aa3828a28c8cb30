"""What changes for each Service: the differences in behaviour, grouped by reason, and whether something stops working."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from kpsim.exchange import Verdict
from kpsim.inputs import Json


class Effect(enum.StrEnum):
    """What a difference does to exchanges, the worst first."""

    STOPS = "stops working"
    STARTS = "starts working"
    DIFFERS = "ends in another way"


@dataclass(frozen=True, slots=True)
class Row:
    """Packets of one kind that fare otherwise than today: the same on all of the ``nodes``."""

    effect: Effect
    service: str  #: ``namespace/name:port``; empty: of no Service
    senders: tuple[str, ...]
    nodes: tuple[str, ...]
    source: tuple[str, ...]  #: CIDRs; empty: any
    target: tuple[str, ...]  #: CIDRs
    protocol: str
    ports: tuple[tuple[int, int], ...]
    today: str
    then: str


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

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted({row.service for row in self.rows} - {""}))


def works(answer: Json) -> Fraction:
    """How likely it is that a client gets its answer."""
    exchange: Mapping[str, str] = answer.get("exchange") or {}
    return Fraction(exchange.get(Verdict.WORKS, "0"))


_SAID = {
    Verdict.WORKS: "works",
    Verdict.REFUSED: "refused",
    Verdict.REQUEST_LOST: "no answer",
    Verdict.ANSWER_LOST: "the answer is lost",
    Verdict.MISDELIVERED: "answered by another",
    Verdict.UNKNOWN: "not known",
}


def grouped(records: Iterable[Json]) -> tuple[Group, ...]:
    """Differences, as ``kpsim diff --format json`` lists them, by reason: what stops first, then by name."""
    by_reason: dict[tuple[str, str], list[Json]] = {}
    for record in records:
        by_reason.setdefault((record.get("why") or "", record.get("see") or ""), []).append(record)
    groups = [Group(why, see, _rows(found)) for (why, see), found in by_reason.items()]
    return tuple(sorted(groups, key=lambda group: (_ORDER[group.effect], group.why == "", group.why, group.see)))


_ORDER = {effect: number for number, effect in enumerate(Effect)}
_Kind = tuple[Effect, str, tuple[str, ...], str, tuple[tuple[int, int], ...], str, str]


def _rows(records: Iterable[Json]) -> tuple[Row, ...]:
    """One row for all nodes, senders and addresses to which the same happens."""
    found: dict[_Kind, dict[str, set[str]]] = {}
    for record in records:
        packets, today, then = record["packets"], record["a"], record["b"]
        source = tuple(cidr for cidr in packets["src"] if not _is_any(cidr))
        ports = tuple((low, high) for low, high in packets["dport"])
        kind = (_effect(today, then), record["service"], source, packets["protocol"], ports, *_told(today, then))
        row = found.setdefault(kind, {"senders": set(), "nodes": set(), "target": set()})
        row["senders"].add(packets["from"])
        row["nodes"].add(packets["node"])
        row["target"].update(packets["dst"])
    rows = [
        Row(
            effect, service, _sorted(row["senders"]), _sorted(row["nodes"]), source, _sorted(row["target"]), protocol, ports,
            today, then,
        )
        for (effect, service, source, protocol, ports, today, then), row in found.items()
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (_ORDER[row.effect], row.service, row.protocol, row.ports, row.target)))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _is_any(cidr: str) -> bool:
    return cidr.endswith("/0")


def _effect(today: Json, then: Json) -> Effect:
    before, after = works(today), works(then)
    if before == after:
        return Effect.DIFFERS
    return Effect.STOPS if after < before else Effect.STARTS


def _told(today: Json, then: Json) -> tuple[str, str]:
    """Two answers in words, with as much detail as it takes to tell them apart."""
    for words in (_verdicts, _way, _ends):
        before, after = words(today), words(then)
        if before != after:
            return before, after
    return before, after


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


def _ends(answer: Json) -> str:
    """The endpoints with their odds, and the sources that they see."""
    ends = (f"{each['endpoint']} {each['weight']} from {each['seen']['src']}" for each in answer["outcomes"])
    return f"{_verdicts(answer)} ({', '.join(ends)})"
