"""Differences in words, Service by Service: as text for a terminal, and as Markdown."""

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.fates import Fate, endpoints, without_source_ports
from kpsim.comparison.behaviour.report import Record, Report, cidrs
from kpsim.comparison.behaviour.spaces import Values
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.exchange import Verdict
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.tracing.probes import ProbeResult

_FEW = 3
_UNUSUAL = "{:,} more with sources that such clients do not have (in --format json)"
_OF_NO_SERVICE = "packets to no Service"
_VERDICTS = {
    Verdict.WORKS: "works", Verdict.REFUSED: "refused", Verdict.REQUEST_LOST: "no answer", Verdict.ANSWER_LOST: "answer lost",
    Verdict.MISDELIVERED: "answered by another", Verdict.UNKNOWN: "unknown",
}  # fmt: skip


class _Line(NamedTuple):
    """What several differences have in common that are told as one."""

    packets: str
    change: str
    why: str


class _Whose(NamedTuple):
    """Whose packets a line is about; each is a set that keeps its order."""

    senders: dict[str, None]
    nodes: dict[str, None]
    sources: dict[str, None]


def lines(report: Report) -> Iterator[str]:
    """The differences as text."""
    yield from _summary(report)
    for service, (told, others) in _by_service(report).items():
        yield ""
        yield service or _OF_NO_SERVICE
        for line, whose in told.items():
            yield f"  {line.packets}: {line.change}; {line.why}"
            yield f"    from {_from(whose)}; at {_some(list(whose.nodes))}"
        if others:
            yield f"  {_UNUSUAL.format(others)}"


def markdown(report: Report) -> Iterator[str]:
    """The differences as Markdown: a table for each Service."""
    yield "# What becomes of first packets"
    yield ""
    yield from _summary(report)
    for service, (told, others) in _by_service(report).items():
        yield ""
        yield f"## {_cell(service or _OF_NO_SERVICE)}"
        yield ""
        yield "| packets | from | at | what changes | why |"
        yield "|---|---|---|---|---|"
        for line, whose in told.items():
            cells = (line.packets, _from(whose), _some(list(whose.nodes)), line.change, line.why)
            yield f"| {' | '.join(map(_cell, cells))} |"
        if others:
            yield ""
            yield _cell(_UNUSUAL.format(others))


def _cell(text: str) -> str:
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _summary(report: Report) -> Iterator[str]:
    count = len(report.records)
    differ = "no difference" if not count else f"{count:,} difference{'s' if count > 1 else ''}"
    yield f"a: {report.a.name}"
    yield f"b: {report.b.name}"
    yield f"{report.classes:,} classes of packets compared: {differ}."


def _by_service(report: Report) -> dict[str, tuple[dict[_Line, _Whose], int]]:
    """The lines about each Service, and how many more differences are about sources that such clients do not have."""
    found: dict[str, tuple[dict[_Line, _Whose], int]] = {}
    changes: dict[int, str] = {}  # of differences that were carried to others: constants aside, these change alike
    for record in sorted(report.records, key=lambda record: (record.service == "", record.service)):
        told, others = found.setdefault(record.service, ({}, 0))
        if not record.natural:
            found[record.service] = told, others + 1
            continue
        see = f" ({record.why.see})" if record.why.see else ""
        original = record.original
        if id(original) not in changes:
            changes[id(original)] = _change(*original.fates)
        line = _Line(_packets(record), changes[id(original)], f"{record.why.words}{see}")
        whose = told.setdefault(line, _Whose({}, {}, {}))
        whose.senders[str(record.box.sender)] = None
        whose.nodes[record.box.node] = None
        if record.box.source != UNBOUND:
            whose.sources.update(dict.fromkeys(_addresses(record, record.box.source)))
    return found


def _from(whose: _Whose) -> str:
    senders = ", ".join(whose.senders)
    return (
        senders
        if not whose.sources or len(whose.sources) > _FEW
        else f"{senders} with source {', '.join(whose.sources)}"
    )


# --- which packets --------------------------------------------------------------------------------------------------------


def _packets(record: Record) -> str:
    box, frontend = record.box, record.frontend
    protocol = "pings" if box.protocol in ICMP_PROTOCOLS else box.protocol.upper()
    where = _addresses(record, box.destination)
    if frontend is None:
        ports = "" if box.protocol in ICMP_PROTOCOLS else f" {_ports(box.port)}"
        return f"{protocol} to {_some(where)}{ports}"
    if frontend.kind == "localhost node port":
        return f"node port {frontend.port} ({protocol}) on {'127.0.0.1' if box.family is Family.IPV4 else '::1'}"
    if frontend.kind == "node port":
        return f"node port {frontend.port} ({protocol}) on {_some(where)}"
    if box.protocol in ICMP_PROTOCOLS:
        return f"{protocol} of {frontend.kind} {_some(where)}"
    if frontend.port is None:
        return f"other ports of {frontend.kind} {_some(where)} ({protocol})"
    return f"{frontend.kind} {_some(where)} port {frontend.port} ({protocol})"


def _addresses(record: Record, values: Values) -> list[str]:
    return [text.removesuffix("/32").removesuffix("/128") for text in cidrs(record.box.family, values)]


def _ports(values: Values) -> str:
    words = [str(low) if low == high else f"{low}–{high}" for low, high in values]
    return f"{'port' if len(words) == 1 and '–' not in words[0] else 'ports'} {_some(words)}"


def _some(words: list[str]) -> str:
    shown = ", ".join(words[:_FEW])
    return shown if len(words) <= _FEW else f"{shown} and {len(words) - _FEW:,} more"


# --- what changes ---------------------------------------------------------------------------------------------------------


def _change(a: Fate, b: Fate) -> str:
    """``works → refused``; of two that end alike, what else changes."""
    before, after = _ends(a), _ends(b)
    if before != after:
        return f"{before} → {after}"
    changes = list(_changes(a, b))
    return f"{before}, {', '.join(changes)}" if changes else f"{before}, in another way"


def _ends(fate: Fate) -> str:
    """How exchanges end: the verdict, or each with its odds."""
    odds = dict(fate.exchange)
    return ", ".join(
        _VERDICTS[verdict] if odds[verdict] == 1 else f"{_VERDICTS[verdict]} {odds[verdict]}"
        for verdict in Verdict
        if verdict in odds
    )


def _changes(a: Fate, b: Fate) -> Iterator[str]:
    if a.result is not b.result:
        yield f"{a.result} → {b.result}"
    if a.with_ != b.with_ and a.with_ and b.with_:
        yield f"{a.with_} → {b.with_}"
    if a.result is not ProbeResult.DELIVERED or b.result is not ProbeResult.DELIVERED:
        return
    before, after = endpoints(a), endpoints(b)
    if before.keys() != after.keys():
        yield f"{_count(before)} → {_count(after)}"
    elif before != after:
        yield "with other odds"
    hidden = [{masquerade for _, masquerade, _ in fate.outcomes} for fate in (a, b)]
    if hidden[0] != hidden[1]:
        yield " → ".join(_SOURCES[frozenset(each)] for each in hidden)
    elif before == after:
        only_ports = without_source_ports(a) == without_source_ports(b)
        yield f"endpoints see another source{' port' if only_ports else ''}"


def _count(found: dict[tuple[object, object], Fraction]) -> str:
    return f"{len(found)} endpoint{'s' if len(found) > 1 else ''}"


_SOURCES = {
    frozenset({True}): "masqueraded", frozenset({False}): "source kept", frozenset({True, False}): "masqueraded in part",
}  # fmt: skip
