"""A small shop: three nodes, and a Service for every case in which packets take another way."""

from collections.abc import Mapping, Sequence

NODES = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.180.0.0/24, "fd00:180::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "2001:db8:1::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
spec: {podCIDRs: [10.180.1.0/24, "fd00:180:0:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: "2001:db8:1::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-3}
spec: {podCIDRs: [10.180.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.3}]}
"""

CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.180.0.0/16,fd00:180::/32
"""


def service(name: str, spec: str, *, vip: str = "") -> str:
    status = f"\nstatus: {{loadBalancer: {{ingress: [{{ip: {vip}}}]}}}}" if vip else ""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}{status}\n"


def endpoints(name: str, port: int, places: Mapping[str, str], *, protocol: str = "TCP", family: str = "IPv4") -> str:
    """The Service's slice. ``places`` maps an address to its node. The nth endpoint is the pod ``NAME-n``."""
    entries = "\n".join(
        f'- {{addresses: ["{address}"], nodeName: {node}, conditions: {{ready: true}}, '
        f"targetRef: {{kind: Pod, namespace: shop, name: {name}-{number}}}}}"
        for number, (address, node) in enumerate(places.items())
    )
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}-{family.lower()}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"addressType: {family}\nports: [{{name: p, protocol: {protocol}, port: {port}}}]\nendpoints:\n{entries}\n"
    )


def port(number: int, node_port: int = 0, protocol: str = "TCP") -> str:
    with_node_port = f", nodePort: {node_port}" if node_port else ""
    return f"ports: [{{name: p, protocol: {protocol}, port: {number}{with_node_port}}}]"


WEB = (
    service("web", f"type: LoadBalancer, clusterIP: 172.30.0.10, {port(80, 30080)}", vip="192.0.2.10"),
    endpoints("web", 8080, {"10.180.0.5": "node-1", "10.180.1.5": "node-2", "10.180.2.5": "node-3"}),
)
LOCAL = (
    service(
        "local",
        "type: LoadBalancer, clusterIP: 172.30.0.11, externalTrafficPolicy: Local, healthCheckNodePort: 32011, "
        + port(80, 30081),
        vip="192.0.2.11",
    ),
    endpoints("local", 8080, {"10.180.0.6": "node-1", "10.180.1.6": "node-2"}),
)
REMOTE = (
    service("remote", f"type: NodePort, clusterIP: 172.30.0.12, externalTrafficPolicy: Local, {port(80, 30082)}"),
    endpoints("remote", 8080, {"10.180.1.7": "node-2"}),
)
INNER = (
    service("inner", f"clusterIP: 172.30.0.13, internalTrafficPolicy: Local, {port(80)}"),
    endpoints("inner", 8080, {"10.180.1.8": "node-2"}),
)
EMPTY = (service("empty", f"type: NodePort, clusterIP: 172.30.0.14, {port(80, 30084)}"),)
GUARDED = (
    service(
        "guarded",
        'type: LoadBalancer, clusterIP: 172.30.0.15, loadBalancerSourceRanges: ["203.0.113.0/25"], ' + port(80, 30085),
        vip="192.0.2.15",
    ),
    endpoints("guarded", 8080, {"10.180.1.9": "node-2"}),
)
DNS = (
    service("dns", f"clusterIP: 172.30.0.16, {port(53, protocol='UDP')}"),
    endpoints("dns", 5353, {"192.168.0.1": "node-1"}, protocol="UDP"),
)
WEB6 = (
    service("web6", f'clusterIP: "fd00:172:30::10", ipFamilies: [IPv6], {port(80)}'),
    endpoints("web6", 8080, {"fd00:180::5": "node-1"}, family="IPv6"),
)
EVERYTHING = (*WEB, *LOCAL, *REMOTE, *INNER, *EMPTY, *GUARDED, *DNS, *WEB6)


def cluster_text(objects: Sequence[str] = EVERYTHING, *, config: str = CONFIG) -> str:
    """The whole shop as YAML documents."""
    return "---\n".join([*NODES.split("---\n"), *objects, config])
