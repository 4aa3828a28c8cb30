"""The scenario file (kpsim.dev/v1alpha1): the cluster, the events, the traffic, and the expectations.

It checks what one part alone decides. ``references`` checks references between parts; ``manifests`` checks Kubernetes
objects.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from kpsim.apisizes import ETCD_REQUEST_LIMIT
from kpsim.lab.tools.variants import Variant
from kpsim.scenario.delay_presets import DelayPreset, preset_delays
from kpsim.scenario.event_schema import LoadRules, ScenarioEvent
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.scenario.node_schema import Name, Nodes
from kpsim.scenario.quantities import Delay, DurationNs, Part
from kpsim.scenario.traffic_schema import Traffic
from kpsim.scenario.workload_schema import Workload
from kpsim.units import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

API_VERSION = "kpsim.dev/v1alpha1"


class Metadata(Part):
    name: Name


# -------------------------------------------------------------------------------------------------------------- delays


class SyncCost(Part):
    """How long one run of the sync loop takes.

    ``base``, ``perRule`` for each rule that it writes, and ``perHeldRule`` for each rule of kube-proxy that the kernel then
    holds: iptables-legacy-restore exchanges whole tables, and nftables mode lists all its chains and sets (NFT-8.4). With
    ``costs`` a sync takes what its tools take, and of the other fields what is given.
    """

    base: Delay = Delay.of(50 * MILLISECOND_NS)
    per_rule_ns: DurationNs = 20 * MICROSECOND_NS
    per_held_rule_ns: DurationNs = 0
    costs: Annotated[str, Field(min_length=1)] | None = None
    """What the tools cost on some machine: the name of costs that kpsim has, or a file that ``kpsim calibrate`` wrote."""
    iptables: Variant | None = None
    """Which iptables kube-proxy calls, if ``costs`` tell them apart: ``nft`` or ``legacy``."""

    @model_validator(mode="after")
    def _of_costs(self) -> "SyncCost":
        if self.costs is None:
            if self.iptables is not None:
                raise ValueError("expected costs beside iptables, which says whose costs count")
            return self
        nothing = {"base": Delay.of(0), "per_rule_ns": 0}
        return self.model_copy(update={n: value for n, value in nothing.items() if n not in self.model_fields_set})


class NodeDelays(Part):
    """What is different on some nodes."""

    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]
    watch_delivery: Delay | None = None
    sync: SyncCost | None = None


class Delays(Part):
    """The stages between a change and the rules (CP-1.2)."""

    preset: DelayPreset | None = None
    """``typical``: how long kubelets, controllers and the scheduler take as a rule; fields that are given override it. Left out: no time."""
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

    @model_validator(mode="after")
    def _of_preset(self) -> "Delays":
        if self.preset is None:
            return self
        typical = {name: Delay.model_validate(value) for name, value in preset_delays(self.preset).items()}
        return self.model_copy(update={n: delay for n, delay in typical.items() if n not in self.model_fields_set})

    def watch_delivery_to(self, node: str) -> Delay:
        """Return the delivery delay of one node."""
        own = [special.watch_delivery for special in self.on_nodes if node in special.nodes]
        return next((delay for delay in reversed(own) if delay is not None), self.watch_delivery)

    def sync_on(self, node: str) -> SyncCost:
        """Return the sync cost of one node."""
        own = [special.sync for special in self.on_nodes if node in special.nodes]
        return next((cost for cost in reversed(own) if cost is not None), self.sync)


class ControllerSpec(Part):
    """How much the EndpointSlice controller does at once and in a second (CP-1.2 D6, D7)."""

    workers: Annotated[int, Field(ge=1, le=10_000)] = 5
    """concurrent-service-endpoint-syncs: Services that it works on at once."""
    qps: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """kube-api-qps: API calls that its client may send in a second."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """kube-api-burst: API calls that it may send at once after a rest."""
    max_endpoints_per_slice: Annotated[int, Field(ge=1, le=1000)] = 100
    """max-endpoints-per-slice: endpoints that a slice holds at most."""


class RunnerKind(enum.StrEnum):
    """What limits how often kube-proxy synchronises.

    ``boundedFrequency``: of 1.34 and later; two syncs are never closer than minSyncPeriod (CP-9.2). ``tokenBucket``: of 1.33
    and before; after a rest two syncs may follow back to back (CP-9.7).
    """

    BOUNDED_FREQUENCY = "boundedFrequency"
    TOKEN_BUCKET = "tokenBucket"


class KubeProxySpec(Part):
    """What differs between kube-proxies beside their configuration."""

    runner: RunnerKind = RunnerKind.BOUNDED_FREQUENCY
    watch_duration: Delay | None = None
    """How long a watch lasts until the API server ends it; client-go asks for ``{uniform: {low: 300s, high: 600s}}`` (CP-5.6). A watch begins
    again at once where it was, so only changes on their way are late. None is shorter than 1 s. Default: watches do not end by themselves."""
    synced_poll_ns: DurationNs = 0
    """How often kube-proxy looks whether its first lists are there: every 100 ms in truth (CP-6.7). Default: at once."""


class EndpointsSpec(Part):
    """The older Endpoints objects, one for each Service with selector, beside its EndpointSlices (CP-4). kube-proxy reads none of them."""

    written: bool = False
    """Their controller writes them; its workers, qps and burst are those of ``controller``, each write takes ``delays.sliceWrite``."""
    truncated: bool = True
    """At 1,000 addresses (CP-4.2). False: with all, as before Kubernetes 1.22."""
    batch_period_ns: DurationNs = 0
    """endpoint-updates-batch-period."""
    request_limit: Annotated[int, Field(ge=1024, le=1 << 30)] = ETCD_REQUEST_LIMIT
    """max-request-bytes of etcd: a larger object is refused, and everybody keeps the former."""


class WatchersSpec(Part):
    """Who gets each write of EndpointSlices and Endpoints, for the figures of watch traffic. Nothing else depends on it."""

    kube_proxies: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    """kube-proxies that watch EndpointSlices; default: those of the scenario that run. So a run with few nodes counts for many."""
    endpoint_slices: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Others that watch EndpointSlices, beside kube-controller-manager: ingress controllers, DNS servers, meshes."""
    endpoints: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Others that watch Endpoints, beside kube-controller-manager; every kube-proxy did before Kubernetes 1.19."""


class OtherServices(Part):
    """Services that nobody calls, but for which kube-proxy writes rules: they make a cluster large."""

    count: Annotated[int, Field(ge=1, le=50_000)]
    """How many, each with one TCP port and a cluster IP in 172.31.0.0/16 or fd00:172:31::/48, in the namespace ``others``."""
    endpoints: Annotated[int, Field(ge=0, le=100)] = 2
    """How many endpoints each of them has."""


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
    """Kubernetes objects: Services, and EndpointSlices and Endpoints of Services without selector."""
    other_services: OtherServices | None = None
    """Services beside those of ``objects``, which cost kube-proxy time and are not called."""
    proxy: dict[str, JsonValue] = Field(default_factory=dict)
    """Part of a KubeProxyConfiguration; ``clusterCIDR`` is 10.180.0.0/16 unless it says otherwise."""
    kube_proxy: KubeProxySpec = KubeProxySpec()
    beside: tuple[LoadRules, ...] = ()
    """Rules that nodes have beside kube-proxy's, from before it starts, and again after each boot."""
    icmp_rate_limit: bool = True
    """Linux answers a client's rejected packets 6 times at once and then once a second; the rest is silence (K-3.4)."""
    delays: Delays = Delays()
    controller: ControllerSpec = ControllerSpec()
    endpoints: EndpointsSpec = EndpointsSpec()
    watchers: WatchersSpec = WatchersSpec()
    load_balancer: LoadBalancerSpec = LoadBalancerSpec()
    events: tuple[ScenarioEvent, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    expect: tuple[str, ...] = ()
    """What has to hold at the end."""

    def workload(self, name: str) -> Workload:
        return next(workload for workload in self.workloads if workload.name == name)
