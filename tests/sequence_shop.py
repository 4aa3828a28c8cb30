"""A node whose Services share their endpoints, in the model and in Linux, for sequences of packets."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from fuzz.cases import finding_of, manifest_of, with_sysctls
from kpsim.addresses import Family, parse_ip
from kpsim.config import DEFAULT_MODE, Host, Mode
from kpsim.conntrack import FlowTuple
from kpsim.explore import Cluster, load
from kpsim.tracing.site import Sender
from kpsim.verify.sequences.playing import Player, Playing
from kpsim.verify.sequences.steps import ChangeEndpoints, EndpointState, Opening, SequenceStep
from kpsim.verify.twin import Twin

V6 = Family.IPV6

POD, CLIENT, OTHER_CLIENT = (
    ("10.180.1.9", "fd00:180:0:1::9"),
    ("203.0.113.7", "2001:db8:71::7"),
    ("198.51.100.9", "2001:db8:72::9"),
)
NODE = ("192.168.0.1", "2001:db8::1")
ENDS = {
    "a1": ("10.180.1.5", "fd00:180:0:1::5"), "a2": ("10.180.1.6", "fd00:180:0:1::6"), "b1": ("10.180.2.5", "fd00:180:0:2::5"),
    "h1": NODE, "h2": ("192.168.0.2", "2001:db8::2"),
}  # fmt: skip
_STICKY = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
_LOCAL = {"externalTrafficPolicy": "Local"}
#: protocol, endpoints, what else the Service says
SERVICES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "web": ("TCP", "a1 a2 b1", {}), "twin": ("TCP", "a1 b1", {}), "local": ("TCP", "a1 b1", _LOCAL),
    "sticky": ("TCP", "a1 a2 b1", {**_STICKY, **_LOCAL}), "none": ("TCP", "", {}), "mixed": ("TCP", "h1 h2 a1", {}),
    "dns": ("UDP", "a1 a2 b1", {}), "dnstwin": ("UDP", "a1 a2", {}), "dnsnone": ("UDP", "", {}),
    "dnssticky": ("UDP", "a1 a2 b1", _STICKY), "dnslocal": ("UDP", "a1 b1", {"internalTrafficPolicy": "Local"}),
}  # fmt: skip


def _objects(name: str, number: int) -> Iterator[dict[str, Any]]:
    protocol, ends, spec = SERVICES[name]
    metadata = {"namespace": "shop", "name": name}
    yield {
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": f"172.30.0.{number}", "clusterIPs": [f"172.30.0.{number}", f"fd00:172:30::{number:x}"],
            "ports": [{"name": "p", "protocol": protocol, "port": 80, "nodePort": 30000 + number}], **spec,
        } | ({"healthCheckNodePort": 31000 + number} if spec.get("externalTrafficPolicy") else {}),
    }  # fmt: skip
    for place, family in enumerate(("IPv4", "IPv6")):
        yield {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "shop", "name": f"{name}-{family.lower()}", "labels": {"kubernetes.io/service-name": name}
            },
            "ports": [{"name": "p", "protocol": protocol, "port": 8080}],
            "endpoints": [
                {"addresses": [ENDS[end][place]], "nodeName": "node-2" if end in ("b1", "h2") else "node-1",
                 "conditions": {"ready": True, "serving": True, "terminating": False}}
                for end in ends.split()
            ],
        }  # fmt: skip


@cache
def shop(*, random_fully: bool = True, mode: Mode = DEFAULT_MODE) -> Cluster:
    objects: list[dict[str, Any]] = [
        {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": str(mode),
         "clusterCIDR": "10.180.0.0/16,fd00:180::/48"},
        {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
         "spec": {"cidrs": ["172.30.0.0/24", "fd00:172:30::/112"]}},
    ]  # fmt: skip
    for number in (1, 2):
        addresses = (f"192.168.0.{number}", f"2001:db8::{number}")
        objects.append({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"},
            "spec": {"podCIDRs": [f"10.180.{number}.0/24", f"fd00:180:0:{number}::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
        })  # fmt: skip
    for number, name in enumerate(SERVICES, 1):
        objects += _objects(name, number)
    return replace(load(text=manifest_of(objects)), host=Host(random_fully=random_fully))


def flow(
    family: Family, service: str, *, by: str = "node port", client: tuple[str, str] = CLIENT,
    sender: Sender = Sender.EXTERNAL, sport: int = 40000,
) -> Opening:  # fmt: skip
    """A client towards a Service's cluster IP or node port."""
    number = list(SERVICES).index(service) + 1
    to = NODE if by == "node port" else (f"172.30.0.{number}", f"fd00:172:30::{number:x}")
    (_, saddr), (_, daddr) = (parse_ip(pair[family is V6]) for pair in (client, to))  # type: ignore[misc]
    dport = 30000 + number if by == "node port" else 80
    return Opening(sender, FlowTuple(family, SERVICES[service][0].lower(), saddr, sport, daddr, dport))


def endpoints(family: Family, service: str, ends: str) -> ChangeEndpoints:
    addresses = (ENDS[end][family is V6] for end in ends.split())
    return ChangeEndpoints(f"shop/{service}", family, tuple((a, EndpointState.READY) for a in addresses))


class Both:
    """The first node of the shop, twice."""

    def __init__(self, family: Family, *, random_fully: bool = True, mode: Mode = DEFAULT_MODE, **sysctls: int) -> None:
        self.family, self.cluster = family, shop(random_fully=random_fully, mode=mode)
        self.twin = Twin(with_sysctls(self.cluster.site.machine("node-1"), sysctls), family, silent=True)

    def play(self, *steps: SequenceStep) -> Playing:
        """They must agree."""
        playing = Player(self.twin, self.cluster, "node-1").play(steps)
        assert not finding_of(playing), "\n".join(finding_of(playing))
        return playing
