"""One node's informers, without a kube-proxy: what they are told, and when (CP-5, CP-6); and the parts that they are made of."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsim.cluster import Event
from kpsim.objects import ApiObject, ObjectKey, node_from_json, service_from_json
from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.scenario.schema import Delays
from kpsim.simulation.apifaults import ApiFaults
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.backoff import Doubling, ReflectorBackOff, Ticks
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.nodewatch import NodeWatch
from kpsim.simulation.runlog import RunLog
from kpsim.simulation.watchcache import WatchCache
from kpsim.units import MILLISECOND_NS, SECOND_NS

S = SECOND_NS


def service(name: str, port: int = 80) -> ApiObject:
    spec = {"clusterIP": "172.30.0.1", "ports": [{"port": port}]}
    return service_from_json({"kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec})


def key(name: str) -> ObjectKey:
    return service(name).key


class Rig:
    """An API server, and the watch of a node that has been up for long. ``seen`` is what its kube-proxy was told."""

    def __init__(self, *events: ScenarioEvent, end_s: int = 10_000, delays: Delays | None = None) -> None:
        self.clock = Clock(["node n", "scenario"])
        self.api = ApiServer(ApiFaults(events, 1, end_s * S))
        self.log = RunLog("test", 1, end_s * S, "iptables")
        self.seen: list[tuple[float, str, str, int]] = []
        for name in ("a", "b", "c"):
            self.api.put(service(name), 0, 0)
        self.watch = NodeWatch(
            self.clock, self.api, "n", delays or Delays(), None, resync_ns=900 * S, seed=1, log=self.log,
            hand_over=self._hand_over, listed=self._listed,
        )  # fmt: skip
        self.watch.open_before_the_run()
        self.seen.clear()

    def _hand_over(self, event: Event, changes: Sequence[Change]) -> None:
        self.seen.append((self.clock.now_ns / S, event.type.value, event.key.name, len(changes)))

    def _listed(self, kinds: Sequence[str], missed: Sequence[Change]) -> None:
        pass

    def at(self, second: float, action: Callable[[], object]) -> None:
        self.clock.at(round(second * S), Rank.WORLD, "scenario", action)

    def put(self, second: float, name: str, port: int) -> None:
        self.clock.at(
            round(second * S),
            Rank.API_WRITE,
            "scenario",
            lambda: self.api.put(service(name, port), 0, self.clock.now_ns),
        )

    def remove(self, second: float, name: str) -> None:
        self.clock.at(
            round(second * S), Rank.API_WRITE, "scenario", lambda: self.api.remove(key(name), 0, self.clock.now_ns)
        )

    def told(self, kind: str) -> list[str]:
        return [h.detail for h in self.log.happenings if h.kind == kind]


def event(second: int, **action: object) -> ScenarioEvent:
    return ScenarioEvent.model_validate({"at": f"{second}s", **action})


def test_a_watch_tells_every_change_in_its_order() -> None:
    rig = Rig()
    rig.put(1, "b", 81)
    rig.put(1, "b", 82)
    rig.remove(1, "a")
    rig.clock.run(5 * S)
    assert [what[1:3] for what in rig.seen] == [("MODIFIED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]


def test_a_list_tells_deletions_first_and_each_object_once_and_nothing_of_what_is_unchanged() -> None:
    rig = Rig()
    rig.at(1, lambda: rig.watch.close(["Service"], expired=True))
    rig.put(1.1, "b", 81)
    rig.put(1.2, "d", 80)
    rig.put(1.3, "b", 82)
    rig.remove(1.4, "c")
    rig.put(1.5, "e", 80)
    rig.remove(1.6, "e")  # came and went: nobody hears of it
    rig.clock.run(20 * S)
    assert [what[1:] for what in rig.seen] == [("DELETED", "c", 1), ("MODIFIED", "b", 2), ("ADDED", "d", 1)]
    assert len({what[0] for what in rig.seen}) == 1  # in one go (CP-6.4)
    assert rig.told("listed anew") == ["Service: 6 changes"]


def test_changes_after_a_list_come_by_the_watch_that_goes_on() -> None:
    rig = Rig()
    rig.at(1, lambda: rig.watch.close(["Service"], expired=True))
    rig.put(1.1, "b", 81)
    rig.put(30, "b", 82)
    rig.clock.run(60 * S)
    assert [what[1:] for what in rig.seen] == [("MODIFIED", "b", 1), ("MODIFIED", "b", 1)]
    assert rig.seen[1][0] == 30.01


def missed_while_refused(rig: Rig, close_s: float, missed: int) -> None:
    """Fill the ring, end the watch, and write so slowly that the ring shrinks back to 100 events (CP-5.3)."""
    for number in range(150):
        rig.put(1 + number * 0.05, "b", 1000 + number)
    rig.at(close_s, lambda: rig.watch.close(["Service"], expired=False))
    for number in range(missed):
        rig.put(close_s + 1 + 1.9 * number, "b", 2000 + number)
    rig.clock.run(round(close_s + 400) * S)


@pytest.mark.parametrize(("missed", "too_old"), [(100, []), (101, ["Service"])])
def test_a_watch_below_the_oldest_event_is_too_old(missed: int, too_old: list[str]) -> None:
    rig = Rig(event(10, apiServerBusy={"for": "200s"}))  # 429 for so long: the version stays (CP-6.2)
    missed_while_refused(rig, 10, missed)
    assert rig.told("watch too old") == too_old
    assert [what[3] for what in rig.seen[150:]] == ([missed] if too_old else [1] * missed)


@pytest.mark.parametrize(("close_s", "too_old"), [(50, ["Service"]), (130, [])])
def test_a_bookmark_of_every_minute_keeps_the_version_of_a_quiet_watch_young(close_s: int, too_old: list[str]) -> None:
    rig = Rig(event(close_s, apiServerBusy={"for": "200s"}))
    for second in range(20, 40):  # writes of another kind advance the version, too
        node = node_from_json({"kind": "Node", "metadata": {"name": "x", "labels": {"at": str(second)}}})
        rig.clock.at(second * S, Rank.API_WRITE, "scenario", lambda node=node: rig.api.put(node, 0, rig.clock.now_ns))  # type: ignore[misc]
    missed_while_refused(rig, close_s, 100)
    assert rig.told("watch too old") == too_old


@pytest.mark.parametrize(("delivery_s", "too_old"), [(30, ["Service"]), (5, [])])
def test_a_bookmark_tells_no_version_of_a_change_that_is_still_on_its_way(delivery_s: int, too_old: list[str]) -> None:
    delays = Delays.model_validate({"watchDelivery": f"{delivery_s}s"})
    rig = Rig(event(70, apiServerBusy={"for": "200s"}), delays=delays)
    rig.put(50, "c", 81)  # is in front of the bookmark of 60 s, and would arrive at 55 or 80 s
    rig.at(70, lambda: rig.watch.close(["Service"], expired=False))
    for number in range(100):  # 125 s and more after the others: the ring does not grow, and drops all of them
        rig.put(200 + number * 0.1, "b", 1000 + number)
    rig.clock.run(500 * S)
    assert rig.told("watch too old") == too_old
    assert len([what for what in rig.seen if what[2] == "c"]) == 1


@pytest.mark.parametrize(("closes_s", "replays"), [((11.2,), {3, 4}), ((10.5, 11.2), {0})])
def test_an_informer_replays_while_its_watch_is_refused_but_not_while_its_list_is(
    closes_s: tuple[float, ...], replays: set[int]
) -> None:
    rig = Rig(event(11, apiServerBusy={"for": "3000s"}))
    for second in closes_s:  # a watch of less than a second leads to a list (CP-6.2)
        rig.at(second, lambda: rig.watch.close(["Service"], expired=False))
    rig.clock.run(3000 * S)
    assert rig.watch.take_replays("Service", 3000 * S) in replays  # every 900 s (CP-6.8)
    assert rig.watch.take_replays("Service", 3000 * S) == 0


# ----------------------------------------------------------------------------------------------------------------- parts


def test_the_back_off_of_an_informer_doubles_to_30_s_and_begins_anew_after_2_min() -> None:
    back_off, now_ns, waits = ReflectorBackOff(0, lambda limit: 0), 0, []
    for _ in range(9):
        waits.append(back_off.next_ns(now_ns) // MILLISECOND_NS)
        now_ns += waits[-1] * MILLISECOND_NS
    # 0.8 + … + 25.6 = 50.4, + 30 + 30 = 110.4, + 30 = 140.4 > 120: anew
    assert waits == [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]
    assert back_off.next_ns(now_ns) == 800 * MILLISECOND_NS  # CP-6.3


def test_the_back_off_of_an_informer_is_drawn_from_one_to_two_times_its_step() -> None:
    limits: list[int] = []

    def below(limit: int) -> int:
        limits.append(limit)
        return limit - 1

    assert ReflectorBackOff(0, below).next_ns(0) == 1600 * MILLISECOND_NS - 1
    assert limits == [800 * MILLISECOND_NS]


@given(st.integers(1, 50), st.integers(1, 400), st.integers(0, 10_000), st.integers(0, 10_000))
def test_doubling_tries_at_the_first_of_its_times_that_is_late_enough(
    first: int, longest: int, refused: int, after: int
) -> None:
    longest = max(first, longest)
    at, wait = refused, first
    while at < refused + after:
        at, wait = at + wait, min(2 * wait, longest)
    assert Doubling(first, longest).after(refused, refused + after) == at


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_ticks_come_at_their_phase(refused: int, until: int) -> None:
    found = Ticks(10, 3).after(refused, until)
    assert found % 10 == 3 and found > refused and found >= until and found - max(refused + 1, until) < 10


def test_a_watch_cache_doubles_while_it_is_young_and_halves_when_it_is_old() -> None:
    cache = WatchCache()
    for number in range(1, 151):
        cache.add(number, number * S // 2)  # 100 events in 50 s: the ring grows (CP-5.3)
    assert cache.has_since(0)
    for number in range(151, 500):
        cache.add(number, 75 * S + (number - 150) * 2 * S)  # 200 events span 400 s, a quarter of them 100 s: it shrinks
    assert [cache.has_since(number) for number in (398, 399, 498)] == [False, True, True]


def test_a_cut_of_a_node_and_an_outage_make_a_write_wait_until_both_are_over() -> None:
    faults = ApiFaults(
        [event(10, cutOff={"nodes": ("n",), "for": "20s"}), event(25, apiServerDown={"for": "20s"})], 1, 1000 * S
    )
    ticks = Ticks(10 * S, 3 * S)
    assert faults.stored_ns(9 * S, ticks, "n") == 9 * S
    assert faults.stored_ns(12 * S, ticks, "n") == 53 * S  # at 33 s the server is down, at 43 s too
    assert faults.stored_ns(12 * S, ticks, "m") == 12 * S
    assert faults.stored_ns(26 * S, Doubling(S, 1000 * S)) == 57 * S  # 26 + 1 + 2 + 4 + 8 = 41, + 16 = 57


def test_silence_counts_anew_after_each_outage() -> None:
    faults = ApiFaults([event(10, apiServerDown={"for": "20s"}), event(70, apiServerDown={"for": "10s"})], 1, 1000 * S)
    assert faults.heard_until(0, 50 * S) == 130 * S  # 30 + 50 = 80 lies behind the second outage's start: 80 + 50
    assert faults.heard_until(100 * S, 50 * S) == 150 * S
