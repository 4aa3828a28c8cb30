"""How a controller sends its writes of slices: one after the other, through its own limited client (CP-3.6.2, CP-1.2 D7)."""

from collections import Counter
from collections.abc import Sequence

from kpsim.endpointslices import ExpectationTracker, SliceWrite, WriteVerb
from kpsim.endpointslices.metrics import SliceMetrics
from kpsim.objects import ObjectKey
from kpsim.scenario.quantities import Delay
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.runlog import Cause
from kpsim.simulation.workqueue import WorkQueue


class SliceWriter:
    """Sends what a sync decided, tells the tracker what was written, and finishes the key in the queue."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        queue: WorkQueue,
        own_writes: ExpectationTracker,
        client: TokenBucket,
        takes: Delay,
        seed: int,
        *,
        metrics: SliceMetrics | None = None,
    ) -> None:
        self._clock = clock
        self._api = api
        self._queue = queue
        self._own_writes = own_writes
        self._client = client
        self._takes = takes
        self._seed = seed
        self._metrics = metrics  #: None: those of the controller are not known
        self._calls: Counter[ObjectKey] = Counter()  #: API calls for each slice, so that each has a number

    def write(self, key: ObjectKey, writes: Sequence[SliceWrite], cause: Cause, *, ok: bool) -> None:
        """Send one API call after the other. The key stays in work until the last call has returned; the first error ends them."""
        subject = self._queue.subject
        if not writes:
            if self._metrics is not None:
                self._metrics.synced("success" if ok else "error")
            self._clock.at(self._clock.now_ns, Rank.CONTROLLER, subject, lambda: self._queue.done(key, ok=ok))
            return
        first, rest = writes[0], writes[1:]
        now_ns = self._clock.now_ns
        self._calls[first.slice.key] += 1
        key_of_call = ("slice write", first.slice.key, self._calls[first.slice.key])
        usual_ns = now_ns + self._client.take(now_ns) + draw_ns(self._takes, self._seed, *key_of_call)
        at_ns = self._api.faults.stored_ns(usual_ns, self._queue.back_off)

        def arrive() -> None:
            if first.verb is WriteVerb.CREATE and first.slice.metadata.namespace in self._api.terminating:
                # refused, and so would be all that comes later: the sync ends as if it were done
                self._clock.at(at_ns, Rank.CONTROLLER, subject, lambda: self.write(key, (), cause, ok=ok))
                return
            done = self._call(first, cause)
            if done and self._metrics is not None:
                self._metrics.wrote(key, first.verb)
            further = rest if done else ()
            self._clock.at(at_ns, Rank.CONTROLLER, subject, lambda: self.write(key, further, cause, ok=ok and done))

        self._clock.at(at_ns, Rank.API_WRITE, subject, arrive)

    def _call(self, write: SliceWrite, cause: Cause) -> bool:
        """Make the API call. A slice that somebody deleted meanwhile is not found: the call fails, and the rest of the sync with it."""
        now_ns = self._clock.now_ns
        found = self._api.state.get(write.slice.key) is not None
        if write.verb is not WriteVerb.CREATE and not found:
            return False
        if write.verb is WriteVerb.DELETE:
            self._own_writes.deleted(write.slice)
            self._api.remove(write.slice.key, cause.trigger_ns, now_ns, cause=cause)
        else:
            self._own_writes.wrote(write.slice)
            self._api.put(write.slice, cause.trigger_ns, now_ns, cause=cause)
        return True
