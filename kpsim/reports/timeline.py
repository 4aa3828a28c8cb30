"""The run over one time axis: losses, what happened, and node by node what the load balancer believed and the rules knew.

Each lane is an SVG of its own whose horizontal axis is the run's time in milliseconds. It is as wide as its page, whatever that
is, and a script may show a part of the run by changing all view boxes at once. No text is inside a lane, so none is stretched.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kpsim.errors import printable
from kpsim.reports.faultspells import fault_band
from kpsim.reports.local_policy import HealthTimeline, bin_width_ns, health_timelines, in_rotation, usable
from kpsim.reports.nodestates import node_spells
from kpsim.reports.sentences import duration, instant
from kpsim.reports.simulated import KeptTrace
from kpsim.simulation.runlog import API_SERVER, Fate, Happening, HappeningKind, RunLog
from kpsim.units import MILLISECOND_NS

MOST_NODES = 12
MOST_BINS = 240
MOST_EVENTS = 400
TALL, LOW, BAND = 96, 34, 10  #: heights of lanes and bars in pixels

#: events of the scenario, shown in place of their consequences
DONE = frozenset(
    {
        HappeningKind.ROLLOUT, HappeningKind.SCALE, HappeningKind.NODE_DOWN, HappeningKind.NODE_UP, HappeningKind.NODE_DRAINED,
        HappeningKind.NODE_CORDONED, HappeningKind.NODE_UNCORDONED, HappeningKind.NODE_ADDED, HappeningKind.NODE_DELETED,
        HappeningKind.ROLLING_UPGRADE, HappeningKind.ROLLING_UPGRADE_DONE, HappeningKind.SERVICE_CREATED,
        HappeningKind.SERVICE_PATCHED, HappeningKind.PROXY_STOPPED, HappeningKind.PROXY_STARTED, HappeningKind.SYNCS_FAIL,
        HappeningKind.RULES_LOADED, HappeningKind.POD_CRASHED, HappeningKind.RULES_FLUSHED, HappeningKind.LOCK_HELD,
        HappeningKind.PROXY_CRASHED, HappeningKind.CONNTRACK_MAX, HappeningKind.CONNTRACK_FILLED, HappeningKind.BALANCER_SLOW,
        HappeningKind.PACKETS_LOST, HappeningKind.CLOCK_SKEW,
    }
)  # fmt: skip

_Timelines = Mapping[tuple[str, str], HealthTimeline]  # by Service and node
_LOST = tuple(fate for fate in Fate if fate is not Fate.DELIVERED)


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle of a lane. ``kind`` is its class, ``title`` what a pointer on it says, ``link`` a trace to open."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of the timeline. ``scale`` says what its full height is; ``about`` is the node's zone."""

    name: str
    marks: tuple[Mark, ...]
    height: int
    scale: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All lanes over one axis, the time of the run in milliseconds."""

    length_ms: float
    ticks: tuple[tuple[float, str], ...]  #: where in per cent, and what it says
    lanes: tuple[Lane, ...]
    legend: tuple[tuple[str, str], ...]  #: class and meaning, of what is shown
    hidden_nodes: int
    data: str  #: JSON for the script


def timeline_of(log: RunLog, traces: Sequence[KeptTrace] = ()) -> Timeline | None:
    """Return the timeline of a run. None if nothing was sent and nothing happened."""
    if not log.connections and not log.happenings:
        return None
    width_ns = bin_width_ns(log.duration_ns, MOST_BINS)
    bins = _Bins(log, width_ns)
    links = _Links(traces)
    nodes, timelines = _chosen_nodes(log, bins), health_timelines(log)
    lanes = [
        _losses_lane("lost", bins.lost, bins, links, TALL),
        _sent_lane(bins),
        *_event_lanes(log),
        _server_lane(log),
        *(_node_lane(log, node, bins, links, timelines) for node in nodes),
    ]
    shown = [lane for lane in lanes if lane is not None]
    kinds = {mark.kind for lane in shown for mark in lane.marks}
    hidden = len(_concerned(log)) - len(nodes)
    legend = tuple((kind, meaning) for kind, meaning in _LEGEND if kind in kinds)
    return Timeline(_ms(log.duration_ns), _ticks(log.duration_ns), tuple(shown), legend, hidden, _data(log, bins))


_LEGEND = (
    ("dropped", "dropped"), ("rejected", "rejected"), ("failed", "failed"), ("misdelivered", "misdelivered"),
    ("sent", "sent"), ("rotation", "load balancer sends here"), ("endpoint", "has a usable endpoint"),
    ("behind", "rules behind the slices"), ("fault", "something is broken"), ("rules", "new rules in force"), ("off", "machine off"), ("cordoned", "cordoned or draining"),
    ("done", "what was done"), ("followed", "what followed"),
)  # fmt: skip


def _ms(ns: int) -> float:
    return round(ns / MILLISECOND_NS, 3)


class _Bins:
    """Connections counted over equal stretches of time: lost ones when their end was sealed, all when they began."""

    def __init__(self, log: RunLog, width_ns: int) -> None:
        self.width_ns = width_ns
        self.number = -(-log.duration_ns // width_ns)
        self.sent: Counter[int] = Counter()
        self.lost: Counter[tuple[Fate, int]] = Counter()
        self.lost_at: dict[str, Counter[tuple[Fate, int]]] = {}
        for c in log.connections:
            self.sent[self._bin(c.at_ns)] += 1
            if c.lost:
                place = c.disposition, self._bin(c.decisive_ns)
                self.lost[place] += 1
                self.lost_at.setdefault(c.node, Counter())[place] += 1

    def _bin(self, at_ns: int) -> int:
        return min(at_ns // self.width_ns, self.number - 1)


class _Links:
    """Finds the trace that is nearest to some losses."""

    def __init__(self, traces: Sequence[KeptTrace]) -> None:
        self._traces: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for trace in traces:
            for node in ("", trace.node):
                self._traces.setdefault((node, trace.disposition), []).append((trace.at_ns, trace_id(trace.name)))
        for found in self._traces.values():
            found.sort()

    def near(self, node: str, fate: Fate, at_ns: int) -> str:
        """Return the identifier of the nearest trace of a loss of this kind at a node; empty ``node``: at any."""
        found = self._traces.get((node, fate.value), [])
        if not found:
            return ""
        place = bisect_left(found, (at_ns, ""))
        return min(found[max(0, place - 1) : place + 1], key=lambda each: abs(each[0] - at_ns))[1]


def trace_id(name: str) -> str:
    """Return the identifier of a trace's element in the page."""
    return "trace-" + "".join(each if each.isascii() and each.isalnum() else f"_{ord(each):x}" for each in name)


def _losses_lane(
    name: str, counts: Mapping[tuple[Fate, int], int], bins: _Bins, links: _Links, height: int
) -> Lane | None:
    """Losses as bars from the lower edge up, stacked by what became of them."""
    if not counts:
        return None
    marks, most = _loss_marks("", counts, bins, links, height)
    scale = f"full height: {_losses(most)} in {duration(bins.width_ns)}"
    return Lane(name, tuple(marks), height, scale)


def _loss_marks(
    node: str, counts: Mapping[tuple[Fate, int], int], bins: _Bins, links: _Links, height: int
) -> tuple[list[Mark], int]:
    totals: Counter[int] = Counter()
    for (_, place), number in counts.items():
        totals[place] += number
    most = max(totals.values(), default=1)
    marks, below = [], Counter[int]()
    for fate in _LOST:
        for place in sorted(place for each, place in counts if each is fate):
            number = counts[fate, place]
            tall = round(height * number / most, 2)
            below[place] += number
            from_ns = place * bins.width_ns
            middle_ns = from_ns + bins.width_ns // 2
            marks.append(
                Mark(
                    fate.value, _ms(from_ns), round(height - height * below[place] / most, 2), _ms(bins.width_ns), tall,
                    f"{instant(from_ns)}: {number:,} {fate.value}", links.near(node, fate, middle_ns),
                )
            )  # fmt: skip
    return marks, most


def _losses(number: int) -> str:
    return f"{number:,} {'loss' if number == 1 else 'losses'}"


def _sent_lane(bins: _Bins) -> Lane | None:
    if not bins.sent:
        return None
    most = max(bins.sent.values())
    marks = [
        Mark(
            "sent", _ms(place * bins.width_ns), round(LOW - LOW * number / most, 2), _ms(bins.width_ns),
            round(LOW * number / most, 2), f"{instant(place * bins.width_ns)}: {number:,} sent",
        )
        for place, number in sorted(bins.sent.items())
    ]  # fmt: skip
    return Lane("sent", tuple(marks), LOW, f"full height: {most:,} in {duration(bins.width_ns)}")


def _event_lanes(log: RunLog) -> Iterator[Lane]:
    """What was done, and what followed from it, each as a stroke that says what it is."""
    told = [h for h in log.happenings if h.kind is not HappeningKind.NO_EFFECT]
    for name, kind, chosen in (
        ("done", "done", [h for h in told if h.kind in DONE]),
        ("pods, nodes", "followed", [h for h in told if h.kind not in DONE]),
    ):
        if chosen:
            wide = max(_ms(log.duration_ns) / 400, 0.001)
            marks = [Mark(kind, _ms(h.at_ns), 2, wide, LOW / 2, said(h)) for h in chosen[:MOST_EVENTS]]
            hidden = len(chosen) - MOST_EVENTS
            yield Lane(
                name, tuple(marks), LOW // 2 + 4, f"the first {MOST_EVENTS} of {len(chosen):,}" if hidden > 0 else ""
            )


def _server_lane(log: RunLog) -> Lane | None:
    """When the API server was down, slow or busy."""
    band = fault_band(log, API_SERVER)
    marks = [Mark(kind, _ms(a), 2, max(_ms(b - a), 0.001), BAND, title) for kind, a, b, title in band]
    return Lane(API_SERVER, tuple(marks), BAND + 4) if marks else None


def said(h: Happening) -> str:
    """Return a happening in words, with its time."""
    return f"{instant(h.at_ns)}: {h.subject}: {h.kind}" + (f" ({h.detail})" if h.detail else "")


# --------------------------------------------------------------------------------------------------------------- nodes


def _concerned(log: RunLog) -> list[str]:
    """The nodes that the log has something to tell about, in the order of the scenario."""
    named = {c.node for c in log.connections} | {h.node for h in log.node_health} | {p.node for p in log.programming}
    named |= {spell.node for spell in log.endpoints}
    return [node for node in log.nodes if node in named]


def _chosen_nodes(log: RunLog, bins: _Bins) -> list[str]:
    """The nodes to show: those that lost most, then the others, as many as fit; in the order of the scenario."""
    nodes = _concerned(log)
    losses = {node: sum(bins.lost_at.get(node, Counter[tuple[Fate, int]]()).values()) for node in nodes}
    kept = set(sorted(nodes, key=lambda node: (-losses[node], nodes.index(node)))[:MOST_NODES])
    return [node for node in nodes if node in kept]


def _node_lane(log: RunLog, node: str, bins: _Bins, links: _Links, timelines: _Timelines) -> Lane:
    """Losses at the node, above bands: rotation, endpoints, the rules against the slices, and faults if there are any."""
    marks, most = _loss_marks(node, bins.lost_at.get(node, {}), bins, links, TALL // 2)
    top = TALL // 2 + 4 if node in bins.lost_at else 4
    known = {service: each for (service, name), each in timelines.items() if name == node}
    bands = [_rotation(log, known), _endpoints(log, node, known), _rules(log, node), fault_band(log, node)]
    for number, band in enumerate(each for each in bands if each):
        y = top + number * (BAND + 3)
        marks += [Mark(kind, _ms(a), y, max(_ms(b - a), 0.001), BAND, title) for kind, a, b, title in band]
    height = top + sum(map(bool, bands)) * (BAND + 3)
    states = _states(log, node, height)
    scale = f"full height: {_losses(most)}" if node in bins.lost_at else "nothing lost"
    return Lane(node, (*states, *marks), height, scale, log.zones.get(node, ""))


_Band = list[tuple[str, int, int, str]]


def _rotation(log: RunLog, known: Mapping[str, HealthTimeline]) -> _Band:
    return [
        ("rotation", a, b, f"{service}: the load balancer sends here from {instant(a)} to {instant(b)}")
        for service, timeline in known.items()
        for a, b in timeline.spells(log.duration_ns, in_rotation)
    ]


def _endpoints(log: RunLog, node: str, known: Mapping[str, HealthTimeline]) -> _Band:
    """When the node's rules have a local endpoint; without a load balancer, when slices list one on it as ready."""
    if known:
        return [
            ("endpoint", a, b, f"{service}: a usable local endpoint from {instant(a)} to {instant(b)}")
            for service, timeline in known.items()
            for a, b in timeline.spells(log.duration_ns, usable)
        ]
    spells = [
        (s.from_ns, log.duration_ns if s.until_ns is None else s.until_ns) for s in log.endpoints if s.node == node
    ]
    return [("endpoint", a, b, f"a ready endpoint from {instant(a)} to {instant(b)}") for a, b in _united(spells)]


def _rules(log: RunLog, node: str) -> _Band:
    """Where the node's rules did not have yet what the API server had, and when new rules came into force."""
    changes = [(p.written_ns, p.programmed_ns) for p in log.programming if p.node == node]
    changes += [(u.written_ns, log.duration_ns) for u in log.unprogrammed if u.node == node]
    band: _Band = [
        ("behind", a, b, f"rules behind the API server from {instant(a)} to {instant(b)}") for a, b in _united(changes)
    ]
    wide_ns = max(log.duration_ns // 500, 1)
    loaded = sorted({p.programmed_ns for p in log.programming if p.node == node})
    return band + [("rules", at, at + wide_ns, f"{instant(at)}: new rules in force") for at in loaded]


def _states(log: RunLog, node: str, height: int) -> list[Mark]:
    kinds = {"off": "off", "no Node object": "off"}
    return [
        Mark(
            kinds.get(spell.state.value, "cordoned"), _ms(spell.from_ns), 0, _ms(spell.until_ns - spell.from_ns), height,
            f"{spell.state.value} from {instant(spell.from_ns)} to {instant(spell.until_ns)}",
        )
        for spell in node_spells(log)
        if spell.node == node
    ]  # fmt: skip


def _united(spells: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join stretches that overlap or touch."""
    found: list[tuple[int, int]] = []
    for a, b in sorted(spells):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], b))
        else:
            found.append((a, b))
    return found


# ---------------------------------------------------------------------------------------------------------- axis, data


def _ticks(length_ns: int, most: int = 8) -> tuple[tuple[float, str], ...]:
    """Ticks at whole steps of 1, 2 or 5 times a power of ten."""
    step_ns = bin_width_ns(length_ns, most)
    return tuple((round(100 * at / length_ns, 3), instant(at)) for at in range(0, length_ns + 1, step_ns))


def _data(log: RunLog, bins: _Bins) -> str:
    """What the script reads: the length, the bins, the events. The text holds no character that ends an element."""
    content: dict[str, Any] = {
        "length": _ms(log.duration_ns),
        "bin": _ms(bins.width_ns),
        "sent": [bins.sent[place] for place in range(bins.number)],
        "lost": {
            fate.value: [bins.lost[fate, place] for place in range(bins.number)]
            for fate in _LOST
            if any(each is fate for each, _ in bins.lost)
        },
        "events": [
            [_ms(h.at_ns), printable(said(h))]
            for h in log.happenings[:MOST_EVENTS]
            if h.kind is not HappeningKind.NO_EFFECT
        ],
    }
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
