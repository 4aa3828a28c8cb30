"""The table of advice: why a Service is at risk, what helps, and where that is written.

Each remedy of each row is proved by two scenarios that differ in the remedy alone: without it something is lost, with it nothing.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

DAEMON_SET, STATEFUL_SET = "DaemonSet", "StatefulSet"


class Cause(enum.StrEnum):
    """Why a Service is at risk."""

    NO_ENDPOINT = "no-endpoint"
    BUDGET = "budget-blocks"
    ALONE = "one-node"
    ZONE = "one-zone"
    ROLLOUT = "rollout-leaves-none"
    LOCAL_WINDOW = "local-window"
    LOCAL_RETURN = "local-return"
    LOCAL_NODE_PORT = "local-node-port"
    LOCAL_INTERNAL = "local-internal"
    ENDS_AT_ONCE = "ends-at-once"


class Remedy(enum.StrEnum):
    """What helps."""

    READY = "ready-pod"
    OTHER_NODES = "other-nodes"
    ZONES = "other-zones"
    KEEPING_BUDGET = "keeping-budget"
    ALLOWING_BUDGET = "allowing-budget"
    ONE_BUDGET = "one-budget"
    ROLLING = "rolling-update"
    FEWER_UNAVAILABLE = "fewer-unavailable"
    REPLICA = "more-replicas"
    SURGE = "surge"
    EXTERNAL_CLUSTER = "external-cluster"
    INTERNAL_CLUSTER = "internal-cluster"
    DAEMON_SET = "daemon-set"
    PRE_STOP = "pre-stop"
    MIN_READY = "min-ready"
    RETRIES = "retries"


Helps = dict[Remedy, str]  #: remedies and their words

#: what each remedy is, in words that fit every Service; a finding gives the numbers
WORDS: Mapping[Remedy, str] = {
    Remedy.READY: "make its pods ready",
    Remedy.OTHER_NODES: "two replicas on different nodes (podAntiAffinity over kubernetes.io/hostname)",
    Remedy.ZONES: "topologySpreadConstraints over topology.kubernetes.io/zone",
    Remedy.KEEPING_BUDGET: "a PodDisruptionBudget with minAvailable 1, so that drains evict one pod after the other",
    Remedy.ALLOWING_BUDGET: "a budget that allows one disruption",
    Remedy.ONE_BUDGET: "one PodDisruptionBudget over these pods",
    Remedy.ROLLING: "strategy RollingUpdate",
    Remedy.FEWER_UNAVAILABLE: "fewer maxUnavailable than pods",
    Remedy.REPLICA: "more replicas",
    Remedy.SURGE: "maxSurge 1 of the DaemonSet (not with host ports)",
    Remedy.EXTERNAL_CLUSTER: "externalTrafficPolicy Cluster (pods then see nodes' addresses in place of clients')",
    Remedy.INTERNAL_CLUSTER: "internalTrafficPolicy Cluster (trafficDistribution PreferSameNode prefers the own node)",
    Remedy.DAEMON_SET: "a DaemonSet that surges (maxSurge 1)",
    Remedy.PRE_STOP: "a preStop hook that sleeps until no node sends to the pod, and a grace period beyond it",
    Remedy.MIN_READY: "minReadySeconds as long as a load balancer takes to find a node",
    Remedy.RETRIES: "clients that try again for longer than that",
}


class Rule(NamedTuple):
    """A row: what happens to clients, what helps (each by itself), and the sections of the specification that say so."""

    reason: str
    remedies: tuple[Remedy, ...]
    source: str

    @property
    def remedy(self) -> str:
        """All that may help, in words."""
        return any_of(WORDS[each] for each in self.remedies)


def helps_with(*remedies: Remedy) -> Helps:
    """The remedies in words that fit every Service."""
    return {each: WORDS[each] for each in remedies}


def any_of(words: Iterable[str]) -> str:
    """Such as ``this, or that``."""
    return ", or ".join(words)


#: from the worst to the least
RULES: Mapping[Cause, Rule] = {
    Cause.NO_ENDPOINT: Rule(
        "no endpoint is ready, so all clients are refused or dropped",
        (Remedy.READY,),
        "T-2",
    ),
    Cause.ALONE: Rule(
        "all ready endpoints are on one node: while their pods move, no endpoint serves",
        (Remedy.OTHER_NODES, Remedy.KEEPING_BUDGET, Remedy.PRE_STOP, Remedy.RETRIES),
        "T-2, T-2.3, CP-2.9.1",
    ),
    Cause.ROLLOUT: Rule(
        "a rollout may take all pods away at once",
        (Remedy.ROLLING, Remedy.FEWER_UNAVAILABLE, Remedy.SURGE, Remedy.REPLICA, Remedy.RETRIES),
        "T-2.3, CP-3.4.2",
    ),
    Cause.LOCAL_NODE_PORT: Rule(
        "externalTrafficPolicy Local: clients that dial a node without endpoint are dropped, and nothing tells them",
        (Remedy.EXTERNAL_CLUSTER, Remedy.DAEMON_SET, Remedy.SURGE),
        "T-2, PP-11.7",
    ),
    Cause.LOCAL_INTERNAL: Rule(
        "internalTrafficPolicy Local: clients on a node without endpoint are dropped",
        (Remedy.INTERNAL_CLUSTER, Remedy.DAEMON_SET, Remedy.SURGE),
        "T-2, T-6.3",
    ),
    Cause.LOCAL_WINDOW: Rule(
        "externalTrafficPolicy Local: the load balancer sends to a node whose last endpoint has ended until its probes have failed",
        (Remedy.PRE_STOP, Remedy.EXTERNAL_CLUSTER, Remedy.SURGE),
        "PP-11.7, FIG-3, T-2.2",
    ),
    Cause.LOCAL_RETURN: Rule(
        "externalTrafficPolicy Local: a rollout ends the old pods before the load balancer has found the nodes of the new ones",
        (Remedy.MIN_READY, Remedy.EXTERNAL_CLUSTER),
        "PP-11.7, CP-15.2, FIG-3",
    ),
    Cause.ZONE: Rule(
        "all ready endpoints are in one zone: when it is lost, no endpoint serves until pods are replaced",
        (Remedy.ZONES,),
        "CP-2.9, CP-2.9.1",
    ),
    Cause.BUDGET: Rule(
        "the eviction API refuses to evict its pods, so a drain does not end",
        (Remedy.ALLOWING_BUDGET, Remedy.REPLICA, Remedy.ONE_BUDGET, Remedy.READY),
        "Eviction of policy/v1",
    ),
    Cause.ENDS_AT_ONCE: Rule(
        "a pod that ends on SIGTERM gets new connections until kube-proxy has removed it",
        (Remedy.PRE_STOP,),
        "CP-1.2, CP-2.8, T-2.3",
    ),
}
