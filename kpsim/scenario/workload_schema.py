"""The workloads of a scenario file: sets of equal pods, how they start, are probed, end, and are placed."""

import enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kpsim.objects import LABEL_POD_INDEX, LABEL_POD_NAME
from kpsim.scenario.node_schema import HostAddress, Name, Positive
from kpsim.scenario.quantities import Delay, DurationNs, Part, exactly_one
from kpsim.units import SECOND_NS

Percent = Annotated[str, Field(pattern=r"^\d+%$")]
Count = Annotated[int, Field(ge=0)]
Replicas = Annotated[int, Field(ge=0, le=10_000)]


class ContainerPort(Part):
    container_port: Annotated[int, Field(ge=1, le=65535)]
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    host_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port of its node that a pod holds, so that no other pod with it comes there. Packets to it are the network plugin's: not modelled."""


class PlacementPolicy(enum.StrEnum):
    """``spread``: the node with the fewest pods of the workload; ``packed``: the first node takes all."""

    SPREAD = "spread"
    PACKED = "packed"


Domain = Literal["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


class TopologySpread(Part):
    """A topologySpreadConstraint over the workload's pods. Domains are those of the nodes that ``placement`` allows."""

    topology_key: Domain
    max_skew: Positive = 1
    """By how many pods a domain may be ahead of the one that has fewest."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "DoNotSchedule"
    """ScheduleAnyway: only prefer domains with few pods."""

    @model_validator(mode="after")
    def _skewed(self) -> "TopologySpread":
        if self.when_unsatisfiable == "ScheduleAnyway" and "max_skew" in self.model_fields_set:
            raise ValueError(
                "maxSkew goes with DoNotSchedule: with ScheduleAnyway the domain with fewest pods is preferred"
            )
        return self


class Placement(Part):
    """Which nodes get the pods; a node listed twice in ``nodes`` gets twice as many."""

    policy: PlacementPolicy = PlacementPolicy.SPREAD
    zones: tuple[str, ...] = ()
    nodes: tuple[Name, ...] = ()
    topology_spread: tuple[TopologySpread, ...] = ()
    anti_affinity: Annotated[tuple[Domain, ...], Field(max_length=2)] = ()
    """Required podAntiAffinity of the workload's pods to each other, by topologyKey: no new pod comes to a node or zone that has one, be it
    terminating."""


class Startup(Part):
    delay: Delay = Delay.of(SECOND_NS)
    """From the pod's creation until its application answers."""
    address: Delay | None = None
    """From the pod's creation until it has its address and its kubelet first reports it, not ready (CP-3.4.1); if left out, or if it
    would be later, when its application answers."""


class Readiness(Part):
    probe_delay: Delay = Delay.of(0)
    """From the application answering (or failing) until the kubelet has noticed (CP-2)."""
    gates: tuple[Delay, ...] = ()
    """Readiness gates: a condition each, which some controller sets this long after the pod's containers are ready for the first time.
    The pod is Ready when all of them are set (CP-2.6)."""


def _whole_seconds(value: int) -> int:
    if value % SECOND_NS:
        raise ValueError("expected whole seconds")
    return value


Seconds = Annotated[DurationNs, AfterValidator(_whole_seconds)]
AtLeastASecond = Annotated[Seconds, Field(ge=SECOND_NS)]


class Probe(Part):
    """How the kubelet asks a container. The defaults are those of the API (CP-1.2 D1, FIG-1)."""

    initial_delay_ns: Seconds = 0
    """From the start of the container until the first probe that counts."""
    period_ns: AtLeastASecond = 10 * SECOND_NS
    timeout_ns: AtLeastASecond = SECOND_NS
    """When a probe that gets no answer has failed; those that are refused fail at once."""
    success_threshold: Positive = 1
    """Passed probes in a row."""
    failure_threshold: Positive = 3
    """Failed probes in a row."""


class Probes(Part):
    """A container's probes (CP-2.1 to CP-2.6). A pod without readiness probe is ready as soon as it has started."""

    startup: Probe | None = None
    """Until it passes, the others are not sent; if it fails, the container is started again."""
    readiness: Probe | None = None
    """In place of ``readiness.probeDelay``."""
    liveness: Probe | None = None
    """If it fails, the container is started again."""

    @model_validator(mode="after")
    def _one_success(self) -> "Probes":
        if any(probe is not None and probe.success_threshold != 1 for probe in (self.startup, self.liveness)):
            raise ValueError("expected successThreshold 1 of startup and liveness probes")
        return self

    @property
    def any(self) -> bool:
        return self.liveness is not None or self.decide_readiness

    @property
    def decide_readiness(self) -> bool:
        """Whether a probe, not ``readiness.probeDelay``, says when a pod that starts is ready."""
        return self.startup is not None or self.readiness is not None


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


class DisruptionBudget(Part):
    """A PodDisruptionBudget over the workload's pods. Evictions wait for it; nothing else does."""

    min_available: Count | Percent | None = None
    max_unavailable: Count | Percent | None = None
    """Exactly one of the two: pods, or a percentage of the replicas (rounded up)."""
    unhealthy_pod_eviction_policy: Literal["IfHealthyBudget", "AlwaysAllow"] = "IfHealthyBudget"
    """Pods that are not ready may be evicted only while enough others are ready, or at any time."""

    @model_validator(mode="after")
    def _one_way(self) -> "DisruptionBudget":
        exactly_one(self, ("min_available", "max_unavailable"))
        return self


class Kind(enum.StrEnum):
    """The controller that keeps a workload's pods."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"


class PodManagement(enum.StrEnum):
    """How a StatefulSet scales: one pod after the other, or all at once. Updates are in order with both."""

    ORDERED = "OrderedReady"
    PARALLEL = "Parallel"


class StartPod(Part):
    """A pod that is there at the start."""

    name: Name
    node: Name
    ips: Annotated[tuple[HostAddress, ...], Field(max_length=2)] = ()
    """At most one of each of the cluster's families, also outside the node's pod CIDRs; free addresses of its node if left out."""
    ready: bool = True
    """False: its application does not answer, unless its node starts again."""


class Workload(Part):
    """A set of equal pods, kept at ``replicas``."""

    name: Name
    namespace: Name = "default"
    kind: Kind = Kind.DEPLOYMENT
    """A StatefulSet's pods are called web-0, web-1, …: each is replaced by one of its name, once it is gone. They also have the labels
    statefulset.kubernetes.io/pod-name and apps.kubernetes.io/pod-index. A DaemonSet has a pod on each node that ``placement`` allows."""
    pod_management_policy: PodManagement | None = None
    """Of a StatefulSet; OrderedReady if left out."""
    labels: dict[str, str] = Field(default_factory=dict)
    """The pods' labels; ``app: <name>`` if left out."""
    replicas: Replicas = 1
    """Not of a DaemonSet."""
    placement: Placement = Placement()
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    """The pods use their node's address."""
    startup: Startup = Startup()
    readiness: Readiness = Readiness()
    probes: Probes = Probes()
    min_ready_ns: DurationNs = 0
    """minReadySeconds: how long a pod has to be ready until a rollout counts it as available."""
    termination: Termination = Termination()
    disruption_budget: DisruptionBudget | None = None
    pods: Annotated[tuple[StartPod, ...], Field(max_length=10_000)] = ()
    """The pods at the start, by name, node and address. The others, up to ``replicas``, are placed as all later ones are."""

    @model_validator(mode="after")
    def _pods_fit(self) -> "Workload":
        if self.kind is not Kind.DAEMON_SET and len(self.pods) > self.replicas:
            raise ValueError(f"expected at most {self.replicas} pods, as many as replicas, got {len(self.pods)}")
        if self.host_network and any(pod.ips for pod in self.pods):
            raise ValueError("pods with hostNetwork have their node's addresses: expected no ips")
        ordinals = range(self.replicas)
        strange = [
            pod.name
            for pod in self.pods
            if self.kind is Kind.STATEFUL_SET and self.ordinal_of(pod.name) not in ordinals
        ]
        if strange:
            raise ValueError(
                f"pods of a StatefulSet are called {self.name}-0 to {self.name}-{self.replicas - 1}, not {strange[0]}"
            )
        return self

    @model_validator(mode="after")
    def _host_ports_fit(self) -> "Workload":
        for port in self.ports:
            if self.host_network and port.host_port not in (None, port.container_port):
                raise ValueError(f"with hostNetwork the hostPort of {port.container_port} is the same port")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> "Workload":
        if self.probes.readiness is not None and "probe_delay" in self.readiness.model_fields_set:
            raise ValueError("expected readiness.probeDelay or probes.readiness, not both")
        if self.pod_management_policy is not None and self.kind is not Kind.STATEFUL_SET:
            raise ValueError("podManagementPolicy goes with kind: StatefulSet")
        return self

    @model_validator(mode="after")
    def _one_on_each_node(self) -> "Workload":
        if self.kind is not Kind.DAEMON_SET:
            return self
        if "replicas" in self.model_fields_set:
            raise ValueError("a DaemonSet has a pod on each node that placement allows: expected no replicas")
        if self.placement.model_fields_set & {"policy", "topology_spread", "anti_affinity"}:
            raise ValueError("the placement of a DaemonSet has nodes and zones only, and one pod on each")
        if self.disruption_budget is not None:
            raise ValueError("no drain evicts the pods of a DaemonSet: expected no disruptionBudget")
        allowed = self.placement.nodes
        if len(set(allowed)) != len(allowed):
            raise ValueError("a DaemonSet has one pod on a node: expected no node twice in placement.nodes")
        held = [pod.node for pod in self.pods]
        if len(set(held)) != len(held):
            raise ValueError("a DaemonSet has one pod on a node: expected no node twice in pods")
        if allowed and (strange := sorted(set(held).difference(allowed))):
            raise ValueError(f"placement.nodes of the DaemonSet does not allow {strange[0]}, where pods has one")
        return self

    def shares_host_ports(self, other: "Workload") -> bool:
        """Return whether a pod of this workload and one of the other's cannot be on one node, as they hold the same host port."""
        return not self.host_ports.isdisjoint(other.host_ports)

    @property
    def host_ports(self) -> frozenset[tuple[int, str]]:
        """The ports and protocols that a pod holds on its node. The API server makes every container port of a pod on the host network one."""
        return frozenset(
            (port.host_port or port.container_port, port.protocol)
            for port in self.ports
            if self.host_network or port.host_port is not None
        )

    def ordinal_of(self, pod: str) -> int | None:
        """Return the ordinal in the name of a StatefulSet's pod; None: there is none, or it is no StatefulSet."""
        number = pod.removeprefix(f"{self.name}-")
        fits = self.kind is Kind.STATEFUL_SET and number.isdecimal() and pod == f"{self.name}-{int(number)}"
        return int(number) if fits else None

    @property
    def pod_labels(self) -> dict[str, str]:
        return self.labels or {"app": self.name}

    def labels_of(self, pod: str) -> dict[str, str]:
        """Return the labels of the pod with this name. The controller of a StatefulSet adds two by which one pod can be selected."""
        ordinal = self.ordinal_of(pod)
        own = {} if ordinal is None else {LABEL_POD_NAME: pod, LABEL_POD_INDEX: str(ordinal)}
        return {**self.pod_labels, **own}
