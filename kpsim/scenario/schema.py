"""The scenario file (kpsim.dev/v1alpha1): the cluster, the events, the traffic, and the expectations.

It checks what one part alone decides. ``references`` checks references between parts; ``manifests`` checks Kubernetes
objects.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from kpsim.scenario.event_schema import LoadRules, ScenarioEvent
from kpsim.scenario.node_schema import HostAddress, InterfaceName, IpFamily, Name, Nodes, PodNetwork, Positive
from kpsim.scenario.quantities import Delay, DurationNs, Part
from kpsim.scenario.service_names import FrontendName, SenderName
from kpsim.scenario.workload_schema import Workload
from kpsim.units import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

API_VERSION = "kpsim.dev/v1alpha1"


class Metadata(Part):
    name: Name


# -------------------------------------------------------------------------------------------------------------- delays


class SyncCost(Part):
    """How long one run of the sync loop takes.

    ``base``, ``perRule`` for each rule that it writes, and ``perHeldRule`` for each rule of kube-proxy that the kernel then
    holds: iptables-legacy-restore exchanges whole tables, and nftables mode lists all its chains and sets (NFT-8.4).
    """

    base: Delay = Delay.of(50 * MILLISECOND_NS)
    per_rule_ns: DurationNs = 20 * MICROSECOND_NS
    per_held_rule_ns: DurationNs = 0


class NodeDelays(Part):
    """What is different on some nodes."""

    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]
    watch_delivery: Delay | None = None
    sync: SyncCost | None = None


class Delays(Part):
    """The stages between a change and the rules (CP-1.2)."""

    readiness_to_status: Delay = Delay.of(10 * MILLISECOND_NS)
    """The kubelet noticed; until its status write is sent (D2, D3)."""
    api_write: Delay = Delay.of(5 * MILLISECOND_NS)
    """Any write until the API server has it."""
    controller_watch: Delay = Delay.of(5 * MILLISECOND_NS)
    """Until the EndpointSlice controller sees a change (D4)."""
    controller_batch_ns: DurationNs = 0
    """endpointslice-updates-batch-period (D5)."""
    slice_write: Delay = Delay.of(10 * MILLISECOND_NS)
    """Each slice write of the controller, one after the other (D6, D7)."""
    watch_delivery: Delay = Delay.of(10 * MILLISECOND_NS)
    """From the API server to each node's informer (D8, D9)."""
    sync: SyncCost = SyncCost()
    """Each sync (D11)."""
    on_nodes: tuple[NodeDelays, ...] = ()
    """Other watch deliveries and syncs on some nodes; of two for one node the later counts."""
    initial_list: Delay = Delay.of(100 * MILLISECOND_NS)
    """From the start of a kube-proxy until its first lists have arrived (CP-12)."""
    pleg: Delay = Delay.of(0)
    """Until the kubelet notices that a container of a pod with ``probes`` runs, or that any container has ended. It looks once a second
    (D2), so ``{uniform: {low: 0s, high: 1s}}`` is what it takes."""
    deletion_to_kubelet: Delay = Delay.of(0)
    """From the write of a pod's deletion until its kubelet begins with the hook or SIGTERM (D2)."""
    workload_controller: Delay = Delay.of(0)
    """From a change of a pod or a workload until the workload's controllers act on it."""
    scheduler: Delay = Delay.of(0)
    """From a pod's creation until it has a node; only then does its start begin."""
    node_monitor_grace_ns: DurationNs = 50 * SECOND_NS
    """Silence of a node until its pods' Ready conditions are flipped to False (CP-2.9)."""
    unreachable_toleration_ns: DurationNs = 300 * SECOND_NS
    """From then on until the node's pods are deleted, so that they are replaced elsewhere: the pods' tolerationSeconds (CP-2.9.1)."""

    def watch_delivery_to(self, node: str) -> Delay:
        """Return the delivery delay of one node."""
        own = [special.watch_delivery for special in self.on_nodes if node in special.nodes]
        return next((delay for delay in reversed(own) if delay is not None), self.watch_delivery)

    def sync_on(self, node: str) -> SyncCost:
        """Return the sync cost of one node."""
        own = [special.sync for special in self.on_nodes if node in special.nodes]
        return next((cost for cost in reversed(own) if cost is not None), self.sync)


# ------------------------------------------------------------------------------------------------------------- traffic


MOST_CLIENTS = 254 * (256 - 113)  #: outside addresses: 203.0.113.0/24 and the networks after it, up to 203.0.255.0/24


class Origin(enum.StrEnum):
    """Where a traffic source stands."""

    PODS = "pods"
    NODES = "nodes"
    OUTSIDE = "outside"


class Via(enum.StrEnum):
    """Which address of the Service the source uses."""

    CLUSTER_IP = "clusterIP"
    NODE_PORT = "nodePort"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "loadBalancer"


class Arrivals(enum.StrEnum):
    """``constant``: evenly spaced; ``poisson``: memoryless with the same mean rate."""

    CONSTANT = "constant"
    POISSON = "poisson"


class LongConnections(Part):
    """Connections that stay open and keep sending over one flow."""

    lasts: Delay
    packet_every_ns: Annotated[DurationNs, Field(ge=MILLISECOND_NS)] = SECOND_NS


class Traffic(Part):
    """An open-loop source: it sends at its rate whatever becomes of what it sent."""

    name: Name
    sender: Annotated[SenderName, Field(alias="from")] = "outside"
    """pods, nodes or outside, or one sender by its name: pod/shop/client-1, node/node-1."""
    workload: Name | None = None
    """With ``from: pods``: the workload whose running pods send in turn; while none runs, nothing is sent."""
    nodes: tuple[Name, ...] = ()
    """With ``from: nodes``: the senders; with ``from: outside``: the nodes whose node port or route is used. Default: all. With pods and
    ``via: nodePort``: the nodes whose port they dial in turn; default: each its own node's."""
    frontend: Annotated[FrontendName, Field(alias="service")]
    """The Service, perhaps with its port: shop/web:http."""
    given_port: Annotated[Annotated[int, Field(ge=1, le=65535)] | str | None, Field(alias="port")] = None
    """Number or name of the Service port; may be left out if it has one."""
    via: Via = Via.CLUSTER_IP
    ip_family: IpFamily | None = None
    """Which of a dual-stack Service's families the clients use; default: its first."""
    per_second: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
    """New connections (UDP: datagrams) a second, over all clients of the source."""
    arrivals: Arrivals = Arrivals.CONSTANT
    start_ns: DurationNs = 0
    stop_ns: DurationNs | None = None
    """Default: the end of the run."""
    clients: Annotated[int, Field(ge=1, le=20_000)] = 1
    """Distinct clients outside, used in turn."""
    client_network: PodNetwork | None = None
    """Where the outside clients get their addresses from; 203.0.113.0/24 and on, or 2001:db8::/64, if left out."""
    nat: bool = False
    """All clients outside stand behind one address."""
    interface: InterfaceName | None = None
    """The nodes' interface: ``via: nodePort`` dials its address, and packets from outside come in by it. If left out, the node IP is
    dialled, and packets come in by the interface that has the dialled address, else by the one that leads back to the client."""
    source_ports: Annotated[int, Field(ge=0, le=28_000)] = 0
    """Source ports that each client keeps and uses in turn; 0: a fresh one for every connection."""
    long: LongConnections | None = None
    connect_timeout_ns: DurationNs | None = None
    """How long TCP clients try: they repeat a SYN that gets no answer after 1, 3, 7, 15, 31 and 63 s. Left out: one SYN."""

    address: HostAddress | None = None
    """With ``via: nodePort``: the address of a node that is dialled, whichever it has."""

    @model_validator(mode="after")
    def _sent_by(self) -> "Traffic":
        if (self.sender == Origin.PODS) != (self.workload is not None):
            raise ValueError("expected workload exactly if the traffic is from: pods")
        if self.origin is Origin.PODS and self.nodes and self.via is not Via.NODE_PORT:
            raise ValueError(
                "nodes goes with from: nodes or outside, or with via: nodePort; pods send from where they are"
            )
        if self.named is not None and self.origin is Origin.NODES and self.nodes:
            raise ValueError(f"from: {self.sender} names the node that sends: nodes goes without it")
        if self.given_port is not None and ":" in self.frontend:
            raise ValueError(f"service {self.frontend} names its port: port goes without it")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> "Traffic":
        if self.origin is Origin.OUTSIDE and self.via is Via.LOAD_BALANCER and self.nodes:
            raise ValueError("with via: loadBalancer the load balancer chooses the node: nodes goes with other ways")
        if self.origin is not Origin.OUTSIDE and (self.clients != 1 or self.nat or self.client_network):
            raise ValueError("clients, clientNetwork and nat go with from: outside")
        if self.interface is not None and self.origin is not Origin.OUTSIDE and self.via is not Via.NODE_PORT:
            raise ValueError("interface goes with from: outside, or with via: nodePort")
        if self.address is not None and self.via is not Via.NODE_PORT:
            raise ValueError("address goes with via: nodePort")
        if self.address is not None and self.origin is not Origin.NODES and self.nodes:
            raise ValueError("address says whose node port is used: nodes goes without it")
        if self.long is not None and self.source_ports:
            raise ValueError("sourcePorts goes with short connections and datagrams: an open connection keeps its port")
        if self.connect_timeout_ns is not None and self.source_ports:
            raise ValueError("connectTimeout goes with a fresh port for every connection, not with sourcePorts")
        if self.nat and self.clients * self.source_ports > 60_000:
            raise ValueError("expected clients × sourcePorts of at most 60000 behind one address")
        if self.stop_ns is not None and self.stop_ns <= self.start_ns:
            raise ValueError("expected stop to be after start")
        return self

    @property
    def origin(self) -> Origin:
        """The kind of sender."""
        return Origin({"pod": "pods", "node": "nodes"}.get(self.sender.partition("/")[0], self.sender))

    @property
    def named(self) -> str | None:
        """The one sender: ``namespace/name`` of a pod, or the name of a node. None: there are several."""
        return self.sender.partition("/")[2] or None

    @property
    def service(self) -> str:
        """The Service, with or without its namespace."""
        return self.frontend.partition(":")[0]

    @property
    def port(self) -> int | str | None:
        """Number or name of the Service port. None: the only one."""
        named = self.frontend.partition(":")[2]
        return int(named) if named.isdecimal() else named or self.given_port


class LoadBalancerSpec(Part):
    """How load balancers health-check nodes; a node starts in rotation if its check passes at the start."""

    interval_ns: Annotated[DurationNs, Field(ge=10 * MILLISECOND_NS)] = 5 * SECOND_NS
    unhealthy_threshold: Positive = 2
    healthy_threshold: Positive = 2
    node_update: Delay = Delay.of(0)
    """From the creation or deletion of a Node, or a change of its label node.kubernetes.io/exclude-from-external-load-balancers, until
    load balancers have the new set of nodes (CP-14.3)."""
    node_resync_ns: Annotated[DurationNs, Field(ge=SECOND_NS)] = 100 * SECOND_NS
    """How often the set of nodes is made anew. Only then does the autoscaler's taint take a node out of it (CP-14.3)."""


class ControllerSpec(Part):
    """How much the EndpointSlice controller does at once and in a second (CP-1.2 D6, D7)."""

    workers: Annotated[int, Field(ge=1, le=10_000)] = 5
    """concurrent-service-endpoint-syncs: Services that it works on at once."""
    qps: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """kube-api-qps: API calls that its client may send in a second."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """kube-api-burst: API calls that it may send at once after a rest."""


# ------------------------------------------------------------------------------------------------------------ document


class ScenarioSpec(Part):
    """A whole scenario file."""

    api_version: Literal["kpsim.dev/v1alpha1"]
    kind: Literal["Scenario"]
    metadata: Metadata
    description: str = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 1
    duration_ns: Annotated[DurationNs, Field(ge=1)]
    nodes: Nodes
    workloads: tuple[Workload, ...] = ()
    manifests: tuple[str, ...] = ()
    """Files with Kubernetes objects, relative to the scenario file."""
    objects: tuple[dict[str, JsonValue], ...] = ()
    """Kubernetes objects: Services, and EndpointSlices of Services without selector."""
    proxy: dict[str, JsonValue] = Field(default_factory=dict)
    """Part of a KubeProxyConfiguration; ``clusterCIDR`` is 10.180.0.0/16 unless it says otherwise."""
    beside: tuple[LoadRules, ...] = ()
    """Rules that nodes have beside kube-proxy's, from before it starts, and again after each boot."""
    icmp_rate_limit: bool = True
    """Linux answers a client's rejected packets 6 times at once and then once a second; the rest is silence (K-3.4)."""
    delays: Delays = Delays()
    controller: ControllerSpec = ControllerSpec()
    load_balancer: LoadBalancerSpec = LoadBalancerSpec()
    events: tuple[ScenarioEvent, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    expect: tuple[str, ...] = ()
    """What has to hold at the end."""

    def workload(self, name: str) -> Workload:
        return next(workload for workload in self.workloads if workload.name == name)
