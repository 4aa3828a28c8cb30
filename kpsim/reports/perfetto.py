"""A run as a trace for ui.perfetto.dev: the way of every change from its cause to each node's rules, and what was lost meanwhile.

The file is in the Trace Event Format (JSON), which Perfetto reads. Processes are the kubelets, those who write by themselves, the API
server, the slice controller, each node's kube-proxy, the load balancers and the traffic sources. Arrows lead from a change to the writes
that answer it, and on to each node's queue and sync. Times are microseconds since the start of the run, with three decimals.

The format asks that slices of a thread nest. So slices that overlap stand on several threads of their process, each in the first that is
free. An arrow begins and ends in a slice, which lasts at least a nanosecond, and its events share name and category.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kpsim.errors import InputError
from kpsim.reports.held_up import HELD_MEANING, attributed
from kpsim.simulation.runlog import Cause, PodWrite, Programming, RunLog, Sync
from kpsim.simulation.scraping import TableSize

#: events of one trace: Perfetto opens some 300 MB in a browser
MOST_EVENTS = 1_000_000
_FIRST_THREAD = 1_000_000
_INSTANT_NS = 1  #: how long a slice is whose event takes no time
#: events of one time: slices have to be open before arrows meet them
_ORDER = {"M": 0, "X": 1, "s": 2, "t": 3, "f": 4, "i": 5, "C": 6}


class _Spot(NamedTuple):
    """A moment of a slice, at which an arrow can begin or end."""

    at_ns: int
    pid: int
    tid: int


@dataclass(slots=True)
class _Process:
    """A process of the trace. Its slices of one title share as many threads as they need."""

    trace: "_Trace"
    pid: int
    threads: dict[str, list[tuple[int, int]]] = field(
        default_factory=dict
    )  #: by title: thread, and since when it is free
    made: int = 0

    def slice(self, title: str, name: str, start_ns: int, end_ns: int, **args: Any) -> _Spot:
        """Add a slice and return its beginning. Slices of one title come in the order of their beginnings."""
        end_ns = max(end_ns, start_ns + _INSTANT_NS)
        lanes = self.threads.setdefault(title, [])
        place = next((n for n, (_, free_ns) in enumerate(lanes) if free_ns <= start_ns), len(lanes))
        if place == len(lanes):
            lanes.append((self.thread(title if not lanes else f"{title} {len(lanes) + 1}"), 0))
        tid = lanes[place][0]
        lanes[place] = tid, end_ns
        took = {"dur": _us(end_ns - start_ns)}
        self.trace.add("X", start_ns, name=name, cat=title, pid=self.pid, tid=tid, **took, args=args)
        return _Spot(start_ns, self.pid, tid)

    def thread(self, title: str) -> int:
        """Make a thread and return its number."""
        self.made += 1
        tid = self.trace.new_thread()
        for name, args in (("thread_name", {"name": title}), ("thread_sort_index", {"sort_index": self.made})):
            self.trace.add("M", 0, name=name, pid=self.pid, tid=tid, args=args)
        return tid


class _Trace:
    """The events of a trace."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, dict[str, Any]]] = []
        self._processes = 0
        self._arrows = 0
        self._threads = 0

    def add(self, phase: str, at_ns: int, **what: Any) -> None:
        self.events.append((at_ns, _ORDER[phase], {"ph": phase, "ts": _us(at_ns), **what}))

    def new_thread(self) -> int:
        """Return a number that no other thread and no process has: Perfetto tells threads by it."""
        self._threads += 1
        return _FIRST_THREAD + self._threads

    def process(self, name: str) -> _Process:
        self._processes += 1
        pid = self._processes
        for key, args in (("process_name", {"name": name}), ("process_sort_index", {"sort_index": pid})):
            self.add("M", 0, name=key, pid=pid, tid=0, args=args)
        return _Process(self, pid)

    def arrow(self, name: str, *spots: _Spot) -> None:
        """Lead an arrow through slices, in their order."""
        self._arrows += 1
        for number, spot in enumerate(spots):
            phase = "s" if number == 0 else "f" if number == len(spots) - 1 else "t"
            ends = {"bp": "e"} if phase == "f" else {}
            self.add(phase, spot.at_ns, name=name, cat="way", id=self._arrows, pid=spot.pid, tid=spot.tid, **ends)

    def counter(self, process: _Process, name: str, at_ns: int, value: int) -> None:
        self.add("C", at_ns, name=name, pid=process.pid, tid=0, args={"value": value})

    def text(self, about: Mapping[str, Any]) -> str:
        ordered = sorted(self.events, key=lambda event: event[:2])  # stable: what is made first comes first
        lines = ",\n".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")) for *_, event in ordered)
        told = json.dumps(about, ensure_ascii=False)
        return f'{{"displayTimeUnit":"ms","otherData":{told},"traceEvents":[\n{lines}\n]}}\n'


def perfetto_text(log: RunLog, sizes: Sequence[TableSize] = ()) -> str:
    """Return the trace of a run as JSON. ``sizes`` are those of the nodes' connection tables.

    InputError if there would be too many events.
    """
    events = 5 * len(log.programming) + sum(c.lost for c in log.connections) + len(log.happenings) + len(sizes)
    if events > MOST_EVENTS:
        raise InputError(
            f"--perfetto: the trace would have about {events:,} events, and {MOST_EVENTS:,} are the most: take a shorter run or fewer nodes"
        )
    trace = _Trace()
    _add_happenings(trace, log)
    writes = _add_writes(trace, log)
    _add_nodes(trace, log, writes, sizes)
    _add_balancers(trace, log)
    _add_losses(trace, log)
    return trace.text({"scenario": log.scenario, "mode": log.mode, "seed": log.seed, "tool": "kpsim"})


def _us(ns: int) -> float | int:
    return ns // 1000 if ns % 1000 == 0 else ns / 1000


def _add_happenings(trace: _Trace, log: RunLog) -> None:
    process = trace.process("cluster")
    tid = process.thread("events")
    for h in log.happenings:
        args = {"subject": h.subject, "detail": h.detail}
        trace.add(
            "i", h.at_ns, name=f"{h.kind.value}: {h.subject}", cat="event", pid=process.pid, tid=tid, s="t", args=args
        )


# --------------------------------------------------------------------------------------------------- writes and answers


class _Written(NamedTuple):
    """A write that nodes hear of, and the cause that it answers."""

    change: str
    written_ns: int
    trigger_ns: int
    cause: Cause | None


def _add_writes(trace: _Trace, log: RunLog) -> dict[str, _Spot]:
    """Add what leads to the writes that nodes hear of. Return the write of each change in the API server."""
    heard: dict[str, _Written] = {}
    for p in log.programming:
        heard.setdefault(p.change, _Written(p.change, p.written_ns, p.trigger_ns, p.cause))
    for u in log.unprogrammed:
        heard.setdefault(u.change, _Written(u.change, u.written_ns, u.trigger_ns, None))
    kubelets = {node: trace.process(f"kubelet {node}") for node in log.nodes}
    clients, server, controller = (trace.process(name) for name in ("writers", "API server", "slice controller"))
    begun: dict[str, _Spot] = {}  #: by change: where its writer began
    told = [write for write in log.pod_writes if write.cause.stored_ns > 0]  # what is true at 0 was written before
    for write in sorted(told, key=lambda w: (w.cause.trigger_ns, w.cause.stored_ns)):
        begun[write.change] = _writer(write, kubelets, clients)
    own = [w for w in heard.values() if w.cause is None or not w.cause.change]
    for w in sorted(own, key=lambda w: (w.trigger_ns, w.change)):
        begun[w.change] = clients.slice("writes", w.change, w.trigger_ns, w.written_ns)
    stored = {write.change: write.cause.stored_ns for write in told}
    stored.update((w.cause.change, w.cause.stored_ns) for w in heard.values() if w.cause is not None and w.cause.change)
    stored.update((w.change, w.written_ns) for w in heard.values())
    spots = {
        change: server.slice("writes", change, at_ns, at_ns)
        for change, at_ns in sorted(stored.items(), key=lambda item: (item[1], item[0]))
    }
    answered = set()
    for w in sorted(heard.values(), key=lambda w: (w.cause.seen_ns if w.cause else 0, w.change)):
        if w.cause is None or not w.cause.change:
            continue
        work = controller.slice("work", w.change, w.cause.seen_ns, w.written_ns, cause=w.cause.change)
        first = begun.get(w.cause.change)
        trace.arrow("to the slice", *([first] if first else []), spots[w.cause.change], work, spots[w.change])
        answered.add(w.cause.change)
    for change, spot in begun.items():
        if change not in answered:
            trace.arrow("to the API server", spot, spots[change])
    return spots


def _writer(write: PodWrite, kubelets: Mapping[str, _Process], clients: _Process) -> _Spot:
    """Add who wrote a pod's state: its kubelet, or the client that deleted it, in the order of the causes."""
    cause = write.cause
    by_kubelet = write.what != "terminating" and write.node in kubelets
    process = kubelets[write.node] if by_kubelet else clients
    title = "reports" if by_kubelet else "deletions"
    noticed_ms = (cause.noticed_ns - cause.trigger_ns) / 1e6
    return process.slice(
        title, f"{write.pod}: {write.what}", cause.trigger_ns, cause.stored_ns, noticed_after_ms=noticed_ms
    )


# ---------------------------------------------------------------------------------------------------------------- nodes


def _add_nodes(trace: _Trace, log: RunLog, writes: Mapping[str, _Spot], sizes: Iterable[TableSize]) -> None:
    programmed: dict[tuple[str, str], list[Programming]] = {}
    for p in log.programming:
        programmed.setdefault((p.node, p.family), []).append(p)
    syncs: dict[tuple[str, str], list[Sync]] = {}
    for s in log.syncs:
        syncs.setdefault((s.node, s.family), []).append(s)
    entries: dict[str, list[TableSize]] = {}
    for size in sizes:
        entries.setdefault(size.node, []).append(size)
    for node in log.nodes:
        process = trace.process(f"kube-proxy {node}")
        families = sorted({family for name, family in (*programmed, *syncs) if name == node})
        here = [p for family in families for p in programmed.get((node, family), ())]
        for family in families:
            _add_family(
                trace, process, family, programmed.get((node, family), []), syncs.get((node, family), []), writes
            )
        _count_pending(trace, process, here)
        for size in entries.get(node, ()):
            trace.counter(process, "connection entries", size.at_ns, size.entries)


def _add_family(
    trace: _Trace,
    process: _Process,
    family: str,
    changes: Sequence[Programming],
    syncs: Sequence[Sync],
    writes: Mapping[str, _Spot],
) -> None:
    """Add a family's queue and syncs, and the arrows of the changes that each sync brought into force."""
    spots: dict[int, _Spot] = {}
    for s in syncs:
        name = f"{'full' if s.full else 'partial'} sync{'' if s.success else ' failed'}"
        spots[s.start_ns] = process.slice(
            f"sync {family}", name, s.start_ns, s.end_ns,
            rules_written=s.rules_written, rules=s.rules, services_changed=s.services_changed,
        )  # fmt: skip
    starts = sorted(spots)
    batches: dict[int, list[Programming]] = {}
    for p in changes:
        batches.setdefault(p.sync_start_ns, []).append(p)
    for start_ns, batch in sorted(batches.items()):
        place = bisect_left(starts, start_ns)
        # a change that a failed sync had taken waits from then on for the next one
        since_ns = max(min(p.delivered_ns for p in batch), starts[place - 1] if place else 0)
        queued = process.slice(
            f"queue {family}", f"{len(batch)} waiting", since_ns, start_ns, changes=[p.change for p in batch]
        )
        for p in batch:
            joined = queued._replace(at_ns=min(max(p.delivered_ns, since_ns), max(start_ns - 1, since_ns)))
            trace.arrow(f"to {p.node}", writes[p.change], joined, spots[start_ns])


def _count_pending(trace: _Trace, process: _Process, changes: Iterable[Programming]) -> None:
    """Count the changes that a node has heard of and no successful sync has begun to bring into force."""
    steps: dict[int, int] = {}
    for p in changes:
        steps[p.delivered_ns] = steps.get(p.delivered_ns, 0) + 1
        steps[p.sync_start_ns] = steps.get(p.sync_start_ns, 0) - 1
    pending = 0
    for at_ns, step in sorted(steps.items()):
        pending += step
        trace.counter(process, "pending changes", at_ns, pending)


# ------------------------------------------------------------------------------------------------- rotation and losses


def _add_balancers(trace: _Trace, log: RunLog) -> None:
    processes = {
        name: trace.process(f"load balancer of {name}") for name in dict.fromkeys(b.service for b in log.balancers)
    }
    for h in log.node_health:
        if h.service in processes:
            trace.counter(processes[h.service], f"{h.node} in rotation", h.at_ns, int(h.in_rotation))
            trace.counter(processes[h.service], f"{h.node} check passes", h.at_ns, int(h.check_passes))


def _add_losses(trace: _Trace, log: RunLog) -> None:
    process = trace.process("lost connections")
    threads = {name: process.thread(name) for name in log.traffic}
    for c, held in attributed(log):
        if c.traffic not in threads:
            threads[c.traffic] = process.thread(c.traffic)
        args = {
            "service": c.service, "node": c.node, "endpoint": c.endpoint, "end": c.disposition.value,
            "held_up": HELD_MEANING[held], "connection": c.name,
        }  # fmt: skip
        name = f"{c.cause.value or c.disposition.value} ({held.value})"
        trace.add("i", c.decisive_ns, name=name, cat="loss", pid=process.pid, tid=threads[c.traffic], s="t", args=args)
