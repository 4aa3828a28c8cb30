"""When each node heard of each write, began to sync it, and had it in its rules: the ways of a run's changes, to be asked."""

from kpsim.simulation.runlog import HappeningKind, RunLog

NEVER_NS = 1 << 62
Reach = tuple[int, int, int]  #: when a node had heard of a write, when its sync began, when the rules had it


class Ways:
    """The ways of all changes of a run from the API server to the nodes' rules."""

    def __init__(self, log: RunLog) -> None:
        self._reached: dict[
            tuple[str, str, str, int], Reach
        ] = {}  #: by node, family, kind and Service, time of the write
        self._services: dict[
            tuple[str, str, str], list[tuple[int, Reach]]
        ] = {}  #: by node, family, Service: since when
        for p in log.programming:
            reach = p.delivered_ns, p.sync_start_ns, p.programmed_ns
            self._note(p.node, p.family, p.change, p.service, p.trigger_ns, p.written_ns, reach)
        for u in log.unprogrammed:
            delivered_ns = NEVER_NS if u.delivered_ns is None else u.delivered_ns
            start_ns = NEVER_NS if u.sync_start_ns is None else u.sync_start_ns
            reach = delivered_ns, start_ns, NEVER_NS
            self._note(u.node, u.family, u.change, u.service, u.trigger_ns, u.written_ns, reach)
        self._boots: dict[str, list[int]] = {}
        for h in log.happenings:
            if h.kind in (HappeningKind.NODE_UP, HappeningKind.NODE_ADDED):
                self._boots.setdefault(h.subject, []).append(h.at_ns)
        self._syncs: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for s in log.syncs:
            if s.success:
                self._syncs.setdefault((s.node, s.family), []).append((s.start_ns, s.end_ns))

    def _note(
        self, node: str, family: str, change: str, service: str, trigger_ns: int, written_ns: int, reach: Reach
    ) -> None:
        kind = change.partition(" ")[0]
        key = node, family, f"{kind} {service}", written_ns
        self._reached[key] = max(reach, self._reached.get(key, reach), key=lambda each: each[2])
        if kind == "Service":
            self._services.setdefault((node, family, service), []).append((trigger_ns, reach))

    def reach(self, node: str, family: str, kind: str, written_ns: int) -> Reach | None:
        """Return when a node had a write of ``EndpointSlice NAMESPACE/NAME``. None: it never was news to a process there."""
        return self._reached.get((node, family, kind, written_ns))

    def of_service(self, node: str, family: str, service: str, now_ns: int) -> Reach | None:
        """Return when the node has the change of a Service that is on its way now, or its first rules since it booted."""
        for trigger_ns, reach in self._services.get((node, family, service), ()):
            if trigger_ns <= now_ns < reach[2]:
                return reach
        boots = [at_ns for at_ns in self._boots.get(node, ()) if at_ns <= now_ns]
        if not boots:
            return None
        for start_ns, end_ns in self._syncs.get((node, family), ()):
            if end_ns >= boots[-1]:
                return boots[-1], start_ns, end_ns
        return boots[-1], NEVER_NS, NEVER_NS
