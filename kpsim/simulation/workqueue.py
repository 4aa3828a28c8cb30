"""A controller's work queue on the clock: which keys wait, which are worked on, and when a failed one is tried again (CP-3.2).

Counterpart: the rate-limited work queue of ``k8s.io/client-go/util/workqueue``, with the workers that take from it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kpsim.objects import ObjectKey
from kpsim.simulation.apiserver import Change
from kpsim.simulation.backoff import Doubling
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.runlog import Cause

MAX_RETRIES = 15
RETRIES_PER_SECOND, RETRY_BURST = 10, 100  #: of all keys together; the larger of both delays counts


@dataclass(slots=True)
class _Work:
    """The queue's record of one key."""

    queued: bool = False
    delayed_ns: int | None = None  #: when a delayed entry becomes due
    processing: bool = False
    again: bool = False  #: added while being processed
    failures: int = 0
    causes: list[Cause] = field(default_factory=list)  #: those that no sync of the key has taken up yet


class WorkQueue:
    """Hands keys to idle workers, in order. No key is worked on twice at once.

    ``process`` begins with a key at once. Whoever processes it calls :meth:`done` when it is finished. ``subject`` is the controller's
    name on the clock; a key that failed waits by ``back_off``.
    """

    def __init__(
        self, clock: Clock, subject: str, workers: int, back_off: Doubling, process: Callable[[ObjectKey], None]
    ) -> None:
        self._clock = clock
        self.subject = subject
        self._idle = workers
        self.back_off = back_off
        self._process = process
        self._work: dict[ObjectKey, _Work] = {}
        self._waiting: deque[ObjectKey] = deque()
        self._retries = TokenBucket(RETRIES_PER_SECOND, RETRY_BURST)

    def _of(self, key: ObjectKey) -> _Work:
        return self._work.setdefault(key, _Work())

    def note(self, key: ObjectKey, change: Change) -> None:
        """Note a write that was seen now, and that a coming sync of the key answers."""
        seen = change.cause._replace(stored_ns=change.written_ns, seen_ns=self._clock.now_ns, change=str(change))
        self._of(key).causes.append(seen)

    def take_cause(self, key: ObjectKey) -> Cause:
        """Return the oldest cause that no sync has taken up, and forget all. Without one the controller acts by itself, now."""
        causes, now_ns = self._of(key).causes, self._clock.now_ns
        oldest = min(causes, default=Cause(now_ns, now_ns, now_ns, now_ns))
        causes.clear()
        return oldest

    def add(self, key: ObjectKey, delay_ns: int = 0) -> None:
        """Add a key. A delayed entry keeps the earlier time; an immediate entry does not cancel a delayed one."""
        work, now_ns = self._of(key), self._clock.now_ns
        if delay_ns == 0:
            if work.processing:
                work.again = True
            elif not work.queued:
                work.queued = True
                self._waiting.append(key)
                self._clock.at(now_ns, Rank.CONTROLLER, self.subject, self._take)
            return
        due_ns = now_ns + delay_ns
        if work.delayed_ns is not None and work.delayed_ns <= due_ns:
            return
        work.delayed_ns = due_ns

        def due() -> None:
            if work.delayed_ns == due_ns:
                work.delayed_ns = None
                self.add(key)

        self._clock.at(due_ns, Rank.CONTROLLER, self.subject, due)

    def _take(self) -> None:
        """Let idle workers take up what waits, in order."""
        while self._idle and self._waiting:
            self._idle -= 1
            key = self._waiting.popleft()
            work = self._of(key)
            work.queued = False
            work.processing = True
            self._process(key)

    def done(self, key: ObjectKey, *, ok: bool) -> None:
        """Finish a key. One that failed is tried again after its back-off, up to `MAX_RETRIES` times."""
        work = self._of(key)
        work.processing = False
        self._idle += 1
        if ok:
            work.failures = 0
        elif work.failures < MAX_RETRIES:
            shared_ns = self._retries.take(self._clock.now_ns)
            self.add(key, max(shared_ns, min(self.back_off.first_ns << work.failures, self.back_off.longest_ns)))
            work.failures += 1
        else:
            work.failures = 0
        if work.again:
            work.again = False
            self.add(key)
        if self._waiting:
            self._clock.at(self._clock.now_ns, Rank.CONTROLLER, self.subject, self._take)
