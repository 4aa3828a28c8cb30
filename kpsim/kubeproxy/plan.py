"""Decides traffic policy once for all modes: the endpoints that a service port uses on one node, and who is refused.

Counterpart: pkg/proxy/topology.go, and decisions that upstream repeats in every backend (spec 02, I-6). A backend turns
a plan into rules.
"""

import enum
from collections.abc import Sequence
from dataclasses import field
from typing import assert_never

from kpsim.kubeproxy.trackers import Endpoint, ServicePort, ServicePortName, endpoints_on
from kpsim.valueclass import dataclass


class Refusal(enum.StrEnum):
    """What happens to packets of a client for which there is no endpoint."""

    REJECT = "REJECT"  #: no endpoint serves this port on any node
    DROP = "DROP"  #: some endpoint serves it, but the Local policy finds none on this node


class HintMode(enum.Enum):
    """Which hints restrict Cluster traffic (T-3)."""

    NONE = "none"
    NODE = "node"
    ZONE = "zone"


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One service port as seen from one node. :func:`make_plan` explains the lists and ``has_any``."""

    name: ServicePortName
    port: ServicePort
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    reachable: tuple[Endpoint, ...]
    has_any: bool
    #: all endpoints on all nodes, whatever their state; only ipvs mode reads them, so plans that differ in them are equal
    endpoints: tuple[Endpoint, ...] = field(default=(), compare=False)

    def is_like(self, other: "ServicePlan") -> bool:
        """Whether it is equal to another plan also in the endpoints that nobody uses."""
        return self == other and (self.endpoints is other.endpoints or self.endpoints == other.endpoints)

    def _refusal(self, local_policy: bool) -> Refusal | None:
        if not self.has_any:
            return Refusal.REJECT
        return Refusal.DROP if local_policy and not self.local else None

    @property
    def internal_refusal(self) -> Refusal | None:
        """How clients of the cluster IP are refused; None: they get endpoints."""
        return self._refusal(self.port.internal_policy_local)

    @property
    def external_refusal(self) -> Refusal | None:
        """How clients of external addresses are refused; None: they get endpoints.

        DROP is returned even if there is no external address (I-6.1).
        """
        return self._refusal(self.port.external_policy_local)


def hint_mode(ready: Sequence[Endpoint], node_name: str, zone: str) -> HintMode:
    """Which hints restrict Cluster traffic (T-3).

    Node hints count if every ready endpoint has one and some ready endpoint's names this node; else zone hints by the
    same rule; else none.
    """
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
    """The endpoints to fall back to if none is ready: not ready, but serving and terminating (T-1)."""
    return tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)


def make_plan(
    name: ServicePortName, port: ServicePort, endpoints: tuple[Endpoint, ...], node_name: str, zone: str
) -> ServicePlan:
    """The plan of one service port, as seen from the node ``node_name`` (T-2).

    ``endpoints`` are sorted as in O-6.5. ``zone`` is the node's zone label, empty if it has none.

    ``cluster`` holds the endpoints for traffic under the Cluster policy: the ready endpoints that the hints allow or,
    if no endpoint is ready on any node, all that serve while terminating. It is empty if the port does not use that
    policy. ``local`` holds the endpoints on this node for traffic under the Local policy: the ready ones or, if none is
    ready, those that serve while terminating. Hints do not matter to it (T-2.4), and it is empty if the port does not
    use that policy. ``reachable`` is the union of both: every endpoint to which some client may be sent. ``has_any``
    says whether any endpoint on any node could serve the port: without one, clients get REJECT; with one, a client
    whose Local policy finds no endpoint here gets DROP (T-2.5).
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
        return ServicePlan(name, port, cluster, (), cluster, has_any, endpoints)

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
        # upstream leaves this union in map order; kpsim sorts it by address
        reachable = tuple(sorted({*cluster, *local}))
    return ServicePlan(name, port, cluster, local, reachable, has_any, endpoints)
