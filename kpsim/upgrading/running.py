"""Runs an upgrade: once without traffic, to see how long it takes, and with traffic over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from kpsim.bulk import collector_at_rest
from kpsim.inputs import Json
from kpsim.objects import EndpointSlice
from kpsim.scenario import Scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Happening, HappeningKind
from kpsim.units import SECOND_NS
from kpsim.upgrading.losses import Observed, observed
from kpsim.upgrading.preparing import BEGINS_S, load

_TAIL_S = 20  #: what a run watches after the last node is back
_ROUND_S = 10


@dataclass(frozen=True, slots=True)
class Course:
    """How an upgrade goes. ``stuck`` are drains that do not end, with the workloads whose budgets hold them up.

    ``endpoints`` are the ready endpoints of each Service at the start, by node.
    """

    duration_s: int
    stuck: Mapping[str, tuple[str, ...]]
    drained_s: float  #: the longest drain that ends
    endpoints: Mapping[str, Mapping[str, int]]
    timeout_s: int | None = None  #: after which drains are given up, if some do not end


def course_of(scenario: Scenario) -> Course:
    """Follow an upgrade without traffic until all nodes are back."""
    from kpsim.simulation.engine import Run

    with collector_at_rest():
        one = Run(scenario, scenario.seed)
        endpoints: dict[str, dict[str, int]] = {}
        seen = 0
        ends_ns = 0
        for now_ns in one.steps(None):
            ends_ns = now_ns
            if not endpoints:
                endpoints = _endpoints(one.api.state.endpoint_slices, {ip: n.name for n in one.nodes for ip in n.ips})
            log = one.log.happenings
            if any(each.kind is HappeningKind.ROLLING_UPGRADE_DONE for each in log[seen:]):
                break
            seen = len(log)
    stuck, longest_ns = _drains(one.log.happenings)
    ends_s = ends_ns / SECOND_NS + _TAIL_S
    return Course(_ROUND_S * ceil(ends_s / _ROUND_S), stuck, longest_ns / SECOND_NS, endpoints)


def _drains(happenings: Iterable[Happening]) -> tuple[dict[str, tuple[str, ...]], int]:
    """Return the drains that were given up, each with the pods that no budget let go, and the longest time until a drained pod was gone."""
    begun: dict[str, int] = {}
    held: dict[str, dict[str, None]] = {}
    stuck: dict[str, tuple[str, ...]] = {}
    longest_ns = 0
    for each in happenings:
        match each.kind:
            case HappeningKind.NODE_DRAINED:
                begun[each.subject] = each.at_ns
            case HappeningKind.EVICTION_REFUSED:
                held.setdefault(each.detail.partition(":")[0], {})[each.subject] = None
            case HappeningKind.POD_TERMINATING:
                for pods in held.values():
                    pods.pop(each.subject, None)
            case HappeningKind.POD_GONE:
                longest_ns = max([longest_ns, *(each.at_ns - since_ns for since_ns in begun.values())])
            case HappeningKind.DRAIN_DONE:
                longest_ns = max(longest_ns, each.at_ns - begun.pop(each.subject, each.at_ns))
            case HappeningKind.DRAIN_GAVE_UP:
                begun.pop(each.subject, None)
                stuck[each.subject] = tuple(held.get(each.subject, ()))
            case _:
                pass
    return stuck, longest_ns


def _endpoints(slices: Iterable[EndpointSlice], nodes: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Count ready endpoints by Service and node: of two families, those of the one that has more."""
    by_type: dict[str, dict[str, dict[str, int]]] = {}
    for each in slices:
        title = f"{each.metadata.namespace}/{each.service_name}"
        counts = by_type.setdefault(title, {}).setdefault(each.address_type, {})
        for endpoint in each.endpoints:
            if endpoint.ready is not False:
                node = endpoint.node_name or next((nodes[ip] for ip in endpoint.addresses if ip in nodes), "")
                counts[node] = counts.get(node, 0) + 1
    return {title: max(found.values(), key=lambda c: sum(c.values())) for title, found in by_type.items()}


def followed(content: Json, settings: Sequence[str] = ()) -> tuple[Scenario, Course]:
    """Return the scenario of an upgrade that ends some seconds after the last node is back, and its course.

    A drain that does not end is given up soon after the longest that does.
    """
    silent = {**content, "traffic": []}
    kept = [each for each in settings if not each.startswith("traffic[")]
    course = course_of(load(silent, kept))
    if course.stuck:
        timeout_s = max(30, 10 * ceil((course.drained_s + 10) / 10))
        kept.append(f"events[0].rollingUpgrade.drainTimeout={timeout_s}s")
        settings = [*settings, kept[-1]]
        again = course_of(load(silent, kept))
        course = Course(again.duration_s, course.stuck, course.drained_s, course.endpoints, timeout_s)
    scenario = load({**content, "duration": f"{course.duration_s}s"}, settings)
    return scenario, course


def observe(scenario: Scenario, seed: int) -> Observed:
    """Run an upgrade with a seed, and count its losses. Workers call it."""
    return observed(run(scenario, seed=seed), BEGINS_S * SECOND_NS)
