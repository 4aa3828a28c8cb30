"""Source ranges of a load balancer beside the policy Local: whose drop is it?

The rule that drops the sources outside the ranges drops all that reached the VIP and was not translated (I-7), so on a
node without local endpoint also the clients inside the ranges.
"""

import pytest
from simulations import of, simulate

from kpsim.explore import load
from kpsim.reports.local_policy import local_drops
from kpsim.simulation.runlog import Fate, Reason

SETTINGS = (
    "objects[0].spec.type=LoadBalancer", "objects[0].spec.externalTrafficPolicy=Local",
    "objects[0].spec.healthCheckNodePort=32000", "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.20}]}}",
    "duration=4s", "loadBalancer={interval: 5s}", "events=[{at: 1s, scale: {workload: web, replicas: 1}}]",
)  # fmt: skip
TRAFFIC = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 10}]\n"


@pytest.mark.parametrize(
    ("ranges", "cause", "local"),
    [("[203.0.113.0/24]", Reason.NO_LOCAL_ENDPOINTS, True), ("[198.18.0.0/15]", Reason.SOURCE_RANGES, False)],
)
def test_a_drop_has_its_own_cause(ranges: str, cause: Reason, local: bool) -> None:
    """A node loses its only endpoint, and the load balancer does not notice before the end."""
    log = simulate(TRAFFIC, *SETTINGS, f"objects[0].spec.loadBalancerSourceRanges={ranges}")
    dropped = of(log, Fate.DROPPED)
    assert {c.cause for c in dropped} == {cause} and len(dropped) > 5
    assert len(local_drops(log)) == (len(dropped) if local else 0)


CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.180.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 172.30.0.10, loadBalancerSourceRanges: [198.18.0.0/15],
       ports: [{name: p, port: 80, targetPort: 8080}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.180.2.5], nodeName: n2}]
"""


def test_a_trace_says_that_the_ranges_let_the_client_in() -> None:
    cluster = load(text=CLUSTER)
    inside, outside = (
        cluster.trace("n1", "198.51.100.20:80", src=src).text().splitlines()[-2:]
        for src in ("198.18.0.5", "203.0.113.5")
    )
    words = "they let it in, but the node has no endpoint for it"
    assert all("source ranges: the rest of shop/web:p" in line for line in (*inside, *outside))
    assert all(words in line for line in inside) and not any(words in line for line in outside)
