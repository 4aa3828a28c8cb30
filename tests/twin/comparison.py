"""Plays one scenario in both models and returns where they differ, the earliest first."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from kpsim.objects import ANNOTATION_TRIGGER_TIME, EndpointSlice, Pod
from kpsim.scenario import parse_scenario
from kpsim.simulation.apiserver import Change
from kpsim.simulation.clock import START_NS
from kpsim.simulation.engine import Run
from kpsim.units import SECOND_NS, parse_rfc3339_ns
from twin.model import Twin


class Accounts(NamedTuple):
    """What is compared. Each list is sorted."""

    pods: list[Any]  #: time, pod, has an address, Ready (None: no condition), terminating
    slices: list[Any]  #: time, Service, endpoints with their conditions, second of the trigger time
    syncs: list[Any]  #: node, start, end, full, success
    rotation: list[Any]  #: time, Service, node, whether it is in the rotation now


def of_kpsim(document: dict[str, Any]) -> Accounts:
    scenario = parse_scenario(json.dumps(document), "twin.json")
    run = Run(scenario, scenario.seed)
    changes: list[Change] = []
    run.api.watch(changes.append)
    for _ in run.steps(None):
        pass
    pods, slices = [], []
    for change in changes:
        obj = change.event.new
        if change.written_ns == 0 or obj is None:
            continue
        if isinstance(obj, Pod):
            ready = obj.ready if obj.ready_changed else None
            pods.append((change.written_ns, obj.metadata.name, bool(obj.ips), ready, obj.terminating))
        if isinstance(obj, EndpointSlice):
            rows = sorted(
                (e.target_ref.name if e.target_ref else "", e.ready, e.serving, e.terminating) for e in obj.endpoints
            )
            text = obj.metadata.annotations.get(ANNOTATION_TRIGGER_TIME)
            second = (parse_rfc3339_ns(text) - START_NS) // SECOND_NS if text else None
            slices.append((change.written_ns, obj.service_name, tuple(rows), second))
    turns, inside = [], {}
    for row in run.log.node_health:
        key = (row.service, row.node)
        if inside.setdefault(key, row.in_rotation) != row.in_rotation:
            inside[key] = row.in_rotation
            turns.append((row.at_ns, row.service.partition("/")[2], row.node, row.in_rotation))
    syncs = [(s.node, s.start_ns, s.end_ns, s.full, s.success) for s in run.log.syncs]
    return Accounts(sorted(pods, key=repr), sorted(slices), sorted(syncs), sorted(turns))


def of_twin(document: dict[str, Any]) -> Accounts:
    twin = Twin(document).play()
    slices = sorted((at, service, tuple(sorted(rows)), second) for at, service, rows, second in twin.controller.writes)
    return Accounts(
        sorted(twin.store.versions, key=repr), slices, sorted(twin.proxies.syncs), sorted(twin.balancers.turns)
    )


def differences(document: dict[str, Any], play: Callable[[dict[str, Any]], Accounts] = of_kpsim) -> list[str]:
    """Return what only one of the models says, by kind and time. ``play`` makes kpsim's account."""
    mine, other = play(document), of_twin(document)
    found = []
    for kind in Accounts._fields:
        ours, theirs = getattr(mine, kind), getattr(other, kind)
        found += [(_time(row), f"{kind}: only kpsim: {row}") for row in ours if row not in theirs]
        found += [(_time(row), f"{kind}: only the twin: {row}") for row in theirs if row not in ours]
        if len(ours) != len(theirs):
            found.append((1 << 62, f"{kind}: {len(ours)} in kpsim, {len(theirs)} in the twin"))
    return [text for _, text in sorted(found)]


def _time(row: tuple[Any, ...]) -> int:
    return next(part for part in row if isinstance(part, int) and not isinstance(part, bool))
