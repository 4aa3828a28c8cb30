"""The table of advice: why a Service is at risk, what helps, and where that is written.

Each row that calls a Service at risk is proved by two scenarios: with the risk something is lost, with the remedy nothing.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple


class Cause(enum.StrEnum):
    """Why a Service is at risk."""

    NO_ENDPOINT = "no-endpoint"
    BUDGET = "budget-blocks"
    ALONE = "one-node"
    ZONE = "one-zone"
    ROLLOUT = "rollout-leaves-none"
    LOCAL_WINDOW = "local-window"
    LOCAL_NODE_PORT = "local-node-port"
    LOCAL_INTERNAL = "local-internal"
    ENDS_AT_ONCE = "ends-at-once"


class Rule(NamedTuple):
    """A row: what happens to clients, what helps, and the sections of the specification that say so."""

    reason: str
    remedy: str
    source: str


#: from the worst to the least
RULES: Mapping[Cause, Rule] = {
    Cause.NO_ENDPOINT: Rule(
        "no endpoint is ready, so all clients are refused or dropped",
        "make a pod ready",
        "T-2",
    ),
    Cause.ALONE: Rule(
        "all ready endpoints are on one node: while their pods move, nobody serves",
        "two replicas on different nodes (podAntiAffinity over kubernetes.io/hostname) and a PodDisruptionBudget",
        "T-2, T-2.3, CP-2.9.1",
    ),
    Cause.ROLLOUT: Rule(
        "a rollout may take all pods away at once",
        "strategy RollingUpdate with fewer maxUnavailable than replicas, or more replicas",
        "T-2.3, CP-3.4.2",
    ),
    Cause.LOCAL_NODE_PORT: Rule(
        "externalTrafficPolicy Local: clients that dial a node without endpoint are dropped, and nothing tells them",
        "externalTrafficPolicy Cluster, or a DaemonSet",
        "T-2, PP-11.7",
    ),
    Cause.LOCAL_INTERNAL: Rule(
        "internalTrafficPolicy Local: clients on a node without endpoint are dropped",
        "internalTrafficPolicy Cluster (trafficDistribution PreferSameNode prefers the own node), or a DaemonSet",
        "T-2, T-6.3",
    ),
    Cause.LOCAL_WINDOW: Rule(
        "externalTrafficPolicy Local: the load balancer sends to a node whose last endpoint has ended until its probes have failed",
        "a preStop hook as long as the load balancer's window, and a grace period beyond it",
        "PP-11.7, FIG-3, T-2.2",
    ),
    Cause.ZONE: Rule(
        "all ready endpoints are in one zone: when it is lost, nobody serves until pods are replaced",
        "topologySpreadConstraints over topology.kubernetes.io/zone",
        "CP-2.9, CP-2.9.1",
    ),
    Cause.BUDGET: Rule(
        "the eviction API refuses to evict its pods, so a drain does not end",
        "a budget that allows one disruption, or one more replica",
        "Eviction of policy/v1",
    ),
    Cause.ENDS_AT_ONCE: Rule(
        "a pod that ends on SIGTERM gets new connections until kube-proxy has removed it",
        "a preStop hook that sleeps longer than the change takes",
        "CP-1.2, CP-2.8, T-2.3",
    ),
}
