"""Three nodes whose Services are the ways in which a client's request or its answer can go, and how to read their traces."""

from typing import Any

from kpsim.dialects import dialect_reading
from kpsim.explore import Cluster, load
from kpsim.tracing.traces import Trace

CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.180.0.0/16
"""


def node(number: int, more: str = "") -> str:
    return f"""
apiVersion: v1
kind: Node
metadata: {{name: n{number}}}
spec: {{podCIDR: 10.180.{number}.0/24{more}}}
status: {{addresses: [{{type: InternalIP, address: 192.168.0.{number}}}]}}
"""


def service(name: str, number: int, *endpoints: str, spec: str = "", status: str = "", target: int = 8080) -> str:
    """A Service ``shop/NAME`` at 172.30.0.NUMBER:80. An endpoint is written as address, or address and node."""
    written = []
    for endpoint in endpoints:
        address, _, rest = endpoint.partition(" ")
        at, _, conditions = rest.partition(" ")
        where = f", nodeName: {at}" if at else ""
        written.append(f"{{addresses: [{address}]{where}{f', conditions: {conditions}' if conditions else ''}}}")
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: 172.30.0.{number}
  ports: [{{name: p, port: 80, targetPort: {target}{f", nodePort: {30000 + number}" if spec and "false" not in spec else ""}}}]
  {spec}
status: {status or "{}"}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: p, port: {target}}}]
endpoints: [{", ".join(written)}]
"""


LOCAL = "type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {}"
TERMINATING = "{ready: false, serving: true, terminating: true}"
SERVICES = [
    service("web", 10, "10.180.1.5 n1", "10.180.2.5 n2", "10.180.3.5 n3", spec=LOCAL.format(32010)),
    service("ends", 11, "10.180.1.6 n1", f"10.180.2.6 n2 {TERMINATING}", spec=LOCAL.format(32011)),
    service("via", 12, "192.168.0.2", target=30010),
    service("host", 13, "192.168.0.2 n2", target=9100),
    service("proxied", 14, "10.180.2.9 n2", spec="type: LoadBalancer",
            status="{loadBalancer: {ingress: [{ip: 198.51.100.20, ipMode: Proxy}]}}"),
    service("proxied-local", 15, "10.180.2.10 n2", spec=LOCAL.format(32015),
            status="{loadBalancer: {ingress: [{ip: 198.51.100.21, ipMode: Proxy}]}}"),
    service("portless", 16, "10.180.2.11 n2", spec="type: LoadBalancer\n  allocateLoadBalancerNodePorts: false", status="{loadBalancer: {ingress: [{ip: 198.51.100.22, ipMode: Proxy}]}}"),
    service("empty", 17, spec="type: NodePort"),
    service("remote", 18, "10.180.3.8 n3", spec=LOCAL.format(32018)),
]  # fmt: skip


def cluster_of(*documents: str, config: str = CONFIG) -> Cluster:
    return load(text="\n---\n".join((config, *documents)))


def sums(trace: Trace) -> dict[str, str]:
    return {str(verdict): str(weight) for verdict, weight in trace.verdict.items()}


def outcomes(trace: Trace) -> list[dict[str, Any]]:
    return list(trace.to_json()["outcomes"])


def last_line(trace: Trace) -> str:
    return trace.text().splitlines()[-1]


NAT = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
{}
COMMIT
"""
EGRESS = "-A POSTROUTING -s 10.180.0.0/16 ! -d 10.180.0.0/16 -m comment --comment egress -j MASQUERADE"


def beside(cluster: Cluster, *rules: str) -> Cluster:
    text = NAT.format("\n".join(rules))
    return cluster.with_rules_beside(*dialect_reading(text).parse(text))
