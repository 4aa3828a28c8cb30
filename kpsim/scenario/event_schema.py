"""The events of a scenario file: one thing that happens at a time."""

import enum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from kpsim.scenario.api_server_schema import ApiServerBusy, ApiServerDown, ApiServerSlow, CloseWatches, CutOff
from kpsim.scenario.fault_schema import (
    ClockSkew,
    CrashProxy,
    FillConntrack,
    FlushRules,
    HoldLock,
    LosePackets,
    SetConntrackMax,
    SlowLoadBalancer,
    WriteProxyConfig,
)
from kpsim.scenario.node_schema import Name, Positive
from kpsim.scenario.quantities import Delay, DurationNs, Part, exactly_one, file_name
from kpsim.scenario.service_names import ServiceName, SliceName
from kpsim.scenario.workload_schema import Count, Kind, Percent, Replicas
from kpsim.units import MILLISECOND_NS, SECOND_NS


class Rollout(Part):
    """Replace every pod of a workload by a new one, as a RollingUpdate does, or as Recreate."""

    workload: Name
    max_surge: Count | Percent = "25%"
    """Pods above the wanted number, or a percentage of it (rounded up). Of a DaemonSet: nodes that have an old and a new pod; 0."""
    max_unavailable: Count | Percent = "25%"
    """Pods that may be missing, or a percentage (rounded down; where both come to 0, one pod may be missing). Of a StatefulSet: 1.
    Of a DaemonSet: nodes without an available pod (percentages are rounded up); 1, and 0 with maxSurge."""
    partition: Count = 0
    """Of a StatefulSet: pods with a lower ordinal stay as they are."""
    recreate: bool = False
    """Of a Deployment: its strategy is Recreate, so all old pods are deleted, and new ones are made when their objects are gone."""

    def shares(self, kind: Kind) -> tuple[int | str, int | str]:
        """Return maxSurge and maxUnavailable, with the defaults of the kind of workload."""
        given = self.model_fields_set
        surge: int | str = self.max_surge
        if kind is Kind.DAEMON_SET and "max_surge" not in given:
            surge = 0
        if kind is Kind.DEPLOYMENT or "max_unavailable" in given:
            return surge, self.max_unavailable
        surges = kind is Kind.DAEMON_SET and surge not in (0, "0%")
        return surge, 0 if surges else 1

    @model_validator(mode="after")
    def _one_strategy(self) -> "Rollout":
        if self.recreate and self.model_fields_set & {"max_surge", "max_unavailable"}:
            raise ValueError("recreate replaces all pods at once: maxSurge and maxUnavailable go without it")
        return self

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
    late: bool = False
    """Probes get no answer, so that each failure takes the probe's ``timeout``; else they are refused at once."""
    lasting_ns: Annotated[DurationNs | None, Field(alias="for")] = None
    """Then the opposite; default: until another event."""


class SetLiveness(Part):
    """The liveness probe of running pods fails until their containers are started again, while they go on answering."""

    workload: Name
    count: Positive = 1
    nodes: tuple[Name, ...] = ()
    """Only pods on these nodes; default: any."""
    late: bool = False
    """As with ``readiness``."""


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


Timeout = Annotated[DurationNs, Field(ge=MILLISECOND_NS)]


class Drain(Part):
    """Cordon the node and evict its pods, as ``kubectl drain`` does: disruption budgets may make an eviction wait."""

    node: Name
    timeout_ns: Timeout | None = None
    """After this time it gives up, and the node stays cordoned; default: it goes on trying."""


class Reboot(Part):
    """The machine goes off and comes back by itself. Its pods start again with it."""

    node: Name
    takes: Delay = Delay.of(60 * SECOND_NS)
    """How long it is off."""


class RollingUpgrade(Part):
    """Node by node: cordon, drain, off for a while, back, uncordon once the Node is Ready again."""

    nodes: tuple[Name, ...] = ()
    """In this order; default: all, in the order of the file."""
    max_unavailable: Positive | Percent = 1
    """Nodes that are worked on at once, or a percentage of them (rounded down, at least one)."""
    takes: Delay = Delay.of(60 * SECOND_NS)
    """How long each machine is off."""
    drain_timeout_ns: Timeout | None = None
    """After this time a node goes off with the pods that it has left; default: the drain goes on."""
    pause_ns: DurationNs = 0
    """Between a node that is done and the next."""
    leave_load_balancers_ns: DurationNs | None = None
    """A node is labelled node.kubernetes.io/exclude-from-external-load-balancers, so that load balancers leave it out (CP-14.3), and its
    drain begins this long after. The label goes when the node is back. Default: it is not labelled."""
    replace: bool = False
    """A new machine comes back under the same name and addresses: the Node is deleted, and made anew without taints and labels."""


class NodeDown(Part):
    """The machines lose power; or with ``shutdownGrace`` they shut down, and their kubelets end the pods first."""

    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]
    shutdown_grace_ns: DurationNs | None = None
    """shutdownGracePeriod: how long the machine waits at most for its pods to end. Until they have ended they stay ready, and are not
    terminating."""


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


class SyncPart(enum.StrEnum):
    """What fails of a sync.

    ``rules``: the restore document, or the main transaction. ``staleChains``: of iptables the list of chains, so that none is deleted
    (I-13.5); of nftables their deletion, so that the sync becomes full (CP-13). ipvs mode has no such part.
    """

    RULES = "rules"
    STALE_CHAINS = "staleChains"


class FailSyncs(Part):
    """Loading the rules fails: in the next ``count`` syncs, or in every sync that starts within ``for`` a while.

    A sync that is under way at the event still succeeds. A sync that fails takes its usual time: it has taken in its
    changes, fails at its end, and is tried again in full (CP-10.2).
    """

    nodes: tuple[Name, ...] = ()
    """Default: all."""
    part: SyncPart = SyncPart.RULES
    count: Positive | None = None
    lasting_ns: Annotated[DurationNs | None, Field(alias="for")] = None

    @model_validator(mode="after")
    def _one_way(self) -> "FailSyncs":
        if (self.count is None) == (self.lasting_ns is None):
            raise ValueError("expected exactly one of count, for")
        return self


class LoadRules(Part):
    """Rules that another program loads beside kube-proxy's, without flushing any. Exactly one of ``file`` and ``rules``."""

    nodes: tuple[Name, ...] = ()
    """Default: all."""
    file: str | None = None
    """What iptables-save or ``nft list ruleset`` print, relative to the scenario file."""
    rules: str | None = None
    """The same as text."""

    @model_validator(mode="after")
    def _one_way(self) -> "LoadRules":
        exactly_one(self, ("file", "rules"))
        return self


class DeleteService(Part):
    service: ServiceName


class PatchEndpointSlice(Part):
    """A JSON merge patch on an EndpointSlice of a Service without selector; it replaces lists as a whole."""

    endpoint_slice: SliceName
    patch: dict[str, JsonValue]


class DeleteEndpointSlice(Part):
    """One slice of a Service without selector by its name, or all slices of a Service, whoever writes them."""

    endpoint_slice: SliceName | None = None
    service: ServiceName | None = None
    """Its slices at that time, as ``kubectl delete endpointslices -l kubernetes.io/service-name=NAME`` finds them."""

    @model_validator(mode="after")
    def _one_way(self) -> "DeleteEndpointSlice":
        exactly_one(self, ("endpoint_slice", "service"))
        return self


class DeleteNamespace(Part):
    """Delete a namespace with all that is in it: Services, slices, Endpoints, and pods, which get their grace. Nothing new is stored in it."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class PatchEndpoints(Part):
    """A JSON merge patch on an Endpoints object of a Service without selector; it replaces lists as a whole."""

    endpoints: SliceName
    patch: dict[str, JsonValue]


class DeleteEndpoints(Part):
    endpoints: SliceName


class ActionKind(enum.StrEnum):
    """The events of a scenario, by the field that carries them."""

    ROLLOUT = "rollout"
    SCALE = "scale"
    CRASH = "crash"
    DELETE_PODS = "delete_pods"
    NODE_DOWN = "node_down"
    NODE_UP = "node_up"
    READINESS = "readiness"
    LIVENESS = "liveness"
    TAINT_NODE = "taint_node"
    UNTAINT_NODE = "untaint_node"
    ADD_NODE = "add_node"
    DELETE_NODE = "delete_node"
    LABEL_NODE = "label_node"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"
    REBOOT = "reboot"
    ROLLING_UPGRADE = "rolling_upgrade"
    PATCH_SERVICE = "patch_service"
    CREATE_SERVICE = "create_service"
    DELETE_SERVICE = "delete_service"
    PATCH_ENDPOINT_SLICE = "patch_endpoint_slice"
    CREATE_ENDPOINT_SLICE = "create_endpoint_slice"
    DELETE_ENDPOINT_SLICE = "delete_endpoint_slice"
    DELETE_NAMESPACE = "delete_namespace"
    PATCH_ENDPOINTS = "patch_endpoints"
    CREATE_ENDPOINTS = "create_endpoints"
    DELETE_ENDPOINTS = "delete_endpoints"
    RESTART_PROXY = "restart_proxy"
    FAIL_SYNCS = "fail_syncs"
    LOAD_RULES = "load_rules"
    API_SERVER_DOWN = "api_server_down"
    API_SERVER_SLOW = "api_server_slow"
    API_SERVER_BUSY = "api_server_busy"
    CUT_OFF = "cut_off"
    CLOSE_WATCHES = "close_watches"
    FLUSH_RULES = "flush_rules"
    HOLD_LOCK = "hold_lock"
    CRASH_PROXY = "crash_proxy"
    WRITE_PROXY_CONFIG = "write_proxy_config"
    SET_CONNTRACK_MAX = "set_conntrack_max"
    FILL_CONNTRACK = "fill_conntrack"
    SLOW_LOAD_BALANCER = "slow_load_balancer"
    LOSE_PACKETS = "lose_packets"
    CLOCK_SKEW = "clock_skew"


class ScenarioEvent(Part):
    """One thing that happens ``at`` a time: exactly one of the other fields."""

    at_ns: DurationNs
    rollout: Rollout | None = None
    scale: Scale | None = None
    crash: Crash | None = None
    delete_pods: DeletePods | None = None
    node_down: NodeDown | None = None
    node_up: OnNodes | None = None
    readiness: SetReadiness | None = None
    liveness: SetLiveness | None = None
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
    drain: Drain | None = None
    reboot: Reboot | None = None
    rolling_upgrade: RollingUpgrade | None = None
    patch_service: PatchService | None = None
    create_service: dict[str, JsonValue] | None = None
    """The Service object."""
    delete_service: DeleteService | None = None
    patch_endpoint_slice: PatchEndpointSlice | None = None
    create_endpoint_slice: dict[str, JsonValue] | None = None
    """The EndpointSlice object, of a Service without selector."""
    delete_endpoint_slice: DeleteEndpointSlice | None = None
    delete_namespace: DeleteNamespace | None = None
    patch_endpoints: PatchEndpoints | None = None
    create_endpoints: dict[str, JsonValue] | None = None
    """The Endpoints object, of a Service without selector."""
    delete_endpoints: DeleteEndpoints | None = None
    restart_proxy: RestartProxy | None = None
    fail_syncs: FailSyncs | None = None
    load_rules: LoadRules | None = None
    api_server_down: ApiServerDown | None = None
    api_server_slow: ApiServerSlow | None = None
    api_server_busy: ApiServerBusy | None = None
    cut_off: CutOff | None = None
    close_watches: CloseWatches | None = None
    flush_rules: FlushRules | None = None
    hold_lock: HoldLock | None = None
    crash_proxy: CrashProxy | None = None
    write_proxy_config: WriteProxyConfig | None = None
    set_conntrack_max: SetConntrackMax | None = None
    fill_conntrack: FillConntrack | None = None
    slow_load_balancer: SlowLoadBalancer | None = None
    lose_packets: LosePackets | None = None
    clock_skew: ClockSkew | None = None

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
