"""Service ports as they are meant: frontends, policies and sets of endpoints, read from the objects' JSON (O-3 … O-6, T).

Counterpart: what a person reads in ``kubectl get services,endpointslices -o yaml``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from kpsim.addresses import Family
from kpsim.inputs import Json

_PROXIED_ELSEWHERE = "service.kubernetes.io/service-proxy-name"
_HEADLESS = "service.kubernetes.io/headless"
_SERVICE = "kubernetes.io/service-name"
_ZONE = "topology.kubernetes.io/zone"
_DAY_PART_S = 10_800  #: the affinity timeout of a Service that names none (O-3.1)

End = tuple[int, int]  #: an address and a port
AnyNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class MeantPort:
    """A service port of one family as seen from one node."""

    name: str  #: ``namespace/name:port``
    protocol: str  #: lower case
    cluster: End
    external: tuple[End, ...]
    vips: tuple[End, ...]
    node_port: int  #: 0: none
    health_port: int  #: 0: none
    ranges: tuple[AnyNetwork, ...]  #: empty: every source may use the VIPs
    internal_local: bool
    external_local: bool
    everywhere: frozenset[End]  #: CL: endpoints under the Cluster policy
    here: frozenset[End]  #: LO: endpoints under the Local policy
    any_serves: bool  #: whether some endpoint on some node could serve
    serving: frozenset[End]  #: whose UDP flows are kept (CT-2.2)
    sticky_s: int  #: seconds of client affinity; 0: none
    on_node: frozenset[End] = frozenset()  #: the endpoints of this node


class _Candidate(NamedTuple):
    local: bool
    ready: bool
    serving: bool
    terminating: bool
    zones: frozenset[str]
    nodes: frozenset[str]

    @property
    def leaves(self) -> bool:
        """Whether it still serves while it terminates: the fallback (T-1)."""
        return not self.ready and self.serving and self.terminating


def meant_ports(objects: Iterable[Json], node: str, family: Family, *, external_ips: bool) -> Iterator[MeantPort]:
    """All service ports of a family. ``external_ips``: whether external IPs are allowed (O-5.6).

    ValueError for an address that is not written as usual.
    """
    found = list(objects)
    zone = next((_labels(each).get(_ZONE, "") for each in found if _is(each, "Node", node)), "")
    by_service: dict[tuple[str, str], list[Json]] = {}
    for each in found:
        labels = _labels(each)
        if each.get("kind") == "EndpointSlice" and _HEADLESS not in labels and each.get("addressType") == family.label:
            by_service.setdefault((_namespace(each), labels.get(_SERVICE, "")), []).append(each)
    for each in found:
        if each.get("kind") == "Service":
            slices = by_service.get((_namespace(each), each["metadata"]["name"]), [])
            yield from _ports_of(each, slices, node, zone, family, external_ips=external_ips)


def _ports_of(
    service: Json, slices: Sequence[Json], node: str, zone: str, family: Family, *, external_ips: bool
) -> Iterator[MeantPort]:
    spec: Json = service.get("spec") or {}
    ip = _cluster_ip(spec, family)
    if _PROXIED_ELSEWHERE in _labels(service) or spec.get("type") == "ExternalName" or ip is None:
        return
    kind, external = spec.get("type") or "ClusterIP", _addresses(spec.get("externalIPs") or (), family)
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    vips = _addresses([e["ip"] for e in ingress if e.get("ip") and e.get("ipMode", "VIP") == "VIP"], family)
    opened = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))
    external_local = opened and spec.get("externalTrafficPolicy") == "Local"
    internal_local = spec.get("internalTrafficPolicy") == "Local"
    name = f"{_namespace(service)}/{service['metadata']['name']}"
    for port in spec.get("ports") or ():
        protocol, label = port.get("protocol") or "TCP", port.get("name") or ""
        number, node_port = port["port"], port.get("nodePort") or 0
        accessible = bool(node_port or vips or external)
        candidates = _candidates(slices, label, protocol, node, family)
        uses_cluster = not internal_local or accessible
        uses_local = internal_local or (external_local and accessible)
        everywhere = _everywhere(candidates, node, zone) if uses_cluster else frozenset()
        here = _here(candidates) if uses_local else frozenset()
        some = uses_local and any(each.ready or each.leaves for each in candidates.values())
        yield MeantPort(
            f"{name}:{label}" if label else name, protocol.lower(), (ip, number),
            tuple((address, number) for address in external) if external_ips else (),
            tuple((vip, number) for vip in vips), node_port,
            int(spec.get("healthCheckNodePort") or 0) if kind == "LoadBalancer" and external_local else 0,
            _ranges(spec.get("loadBalancerSourceRanges") or (), family), internal_local, external_local, everywhere, here,
            bool(everywhere) or some, frozenset(end for end, each in candidates.items() if each.serving), _sticky(spec),
            frozenset(end for end, each in candidates.items() if each.local),
        )  # fmt: skip


def _cluster_ip(spec: Json, family: Family) -> int | None:
    if spec.get("clusterIP") in (None, "", "None"):
        return None
    families = spec.get("ipFamilies")
    texts = spec.get("clusterIPs") or () if families else (spec["clusterIP"],)
    for label, text in zip(families or (family.label,), texts, strict=False):
        if label == family.label:
            return next(iter(_addresses((text,), family)), None)
    return None


def _sticky(spec: Json) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(client.get("timeoutSeconds") or _DAY_PART_S)


def _ranges(texts: Iterable[str], family: Family) -> tuple[AnyNetwork, ...]:
    """The source ranges of the family. If one holds every address, none restricts (O-5.4)."""
    networks = (ip_network(text.strip(), strict=False) for text in texts)
    kept = tuple(network for network in networks if network.version == _version(family))
    return () if any(network.prefixlen == 0 for network in kept) else kept


# --- endpoints -----------------------------------------------------------------------------------------------------------


def _candidates(
    slices: Iterable[Json], port: str, protocol: str, node: str, family: Family
) -> Mapping[End, _Candidate]:
    """The endpoints of a port by name and protocol, ready or not (O-6)."""
    found: dict[End, _Candidate] = {}
    for each in sorted(slices, key=lambda found: str(found["metadata"]["name"])):
        for listed in each.get("ports") or ():
            if (listed.get("name") or "") != port or (listed.get("protocol") or "TCP") != protocol:
                continue
            if not listed.get("port"):
                continue
            for endpoint in each.get("endpoints") or ():
                for address in _addresses(endpoint["addresses"][:1], family):
                    end, candidate = (address, listed["port"]), _candidate(endpoint, node)
                    if end not in found or not candidate.terminating:
                        found[end] = candidate
    return found


def _candidate(endpoint: Json, node: str) -> _Candidate:
    conditions: Mapping[str, Any] = endpoint.get("conditions") or {}
    hints: Mapping[str, Any] = endpoint.get("hints") or {}

    def named(key: str) -> frozenset[str]:
        return frozenset(each["name"] for each in hints.get(key) or ())

    def condition(key: str, unset: bool) -> bool:
        value = conditions.get(key)
        return unset if value is None else bool(value)

    return _Candidate(
        bool(node) and endpoint.get("nodeName") == node,
        condition("ready", True), condition("serving", True), condition("terminating", False),
        named("forZones"), named("forNodes"),
    )  # fmt: skip


def _everywhere(candidates: Mapping[End, _Candidate], node: str, zone: str) -> frozenset[End]:
    """CL: the ready ones that the hints leave, else all that serve while they terminate (T-2, T-3)."""
    ready = {end: each for end, each in candidates.items() if each.ready}
    if not ready:
        return frozenset(end for end, each in candidates.items() if each.leaves)
    for hinted in (
        {end: (node, each.nodes) for end, each in ready.items()},
        {end: (zone, each.zones) for end, each in ready.items()},
    ):
        meant = frozenset(end for end, (wanted, names) in hinted.items() if wanted in names)
        if meant and all(names for _, names in hinted.values()):
            return meant
    return frozenset(ready)


def _here(candidates: Mapping[End, _Candidate]) -> frozenset[End]:
    """LO: the node's ready ones, else the node's that serve while they terminate (T-2.2, T-2.4)."""
    ready = frozenset(end for end, each in candidates.items() if each.local and each.ready)
    return ready or frozenset(end for end, each in candidates.items() if each.local and each.leaves)


# --- parts of objects ------------------------------------------------------------------------------------------------------


def _is(each: Json, kind: str, name: str) -> bool:
    return each.get("kind") == kind and each["metadata"]["name"] == name


def _labels(each: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = each["metadata"].get("labels") or {}
    return found


def _namespace(each: Json) -> str:
    return str(each["metadata"].get("namespace") or "default")


def _version(family: Family) -> int:
    return 4 if family is Family.IPV4 else 6


def _addresses(texts: Iterable[str], family: Family) -> tuple[int, ...]:
    """The addresses of the family, in order."""
    parsed = (ip_address(text) for text in texts)
    return tuple(int(address) for address in parsed if address.version == _version(family))


def serves_udp(slices: Iterable[Json], family: Family) -> bool:
    """Whether one of the slices that kube-proxy is told of (O-1.2) has endpoints at a UDP port (CT-1.1)."""
    return any(
        (port.get("protocol") or "TCP") == "UDP" and port.get("port") and port.get("name") is not None
        for each in slices
        if each.get("kind") == "EndpointSlice" and each.get("addressType") == family.label and each.get("endpoints")
        if _HEADLESS not in _labels(each)
        for port in each.get("ports") or ()
    )
