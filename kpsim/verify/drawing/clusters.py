"""Draws random clusters as manifests: nodes, a KubeProxyConfiguration, Services of all kinds and their EndpointSlices.

Counterpart: the objects that administrators and users apply to a cluster. Every manifest is valid, so it loads.
Objects are numbered, and none depends on the choices for another: so objects can be left out when a case is made
small.
"""

from collections.abc import Iterable, Mapping, Sequence

import yaml

from kpsim.addresses import Family
from kpsim.config import DEFAULT_MODE, Mode
from kpsim.inputs import JsonObject
from kpsim.manifests.proxy_config import API_VERSION, KIND
from kpsim.objects import LABEL_ZONE
from kpsim.verify.drawing.choices import Choices, chance, pick, weighted
from kpsim.verify.drawing.plan import EVERYTHING, LOOPBACK, POD_RANGE, Block, DrawnNode, host
from kpsim.verify.drawing.services import draw_service

_V4, _V6 = Family.IPV4, Family.IPV6
_MOST_SERVICES = 6


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the one in C is ten times as fast
    """Writes equal parts out in full, without YAML aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


#: the section of each mode with the fields that are drawn for it, and whether its kube-proxy reads ServiceCIDRs
_SECTIONS: Mapping[str, tuple[frozenset[str], bool]] = {
    "iptables": (frozenset(("masqueradeAll", "masqueradeBit", "localhostNodePorts")), False),
    "nftables": (frozenset(("masqueradeAll", "masqueradeBit")), True),
    "ipvs": (frozenset(), False),
}


def draw_manifest(choices: Choices, mode: Mode = DEFAULT_MODE) -> str:
    """A cluster as YAML that ``kpsim.load(text=…)`` accepts."""
    text: str = yaml.dump_all(
        draw_documents(choices, mode), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120
    )
    return text


def draw_documents(choices: Choices, mode: Mode = DEFAULT_MODE) -> list[JsonObject]:
    """A cluster as a list of objects. Clusters of all modes have the same nodes and Services."""
    families = pick(choices, ((_V4,), (_V6,), (_V4, _V6), (_V6, _V4)))
    routed = chance(choices, 10)
    count = weighted(choices, (1, 1), (4, 2), (2, 3))
    nodes = [_draw_node(choices, number, families) for number in range(1, count + 1)]
    documents = [_draw_configuration(choices, mode, families, nodes, routed=routed)]
    documents += [_node_object(node, routed=routed) for node in nodes]
    for number in range(1, choices.below(_MOST_SERVICES) + 2):
        documents += draw_service(choices, number, families, nodes)
    if _SECTIONS[mode][1] and not chance(choices, 20):
        documents.append(_service_cidr(families))
    return documents


def _service_cidr(families: Iterable[Family]) -> JsonObject:
    """The networks of the cluster IPs. Some of their addresses belong to no Service."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [Block.CLUSTER_IP.network(family, 0) for family in families]},
    }  # fmt: skip


# --- nodes ---------------------------------------------------------------------------------------------------------------


def _draw_node(choices: Choices, number: int, families: tuple[Family, ...]) -> DrawnNode:
    second = weighted(choices, (4, ""), (2, "ExternalIP"), (1, "InternalIP"))
    links = (0, 1) if second else (0,)
    addresses = tuple(Block.NODE.at(family, link, number) for link in links for family in families)
    return DrawnNode(number, families, addresses, second, pick(choices, (None, "zone-a", "zone-b")))


def _node_object(node: DrawnNode, *, routed: bool) -> JsonObject:
    """``routed``: the node has no pod network, each pod has a route of its own, as with some network plugins."""
    kinds = ["InternalIP"] * len(node.families) + [node.second_kind] * len(node.families)
    spec = {} if routed else {"podCIDRs": [Block.POD.network(family, node.number) for family in node.families]}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name} | ({"labels": {LABEL_ZONE: node.zone}} if node.zone else {}),
        "spec": spec,
        "status": {
            "addresses": [
                {"type": kind, "address": address} for kind, address in zip(kinds, node.addresses, strict=False)
            ]
        },
    }


# --- kube-proxy ----------------------------------------------------------------------------------------------------------


def _draw_configuration(
    choices: Choices, mode: Mode, families: tuple[Family, ...], nodes: Sequence[DrawnNode], *, routed: bool
) -> JsonObject:
    drawn: JsonObject = {}
    if chance(choices, 15):
        drawn["masqueradeAll"] = True
    if chance(choices, 20):
        drawn["localhostNodePorts"] = False
    if (bit := weighted(choices, (7, None), (1, 0), (1, 15), (1, 31))) is not None:
        drawn["masqueradeBit"] = bit
    section = {name: value for name, value in drawn.items() if name in _SECTIONS[mode][0]}
    found: JsonObject = {"apiVersion": API_VERSION, "kind": KIND, "mode": str(mode)}
    found |= _draw_detection(choices, families, routed=routed)
    found |= {str(mode): section} if section else {}
    if addresses := _draw_node_port_addresses(choices, families, nodes):
        found["nodePortAddresses"] = addresses
    if conntrack := _draw_conntrack(choices):
        found["conntrack"] = conntrack
    if chance(choices, 5):
        found["featureGates"] = {"AllowServiceExternalIPs": False}
    return found


def _draw_detection(choices: Choices, families: tuple[Family, ...], *, routed: bool) -> JsonObject:
    """How kube-proxy recognises local pods (CFG-8)."""
    whole = _joined(POD_RANGE[family] for family in families)
    match weighted(
        choices,
        (6, "pods"), (3, "none"), (1, "one family"), (1, "a node's pods"), (2, "few pods"), (1, "nodes"),
        (0 if routed else 2, "NodeCIDR"), (2, "BridgeInterface"), (2, "InterfaceNamePrefix"),
    ):  # fmt: skip
        case "pods":
            return {"clusterCIDR": whole}
        case "one family":
            return {"clusterCIDR": POD_RANGE[families[0]]}
        case "a node's pods":
            return {"clusterCIDR": _joined(Block.POD.network(family, 1) for family in families)}
        case "few pods":  # 0 to 15 of the first node
            return {"clusterCIDR": _joined(Block.POD.sixteen(family, 1) for family in families)}
        case "nodes":  # a node's processes then count as pods (PP-1.2)
            return {"clusterCIDR": _joined(Block.NODE.network(family, 0) for family in families)}
        case "NodeCIDR":
            return {"clusterCIDR": whole, "detectLocalMode": "NodeCIDR"}
        case "BridgeInterface":
            return {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}}
        case "InterfaceNamePrefix":
            return {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}}
        case _:
            return {}


def _joined(networks: Iterable[str]) -> str:
    return ",".join(networks)


def _draw_node_port_addresses(choices: Choices, families: tuple[Family, ...], nodes: Sequence[DrawnNode]) -> list[str]:
    """Networks whose local addresses accept node ports (CFG-2.3.2, PP-7.1)."""

    def each(block: Block, first: int) -> list[str]:
        return [block.network(family, first) for family in families]

    return weighted(
        choices,
        (8, []),
        (2, ["primary"]),
        (2, each(Block.NODE, 0)),
        (1, each(Block.NODE, 0)[:1]),
        (1, each(Block.NODE, 1)),
        (3, [*each(Block.NODE, 0), *each(Block.NODE, 1)]),  # one by one, not as all
        (1, [LOOPBACK[family] for family in families]),
        (1, [Block.NODE.pair(family, 0, 1) for family in families]),
        (1, [Block.NODE.pair(family, 0, 2) for family in families]),
        (1, [host(nodes[0].addresses[0]), *(LOOPBACK[family] for family in families)]),
        (1, [*each(Block.NODE, 1), *(EVERYTHING[family] for family in families)]),
        (1, each(Block.CLIENT, 113)),  # no address of any node
    )


def _draw_conntrack(choices: Choices) -> JsonObject:
    found: JsonObject = {}
    if chance(choices, 15):
        found["tcpBeLiberal"] = True
    return found | weighted(
        choices,
        (12, {}), (1, {"maxPerCore": 0}), (1, {"tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "10s"}),
        (1, {"udpTimeout": "5s", "udpStreamTimeout": "60s"}), (1, {"tcpEstablishedTimeout": "60s"}),
    )  # fmt: skip
