"""Hints: the zones and nodes an endpoint is meant for, by ``trafficDistribution`` (CP-3.9) or mode Auto (CP-3.8, T-6).

Counterpart: ``k8s.io/endpointslice`` packages trafficdist and topologycache. The module sets hints in drafts of slices.
How kube-proxy reads them is T-3, and not in this package.
"""

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace

from kpsim.endpointslices.packing import Drafts
from kpsim.errors import InputError, Problem
from kpsim.maps import Map
from kpsim.objects import Node, ObjectKey, Service, SliceEndpoint
from kpsim.units import parse_quantity
from kpsim.valueclass import dataclass

ANNOTATION_HINTS = "service.kubernetes.io/topology-aware-hints"
ANNOTATION_MODE = "service.kubernetes.io/topology-mode"
OVERLOAD_THRESHOLD = 0.2  #: how much more load than its share of the CPUs a zone may get

CONTROL_PLANE_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_NO_HINTS: frozenset[str] = frozenset()


class Severity(enum.StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class ControllerEvent:
    """An Event that the controller records on the Service."""

    severity: Severity
    reason: str
    message: str


# ------------------------------------------------------------------------------------------------ trafficDistribution


def auto_hints_wanted(service: Service) -> bool:
    """Return whether an annotation asks for topology-aware routing.

    ``trafficDistribution`` then has no effect (CP-3.8.1).
    """
    annotations = service.metadata.annotations
    return annotations.get(ANNOTATION_HINTS, annotations.get(ANNOTATION_MODE, "")) in ("Auto", "auto")


def distribute_traffic(drafts: Drafts, distribution: str | None) -> None:
    """Set the hints that ``spec.trafficDistribution`` asks for. Without a known value remove all hints (CP-3.9).

    Endpoints that are not ready keep their hints. Unchanged slices join the updates if a hint was missing or wrong.
    """
    match distribution:
        case "PreferClose" | "PreferSameZone":
            _rehint(drafts, lambda endpoint: _own_hints(endpoint, with_node=False))
        case "PreferSameNode":
            _rehint(drafts, lambda endpoint: _own_hints(endpoint, with_node=True))
        case _:
            remove_hints(drafts)


def _own_hints(endpoint: SliceEndpoint, *, with_node: bool) -> SliceEndpoint:
    if not endpoint.ready:
        return endpoint
    zone = frozenset({endpoint.zone}) if endpoint.zone else _NO_HINTS
    node = frozenset({endpoint.node_name}) if endpoint.node_name and with_node else _NO_HINTS
    return replace(endpoint, zone_hints=zone, node_hints=node)


def remove_hints(drafts: Drafts) -> None:
    """Remove the hints of all endpoints, ready or not."""
    _rehint(drafts, lambda endpoint: replace(endpoint, zone_hints=_NO_HINTS, node_hints=_NO_HINTS))


def _rehint(drafts: Drafts, hinted: Callable[[SliceEndpoint], SliceEndpoint]) -> None:
    for draft in drafts.all:
        endpoints = [hinted(endpoint) for endpoint in draft.endpoints]
        if endpoints != draft.endpoints:
            draft.endpoints = endpoints
            if any(other is draft for other in drafts.unchanged):
                drafts.touch(draft)


# ---------------------------------------------------------------------------------------------------------- mode Auto


@dataclass(frozen=True, slots=True)
class ZoneShare:
    """How many endpoints a zone should get: as its share of the CPUs, within bounds (CP-3.8.3)."""

    desired: float
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class TopologyCache:
    """What the controller remembers for mode Auto: CPU shares of the zones, and which Services have hints where.

    ``cpu_ratios`` is None if the nodes do not say enough, for the whole cluster. ``hinted`` counts endpoints by zone
    for each Service and address type.
    """

    cpu_ratios: Mapping[str, float] | None = None
    hinted: Map[tuple[ObjectKey, str], Mapping[str, int]] = field(default_factory=Map)

    def with_nodes(self, nodes: Iterable[Node]) -> "TopologyCache":
        """Return the cache after a topology event (CP-3.8.2)."""
        return replace(self, cpu_ratios=zone_cpu_ratios(nodes))

    def without(self, service: ObjectKey, address_type: str) -> "TopologyCache":
        """Return the cache without Auto hints of the Service in this family."""
        key = (service, address_type)
        return replace(self, hinted=self.hinted.delete(key)) if key in self.hinted else self

    def has_hints(self, service: ObjectKey) -> bool:
        """Return whether the Service has Auto hints in any family."""
        return any(key == service for key, _ in self.hinted)

    def overloaded(self) -> tuple[ObjectKey, ...]:
        """Return the Services to reconcile after the nodes changed, since a zone now has too few hints (CP-3.8.5).

        They are sorted by name.
        """
        keys = {service for (service, _), counts in self.hinted.items() if self._is_overloaded(counts)}
        return tuple(sorted(keys))

    def _is_overloaded(self, counts: Mapping[str, int]) -> bool:
        if self.cpu_ratios is None:
            return True
        total = sum(counts.values())
        # A zone without hints has too few: every zone has a minimum of at least one.
        return any(counts.get(zone, 0) < _minimum(ratio * total) for zone, ratio in self.cpu_ratios.items())


def zone_cpu_ratios(nodes: Iterable[Node]) -> dict[str, float] | None:
    """Return each zone's share of the allocatable CPU of Ready worker nodes, or None if it is unknown (CP-3.8.2).

    It is unknown for the whole cluster if one of these nodes has no zone or CPU, or if there are fewer than two zones.
    InputError if a node's CPU quantity is malformed.
    """
    millis: dict[str, int] = {}
    for node in nodes:
        if not node.ready or any(label in node.metadata.labels for label in CONTROL_PLANE_LABELS):
            continue
        cpu = _cpu_millis(node)
        if not node.zone or not cpu:
            return None
        millis[node.zone] = millis.get(node.zone, 0) + cpu
    total = sum(millis.values())
    if not total or len(millis) < 2:
        return None
    return {zone: millis[zone] / total for zone in sorted(millis)}


def _cpu_millis(node: Node) -> int:
    """Return thousandths of a CPU, rounded up as Kubernetes does."""
    text = node.allocatable_cpu
    if not text:
        return 0
    try:
        return math.ceil(parse_quantity(text) * 1000)
    except ValueError:
        raise InputError(Problem(f"{node.key}: not a quantity: {text!r}", path=".status.allocatable.cpu")) from None


def _minimum(desired: float) -> int:
    return math.ceil(desired / (1 + OVERLOAD_THRESHOLD))


def zone_shares(cpu_ratios: Mapping[str, float] | None, total: int) -> dict[str, ZoneShare] | str:
    """Return the share of each zone of ``total`` ready endpoints, or why no shares can be given (CP-3.8.3)."""
    if cpu_ratios is None:
        return "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
    counts = f"({total} endpoints, {len(cpu_ratios)} zones)"
    if len(cpu_ratios) > total:
        return f"Insufficient number of endpoints {counts}"
    minima = {zone: _minimum(ratio * total) for zone, ratio in sorted(cpu_ratios.items())}
    spare = total - sum(minima.values())
    if spare < 0:
        return (
            f"Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {counts}"
        )
    return {
        zone: ZoneShare(max(cpu_ratios[zone] * total, minimum), minimum, minimum + spare)
        for zone, minimum in minima.items()
    }


def assign_auto_hints(
    drafts: Drafts, service: ObjectKey, address_type: str, cache: TopologyCache
) -> tuple[TopologyCache, tuple[ControllerEvent, ...]]:
    """Give each ready endpoint a hint for one zone, most for their own (CP-3.8.4), or remove all hints and say why.

    Upstream's order is arbitrary in two places. Here the fullest of equal zones is the first by name, and an endpoint
    goes to the first zone by name that still receives.
    """
    total = sum(endpoint.ready is True for draft in drafts.all for endpoint in draft.endpoints)
    shares = zone_shares(cache.cpu_ratios, total)
    if isinstance(shares, str):
        return _disabled(drafts, service, address_type, cache, shares)
    counts = _keep_valid_slices(drafts, shares)
    for draft in (*drafts.create, *drafts.update):
        for number, endpoint in enumerate(draft.endpoints):
            if not endpoint.ready:
                continue
            if not endpoint.zone:
                return _disabled(
                    drafts, service, address_type, cache, "One or more endpoints do not have a zone specified"
                )
            draft.endpoints[number] = replace(endpoint, zone_hints=frozenset({endpoint.zone}), node_hints=_NO_HINTS)
            counts[endpoint.zone] = counts.get(endpoint.zone, 0) + 1
    giving, receiving = zones_out_of_balance(counts, shares)
    _redistribute(drafts, giving, receiving, counts)
    events = () if cache.has_hints(service) else (_enabled(address_type),)
    return replace(cache, hinted=cache.hinted.set((service, address_type), counts)), events


def _enabled(address_type: str) -> ControllerEvent:
    message = f"Topology Aware Hints has been enabled, addressType: {address_type}"
    return ControllerEvent(Severity.NORMAL, "TopologyAwareHintsEnabled", message)


def _disabled(
    drafts: Drafts, service: ObjectKey, address_type: str, cache: TopologyCache, why: str
) -> tuple[TopologyCache, tuple[ControllerEvent, ...]]:
    remove_hints(drafts)
    event = ControllerEvent(Severity.WARNING, "TopologyAwareHintsDisabled", f"{why}, addressType: {address_type}")
    return cache.without(service, address_type), (event,)


def _keep_valid_slices(drafts: Drafts, shares: Mapping[str, ZoneShare]) -> dict[str, int]:
    """Return the hints by zone of the unchanged slices that can stay as they are. The others join the updates."""
    counts: dict[str, int] = {}
    for draft in list(drafts.unchanged):
        hinted = hints_by_zone(draft.endpoints, counts, shares)
        if hinted is None:
            drafts.touch(draft)
            continue
        for zone, number in hinted.items():
            counts[zone] = counts.get(zone, 0) + number
    return counts


def hints_by_zone(
    endpoints: Iterable[SliceEndpoint], counts: Mapping[str, int], shares: Mapping[str, ZoneShare]
) -> dict[str, int] | None:
    """Count zone hints of the ready endpoints.

    None if an endpoint lacks a hint, names a zone without share or overfills a zone.
    """
    hinted: dict[str, int] = {}
    for endpoint in endpoints:
        if not endpoint.ready:
            continue
        if not endpoint.zone_hints or not endpoint.zone_hints <= shares.keys():
            return None
        for zone in sorted(endpoint.zone_hints):
            hinted[zone] = hinted.get(zone, 0) + 1
    if any(number + counts.get(zone, 0) > shares[zone].maximum for zone, number in hinted.items()):
        return None
    return hinted


def zones_out_of_balance(
    counts: Mapping[str, int], shares: Mapping[str, ZoneShare]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many endpoints each zone gives to others, and how many each receives (CP-3.8.4 step 3).

    One endpoint at a time goes from the largest surplus to the largest deficit, until that would not improve the
    balance.
    """
    surplus = {zone: counts.get(zone, 0) - share.desired for zone, share in sorted(shares.items())}
    gives, needs = ({z: s for z, s in surplus.items() if s > 0}, {z: -s for z, s in surplus.items() if s < 0})
    giving: dict[str, int] = {}
    receiving: dict[str, int] = {}
    while gives and needs:
        giver, receiver = max(gives, key=gives.__getitem__), max(needs, key=needs.__getitem__)
        most, least = max(gives[giver], needs[receiver]), min(gives[giver], needs[receiver])
        if most < 1 or least < 0.5:
            break
        gives[giver] -= 1
        needs[receiver] -= 1
        giving[giver] = giving.get(giver, 0) + 1
        receiving[receiver] = receiving.get(receiver, 0) + 1
    return giving, receiving


def _redistribute(drafts: Drafts, giving: dict[str, int], receiving: dict[str, int], counts: dict[str, int]) -> None:
    for draft in (*drafts.create, *drafts.update):
        for number, endpoint in enumerate(draft.endpoints):
            zone = endpoint.zone
            if not endpoint.ready or not zone or not giving.get(zone):
                continue
            target = next((name for name in sorted(receiving) if receiving[name]), None)
            if target is None:
                return
            draft.endpoints[number] = replace(endpoint, zone_hints=frozenset({target}))
            giving[zone] -= 1
            receiving[target] -= 1
            counts[zone] -= 1
            counts[target] = counts.get(target, 0) + 1
