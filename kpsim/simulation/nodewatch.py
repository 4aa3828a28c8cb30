"""What one node's kube-proxy hears of the API server: one informer for each kind of object, each with a list and a watch.

Counterpart: the API server's watches (CP-5) and client-go's reflectors (CP-6).

    start ──► LIST ──answered──► WATCH ──ends cleanly──► WATCH again at once, from the last version
               ▲  │ ▲              │
               │  │ └─ back-off ◄──┼── too old (410), no answer, or a watch that ended within 1 s without an event
               └──┴─ back-off      └── refused, or 429 ──► back-off, WATCH again from the same version

A kind's changes arrive in their order, those of different kinds in any (CP-5.1). A watch that begins again brings every
change that was missed. A list brings their sum: first the deletions of what is gone, then the rest (CP-6.4); what is
unchanged is told to nobody (CP-6.6). So a node is a function of the API server's writes, its delays and the faults.

A connection that is cut is noticed by its silence: after 30 s without a frame the client sends a ping, and closes the
connection 15 s later. Frames are events and answers to pings. Pauses of TCP before it repeats a packet are not
modelled: what waits arrives when the cut ends. An attempt to connect repeats its SYN after 1, 3, 7 and 15 s, and is
given up after 30 s. A watcher that is too slow for the API server's buffer is closed (CP-5.5), and begins again at once
where it was; it loses nothing but the way, so it is not modelled.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kpsim import rng
from kpsim.cluster import Event, EventType
from kpsim.objects import ObjectKey
from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import Delays
from kpsim.simulation.apiserver import ApiServer, Change, initial_events
from kpsim.simulation.backoff import ReflectorBackOff
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.units import SECOND_NS

KINDS = ("Service", "EndpointSlice", "Node", "ServiceCIDR")

_IDLE_NS, _PING_NS = 30 * SECOND_NS, 15 * SECOND_NS  #: of HTTP/2: silence before a ping, and patience for its answer
_SYNS_NS = tuple(second * SECOND_NS for second in (0, 1, 3, 7, 15))
_DIAL_NS = 30 * SECOND_NS
_BOOKMARK_NS = 60 * SECOND_NS  #: how often a watch is told the current version without an event (CP-5.4)
_SHORT_NS = SECOND_NS  #: a watch that ends sooner without an event is an error (CP-6.2)


class _Ask(Enum):
    LIST = "list"  #: as a stream, which goes on as the watch
    PLAIN_LIST = "plain list"  #: in place of a stream that got no answer
    WATCH = "watch"


@dataclass(slots=True, eq=False)
class _Informer:
    """One kind's list and watch. ``attempt`` counts what was begun: what was planned for an earlier one does not happen."""

    kind: str
    behind: dict[int, Change] = field(default_factory=dict)  #: written and not handed over, by number
    attempt: int = 0
    open: bool = False  #: a watch is there, as far as both ends know
    fresh: bool = True  #: the process has not listed yet
    since_ns: int = 0  #: when the watch began
    heard: int = 0  #: its events
    delivered_ns: int = 0  #: when the last event that is on its way arrives
    version: int = 0  #: number of the last write that it knows of
    starts: int = 0  #: how often the API server had started when it told that version
    asking: bool = False  #: a list is on its way
    deaf: bool = False  #: the connection is cut, and that is not noticed yet
    failed: bool = False  #: it has waited since it last listed or watched
    back_off: ReflectorBackOff | None = None
    replay_ns: int | None = None  #: when it replays what it knows next, if it has a list
    replays: int = 0  #: those before its last list that nobody has counted


class NodeWatch:
    """The informers of one node's kube-proxy, whichever process runs.

    ``hand_over`` is told an event, and the changes that it stands for. ``listed`` is told kinds whose first list has been
    handed over, with the changes that they contain and that were missed.
    """

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        node: str,
        delays: Delays,
        duration: Delay | None,
        *,
        resync_ns: int,
        seed: int,
        log: RunLog,
        hand_over: Callable[[Event, Sequence[Change]], None],
        listed: Callable[[Sequence[str], Sequence[Change]], None],
    ) -> None:
        self._clock = clock
        self._api = api
        self._node = node
        self._delay = delays.watch_delivery_to(node)
        self._list_delay = delays.initial_list
        self._duration = duration
        self._resync_ns = resync_ns
        self._seed = seed
        self._log = log
        self._hand_over = hand_over
        self._listed = listed
        self._informers = {kind: _Informer(kind) for kind in KINDS}
        self._used = False  #: a process has run
        self._frame_ns: int | None = None  #: when the last event arrived
        self._drawn: Counter[Hashable] = Counter()
        api.watch(self._on_change)

    # ----------------------------------------------------------------------------------------------- the process's life

    def open_before_the_run(self) -> None:
        """List, and begin to watch, for a process that has been up for long."""
        self._used = True
        self._answer_lists(tuple(self._informers.values()))

    def start(self) -> None:
        """Let a new process list everything."""
        self._used = True
        now_ns = self._clock.now_ns
        for informer in self._informers.values():
            informer.fresh, informer.failed = True, False
            informer.replay_ns, informer.replays = None, 0
            informer.back_off = self._new_back_off(informer, now_ns)
        self._ask(tuple(self._informers.values()), _Ask.LIST)

    def stop(self, unprogrammed: Iterable[Change]) -> None:
        """End with the process. ``unprogrammed`` it has been handed, and its rules do not have them."""
        for change in unprogrammed:
            behind = self._informers[change.key.kind].behind
            behind[change.number] = change
        for informer in self._informers.values():
            informer.behind = dict(sorted(informer.behind.items()))
            self._end(informer)

    def undelivered(self) -> Iterator[Change]:
        """Yield the changes that are written and not handed over, kind by kind."""
        for informer in self._informers.values():
            yield from informer.behind.values()

    def take_replays(self, kind: str, at_ns: int) -> int:
        """Return how often the informer has replayed what it knows since it was last asked (CP-6.8)."""
        informer = self._informers[kind]
        if informer.replay_ns is not None and informer.replay_ns <= at_ns:
            times = (at_ns - informer.replay_ns) // self._resync_ns + 1
            informer.replay_ns += times * self._resync_ns
            informer.replays += times
        taken, informer.replays = informer.replays, 0
        return taken

    def _replay_from(self, informer: _Informer, next_ns: int | None) -> None:
        """Let replays go on from a time. A list begins their period anew, and without a list there are none."""
        informer.replays = self.take_replays(informer.kind, self._clock.now_ns)
        informer.replay_ns = next_ns

    # --------------------------------------------------------------------------------------------------------- changes

    def _on_change(self, change: Change) -> None:
        informer = self._informers.get(change.key.kind)
        if informer is None or not self._used:
            return
        informer.behind[change.number] = change
        if informer.open:
            self._send(informer, change, change.written_ns)

    def _send(self, informer: _Informer, change: Change, from_ns: int) -> None:
        """Send a change to the node. It arrives behind those that were sent before."""
        drawn_ns = draw_ns(self._delay, self._seed, "watch", self._node, change.key, change.version)
        at_ns = max(informer.delivered_ns, from_ns + drawn_ns + self._api.faults.slow_ns(from_ns))
        informer.delivered_ns = at_ns  # each kind has one informer, which hands its events over in order
        attempt = informer.attempt

        def deliver() -> None:
            if informer.attempt != attempt or self._cut_until() is not None:
                return
            del informer.behind[change.number]
            informer.version, informer.heard = change.number, informer.heard + 1
            self._frame_ns = self._clock.now_ns
            self._hand_over(change.event, (change,))

        self._at(at_ns, deliver)

    # ------------------------------------------------------------------------------------------------------------ asking

    def _ask(self, informers: Sequence[_Informer], what: _Ask) -> None:
        """Send a request now. The API server may be there, refuse it, or not be reached."""
        now_ns = self._clock.now_ns
        for informer in informers:
            self._end(informer)
        cut_ns = self._cut_until()
        if cut_ns is not None:
            syn_ns = next((now_ns + syn_ns for syn_ns in _SYNS_NS if now_ns + syn_ns >= cut_ns), None)
            if syn_ns is not None:
                self._later(informers, syn_ns, lambda still: self._ask(still, what))
            else:
                self._later(informers, now_ns + _DIAL_NS, lambda still: self._get_no_answer(still, what))
        elif self._refuses():
            for informer in informers:
                self._wait(informer, _Ask.WATCH if what is _Ask.WATCH else _Ask.LIST)
        elif what is _Ask.WATCH:
            for informer in informers:
                self._resume(informer)
        else:
            self._list(informers, what)

    @property
    def refused(self) -> bool:
        """Whether the node gets nothing from the API server now: it is cut off, or the server is down or busy."""
        return self._cut_until() is not None or self._refuses()

    def _refuses(self) -> bool:
        now_ns, faults = self._clock.now_ns, self._api.faults
        return faults.down_until(now_ns) is not None or faults.busy_until(now_ns) is not None

    def _get_no_answer(self, informers: Sequence[_Informer], what: _Ask) -> None:
        """Leave the watch for a list. A stream without answer makes room for a plain list at once (CP-6.2)."""
        for informer in informers:
            informer.failed = True
            if what is _Ask.LIST:
                self._ask((informer,), _Ask.PLAIN_LIST)
            else:
                self._wait(informer, _Ask.LIST)

    def _wait(self, informer: _Informer, what: _Ask) -> None:
        """Wait for the back-off, then ask."""
        now_ns = self._clock.now_ns
        informer.failed = True
        if what is _Ask.LIST:
            self._replay_from(informer, None)
        if informer.back_off is None:  # the process has been up for long
            informer.back_off = self._new_back_off(informer, now_ns - 1_000 * SECOND_NS)
        again_ns = now_ns + informer.back_off.next_ns(now_ns)
        self._later((informer,), again_ns, lambda still: self._ask(still, what))

    def _new_back_off(self, informer: _Informer, now_ns: int) -> ReflectorBackOff:
        def below(limit: int) -> int:
            self._drawn["back-off", informer.kind] += 1
            number = self._drawn["back-off", informer.kind]
            return rng.below(limit, self._seed, "watch back-off", self._node, informer.kind, number)

        return ReflectorBackOff(now_ns, below)

    # ----------------------------------------------------------------------------------------------------------- lists

    def _list(self, informers: Sequence[_Informer], what: _Ask) -> None:
        """Let lists arrive. Those of a process that starts arrive together."""
        now_ns = self._clock.now_ns
        for informer in informers:
            informer.asking = True
        subject = () if len(informers) > 1 else (informers[0].kind,)
        delay_ns = self._draw(self._list_delay, "initial list", *subject) + self._api.faults.slow_ns(now_ns)

        def arrive(still: Sequence[_Informer]) -> None:
            cut_ns, noticed_ns = self._cut_until(), self._clock.now_ns + _IDLE_NS + _PING_NS
            if cut_ns is None:
                self._answer_lists(still)
            elif noticed_ns < cut_ns:
                self._later(still, noticed_ns, lambda left: self._get_no_answer(left, what))
            else:
                self._later(still, cut_ns, arrive)

        self._later(informers, now_ns + delay_ns, arrive)

    def _answer_lists(self, informers: Sequence[_Informer]) -> None:
        """Take in lists, as they stand now. The watches go on from there."""
        now_ns = self._clock.now_ns
        for informer in informers:
            early_ns = 0 if now_ns else rng.below(self._resync_ns, self._seed, "resync", self._node, informer.kind)
            self._replay_from(informer, now_ns + self._resync_ns - early_ns)  # before the run it has listed long ago
        fresh = [informer for informer in informers if informer.fresh]
        for informer in informers:
            if not informer.fresh:
                self._replace(informer)
        if not fresh:
            return
        kinds = tuple(informer.kind for informer in fresh)
        for event in initial_events(self._api.state):
            if event.key.kind in kinds:
                self._hand_over(event, ())
        missed = sorted((change for i in fresh for change in i.behind.values()), key=lambda change: change.number)
        for informer in fresh:
            informer.fresh = False
            informer.behind.clear()
            self._open(informer, self._api.number)
        self._listed(kinds, missed)

    def _replace(self, informer: _Informer) -> None:
        """Take in a list in place of what is known: deletions first, then what is new or changed (CP-6.4)."""
        changes: dict[ObjectKey, list[Change]] = {}
        for change in informer.behind.values():
            changes.setdefault(change.key, []).append(change)
        missed = len(informer.behind)
        informer.behind.clear()
        self._open(informer, self._api.number)
        self._tell(HappeningKind.LISTED_ANEW, _counted(informer.kind, missed))
        for gone in (True, False):
            for key in sorted(changes):
                old, new = changes[key][0].event.old, changes[key][-1].event.new
                if (new is None) is gone and (old, new) != (None, None):
                    kind = EventType.DELETED if gone else EventType.ADDED if old is None else EventType.MODIFIED
                    self._hand_over(Event(kind, old, new), changes[key])

    # ---------------------------------------------------------------------------------------------------------- watches

    def _open(self, informer: _Informer, version: int) -> None:
        now_ns = self._clock.now_ns
        informer.open, informer.asking, informer.deaf, informer.failed = True, False, False, False
        informer.since_ns, informer.heard = now_ns, 0 if now_ns else 1  # before the run there were events
        informer.version, informer.starts = version, self._api.starts
        self._frame_ns = now_ns
        if self._duration is None:
            return
        lasts_ns = max(_SHORT_NS, self._draw(self._duration, "watch duration", informer.kind))
        if now_ns == 0:  # it began before the run
            informer.since_ns = -rng.below(lasts_ns + 1, self._seed, "watch age", self._node, informer.kind)
        self._later((informer,), informer.since_ns + lasts_ns, lambda still: self._close(still[0]))

    def _resume(self, informer: _Informer) -> None:
        """Begin a watch where the last one ended, and have all that was missed sent."""
        too_old = informer.starts != self._api.starts or not self._api.has_since(informer.kind, informer.version)
        if too_old:
            self._tell(HappeningKind.WATCH_EXPIRED, informer.kind)
            self._wait(informer, _Ask.LIST)
            return
        if informer.failed:
            self._tell(HappeningKind.WATCH_RESUMED, _counted(informer.kind, len(informer.behind)))
        self._open(informer, informer.version)
        for change in informer.behind.values():
            self._send(informer, change, self._clock.now_ns)

    def _end(self, informer: _Informer) -> None:
        """End what is under way."""
        self._read_bookmarks(informer)
        informer.attempt += 1
        informer.open = informer.asking = informer.deaf = False
        informer.delivered_ns = 0

    def _read_bookmarks(self, informer: _Informer) -> None:
        """Let a watch know the version that its last bookmark told. It is never ahead of a change that is on its way."""
        if not informer.open or informer.deaf:
            return
        lasted_ns = self._clock.now_ns - informer.since_ns
        if lasted_ns >= _BOOKMARK_NS:
            told = self._api.number_at(informer.since_ns + lasted_ns // _BOOKMARK_NS * _BOOKMARK_NS)
            first = next(iter(informer.behind), told + 1)
            informer.version = max(informer.version, min(told, first - 1))

    def watches(self, kinds: Iterable[str]) -> bool:
        """Return whether a watch of one of these kinds is open, and would hear that it is ended."""
        return self._cut_until() is None and any(self._informers[kind].open for kind in kinds)

    def close(self, kinds: Iterable[str], *, expired: bool) -> None:
        """Let the API server end watches cleanly. ``expired``: what they know is older than its history."""
        for informer in [self._informers[kind] for kind in kinds]:
            if informer.open and expired:
                informer.starts = -1
            self._close(informer)

    def _close(self, informer: _Informer) -> None:
        if not informer.open or self._cut_until() is not None:
            return
        if self._clock.now_ns - informer.since_ns < _SHORT_NS and not informer.heard:
            self._end(informer)
            self._wait(informer, _Ask.LIST)
        else:
            self._ask((informer,), _Ask.WATCH)

    # ----------------------------------------------------------------------------------------------------------- faults

    def server_gone(self) -> None:
        """The API server has ended. Its machine closes all connections; those of nodes that are cut off stay open."""
        if self._cut_until() is not None:
            return
        for informer in self._informers.values():
            if informer.open:
                self._ask((informer,), _Ask.WATCH)
            elif informer.asking:
                self._end(informer)
                self._wait(informer, _Ask.LIST)

    def cut_off(self, until_ns: int) -> None:
        """Packets between the node and the API server are lost from now on."""
        now_ns = self._clock.now_ns
        watching = [informer for informer in self._informers.values() if informer.open]
        if not watching:
            return
        frame_ns = self._frame_ns
        if not frame_ns:  # no event so far: the phase of the pings is from before the run
            frame_ns = -rng.below(_IDLE_NS, self._seed, "ping", self._node)
        for informer in watching:
            self._read_bookmarks(informer)
            informer.deaf = True
        ping_ns = frame_ns + -(-max(1, now_ns - frame_ns) // _IDLE_NS) * _IDLE_NS
        noticed_ns = ping_ns + _PING_NS
        if noticed_ns < until_ns:
            self._later(watching, noticed_ns, self._notice)
        else:
            self._later(watching, until_ns, self._go_on)

    def _notice(self, informers: Sequence[_Informer]) -> None:
        self._tell(HappeningKind.CONNECTION_LOST, "no answer to a ping")
        for informer in informers:
            informer.failed = True
        self._ask(informers, _Ask.WATCH)

    def _go_on(self, informers: Sequence[_Informer]) -> None:
        """Let what waited arrive. A server that has gone meanwhile refuses what the client sends."""
        server_gone = self._api.faults.down_until(self._clock.now_ns) is not None
        for informer in informers:
            if server_gone or informer.starts != self._api.starts:
                self._ask((informer,), _Ask.WATCH)
                continue
            informer.attempt += 1
            informer.deaf, informer.delivered_ns = False, 0
            for change in informer.behind.values():
                self._send(informer, change, self._clock.now_ns)

    # ---------------------------------------------------------------------------------------------------------- helpers

    def _cut_until(self) -> int | None:
        return self._api.faults.cut_until(self._node, self._clock.now_ns)

    def _later(self, informers: Sequence[_Informer], at_ns: int, action: Callable[[Sequence[_Informer]], None]) -> None:
        """Plan an action for those informers that have not begun anything else by then."""
        attempts = [(informer, informer.attempt) for informer in informers]

        def act() -> None:
            still = [informer for informer, attempt in attempts if informer.attempt == attempt]
            if still:
                action(still)

        self._at(at_ns, act)

    def _at(self, at_ns: int, action: Callable[[], None]) -> None:
        self._clock.at(at_ns, Rank.DELIVERY, f"node {self._node}", action)

    def _draw(self, delay: Delay, stage: str, *subject: Hashable) -> int:
        """Draw the delay of the next event of this stage and subject on this node, whichever process it meets."""
        if delay.constant_ns is not None:
            return delay.constant_ns
        self._drawn[stage, *subject] += 1
        return draw_ns(delay, self._seed, stage, self._node, *subject, self._drawn[stage, *subject])

    def _tell(self, kind: HappeningKind, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, self._node, detail))


def _counted(kind: str, changes: int) -> str:
    return f"{kind}: {changes} change{'' if changes == 1 else 's'}"
