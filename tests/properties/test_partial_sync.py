"""Partial syncs lead where full ones lead, and every count kept up to date equals the count from scratch (I-13.3, I-15, O-12, O-13)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from proxiers import NODE, Rig, document, endpoint, endpoint_slice, make_settings, node, port, service, slice_port

from kpsim.config import Host
from kpsim.kubeproxy.plan import Refusal, make_plan
from kpsim.kubeproxy.stale_flows import Flow
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
    """Create or update."""

    obj: ApiObject


@dataclass(frozen=True)
class Delete:
    """Delete if it is there."""

    obj: ApiObject


@dataclass(frozen=True)
class Sync:
    after_s: int
    refuse: bool


Step = Put | Delete | Sync


def some(values: Iterable[Any], most: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(tuple(values)), max_size=most, unique_by=str)


@st.composite
def services(draw: st.DrawFn) -> Service:
    key = draw(st.sampled_from(KEYS))
    local = st.sampled_from(["Cluster", "Local"])
    with_node_ports = draw(st.booleans())
    ports = [
        p | ({"nodePort": NODE_PORTS[p["name"], p["protocol"]] + KEYS.index(key) * 100} if with_node_ports else {})
        for p in draw(some(PORTS, 3))
    ]
    affinity = draw(st.sampled_from(["None", "ClientIP"]))
    return service(
        key,
        ports,
        cluster_ip=draw(st.sampled_from([f"172.30.0.{KEYS.index(key)}", f"172.30.1.{KEYS.index(key)}", "None"])),
        type=draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        sessionAffinity=affinity,
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}} if affinity == "ClientIP" else None,
        externalTrafficPolicy=draw(local),
        internalTrafficPolicy=draw(local),
        externalIPs=draw(some(VIPS)),
        ingress=draw(some(VIPS)),
        loadBalancerSourceRanges=draw(some(RANGES)),
        healthCheckNodePort=32000 + KEYS.index(key),
        labels=draw(st.sampled_from([{}, {}, {}, {"service.kubernetes.io/service-proxy-name": "other"}])),
    )


endpoints = st.builds(
    endpoint,
    st.sampled_from(IPS),
    st.sampled_from([NODE, "node-2", None]),
    st.sampled_from(["ready", "ready", "serving-terminating", "terminating", "unready", "unset"]),
    some(("zone-a", "zone-b")),
    some((NODE, "node-2"), 1),
)


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    key = draw(st.sampled_from(KEYS))
    return endpoint_slice(
        key,
        draw(st.lists(endpoints, max_size=4)),
        draw(some(SLICE_PORTS, 4)),
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
histories = st.lists(steps, min_size=5, max_size=40)

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def make_rig(large_cluster_endpoints: int) -> Rig:
    return Rig(make_settings(host=Host(node_ips=("192.168.0.2",), large_cluster_endpoints=large_cluster_endpoints)))


def happen(rig: Rig, step: Put | Delete) -> None:
    if isinstance(step, Put):
        rig.apply(step.obj)
    elif (known := rig.cluster.get(step.obj.key)) is not None:
        rig.delete(known)


def fresh(rig: Rig) -> tuple[Rig, SyncResult]:
    """A proxier that starts now, with the API server as it is."""
    started = make_rig(rig.settings.large_cluster_endpoints)
    started.apply(*rig.cluster.nodes, *rig.cluster.services, *rig.cluster.endpoint_slices)
    return started, started.sync()


def rule_lines(text: str) -> dict[str, int]:
    filter_part, nat_part = text.split("*nat\n")
    return {"filter": filter_part.count("\n-A "), "nat": nat_part.count("\n-A ")}


@EXAMPLES
@given(histories)
def test_partial_syncs_lead_where_full_ones_lead(history: list[Step]) -> None:
    rig, forced = make_rig(1000), make_rig(1000)
    for step in [*history, Sync(1, refuse=False)]:
        if not isinstance(step, Sync):
            happen(rig, step)
            happen(forced, step)
            continue
        forced.proxier.force_full_sync()
        result, full = (each.sync(step.after_s, refuse=step.refuse) for each in (rig, forced))
        assert result.success is full.success is not step.refuse
        # what is owned is counted as if it were all written; what was written, as it stands there
        assert full.transaction.rules_total == full.transaction.rules_last == rule_lines(document(full))
        assert result.transaction.rules_total == full.transaction.rules_total
        assert result.transaction.rules_last == rule_lines(document(result))
        assert result.transaction.no_local_endpoints == full.transaction.no_local_endpoints
        if not step.refuse:
            assert rig.tables_text() == forced.tables_text()
    started, result = fresh(rig)
    assert rig.tables_text() == started.tables_text()
    assert rig.chains() == started.chains()


@EXAMPLES
@given(histories, st.integers(0, 6))
def test_large_clusters_are_like_any_other_after_a_late_full_sync(history: list[Step], threshold: int) -> None:
    rig = make_rig(threshold)
    for step in history:
        if not isinstance(step, Sync):
            happen(rig, step)
            continue
        result = rig.sync(step.after_s, refuse=step.refuse)
        assert result.success is not step.refuse
        assert result.transaction.rules_last == rule_lines(document(result))
        if result.success:
            started, _ = fresh(rig)
            assert started.chains() <= rig.chains()  # some may be stale (I-12.3 b), none is missing
    rig.proxier.force_full_sync()
    rig.sync(31)
    started, _ = fresh(rig)
    assert rig.tables_text() == started.tables_text()


def naive_refusals(rig: Rig) -> tuple[int, int]:
    """I-6 over all service ports."""
    maps = rig.proxier.maps
    plans = [
        make_plan(name, each, maps.endpoints.get(name, ()), NODE, rig.proxier.zone) for name, each in maps.ports.items()
    ]
    return (
        sum(plan.internal_refusal is Refusal.DROP for plan in plans),
        sum(plan.external_refusal is Refusal.DROP for plan in plans),
    )


def naive_stale(rig: Rig, flows: list[Flow]) -> list[Flow]:
    """O-12.3 and O-12.4 as they are written, where no two service ports claim one destination."""
    maps = rig.proxier.maps
    allowed: dict[tuple[str, int], set[str]] = {}
    for name, each in maps.ports.items():
        serving = {e.address for e in maps.endpoints.get(name, ()) if e.serving}
        if name.protocol == "UDP" and serving:
            allowed[each.cluster_ip, each.port] = serving
            if each.node_port:
                allowed["", each.node_port] = serving
    found = []
    for flow in flows:
        claims = [allowed[key] for key in ((flow.dst, flow.dport), ("", flow.dport)) if key in allowed]
        if any(f"{flow.reply_src}:{flow.reply_sport}" not in serving for serving in claims):
            found.append(flow)
    return found


def probes() -> list[Flow]:
    """UDP flows to every cluster IP and node port, from every endpoint address."""
    targets = [(f"172.30.{n}.{k}", number) for n in (0, 1) for k in range(len(KEYS)) for number in (53, 54)]
    node_ports = [number for (_, protocol), number in NODE_PORTS.items() if protocol == "UDP"]
    targets += [("192.168.0.2", number + k * 100) for number in node_ports for k in range(len(KEYS))]
    replies = [(ip, number) for ip in (*IPS, "10.180.9.9") for number in (5353, 5354)]
    return [Flow("udp", "203.0.113.99", 1, *to, *reply, "203.0.113.99", 1) for to in targets for reply in replies]


@EXAMPLES
@given(histories)
def test_what_is_kept_up_to_date_equals_a_recount(history: list[Step]) -> None:
    rig = make_rig(1000)
    maps = rig.proxier.maps
    for number, step in enumerate([*history, Sync(1, refuse=False)]):
        if not isinstance(step, Sync):
            happen(rig, step)
            continue
        # a change of any UDP slice lets the sync look at all flows
        rig.apply(endpoint_slice("z/watched", ports=[slice_port(53, "dns", "UDP")], version=number))
        rig.flows = flows = probes()
        result = rig.sync(step.after_s, refuse=step.refuse)
        assert maps.endpoint_total == sum(len(maps.endpoints.get(name, ())) for name in maps.ports)
        by_service = {
            name.service: {n: p for n, p in maps.ports.items() if n.service == name.service} for name in maps.ports
        }
        assert maps.ports_of == by_service
        health = {n.service: p.health_check_node_port for n, p in maps.ports.items() if p.health_check_node_port}
        assert dict(maps.health_check_ports) == health
        for key in {name.service for name in maps.endpoints} | by_service.keys():
            mine = [e for name, each in maps.endpoints.items() if name.service == key for e in each]
            assert maps.local_ready_endpoints.get(key, 0) == len({e.ip for e in mine if e.local and e.ready})
        assert result.transaction.no_local_endpoints == naive_refusals(rig)
        assert list(result.conntrack_deleted) == ([] if step.refuse else naive_stale(rig, flows))
