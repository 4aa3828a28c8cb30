"""Draws random Services of all kinds, with EndpointSlices for their endpoints.

Counterpart: users' Services, and the slices that the EndpointSlice controller or a user writes for them. Addresses
and ports follow from the Service's number, so no two Services claim the same one. Services share endpoints on
purpose.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kpsim.addresses import Family
from kpsim.inputs import JsonObject
from kpsim.objects import CLUSTER_IP_NONE, LABEL_HEADLESS, LABEL_SERVICE_NAME, LABEL_SERVICE_PROXY_NAME
from kpsim.verify.drawing.choices import Choices, chance, pick, several, weighted
from kpsim.verify.drawing.plan import EVERYTHING, POD_RANGE, Block, DrawnNode, host

#: the port of an endpoint, by protocol
_TARGET_PORTS = {"TCP": 8080, "UDP": 5353, "SCTP": 9999}
_PODS = 4  #: pods of each node; Services share them


def draw_service(
    choices: Choices, number: int, families: tuple[Family, ...], nodes: Sequence[DrawnNode]
) -> Iterator[JsonObject]:
    """The Service of this number and its slices."""
    namespace = pick(choices, ("shop", "shop", "shop", "default"))
    name = f"service-{number}"
    kind = weighted(
        choices, (4, "ClusterIP"), (4, "NodePort"), (8, "LoadBalancer"), (1, "headless"), (1, "ExternalName")
    )
    ports = _draw_ports(choices, number, with_node_ports=kind in ("NodePort", "LoadBalancer"))
    own = families if len(families) == 1 else weighted(
        choices, (4, families), (1, families[::-1]), (1, families[:1]), (1, families[1:])
    )  # fmt: skip
    spec: JsonObject = {"type": kind, "ports": ports}
    if len(own) > 1:
        spec["ipFamilyPolicy"] = "RequireDualStack"
    status: JsonObject = {}
    match kind:
        case "ExternalName":
            spec = {"type": kind, "externalName": "shop.example.com"}
        case "headless":
            spec |= {"type": "ClusterIP", "clusterIP": CLUSTER_IP_NONE, "ipFamilies": [f.label for f in own]}
        case _:
            ips = [Block.CLUSTER_IP.at(family, 0, number) for family in own]
            spec |= {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": [family.label for family in own]}
            spec |= _draw_frontends(choices, number, kind, own, nodes)
            status = {"loadBalancer": {"ingress": spec.pop("ingress")}} if "ingress" in spec else {}
            spec |= _draw_policies(choices, number, spec)
    labels = {LABEL_SERVICE_PROXY_NAME: "other"} if chance(choices, 3) else {}
    metadata: JsonObject = {"namespace": namespace, "name": name} | ({"labels": labels} if labels else {})
    yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec} | (
        {"status": status} if status else {}
    )
    if kind != "ExternalName":
        for family in own:
            yield from _draw_slices(choices, metadata, family, ports, nodes, headless=kind == "headless")


# --- Services ------------------------------------------------------------------------------------------------------------


def _draw_ports(choices: Choices, number: int, *, with_node_ports: bool) -> list[JsonObject]:
    """Two ports of different protocols may have one number, and then the same node port or two (O-3.6)."""
    count = weighted(choices, (6, 1), (3, 2), (1, 3))
    first = pick(choices, (80, 443, _TARGET_PORTS["TCP"]))
    found: list[JsonObject] = []
    for index in range(count):
        protocol = weighted(choices, (5, "TCP"), (3, "UDP"), (2, "SCTP"))
        beside = index > 0 and all(port["protocol"] != protocol for port in found) and chance(choices, 60)
        port: JsonObject = {"name": f"p{index}", "protocol": protocol, "port": first if beside else first + index}
        if with_node_ports:
            together = beside and chance(choices, 70)
            port["nodePort"] = found[0]["nodePort"] if together else 30000 + 10 * number + index
        found.append(port)
    if count == 1 and chance(choices, 30):
        del found[0]["name"]
    return found


def _draw_frontends(
    choices: Choices, number: int, kind: str, families: tuple[Family, ...], nodes: Sequence[DrawnNode]
) -> JsonObject:
    """External IPs, and load balancer addresses with their source ranges."""

    def each(block: Block, first: int, second: int) -> list[str]:
        return [block.at(family, first, second) for family in families]

    external = each(Block.EXTERNAL_IP, 100, number)
    balancer = each(Block.LOAD_BALANCER, 2, number)
    # node addresses are assigned by number too, so no two Services claim one (O-5.8 leaves open whose rules come first)
    addresses = sorted(address for node in nodes for address in node.addresses)
    of_node = [address for address in addresses[number - 1 : number] if _family(address) in families]
    found: JsonObject = {}
    ips = weighted(
        choices, (5, []), (3, external), (1, each(Block.EXTERNAL_IP, 100, 100 + number) + external), (1, of_node),
        (1, external + of_node),
    )  # fmt: skip
    if ips:
        found["externalIPs"] = ips
    if kind != "LoadBalancer":
        return found
    if chance(choices, 10):
        found["allocateLoadBalancerNodePorts"] = False  # node ports that the Service has already stay
    found["ingress"] = weighted(
        choices,
        (6, [{"ip": ip} for ip in balancer]),
        (1, []),
        (1, [{"ip": ip, "ipMode": "Proxy"} for ip in balancer]),
        (1, [{"ip": ip} for ip in [*balancer, *each(Block.LOAD_BALANCER, 2, 100 + number)]]),
        (1, [{"ip": ip, "ipMode": "VIP"} for ip in of_node or balancer]),
        (1, [{"ip": ip} for ip in [*external, *balancer]]),
        (1, [{"hostname": "lb.example.com"}]),
    )
    if chance(choices, 40):
        found["loadBalancerSourceRanges"] = _draw_ranges(choices, families, nodes)
    return found


def _family(address: str) -> Family:
    return Family.IPV6 if ":" in address else Family.IPV4


def _draw_ranges(choices: Choices, families: tuple[Family, ...], nodes: Sequence[DrawnNode]) -> list[str]:
    """Source ranges: clients, others that may use a load balancer's address, or both (O-5.4, PP-8)."""
    clients = [Block.CLIENT.network(family, 113, longer=1) for family in families]
    others = {
        "nodes": [Block.NODE.network(family, 0) for family in families],
        "one node": [host(nodes[0].of(family)[0]) for family in families],
        "pods": [POD_RANGE[family] for family in families],
        "itself": [Block.LOAD_BALANCER.network(family, 2) for family in families],
        "everybody": [EVERYTHING[family] for family in families],
        "of another family": [Block.CLIENT.network(family, 113) for family in Family if family not in families],
        "two clients": [Block.CLIENT.pair(family, 113, 200) for family in families],
        "one client, blanks around": [f" {host(Block.CLIENT.at(family, 113, 200))} " for family in families],
    }
    with_clients = not chance(choices, 30)
    more = [network for name in several(choices, list(others), 2) for network in others[name]]
    return [*(clients if with_clients else []), *more] or clients


def _draw_policies(choices: Choices, number: int, spec: JsonObject) -> JsonObject:
    found: JsonObject = {}
    if chance(choices, 25):
        found["internalTrafficPolicy"] = "Local"
    if (spec["type"] != "ClusterIP" or spec.get("externalIPs")) and chance(choices, 45):
        found["externalTrafficPolicy"] = "Local"
        if spec["type"] == "LoadBalancer":
            found["healthCheckNodePort"] = 32000 + number
    affinity = weighted(
        choices, (14, None), (2, {}), (3, {"clientIP": {"timeoutSeconds": 600}}), (4, {"clientIP": {"timeoutSeconds": 2}}),
        (2, {"clientIP": {"timeoutSeconds": 1}}),
    )  # fmt: skip
    if affinity is not None:
        found["sessionAffinity"] = "ClientIP"
        if affinity:
            found["sessionAffinityConfig"] = affinity
    if distribution := weighted(choices, (10, ""), (1, "PreferSameZone"), (1, "PreferSameNode")):
        found["trafficDistribution"] = distribution  # kube-proxy obeys the hints alone (T-3.4)
    return found


# --- endpoints -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A place for an endpoint. ``node`` is empty if the slice does not name one."""

    address: str
    node: str = ""
    zone: str | None = None


#: conditions, grouped by their meaning (T-1); a missing condition has its default (O-6.3)
_READY: tuple[JsonObject, ...] = ({"ready": True, "serving": True, "terminating": False}, {}, {"ready": True})
_LEAVING: tuple[JsonObject, ...] = (
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
    {"ready": False, "serving": False, "terminating": False},
    {"ready": False, "terminating": True},
    {"ready": False, "serving": True},
    {"ready": True, "serving": True, "terminating": True},
)

_TERMINATING = tuple(conditions for conditions in _LEAVING if conditions.get("terminating"))


def _draw_slices(
    choices: Choices,
    service: JsonObject,
    family: Family,
    ports: list[JsonObject],
    nodes: Sequence[DrawnNode],
    *,
    headless: bool,
) -> Iterator[JsonObject]:
    endpoints = _draw_endpoints(choices, family, nodes)
    count = weighted(choices, (6, 1), (2, 2), (1, 3)) if endpoints else choices.below(2)
    again = endpoints[:1] if count > 1 and chance(choices, 40) else []
    name = service["name"]
    labels = {LABEL_SERVICE_NAME: name} | ({LABEL_HEADLESS: ""} if headless else {})
    for index in range(count):
        listed = [_slice_port(port) for port in ports]
        match weighted(choices, (14, ""), (2, "moved"), (1, "missing"), (1, "unnumbered")):
            case "moved":  # pods of another version listen elsewhere (O-10.4)
                listed = [port | {"port": port["port"] + 1000} for port in listed]
            case "missing":
                listed = listed[1:]
            case "unnumbered":
                listed = [{"name": port["name"], "protocol": port["protocol"]} for port in listed[:1]] + listed[1:]
            case _:
                pass
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": service["namespace"],
                "name": f"{name}-{family.label.lower()}-{index + 1}",
                "labels": labels,
            },
            "addressType": family.label,
            "ports": listed,
            "endpoints": [*endpoints[index::count], *(_in_another_state(choices, again) if index == count - 1 else ())],
        }


def _in_another_state(choices: Choices, endpoints: list[JsonObject]) -> Iterator[JsonObject]:
    """The same addresses once more: of two pods that have one address, one terminates (O-6.4)."""
    for endpoint in endpoints:
        terminating = (endpoint.get("conditions") or {}).get("terminating")
        yield endpoint | {"conditions": _READY[0] if terminating else pick(choices, _TERMINATING)}


def _slice_port(port: JsonObject) -> JsonObject:
    return {"name": port.get("name", ""), "protocol": port["protocol"], "port": _TARGET_PORTS[port["protocol"]]}


def _draw_endpoints(choices: Choices, family: Family, nodes: Sequence[DrawnNode]) -> list[JsonObject]:
    """Endpoints: a few, none, or in rare cases many. No address occurs twice in them."""
    count = weighted(choices, (1, 0), (3, 1), (4, 2), (3, 3), (2, 4), (1, 8), (1, 24))
    states = weighted(choices, (6, _READY[:1]), (4, (*_READY, *_LEAVING)), (2, _LEAVING)) if count else ()
    hints = weighted(choices, (6, ""), (2, "zone"), (1, "node"), (2, "mixed")) if count else ""
    places = _many_places(family, nodes, count) if count > 20 else [
        _draw_place(choices, family, nodes) for _ in range(count)
    ]  # fmt: skip
    found: dict[str, JsonObject] = {}
    for place in places:
        endpoint: JsonObject = {"addresses": [place.address]}
        if conditions := pick(choices, states):
            endpoint["conditions"] = conditions
        if place.node:
            endpoint["nodeName"] = place.node
        if place.zone:
            endpoint["zone"] = place.zone
        if hints and (hint := _draw_hint(choices, hints, place, nodes)):
            endpoint["hints"] = hint
        found.setdefault(place.address, endpoint)
    return list(found.values())


def _draw_place(choices: Choices, family: Family, nodes: Sequence[DrawnNode]) -> _Place:
    node = pick(choices, nodes)
    match weighted(choices, (12, "pod"), (2, "node"), (1, "stray"), (1, "unknown node"), (1, "no node")):
        case "pod":
            address = Block.POD.at(family, node.number, 10 + choices.below(_PODS))
            return _Place(address, node.name, node.zone)
        case "node":  # a pod in the host network
            return _Place(pick(choices, node.of(family)), node.name, node.zone)
        case "stray":
            return _Place(Block.STRAY_POD.at(family, node.number, 10), node.name, node.zone)
        case "unknown node":  # a node without a Node object: it is gone, or not there yet
            return _Place(Block.POD.at(family, 9, 10), "node-9")
        case _:  # an address outside the cluster, in a slice that a user wrote
            return _Place(Block.EXTERNAL_IP.at(family, 100, 250))


def _many_places(family: Family, nodes: Sequence[DrawnNode], count: int) -> list[_Place]:
    by_turns = [nodes[index % len(nodes)] for index in range(count)]
    return [
        _Place(Block.POD.at(family, node.number, 100 + index), node.name, node.zone)
        for index, node in enumerate(by_turns)
    ]


def _draw_hint(choices: Choices, hints: str, place: _Place, nodes: Sequence[DrawnNode]) -> JsonObject:
    """Hints as the EndpointSlice controller writes them, or arbitrary ones (T-3, T-6)."""
    zone, node = place.zone or "zone-a", place.node or nodes[0].name
    for_zone, for_node = {"forZones": [{"name": zone}]}, {"forNodes": [{"name": node}]}
    match hints:
        case "zone":
            return for_zone
        case "node":
            return for_zone | for_node
        case _:
            zones = {"forZones": [{"name": "zone-a"}, {"name": "zone-b"}]}
            return weighted(
                choices,
                (2, for_zone),
                (2, for_zone | for_node),
                (1, {}),
                (2, zones),
                (1, {"forZones": [{"name": "zone-b"}]}),
            )
