"""The parts of a run, one by one: the clock, delays and arrivals, rollouts and placement, causes of affinity breaks."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsim.ruleset import Origin
from kpsim.scenario.clients import client_address
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.quantities import Choice, Delay, Exponential, Normal, Uniform
from kpsim.scenario.traffic_schema import Arrivals, Traffic
from kpsim.scenario.workload_schema import Placement, PlacementPolicy
from kpsim.simulation.affinity import AffinityMemory, Break
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.loadbalancer import Belief
from kpsim.simulation.placement import Placer
from kpsim.simulation.rollout import Fleet, PodStatus, RolloutStep, Strategy, next_step
from kpsim.simulation.rulestimes import RulesTimes
from kpsim.simulation.runlog import Fate
from kpsim.simulation.traffic import arrival_times_ns
from kpsim.units import MILLISECOND_NS, SECOND_NS

MS = MILLISECOND_NS

# --------------------------------------------------------------------------------------------------------------- clock


def test_one_instant_has_a_declared_order() -> None:
    clock, done = Clock(["first", "second"]), list[str]()
    clock.at(5, Rank.PACKET, "first", lambda: done.append("packet"))
    clock.at(5, Rank.API_WRITE, "second", lambda: done.append("write of second"))
    clock.at(5, Rank.API_WRITE, "first", lambda: done.append("write of first"))
    clock.at(5, Rank.API_WRITE, "first", lambda: done.append("its next write"))
    clock.at(5, Rank.WORLD, "second", lambda: done.append("world"))
    clock.at(4, Rank.PACKET, "second", lambda: done.append("earlier"))
    clock.run(6)
    assert done == ["earlier", "world", "write of first", "its next write", "write of second", "packet"]


def test_what_an_action_asks_for_at_its_own_instant_still_happens_by_rank() -> None:
    clock, done = Clock(["x"]), list[str]()

    def sync() -> None:
        done.append("sync")
        clock.at(clock.now_ns, Rank.RULES_IN_FORCE, "x", lambda: done.append("rules"))

    clock.at(3, Rank.PACKET, "x", lambda: done.append("packet"))
    clock.at(3, Rank.SYNC_START, "x", sync)
    clock.run(4)
    assert done == ["sync", "rules", "packet"]


def test_the_clock_ends_before_the_last_instant_and_refuses_the_past() -> None:
    clock, done, told = Clock(["x"]), list[int](), list[tuple[int, int]]()
    for at_ns in (0, 9, 10):
        clock.at(at_ns, Rank.WORLD, "x", lambda: done.append(clock.now_ns))
    clock.run(10, lambda now_ns, total_ns: told.append((now_ns, total_ns)))
    assert done == [0, 9]
    assert told[-1] == (10, 10)
    with pytest.raises(ValueError, match="has gone by"):
        clock.at(1, Rank.WORLD, "x", lambda: None)
    with pytest.raises(KeyError):
        clock.at(11, Rank.WORLD, "nobody declared", lambda: None)


# -------------------------------------------------------------------------------------------------------------- delays


def test_a_delay_is_a_function_of_its_key() -> None:
    delay = Delay(uniform=Uniform(low_ns="0ns", high_ns="1s"))
    first = [draw_ns(delay, 1, "write", number) for number in range(5)]
    assert [draw_ns(delay, 1, "write", number) for number in reversed(range(5))] == first[::-1]
    assert len(set(first)) == 5
    assert draw_ns(delay, 2, "write", 0) != first[0]


@pytest.mark.parametrize(
    ("delay", "mean", "low", "high"),
    [
        (Delay.of(7), 7, 7, 7),
        (Delay(uniform=Uniform(low_ns="100ns", high_ns="200ns")), 150, 100, 200),
        (Delay(exponential=Exponential(mean_ns="1000ns")), 1000, 0, 10**6),
        (Delay(exponential=Exponential(mean_ns="1000ns", max_ns="500ns")), 393, 0, 500),  # 1000 (1 − e^−½)
        (Delay(normal=Normal(mean_ns="1000ns", stddev_ns="100ns")), 1000, 0, 2000),
        (
            Delay(normal=Normal(mean_ns="100ns", stddev_ns="50ns", low_ns="100ns")),
            140,
            100,
            400,
        ),  # half normal: 100 + 50 √(2/π)
        (Delay(choice=Choice(values_ns=("10ns", "20ns"), weights=(1.0, 3.0))), 17.5, 10, 20),
    ],
)
def test_delays_follow_their_distribution(delay: Delay, mean: float, low: int, high: int) -> None:
    drawn = [draw_ns(delay, 3, "mean", number) for number in range(4000)]
    assert min(drawn) >= low and max(drawn) <= high
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.06)


def traffic_of(**fields: object) -> Traffic:
    return Traffic.model_validate({"name": "t", "service": "web", "per_second": 10.0, **fields})


def test_constant_arrivals_are_evenly_spaced_from_start_to_stop() -> None:
    times = list(arrival_times_ns(traffic_of(per_second=3.0, start_ns="1s"), 2 * SECOND_NS, 1))
    assert times == [SECOND_NS, SECOND_NS + 333_333_333, SECOND_NS + 666_666_666]


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    times = list(arrival_times_ns(traffic_of(per_second=1000.0, arrivals=Arrivals.POISSON), 4 * SECOND_NS, 1))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(MS, rel=0.06)
    # the standard deviation of an exponential is its mean
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.08)


def test_clients_have_addresses_of_the_plan() -> None:
    assert [client_address(number) for number in (0, 253, 254)] == ["203.0.113.1", "203.0.113.254", "203.0.114.1"]


# ----------------------------------------------------------------------------------------------------------- workloads


def pods(*described: str) -> list[PodStatus]:
    """``2r@n1``: revision 2, ready, on n1; ``u`` for not ready."""
    return [
        PodStatus(f"p{number}", text[3:], int(text[0]), text[1] == "r", number) for number, text in enumerate(described)
    ]


@pytest.mark.parametrize(
    ("now", "surge", "unavailable", "expected"),
    [
        # 3 wanted, one may come on top: create one, delete nothing while it is not ready
        (["1r@a", "1r@b", "1r@c"], 1, 0, RolloutStep(create=1)),
        (["1r@a", "1r@b", "1r@c", "2u@a"], 1, 0, RolloutStep()),
        # it is ready: one old pod may go, the one that shares its node; its successor comes when it is gone
        (["1r@a", "1r@b", "1r@c", "2r@a"], 1, 0, RolloutStep(delete=("p0",))),
        (["1r@b", "1r@c", "2r@a"], 1, 0, RolloutStep(create=1)),
        # no surge, one may be missing: delete first
        (["1r@a", "1r@b", "1r@c"], 0, 1, RolloutStep(delete=("p2",))),
        (["1r@a", "1r@b"], 0, 1, RolloutStep(create=1)),
        # an old pod that is not ready goes first, and does not count against the minimum
        (["1u@a", "1r@b", "1r@c", "1r@d", "2u@a"], 1, 0, RolloutStep(delete=("p0",))),
        # done
        (["2r@a", "2r@b", "2r@c"], 1, 0, RolloutStep()),
    ],
)
def test_rolling_update_steps(now: list[str], surge: int, unavailable: int, expected: RolloutStep) -> None:
    assert next_step(Fleet(pods(*now)), 3, 2, Strategy(surge, unavailable)) == expected


def test_scaling_down_takes_pods_that_are_not_ready_then_those_on_full_nodes_then_the_newest() -> None:
    now = pods("1r@a", "1r@a", "1r@b", "1u@c", "1r@b")
    assert next_step(Fleet(now), 1, 1, Strategy(0, 0)).delete == ("p3", "p4", "p2", "p1")


def test_shares_round_as_a_deployment_does() -> None:
    assert Strategy.of("25%", "25%", 3) == Strategy(1, 0)  # surge up, unavailable down
    assert Strategy.of(0, "25%", 3) == Strategy(0, 1)  # both zero would never move


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (2, 1), (5, 0), (0, 5)])
def test_a_rollout_keeps_its_bounds_and_ends(surge: int, unavailable: int) -> None:
    now = pods("1r@a", "1r@b", "1r@c", "1r@a", "1r@b")
    numbers = count(len(now))
    for _ in range(100):
        step = next_step(Fleet(now), 5, 2, Strategy(surge, unavailable))
        now = [pod for pod in now if pod.name not in step.delete]
        now += [PodStatus(f"p{n}", "abc"[n % 3], 2, False, n) for n in (next(numbers) for _ in range(step.create))]
        assert len(now) <= 5 + surge
        assert sum(pod.ready for pod in now) >= 5 - unavailable
        unready = next((pod for pod in now if not pod.ready), None)
        if unready is not None:  # one at a time becomes ready
            now[now.index(unready)] = PodStatus(unready.name, unready.node, unready.revision, True, unready.number)
        elif step == RolloutStep():
            break
    assert [pod.revision for pod in now] == [2] * 5


status = st.builds(
    PodStatus, st.just(""), st.sampled_from("abc"), st.integers(1, 3), st.booleans(), st.just(0)
)  # name and number are given below


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), status)), max_size=20))
def test_a_fleet_counts_what_it_holds(changes: list[tuple[int, PodStatus | None]]) -> None:
    fleet, held = Fleet(), dict[str, PodStatus]()
    for number, pod in changes:
        name = f"p{number}"
        if pod is None:
            fleet.remove(name)
            held.pop(name, None)
        else:
            held[name] = replace(pod, name=name, number=number)
            fleet.put(held[name])
    assert sorted(fleet, key=lambda pod: pod.number) == sorted(held.values(), key=lambda pod: pod.number)
    assert (len(fleet), fleet.ready) == (len(held), sum(pod.ready for pod in held.values()))
    assert +fleet.on_node == Counter(pod.node for pod in held.values())
    for revision in (1, 2, 3):
        for ready in (False, True):
            wanted = sum((pod.revision, pod.ready) == (revision, ready) for pod in held.values())
            assert fleet.of_revision(revision, available=ready) == wanted


NODES = [ClusterNode(name, zone, 4, (), ()) for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"))]


def placed(placement: Placement, number: int, down: frozenset[str] = frozenset()) -> list[str | None]:
    placer = Placer(placement, NODES)
    taken: list[str] = []
    for _ in range(number):
        taken.append(placer.place(Counter(taken), down) or "nowhere")
    return list(taken)


def test_placement() -> None:
    assert placed(Placement(), 4) == ["n1", "n2", "n3", "n1"]
    assert placed(Placement(policy=PlacementPolicy.PACKED), 3) == ["n1", "n1", "n1"]
    assert placed(Placement(zones=("b",)), 3) == ["n2", "n3", "n2"]
    assert sorted(placed(Placement(nodes=("n3", "n1", "n3", "n3")), 4)) == ["n1", "n3", "n3", "n3"]
    assert placed(Placement(), 3, frozenset({"n1"})) == ["n2", "n3", "n2"]
    assert placed(Placement(zones=("c",)), 1) == ["nowhere"]


def test_a_load_balancer_turns_after_as_many_contrary_answers_as_its_threshold() -> None:
    spec = LoadBalancerSpec(unhealthy_threshold=2, healthy_threshold=3)
    belief, seen = Belief(True), list[bool]()
    for passed in (False, True, False, False, True, True, False, True, True, True):
        belief = belief.after(passed, spec)
        seen.append(belief.in_rotation)
    assert seen == [True, True, True, False, False, False, False, False, False, True]


# ------------------------------------------------------------------------------------------------------------ affinity


@dataclass
class _FakeMachines:
    chains: bool = True
    listed: bool = True
    asked: list[Origin] = field(default_factory=list)

    def has(self, node: str, origin: Origin) -> bool:
        self.asked.append(origin)
        return self.chains

    def remembers(self, node: str, origin: Origin, source_ip: str) -> bool:
        return self.listed


def contact(node: str = "n1", source: str = "203.0.113.1", endpoint: str = "10.180.1.2:80") -> Attempt:
    return Attempt(Fate.DELIVERED, node=node, source_ip=source, endpoint=endpoint)


@pytest.mark.parametrize(
    ("second", "after_s", "chains", "listed", "expected"),
    [
        (contact(), 1, True, True, Break.NONE),
        (contact(endpoint="10.180.2.2:80"), 1, False, False, Break.ENDPOINT_GONE),
        (contact(endpoint="10.180.2.2:80", node="n2"), 1, True, True, Break.OTHER_NODE),
        (contact(endpoint="10.180.2.2:80", source="203.0.113.9"), 1, True, True, Break.OTHER_ADDRESS),
        (contact(endpoint="10.180.2.2:80"), 10, True, True, Break.TIMEOUT),  # an entry must be younger (CT-8.1)
        (contact(endpoint="10.180.2.2:80"), 9, True, False, Break.LIST_FULL),
        (contact(endpoint=""), 1, False, False, Break.NONE),  # lost, but not led elsewhere
    ],
)
def test_why_affinity_broke(second: Attempt, after_s: int, chains: bool, listed: bool, expected: Break) -> None:
    machines = _FakeMachines(chains, listed)
    memory = AffinityMemory(machines, RulesTimes(()))  # type: ignore[arg-type]
    assert memory.judge("shop/web:http", "TCP", "c", 10, contact(), 0) is Break.NONE
    assert memory.judge("shop/web:http", "TCP", "other", 10, second, 0) is Break.NONE  # first contact of another
    assert memory.judge("shop/web:http", "TCP", "c", 10, second, after_s * SECOND_NS) is expected
