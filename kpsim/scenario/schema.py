"""The scenario file (kpsim.dev/v1alpha1): the cluster, the events, the traffic, and the expectations.

It checks what one part alone decides. ``references`` checks references between parts; ``manifests`` checks Kubernetes
objects.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from kpsim.scenario.node_schema import HostAddress, InterfaceName, IpFamily, Name, Nodes, PodNetwork, Positive
from kpsim.scenario.quantities import Delay, DurationNs, Part, exactly_one, file_name
from kpsim.units import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

API_VERSION = "kpsim.dev/v1alpha1"

ServiceName = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
SliceName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=320)
]
Percent = Annotated[str, Field(pattern=r"^\d+%$")]
Count = Annotated[int, Field(ge=0)]
Replicas = Annotated[int, Field(ge=0, le=10_000)]


def qualified(service: str) -> str:
    """Return ``namespace/name`` of a Service or slice that is written with or without its namespace."""
    return service if "/" in service else f"default/{service}"


class Metadata(Part):
    name: Name


# ------------------------------------------------------------------------------------------------------------- cluster


class ContainerPort(Part):
    container_port: Annotated[int, Field(ge=1, le=65535)]
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class PlacementPolicy(enum.StrEnum):
    """``spread``: the node with the fewest pods of the workload; ``packed``: the first node takes all."""

    SPREAD = "spread"
    PACKED = "packed"


class Placement(Part):
    """Which nodes get the pods; a node listed twice in ``nodes`` gets twice as many."""

    policy: PlacementPolicy = PlacementPolicy.SPREAD
    zones: tuple[str, ...] = ()
    nodes: tuple[Name, ...] = ()


class Startup(Part):
    delay: Delay = Delay.of(SECOND_NS)
    """From the pod's creation until its application answers."""
    address: Delay | None = None
    """From the pod's creation until it has its address and its kubelet first reports it, not ready (CP-3.4.1); if left out, or if it
    would be later, when its application answers."""


class Readiness(Part):
    probe_delay: Delay = Delay.of(0)
    """From the application answering (or failing) until the kubelet has noticed (CP-2)."""


class Termination(Part):
    """What happens from the deletion of a pod on (CP-2.8)."""

    pre_stop: Delay = Delay.of(0)
    """How long the preStop hook runs before SIGTERM."""
    grace_ns: DurationNs = 30 * SECOND_NS
    """terminationGracePeriodSeconds: counted from the deletion, preStop included."""
    serves_during_pre_stop: bool = True
    """Whether the application goes on answering while the hook runs."""
    after_sigterm: Delay = Delay.of(0)
    """How long the application goes on answering after SIGTERM before it exits."""
    unready_after_sigterm: Delay | None = None
    """If given, readiness goes false this long after SIGTERM (the endpoint is then no longer serving)."""


class Workload(Part):
    """A set of equal pods, kept at ``replicas`` like a Deployment."""

    name: Name
    namespace: Name = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    """The pods' labels; ``app: <name>`` if left out."""
    replicas: Replicas = 1
    placement: Placement = Placement()
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    """The pods use their node's address."""
    startup: Startup = Startup()
    readiness: Readiness = Readiness()
    termination: Termination = Termination()

    @property
    def pod_labels(self) -> dict[str, str]:
        return self.labels or {"app": self.name}


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


# -------------------------------------------------------------------------------------------------------------- events


class Rollout(Part):
    """Replace every pod of a workload by a new one, as a Deployment's RollingUpdate does."""

    workload: Name
    max_surge: Count | Percent = "25%"
    """Pods above the wanted number, or a percentage of it (rounded up)."""
    max_unavailable: Count | Percent = "25%"
    """Pods that may be missing, or a percentage (rounded down; where both come to 0, one pod may be missing)."""

    @model_validator(mode="after")
    def _moves(self) -> "Rollout":
        surge, unavailable = (int(str(share).removesuffix("%")) for share in (self.max_surge, self.max_unavailable))
        if surge == unavailable == 0:
            raise ValueError("expected maxUnavailable above 0 when maxSurge is 0")
        if isinstance(self.max_unavailable, str) and unavailable > 100:
            raise ValueError("expected maxUnavailable of at most 100%")
        return self


class Scale(Part):
    workload: Name
    replicas: Replicas


class Crash(Part):
    """The application of running pods dies at once; its container restarts in place and answers after the startup delay."""

    workload: Name
    count: Positive = 1
    nodes: tuple[Name, ...] = ()
    """Only pods on these nodes; default: any."""
    restarts: bool = True
    """False: it stays down."""


class DeletePods(Part):
    """Delete pods of a workload; the workload replaces them."""

    workload: Name
    count: Positive = 1
    nodes: tuple[Name, ...] = ()
    force: bool = False
    """Without any grace: application and API object vanish at once."""


class SetReadiness(Part):
    """The readiness probe of running pods fails, or passes again, while their applications go on answering."""

    workload: Name
    count: Positive = 1
    nodes: tuple[Name, ...] = ()
    """Only pods on these nodes; default: any."""
    ready: bool = False
    lasting_ns: Annotated[DurationNs | None, Field(alias="for")] = None
    """Then the opposite; default: until another event."""


class OnNode(Part):
    node: Name


class TaintNode(Part):
    """A taint on a Node. kube-proxy's /healthz fails with the key ToBeDeletedByClusterAutoscaler (CP-14.2)."""

    node: Name
    key: Annotated[
        str,
        Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=316),
    ]
    effect: Literal["NoSchedule", "NoExecute"] = "NoSchedule"
    """NoSchedule: no new pod is placed there; NoExecute: its pods are deleted, too, as none of them tolerates taints."""


class UntaintNode(Part):
    node: Name
    key: str


class LabelNode(Part):
    """Labels that a Node gets; null removes one. kube-proxy and the slice controller read the zone (T-5.1, CP-3.4.3)."""

    node: Name
    labels: Annotated[dict[str, str | None], Field(min_length=1)]


class OnNodes(Part):
    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]


class PatchService(Part):
    """A JSON merge patch on a Service, status included."""

    service: ServiceName
    patch: dict[str, JsonValue]


class RestartProxy(Part):
    """kube-proxy stops and comes back; its rules stay in force meanwhile (CP-12.1)."""

    nodes: tuple[Name, ...] = ()
    """Default: all."""
    down_ns: DurationNs = 0


class FailSyncs(Part):
    """Loading the rules fails: in the next ``count`` syncs, or in every sync that starts within ``for`` a while.

    A sync that is under way at the event still succeeds. A sync that fails takes its usual time: it has taken in its
    changes, fails at its end, and is tried again in full (CP-10.2).
    """

    nodes: tuple[Name, ...] = ()
    """Default: all."""
    count: Positive | None = None
    lasting_ns: Annotated[DurationNs | None, Field(alias="for")] = None

    @model_validator(mode="after")
    def _one_way(self) -> "FailSyncs":
        if (self.count is None) == (self.lasting_ns is None):
            raise ValueError("expected exactly one of count, for")
        return self


class DeleteService(Part):
    service: ServiceName


class PatchEndpointSlice(Part):
    """A JSON merge patch on an EndpointSlice of a Service without selector; it replaces lists as a whole."""

    endpoint_slice: SliceName
    patch: dict[str, JsonValue]


class DeleteEndpointSlice(Part):
    endpoint_slice: SliceName


class ActionKind(enum.StrEnum):
    """The events of a scenario, by the field that carries them."""

    ROLLOUT = "rollout"
    SCALE = "scale"
    CRASH = "crash"
    DELETE_PODS = "delete_pods"
    NODE_DOWN = "node_down"
    NODE_UP = "node_up"
    READINESS = "readiness"
    TAINT_NODE = "taint_node"
    UNTAINT_NODE = "untaint_node"
    ADD_NODE = "add_node"
    DELETE_NODE = "delete_node"
    LABEL_NODE = "label_node"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"
    PATCH_SERVICE = "patch_service"
    CREATE_SERVICE = "create_service"
    DELETE_SERVICE = "delete_service"
    PATCH_ENDPOINT_SLICE = "patch_endpoint_slice"
    CREATE_ENDPOINT_SLICE = "create_endpoint_slice"
    DELETE_ENDPOINT_SLICE = "delete_endpoint_slice"
    RESTART_PROXY = "restart_proxy"
    FAIL_SYNCS = "fail_syncs"


class ScenarioEvent(Part):
    """One thing that happens ``at`` a time: exactly one of the other fields."""

    at_ns: DurationNs
    rollout: Rollout | None = None
    scale: Scale | None = None
    crash: Crash | None = None
    delete_pods: DeletePods | None = None
    node_down: OnNodes | None = None
    node_up: OnNodes | None = None
    readiness: SetReadiness | None = None
    taint_node: TaintNode | None = None
    untaint_node: UntaintNode | None = None
    add_node: OnNode | None = None
    """The node joins the cluster. One that joins before it is deleted is not there at the start."""
    delete_node: OnNode | None = None
    """The Node object is deleted. The machine runs on; its pods are deleted after a while."""
    label_node: LabelNode | None = None
    cordon: OnNode | None = None
    """No new pod is placed on the node."""
    uncordon: OnNode | None = None
    drain: OnNode | None = None
    """Cordon the node and delete its pods, each with its grace; their workloads replace them elsewhere."""
    patch_service: PatchService | None = None
    create_service: dict[str, JsonValue] | None = None
    """The Service object."""
    delete_service: DeleteService | None = None
    patch_endpoint_slice: PatchEndpointSlice | None = None
    create_endpoint_slice: dict[str, JsonValue] | None = None
    """The EndpointSlice object, of a Service without selector."""
    delete_endpoint_slice: DeleteEndpointSlice | None = None
    restart_proxy: RestartProxy | None = None
    fail_syncs: FailSyncs | None = None

    @model_validator(mode="after")
    def _one_action(self) -> "ScenarioEvent":
        exactly_one(self, tuple(ActionKind))
        return self

    @property
    def kind(self) -> ActionKind:
        return ActionKind(exactly_one(self, tuple(ActionKind)))

    @property
    def kind_in_file(self) -> str:
        """The field that carries the event, as it is written in the file."""
        return file_name(self.kind)


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
    origin: Annotated[Origin, Field(alias="from")] = Origin.OUTSIDE
    workload: Name | None = None
    """With ``from: pods``: the workload whose running pods send in turn; while none runs, nothing is sent."""
    nodes: tuple[Name, ...] = ()
    """With ``from: nodes``: the senders; with ``from: outside``: the nodes whose node port or route is used. Default: all."""
    service: ServiceName
    port: Annotated[int, Field(ge=1, le=65535)] | str | None = None
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
    def _fitting(self) -> "Traffic":
        if (self.origin is Origin.PODS) != (self.workload is not None):
            raise ValueError("expected workload exactly if the traffic is from: pods")
        if self.origin is Origin.PODS and self.nodes:
            raise ValueError("nodes goes with from: nodes or outside; pods send from where they are")
        if self.origin is Origin.OUTSIDE and self.via is Via.LOAD_BALANCER and self.nodes:
            raise ValueError("with via: loadBalancer the load balancer chooses the node: nodes goes with other ways")
        if self.origin is not Origin.OUTSIDE and (self.clients != 1 or self.nat or self.client_network):
            raise ValueError("clients, clientNetwork and nat go with from: outside")
        if self.interface is not None and self.origin is not Origin.OUTSIDE and self.via is not Via.NODE_PORT:
            raise ValueError("interface goes with from: outside, or with via: nodePort")
        if self.address is not None and self.via is not Via.NODE_PORT:
            raise ValueError("address goes with via: nodePort")
        if self.address is not None and self.origin is Origin.OUTSIDE and self.nodes:
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


class LoadBalancerSpec(Part):
    """How load balancers health-check nodes; a node starts in rotation if its check passes at the start."""

    interval_ns: Annotated[DurationNs, Field(ge=10 * MILLISECOND_NS)] = 5 * SECOND_NS
    unhealthy_threshold: Positive = 2
    healthy_threshold: Positive = 2


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
