"""Policy, decided once: which endpoints a service port has from one node, for whom, and what the others get (spec 02, I-6).

Counterpart: pkg/proxy/topology.go and the decisions that every backend repeats. It never knows how a backend spells a plan,
and nothing of packets.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from kpsim.kubeproxy.trackers import Endpoint, ServicePort, ServicePortName, endpoints_on


class Refusal(enum.StrEnum):
    """What a client gets that has no endpoint to go to."""

    REJECT = "REJECT"  #: no endpoint serves this port on any node
    DROP = "DROP"  #: endpoints do, but the Local policy finds none on this node


class HintMode(enum.Enum):
    """Which hints restrict Cluster traffic (T-3)."""

    NONE = "none"
    NODE = "node"
    ZONE = "zone"


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One service port as seen from one node. ``reachable``: every endpoint that some client may be sent to."""

    name: ServicePortName
    port: ServicePort
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    reachable: tuple[Endpoint, ...]
    has_any: bool

    def _refusal(self, local_policy: bool) -> Refusal | None:
        if not self.has_any:
            return Refusal.REJECT
        return Refusal.DROP if local_policy and not self.local else None

    @property
    def internal_refusal(self) -> Refusal | None:
        """What clients of the cluster IP get instead of an endpoint; None: they have endpoints."""
        return self._refusal(self.port.internal_policy_local)

    @property
    def external_refusal(self) -> Refusal | None:
        """The same for clients of external addresses. DROP even if there is no such address (I-6.1)."""
        return self._refusal(self.port.external_policy_local)


def hint_mode(ready: Sequence[Endpoint], node_name: str, zone: str) -> HintMode:
    """T-3: a kind of hint counts if every ready endpoint has one and some endpoint's names this node or zone."""
    if not ready:
        return HintMode.NONE
    if all(e.node_hints for e in ready) and any(node_name in e.node_hints for e in ready):
        return HintMode.NODE
    if all(e.zone_hints for e in ready) and any(zone in e.zone_hints for e in ready):
        return HintMode.ZONE
    return HintMode.NONE


def _allowed(endpoint: Endpoint, mode: HintMode, node_name: str, zone: str) -> bool:
    match mode:
        case HintMode.NONE:
            return True
        case HintMode.NODE:
            return node_name in endpoint.node_hints
        case HintMode.ZONE:
            return zone in endpoint.zone_hints
        case _:
            assert_never(mode)


def _serving_terminating(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """The fall-back when no endpoint is ready (T-1): those that are not ready, but serve while terminating."""
    return tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)


def make_plan(
    name: ServicePortName, port: ServicePort, endpoints: tuple[Endpoint, ...], node_name: str, zone: str
) -> ServicePlan:
    """The plan of one service port, as seen from the node ``node_name`` (T-2).

    ``endpoints`` are sorted as in O-6.5; ``zone`` is empty if the node has no zone label. The plan's ``cluster`` are the
    endpoints that the Cluster policy chooses from: the ready ones that the hints allow, else those that serve while
    terminating; empty if the port has no use for them. ``local`` are those on the node, by the same rule without hints.
    ``reachable`` is the union of both. ``has_any`` is false if no endpoint on any node could serve the port.
    """
    if not endpoints:
        return ServicePlan(name, port, (), (), (), has_any=False)
    mode = HintMode.NONE
    cluster: tuple[Endpoint, ...] = ()
    has_any = False
    if port.uses_cluster:
        ready = [e for e in endpoints if e.ready]
        mode = hint_mode(ready, node_name, zone)
        cluster = tuple(e for e in ready if _allowed(e, mode, node_name, zone)) or _serving_terminating(endpoints)
        has_any = bool(cluster)
    if not port.uses_local:
        return ServicePlan(name, port, cluster, (), cluster, has_any)

    has_any = has_any or any(e.ready or (e.serving and e.terminating) for e in endpoints)
    on_node = endpoints_on(node_name, endpoints)
    local = tuple(e for e in on_node if e.ready)
    fell_back = not local
    if fell_back:
        local = _serving_terminating(on_node)
    if not port.uses_cluster:
        reachable = local
    elif mode is HintMode.NONE and not (fell_back and local):
        reachable = cluster  # already a superset of local
    else:
        # upstream leaves this union in map order; by address here
        reachable = tuple(sorted({*cluster, *local}))
    return ServicePlan(name, port, cluster, local, reachable, has_any)
