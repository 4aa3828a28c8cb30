"""Draws random changes of a cluster: Services, EndpointSlices and the Node come, change and go, with syncs in between.

There are few names, addresses and ports, so that changes meet: claims on one address, a Service that comes back, slices
of one Service.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from proxiers import NODE, Rig, endpoint, endpoint_slice, make_settings, node, port, service, slice_port

from kpsim.config import Host
from kpsim.objects import ApiObject, EndpointSlice, Node, Service
from kpsim.proxier import SyncResult

KEYS = ("a/x", "a-b/x", "a/y")
IPS = tuple(f"10.180.0.{n}" for n in (1, 2, 11, 30))
VIPS = ("203.0.113.1", "203.0.113.2")
PORTS = (port(80, "http"), port(53, "dns", "UDP"), port(54, "http", "UDP"), port(80, ""))
NODE_PORTS = {("http", "TCP"): 30080, ("dns", "UDP"): 30053, ("http", "UDP"): 30054, ("", "TCP"): 30081}
SLICE_PORTS = (
    slice_port(8080),
    slice_port(5353, "dns", "UDP"),
    slice_port(5354, "http", "UDP"),
    slice_port(8081, ""),
    slice_port(None),
    slice_port(9, "other"),
)
RANGES = ("198.51.100.0/24", "192.168.0.0/24", "0.0.0.0/0", "fd00::/64")


@dataclass(frozen=True)
class Put:
    """Create or update an object."""

    obj: ApiObject


@dataclass(frozen=True)
class Delete:
    """Delete an object if it exists."""

    obj: ApiObject


@dataclass(frozen=True)
class Sync:
    after_s: int
    refuse: bool


Step = Put | Delete | Sync


def some(values: Iterable[Any], most: int = 2, least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(tuple(values)), min_size=least, max_size=most, unique_by=str)


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Draw the usual value three times out of four."""
    return st.sampled_from([*[usual] * (3 * len(others)), *others])


@st.composite
def services(draw: st.DrawFn) -> Service:
    key = draw(st.sampled_from(KEYS))
    local = st.sampled_from(["Cluster", "Local"])
    with_node_ports = draw(st.booleans())
    ports = [
        p | ({"nodePort": NODE_PORTS[p["name"], p["protocol"]] + KEYS.index(key) * 100} if with_node_ports else {})
        for p in draw(some(PORTS, 3, 1) | some(PORTS, 1))
    ]
    affinity = draw(st.sampled_from(["None", "ClientIP"]))
    return service(
        key,
        ports,
        cluster_ip=draw(mostly(f"172.30.0.{KEYS.index(key)}", f"172.30.1.{KEYS.index(key)}", "None")),
        type=draw(st.sampled_from(["ClusterIP", "NodePort", "NodePort", *["LoadBalancer"] * 3, "ExternalName"])),
        sessionAffinity=affinity,
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}} if affinity == "ClientIP" else None,
        externalTrafficPolicy=draw(local),
        internalTrafficPolicy=draw(local),
        externalIPs=draw(some(VIPS)),
        ingress=draw(some(VIPS)),
        loadBalancerSourceRanges=draw(some(RANGES)),
        healthCheckNodePort=32000 + KEYS.index(key),
        labels=draw(st.sampled_from([*[{}] * 9, {"service.kubernetes.io/service-proxy-name": "other"}])),
    )


endpoints = st.builds(
    endpoint,
    st.sampled_from(IPS),
    st.sampled_from([NODE, "node-2", None]),
    mostly("ready", "serving-terminating", "terminating", "unready", "unset"),
    st.just([]) | some(("zone-a", "zone-b")),
    st.just([]) | some((NODE, "node-2"), 1),
)


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    key = draw(st.sampled_from(KEYS))
    return endpoint_slice(
        key,
        draw(st.lists(endpoints, min_size=1, max_size=4) | st.lists(endpoints, max_size=1)),
        draw(st.just(list(SLICE_PORTS)) | some(SLICE_PORTS, 4, 1) | some(SLICE_PORTS, 1)),
        name=f"{key.split('/')[1]}-{draw(st.integers(1, 2))}",  # a slice never changes its Service (O-8.5)
        version=draw(st.integers(1, 5)),
    )


nodes: st.SearchStrategy[Node] = st.sampled_from([None, "zone-a", "zone-b"]).map(node)
objects: st.SearchStrategy[ApiObject] = st.one_of(services(), slices(), slices(), nodes)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Put, objects),
    st.builds(Put, objects),
    st.builds(Delete, st.one_of(services(), slices())),
    st.builds(Sync, st.sampled_from([1, 31, 3601]), st.sampled_from([False, False, False, True])),
)
#: first steps, which make objects that later steps can change
beginnings: st.SearchStrategy[list[Step]] = st.builds(
    list.__add__,
    st.lists(st.one_of(services(), services(), slices()).map(Put), min_size=3, max_size=8),
    st.lists(slices().map(Put), min_size=2, max_size=4),
)
histories = st.builds(
    lambda beginning, steps: [*beginning, Sync(1, refuse=False), *steps],
    beginnings,
    st.lists(steps, min_size=5, max_size=40),
)


def make_rig(large_cluster_endpoints: int) -> Rig:
    return Rig(make_settings(host=Host(node_ips=("192.168.0.2",), large_cluster_endpoints=large_cluster_endpoints)))


def happen(rig: Rig, step: Put | Delete) -> None:
    if isinstance(step, Put):
        rig.apply(step.obj)
    elif (known := rig.cluster.get(step.obj.key)) is not None:
        rig.delete(known)


def fresh(rig: Rig) -> tuple[Rig, SyncResult]:
    """A proxier that starts now, with the objects that the API server has."""
    started = make_rig(rig.settings.large_cluster_endpoints)
    started.apply(*rig.cluster.nodes, *rig.cluster.services, *rig.cluster.endpoint_slices)
    return started, started.sync()
