"""What a person should know about a Service beside its verdict."""

from collections.abc import Iterator, Mapping, Sequence

from kpsim.objects import CLUSTER_IP_NONE, Node
from kpsim.risk.facts import Counted, Facts, Keeper
from kpsim.risk.rules import DAEMON_SET
from kpsim.units import SECOND_NS


def in_seconds(value: float) -> str:
    return f"{round(value, 1):g} s"


def remarks(
    facts: Facts, budgets: Mapping[str, Sequence[Counted]], nodes: Sequence[Node], machine_off_s: float | None
) -> Iterator[str]:
    """Yield what holds of the pods, then of the Service. ``machine_off_s``: how long a load balancer sends to a machine that went off."""
    for keeper in facts.keepers:
        yield from _of_pods(keeper, bool(budgets.get(keeper.group.name)))
        if why := keeper.stuck(nodes):
            yield f"{keeper.group.title}: its rollout does not get on: {why}"
    if machine_off_s is not None:
        yield f"a machine that goes off: the load balancer sends to it for up to {in_seconds(machine_off_s)} (FIG-3)"
    yield from _of_service(facts)


def _of_pods(keeper: Keeper, budgeted: bool) -> Iterator[str]:
    title, spec = keeper.group.title, keeper.spec
    if why := keeper.unknown_end:
        yield f"{title}: {why}"
    if spec.pre_stop is not None and (spec.pre_stop.sleeps_ns or 0) / SECOND_NS >= spec.grace_s:
        yield f"{title}: its preStop hook outlasts the grace period of {spec.grace_s} s, which ends it (CP-2.8)"
    if keeper.group.spec is not None and not spec.probes.keys() & {"readiness", "startup"}:
        yield f"{title}: without readiness probe a new pod gets traffic before its application answers (CP-2.5)"
    if keeper.kind == DAEMON_SET:
        yield f"{title}: a drain leaves a DaemonSet's pods; they end with the machine"
    elif keeper.group.static:
        yield f"{title}: a drain leaves static pods; they end with the machine"
    elif keeper.group.bare:
        yield f"{title}: no object keeps its pods, so a drain needs --force, and they do not come back"
    elif not keeper.kind:
        yield f"{title}: what keeps its pods was not given; taken to be replaced elsewhere"
    if len(keeper.pods) > 1 and not budgeted and not keeper.stays:
        yield f"{title}: no PodDisruptionBudget, so drains of several nodes at once may evict all pods"


def _of_service(facts: Facts) -> Iterator[str]:
    service = facts.service
    hinted = any(key.endswith(("topology-mode", "topology-aware-hints")) for key in service.metadata.annotations)
    if service.session_affinity == "ClientIP":
        yield "session affinity: clients of an endpoint that goes are sent to another, and lose their session (PP-9)"
    if hinted or service.traffic_distribution:
        yield (
            "hints: when a zone has no endpoint left, its clients use all endpoints, and other zones' pods carry their load (T-3.2)"
        )
    if service.cluster_ip == CLUSTER_IP_NONE:
        yield (
            "headless: clients choose addresses by DNS, so kube-proxy has no part; how long they keep an address is not judged (O-1.1)"
        )
    if service.publish_not_ready_addresses:
        yield "publishNotReadyAddresses: pods that are not ready get traffic, too (CP-3.4.2)"
    if any(not each.node for each in facts.endpoints):
        yield "endpoints that name no node are taken to outlive every node"
