"""What an upgrade means for each Service: what it loses, in which drain, by which way, why, and what avoids that."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kpsim.drafting.part import listed
from kpsim.sweeping.estimates import Interval, Spread, spread
from kpsim.units import SECOND_NS
from kpsim.upgrading.losses import NOT_COUNTED, SOURCES, Kind, Lost, Observed, Way
from kpsim.upgrading.remedies import Change, hooks_suffice
from kpsim.upgrading.running import Course
from kpsim.upgrading.search import Attempt, Tried, Unit
from kpsim.upgrading.subjects import Behind, Subject, Upgrade

_FRONTENDS = {
    "clusterIP": "cluster IP", "nodePort": "node port", "externalIP": "external IP", "loadBalancer": "load balancer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loss:
    """What one kind of client lost for one reason while the same nodes were worked on, over all seeds."""

    nodes: tuple[str, ...]  #: empty: before the first, or between two
    clients: str
    frontend: str
    kind: Kind
    reasons: tuple[str, ...]  #: of the runs' records
    lost: int
    from_s: float  #: after the node was begun with, the earliest of all seeds
    until_s: float

    @property
    def words(self) -> str:
        where = f"draining {' and '.join(self.nodes)}" if self.nodes else "between two nodes"
        why = self.kind.value if self.kind is not Kind.OTHER else " and ".join(self.reasons)
        source = f" ({SOURCES[self.kind]})" if SOURCES[self.kind] else ""
        return f"{where}: {why}{source}; {self.clients} by {_FRONTENDS[self.frontend]} lose {_when(self)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": list(self.nodes), "clients": self.clients, "frontend": self.frontend, "why": self.kind.value, "reasons": list(self.reasons),
            "source": SOURCES[self.kind], "lost": self.lost, "from_seconds": self.from_s, "until_seconds": self.until_s,
        }  # fmt: skip


def _when(loss: Loss) -> str:
    if loss.until_s - loss.from_s < 0.1:
        return f"{loss.lost:,} at {loss.from_s:.1f} s"
    return f"{loss.lost:,} from {loss.from_s:.1f} to {loss.until_s:.1f} s"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a Service. ``risk`` None: it was not simulated, and ``notes`` say why."""

    service: str
    risk: bool | None
    about: str
    seeds: int = 0
    sent: int = 0  #: connections, over all seeds
    lost: tuple[int, ...] = ()  #: by seed
    losses: tuple[Loss, ...] = ()
    stuck: tuple[str, ...] = ()  #: nodes whose drains its workloads' budgets hold up for good
    tried: tuple[Tried, ...] = ()
    chosen: Attempt | None = None
    searched: bool = False
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return {True: "AT RISK", False: "ok", None: "not simulated"}[self.risk]

    @cached_property
    def spread(self) -> Spread | None:
        """How the lost connections of a run vary over the seeds; None if it was not simulated."""
        return spread(self.lost) if self.lost else None

    @property
    def seeds_lost(self) -> int:
        return sum(each > 0 for each in self.lost)

    @property
    def seconds(self) -> float:
        """The longest time from the first to the last lost connection while the same nodes were worked on, over all seeds."""
        spans: dict[tuple[str, ...], tuple[float, float]] = {}
        for each in self.losses:
            low, high = spans.get(each.nodes, (each.from_s, each.until_s))
            spans[each.nodes] = min(low, each.from_s), max(high, each.until_s)
        return max((high - low for low, high in spans.values()), default=0.0)

    @property
    def why(self) -> str:
        """All reasons in one line."""
        return "; ".join([*self._stuck_words, *(each.words for each in self.losses)])

    @property
    def _stuck_words(self) -> list[str]:
        if not self.stuck:
            return []
        return [
            f"draining {listed(self.stuck)} does not end: its budget allows no eviction, so the machine goes off with its pods"
        ]

    @property
    def reasons(self) -> list[str]:
        return [*self._stuck_words, *(each.words for each in self.losses)]

    @property
    def remedy(self) -> str | None:
        return self.chosen.words if self.chosen is not None else None

    @property
    def outcome(self) -> str:
        """In words, how much is lost over the seeds."""
        if not self.lost or self.spread is None:
            return ""
        if not any(self.lost):
            return f"nothing lost in {self.seeds} of {self.seeds} seeds, of {self.sent:,} connections"
        found = self.spread
        between = f" (95 %: {_range(found.mean_interval)})" if found.mean_interval is not None else ""
        a_run = self.sent / self.seeds
        return f"{found.mean:,.1f} of {a_run:,.0f} connections lost in a run{between}; in {self.seeds_lost} of {self.seeds} seeds"


@dataclass(frozen=True)
class Outcome:
    """An upgrade and its verdicts: those at risk first, then by name."""

    plan: Upgrade
    course: Course
    seeds: tuple[int, ...]
    verdicts: Sequence[Verdict]
    together: Mapping[str, int] | None
    """Lost connections of the Services at risk over all seeds, with all remedies that were found at once; None: none was found."""

    @property
    def at_risk(self) -> Sequence[Verdict]:
        return [each for each in self.verdicts if each.risk]

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of all remedies that were found, each once."""
        found = {c.settings: c for each in self.verdicts if each.chosen is not None for c in each.chosen.changes}
        return tuple(found.values())


def _range(interval: Interval) -> str:
    return f"{interval.low:,.1f} to {interval.high:,.1f}"


def tried_words(tried: Tried) -> str:
    """Such as ``preStop of 5 s for shop/web: 12 lost with seed 1``."""
    lost = tried.left.lost
    if tried.left.nothing:
        return f"{tried.attempt.words}: nothing lost in {len(lost)} of {len(lost)} seeds"
    if not any(lost.values()):
        return f"{tried.attempt.words}: nothing lost by luck, as pods still end before all rules have dropped them (CP-1.2, CP-2.8)"
    bad = {seed: count for seed, count in lost.items() if count}
    how = " with all other remedies" if tried.together else ""
    several = f"seeds {', '.join(map(str, bad))}" if len(bad) > 1 else f"seed {min(bad)}"
    return f"{tried.attempt.words}{how}: {sum(bad.values()):,} lost with {several}"


def verdicts_of(
    plan: Upgrade, course: Course, runs: Sequence[Observed], units: Sequence[Unit], hook_s: float, *, searched: bool
) -> list[Verdict]:
    """Return the verdicts: those at risk first, then by name. ``hook_s``: how long a hook has to be, so that it is not by luck (CP-1.2)."""
    unit_of = {each.title: unit for unit in units for each in unit.subjects}
    found = []
    for each in plan.subjects.values():
        own = _verdict(plan, each, course, runs, unit_of.get(each.title), searched=searched)
        if own.risk is False and not hooks_suffice(each, (), hook_s):
            note = f"its pods end up to {hook_s:g} s before all rules have dropped them: more clients would lose some (CP-1.2, CP-2.8)"
            own = replace(own, notes=(note, *own.notes))
        found.append(own)
    found += [Verdict(title, None, "", notes=(why,)) for title, why in plan.unsimulated.items()]
    return sorted(found, key=lambda each: (not each.risk, each.risk is None, each.service))


def stuck_workloads(plan: Upgrade, course: Course) -> frozenset[str]:
    """The workloads whose pods hold drains up for good."""
    behinds = {each.name: each for subject in plan.subjects.values() for each in subject.behinds}
    return frozenset(name for name, each in behinds.items() if _stuck_nodes(each, course))


def _stuck_nodes(behind: Behind, course: Course) -> list[str]:
    """The nodes whose drains do not end because of pods of a workload: those of the start, or such as its controller names."""
    named = {pod["name"] for pod in behind.pods}

    def own(pod: str) -> bool:
        namespace, _, name = pod.partition("/")
        return namespace == behind.namespace and (name in named or name.rpartition("-")[0] == behind.name)

    return [node for node, pods in course.stuck.items() if any(map(own, pods))]


def _verdict(
    plan: Upgrade, subject: Subject, course: Course, runs: Sequence[Observed], unit: Unit | None, *, searched: bool
) -> Verdict:
    title = subject.title
    lost = tuple(run.of(title) for run in runs)
    stuck = tuple(dict.fromkeys(node for each in subject.behinds for node in _stuck_nodes(each, course)))
    counts = course.endpoints.get(title, {})
    ends, where = sum(counts.values()), len([node for node in counts if node])
    nodes = len(plan.content["nodes"]["list"])
    chosen = unit.chosen.get(title) if unit is not None else None
    about = f"{subject.about}, {ends} endpoint{'' if ends == 1 else 's'} on {where} of {nodes} nodes"
    return Verdict(
        title, any(lost) or bool(stuck), about, len(runs), sum(run.sent.get(title, 0) for run in runs), lost,
        tuple(_losses(plan, title, runs)), stuck,
        tuple(unit.tried.get(title, ())) if unit is not None else (),
        chosen.of(title) if chosen is not None else None,
        searched and unit is not None,
        tuple(_notes(plan, title, runs)),
    )  # fmt: skip


def _senders(plan: Upgrade) -> Mapping[str, str]:
    names = {"pods": "pods", "nodes": "processes of nodes", "outside": "clients outside"}
    return {
        each["name"]: names.get(each.get("from", "outside"), each.get("from", "")) for each in plan.content["traffic"]
    }


def _losses(plan: Upgrade, title: str, runs: Sequence[Observed]) -> Iterator[Loss]:
    senders = _senders(plan)
    found: dict[tuple[Any, ...], list[tuple[Way, Lost]]] = {}
    for run in runs:
        for way, lost in run.lost.items():
            if way.service == title and way.kind not in NOT_COUNTED:
                alike = way.nodes, senders[way.traffic], way.frontend, way.kind
                found.setdefault(alike, []).append((way, lost))
    order = {name: number for number, name in enumerate(plan.nodes)}
    for (nodes, clients, frontend, kind), own in sorted(
        found.items(), key=lambda item: ([order.get(n, 0) for n in item[0][0]], item[0][1:])
    ):
        yield Loss(
            nodes, clients, frontend, kind, tuple(sorted({way.reason for way, _ in own})), sum(each.count for _, each in own),
            min(each.first_ns for _, each in own) / SECOND_NS, max(each.last_ns for _, each in own) / SECOND_NS,
        )  # fmt: skip


def _notes(plan: Upgrade, title: str, runs: Sequence[Observed]) -> Iterator[str]:
    senders = _senders(plan)
    off = {way.frontend for run in runs for way in run.lost if way.service == title and way.kind is Kind.DIALLED_OFF}
    for frontend in sorted(off):
        yield (
            f"not counted: clients outside that dial a node's own address ({_FRONTENDS[frontend]}) get nothing while that node is off;"
            " a load balancer that probes nodes avoids it"
        )
    if any(way.kind is Kind.SENDER_OFF for run in runs for way in run.lost if way.service == title):
        yield "not counted: what a machine that is off would send itself"
    standing: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for service, traffic, node, reason in run.standing:
            if service == title:
                standing.setdefault((senders[traffic], reason), set()).add(node or "any node")
    for (clients, reason), nodes in sorted(standing.items()):
        yield f"not counted: {clients} lose already without an upgrade at {listed(sorted(nodes))} ({reason})"
    if not any(run.sent.get(title, 0) for run in runs):
        yield "no connection was attempted"
