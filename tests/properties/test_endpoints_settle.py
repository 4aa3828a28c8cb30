"""Whatever happens to pods, Services and objects, and however late: in the end Endpoints and slices say the same (CP-3, CP-4)."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kpsim.cluster import ClusterState
from kpsim.endpoints import is_mirrored, repacked
from kpsim.objects import Endpoints, EndpointSlice, ObjectKey, Service
from kpsim.scenario import parse_scenario
from kpsim.simulation.engine import Run

Json = dict[str, Any]


@st.composite
def subsets(draw: st.DrawFn, families: list[str]) -> list[Json]:
    patterns = ["198.51.100.{}", "fd00::{}"][: len(families)]
    address = st.builds(lambda pattern, n: {"ip": pattern.format(n)}, st.sampled_from(patterns), st.integers(1, 9))
    port = st.sampled_from([{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82}])
    subset = st.fixed_dictionaries(
        {
            "addresses": st.lists(address, max_size=4),
            "notReadyAddresses": st.lists(address, max_size=3),
            "ports": st.lists(port, max_size=3, unique_by=lambda each: each["name"]),
        }
    )
    return draw(st.lists(subset, max_size=3))


@st.composite
def events(draw: st.DrawFn, families: list[str]) -> list[Json]:
    """Events of which each is possible when it comes: ``db`` has an object or not, and a selector or not."""
    found: list[Json] = []
    exists = selects = False
    at_ms = 0
    for _ in range(draw(st.integers(3, 12))):
        at_ms += draw(st.sampled_from([1, 5, 50, 900, 3000]))
        choice: list[tuple[str, Json]] = [
            ("scale", {"workload": "web", "replicas": draw(st.integers(0, 6))}),
            ("rollout", {"workload": "web", "maxUnavailable": 1}),
            ("deletePods", {"workload": "web", "count": 2, "force": draw(st.booleans())}),
            ("readiness", {"workload": "web", "ready": draw(st.booleans())}),
            ("deleteEndpointSlice", {"service": draw(st.sampled_from(["web", "db"]))}),
            ("patchService", {"service": "web", "patch": {"metadata": {"labels": {"x": str(draw(st.integers(1, 3)))}}}}),
            ("patchService", {"service": "db", "patch": {"spec": {"selector": None if selects else {"app": "web"}}}}),
        ]  # fmt: skip
        if not selects and exists:
            choice += [("patchEndpoints", {"endpoints": "db", "patch": {"subsets": draw(subsets(families))}})]
            choice += [("deleteEndpoints", {"endpoints": "db"})]
        elif not selects:
            meta = {"name": "db", "labels": {"team": "a"}}
            made = {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": draw(subsets(families))}
            choice += [("createEndpoints", made)]
        kind, body = draw(st.sampled_from(choice))
        exists = (exists or kind == "createEndpoints") and kind != "deleteEndpoints"
        selects ^= kind == "patchService" and body["service"] == "db"
        found.append({"at": f"{at_ms}ms", kind: body})
    return found


@st.composite
def scenarios(draw: st.DrawFn) -> Json:
    families = draw(st.sampled_from([["IPv4"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]]))
    policy = "RequireDualStack" if len(families) > 1 else "SingleStack"
    delay = st.sampled_from(
        ["0s", "5ms", {"uniform": {"low": "0s", "high": "300ms"}}, {"exponential": {"mean": "50ms"}}]
    )

    def service(name: str, **spec: Any) -> Json:
        ports = [{"name": "a", "port": 80, "targetPort": 8080}]
        whole = {"ipFamilies": families, "ipFamilyPolicy": policy, "ports": ports, **spec}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole}

    return {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "settles"}, "duration": "900s",
        "nodes": {"count": 2, "ipFamilies": sorted(families)},
        "endpoints": {"written": True, "batchPeriod": draw(st.sampled_from(["0s", "500ms"]))},
        "controller": {
            "workers": draw(st.sampled_from([1, 5])), "qps": draw(st.sampled_from([2, 20])), "burst": draw(st.sampled_from([1, 30])),
            "maxEndpointsPerSlice": draw(st.sampled_from([1, 2, 100])),
        },
        "delays": {name: draw(delay) for name in ("controllerWatch", "sliceWrite", "apiWrite", "readinessToStatus")},
        "workloads": [{
            "name": "web", "replicas": draw(st.integers(0, 4)), "ports": [{"containerPort": 8080}], "startup": {"delay": "300ms"},
            "termination": {"preStop": "1s"}, "readiness": {"probeDelay": draw(st.sampled_from(["0s", "20ms", "400ms"]))},
        }],
        "objects": [service("web", selector={"app": "web"}), service("db")],
        "events": draw(events(families)),
    }  # fmt: skip


def listed(endpoints: Endpoints | None) -> set[tuple[str, Any, bool]]:
    """Address, port and readiness of all that an object lists."""
    found = repacked(endpoints.subsets) if endpoints else ()
    groups = ((subset, group, ready) for subset in found for group, ready in ((subset.addresses, True), (subset.not_ready, False)))  # fmt: skip
    return {
        (address.ip, frozenset((port.name, port.port) for port in subset.ports), ready)
        for subset, group, ready in groups
        for address in group
    }


def shown(slices: list[EndpointSlice]) -> set[tuple[str, Any, bool]]:
    return {
        (endpoint.addresses[0], frozenset((port.name, port.port) for port in item.ports), bool(endpoint.ready))
        for item in slices
        for endpoint in item.endpoints
        if not endpoint.terminating
    }


def check(state: ClusterState, name: str) -> None:
    service, endpoints = (state.get(ObjectKey(kind, "default", name)) for kind in ("Service", "Endpoints"))
    assert isinstance(service, Service) and (endpoints is None or isinstance(endpoints, Endpoints))
    slices = [item for item in state.endpoint_slices if item.service_name == name]
    mirrored = [item for item in slices if is_mirrored(item)]
    if service.selector:
        assert not mirrored
        family = service.ip_families[0]
        assert shown([item for item in slices if item.address_type == family]) == listed(endpoints)
    else:
        assert shown(mirrored) == listed(endpoints)


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios(), seed=st.integers(1, 9))
def test_endpoints_and_slices_settle_to_the_same(scenario: Json, seed: int) -> None:
    run = Run(parse_scenario(json.dumps(scenario), "settles.json"), seed)
    run.run(None)
    for name in ("web", "db"):
        check(run.api.state, name)
