"""The fields of a scenario file, from the pydantic models, and what a run says of a scenario. For the tests of every field."""

import json
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

import kpsim
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.scenario.quantities import Delay

Json = dict[str, Any]

#: fields that ``test_dial_fields`` shows to matter, in scenarios of their own: these and all below them
DIALS = (
    "beside", "events.loadRules", "kubeProxy",
    "events.apiServerBusy", "events.apiServerDown", "events.apiServerSlow", "events.closeWatches", "events.cutOff",
    "beside", "events.loadRules", "otherServices",
    "delays.sync.costs", "delays.sync.iptables", "delays.onNodes.sync.costs", "delays.onNodes.sync.iptables",
    "delays.deletionToKubelet", "delays.pleg", "delays.preset", "delays.scheduler", "delays.workloadController",
    "controller.maxEndpointsPerSlice", "endpoints", "events.createEndpoints", "events.deleteEndpoints", "events.deleteNamespace", "events.deleteEndpointSlice.service",
    "events.patchEndpoints", "watchers",
    "events.drain.timeout", "events.liveness", "events.nodeDown.shutdownGrace", "events.readiness.late", "events.reboot",
    "events.rollingUpgrade", "events.rollout.partition", "events.rollout.recreate", "loadBalancer.nodeResync", "loadBalancer.nodeUpdate",
    "workloads.disruptionBudget", "workloads.kind", "workloads.minReady", "workloads.placement.topologySpread",
    "workloads.placement.antiAffinity", "workloads.ports.hostPort",
    "workloads.podManagementPolicy", "workloads.probes", "workloads.readiness.gates",
)  # fmt: skip

#: fields that ``test_client_fields`` shows to matter: these and all below them
CLIENT_FIELDS = (
    "loadBalancer.check", "loadBalancer.deregistrationDelay", "loadBalancer.distribution", "loadBalancer.failOpen",
    "loadBalancer.preserveClientIP", "loadBalancer.preset", "loadBalancer.timeout", "loadBalancer.tracking",
    "loadBalancer.unhealthyConnections", "traffic.happyEyeballs", "traffic.keepAlive", "traffic.retries",
)  # fmt: skip

#: fields that ``test_fault_fields`` shows to matter: these and all below them
FAULT_FIELDS = (
    "events.failSyncs.part", "events.flushRules", "events.holdLock", "events.crashProxy", "events.writeProxyConfig",
    "events.setConntrackMax", "events.fillConntrack", "events.slowLoadBalancer", "events.losePackets", "events.clockSkew",
)  # fmt: skip


def _within(path: tuple[str, ...], listed: tuple[str, ...]) -> bool:
    return any(f"{'.'.join(path)}.".startswith(f"{field}.") for field in listed)


def is_dial(path: tuple[str, ...]) -> bool:
    return _within(path, DIALS)


def is_of_clients(path: tuple[str, ...]) -> bool:
    return _within(path, CLIENT_FIELDS)


def is_fault(path: tuple[str, ...]) -> bool:
    return _within(path, FAULT_FIELDS)


def observe(content: Json) -> str:
    """Everything that a run says, or the refusal. Equal scenarios share one run."""
    return _observed(json.dumps(content))


@cache
def _observed(text: str) -> str:
    try:
        scenario = parse_scenario(text, "sample.json")
        result = kpsim.run(scenario)
        said = [result.summary(), str(sorted(result.figures.items())), *scenario.notes, *map(str, result.expectations)]
        return "\n".join([*said, repr(result.log)])
    except InputError as error:
        return f"refused: {error}"


def model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (model_in(argument) for argument in typing.get_args(annotation))
    wrapped = typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, typing.Annotated)
    return next((found for found in inner if found is not None), None) if wrapped else None


def fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field below a model, by its name in the file. A delay is one value here."""
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        yield path
        inner = model_in(field.annotation)
        if inner is not None and inner is not Delay:
            yield from fields(inner, path)
