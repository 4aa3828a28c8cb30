"""A cluster whose kube-proxies are scraped, and the quantile that Prometheus makes of a histogram, by hand."""

from bisect import bisect_left
from collections.abc import Sequence

from kpsim.kubeproxy.metrics import LATENCIES_NS
from kpsim.units import SECOND_NS

CLUSTER = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: scraped}
duration: 240s
nodes: {count: 3}
workloads:
  - {name: web, replicas: 6, ports: [{containerPort: 8080}], startup: {delay: 3s}}
objects:
  - {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
delays: {sync: {base: {uniform: {low: 100ms, high: 900ms}}}}
events:
  - {at: 20s, rollout: {workload: web}}
  - {at: 100s, rollout: {workload: web}}
"""


def bucket_quantile(samples_ns: Sequence[int], quantile: float) -> float:
    """The quantile in seconds as ``histogram_quantile`` estimates it: linear within the bucket that holds the rank."""
    counts = [0] * (len(LATENCIES_NS) + 1)
    for sample_ns in samples_ns:
        counts[bisect_left(LATENCIES_NS, sample_ns)] += 1
    rank, below = quantile * len(samples_ns), 0
    for number, count in enumerate(counts):
        if below + count >= rank:
            low, high = (LATENCIES_NS[number - 1] if number else 0), LATENCIES_NS[number]
            return (low + (high - low) * (rank - below) / count) / SECOND_NS
        below += count
    raise AssertionError("the rank is in no bucket")
