"""What a run leaves behind: flat records in time order. Reports and expectations read nothing else.

Times are nanoseconds since the start of the run. Names are those of Kubernetes and netfilter.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.pins import PinKind


class Fate(enum.StrEnum):
    """What became of a connection attempt or datagram, as its client sees it. Reports call it its disposition.

    ``netfilter.Disposition`` says what one node did with one packet.
    """

    DELIVERED = "delivered"  #: a running endpoint got it, and the endpoint's answer came back
    REJECTED = "rejected"  #: refused at once: ICMP error or RST
    DROPPED = "dropped"  #: the client gets no answer
    #: it reached something that does not answer for the Service (dead pod, wrong address), or was set up and broke later
    FAILED = "failed"
    MISDELIVERED = "misdelivered"  #: the answer came from a pod or process that is no endpoint of the Service


class Reason(enum.StrEnum):
    """Why a connection did not end well, or NONE. Reports call it its cause.

    ``netfilter.Cause``: why a node stopped a packet.
    """

    NONE = ""
    NO_ENDPOINTS = "no endpoints"
    NO_LOCAL_ENDPOINTS = "no local endpoints"
    SOURCE_RANGES = "source ranges"
    ENDPOINT_GONE = "endpoint gone"  #: rules or a conntrack entry led to a pod that no longer runs
    MISDELIVERED = (
        "misdelivered"  #: rules or a conntrack entry led to an application that is no endpoint of the Service
    )
    #: kube-proxy's rules left the packet alone, or refused it because no Service has its port or address (NFT-5.8)
    NOT_CAPTURED = "not captured"
    #: the flow's connection entry is older than the Service's rules, so they never saw the packet (CT-3.5)
    OLDER_THAN_SERVICE = "older than its Service"
    RATE_LIMITED = "refusal rate limited"  #: no endpoint, and Linux limits its refusals per client (K-3.4): no answer
    TABLE_FULL = "connection table full"  #: the node had no room for another connection (CT-7.2)
    NO_HAIRPIN = (
        "no hairpin"  #: a pod was led to itself, and a bridge does not send a frame back by the port it came by (K-2.6)
    )
    #: the way back to the client leads by another interface than its packet came in by (K-7.3)
    REVERSE_PATH = "reverse path filter"
    SERVER_DRAINING = "its server is draining"  #: ip_vs' scheduler gave it none of the others (IPVS-14)
    #: a rule of another program, or a chain's policy, stopped the packet
    FOREIGN_RULE = "foreign rule"
    NODE_DOWN = "node down"
    PACKET_LOST = "packet lost"  #: a link lost the client's packet or the answer to it
    NO_HEALTHY_NODE = "no healthy node"  #: the load balancer had no node in rotation
    CUT = "cut by the load balancer"  #: the load balancer ended an open connection: its node was unhealthy, or had left
    REHASHED = (
        "sent to another node"  #: a router that knows no connections sent a packet of an open one to another node
    )
    ASYMMETRIC_REPLY = "reply from another address"
    #: the node knew an open connection no more and took its packet for its own, so its kernel reset it (IPVS-12.3)
    FORGOTTEN = "forgotten"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Pin:
    """A connection entry that overrode the rules: state against rules."""

    kind: PinKind
    node: str  #: whose table holds the entry
    entry_ns: int  #: when the entry was made
    leads_to: str  #: the ``ip:port`` to which the entry sends the flow
    since_ns: int | None  #: since when the node's rules say otherwise; None: unknown
    clean_up: CleanUp


class Frontend(enum.StrEnum):
    """The kind of Service address that the client used."""

    CLUSTER_IP = "clusterIP"
    NODE_PORT = "nodePort"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "loadBalancer"


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection attempt (or UDP datagram of a flow, or request of a client with a pool).

    A long connection is one record, too: of the attempt, with the end that the connection came to. So is what a client
    tries several times: the record says what became of the last try.
    """

    at_ns: int
    traffic: str  #: name of the traffic source in the scenario
    client: str  #: the client's identity: its address before any translation
    source_ip: str  #: source address at the node that decided
    source_port: int
    frontend: Frontend
    service: str  #: ``namespace/name:port``
    protocol: str  #: TCP, UDP, SCTP
    traffic_policy: str  #: Cluster or Local, the policy that applied to this frontend
    node: str  #: where the packet met kube-proxy's rules, or the node that was off; empty if it met no node
    disposition: Fate
    cause: Reason
    endpoint: str  #: the ``ip:port`` that it was sent to; empty if none
    endpoint_node: str
    seen_source_ip: str  #: source address as the endpoint saw it
    new_flow: bool  #: nat was consulted; False: it followed a conntrack entry
    rule: str  #: text of the rule that decided, for rejects and drops
    session_affinity: bool  #: the service port has ClientIP affinity
    affinity_break: str = ""  #: why this client did not get its former endpoint; empty if it did, and at first contact
    broken_ns: int | None = None  #: when a connection that was set up broke
    syn_retries: int = (
        0  #: how often the client repeated its SYN, after 1, 3, 7, … s; the record says what became of the last
    )
    answered_by: str = ""  #: ``namespace/name`` of the pod that answered
    pin: Pin | None = None  #: the connection entry that overrode the rules, if that cost the connection
    closes_ns: int | None = None  #: when a long connection was to be closed, if it did not break; None: not a long one
    decided_ns: int | None = None  #: when its last packet to connect was sent; None: it was the first, at ``at_ns``
    tries: int = 1  #: how often the client tried, each time from another port
    reused: bool = False  #: a request over a pooled connection that was open already
    number: int = 0  #: which of its source's connections it is, from 1; those that could not be sent count, too

    @property
    def open_until_ns(self) -> int | None:
        """When a long connection was closed or broke; perhaps after the run. None: it was not a long one."""
        return self.closes_ns if self.broken_ns is None else self.broken_ns

    @property
    def connect_time_ns(self) -> int | None:
        """How long the client took to be connected. None: it was not, or used an open connection."""
        if not self.established or self.reused:
            return None
        return self.last_try_ns - self.at_ns

    @property
    def last_try_ns(self) -> int:
        """When the packet was sent of which the record says what became of it."""
        return self.at_ns if self.decided_ns is None else self.decided_ns

    @property
    def decisive_ns(self) -> int:
        """When the packet was sent that sealed its end: of an open connection that broke the one that was lost."""
        return self.last_try_ns if self.broken_ns is None else self.broken_ns

    @property
    def lost(self) -> bool:
        """Whether it did not end well."""
        return self.disposition is not Fate.DELIVERED

    @property
    def name(self) -> str:
        """Return ``SOURCE#NUMBER``, as ``kpsim run --trace`` takes it."""
        return f"{self.traffic}#{self.number}"

    @property
    def established(self) -> bool:
        """Whether the connection was set up, even if it broke later."""
        return self.disposition is Fate.DELIVERED or self.broken_ns is not None


@dataclass(frozen=True, slots=True)
class Sync:
    """One run of a node's sync loop, in one family."""

    node: str
    family: str
    start_ns: int
    end_ns: int
    full: bool
    success: bool
    requested_ns: int | None  #: time of the first request that this sync answers
    services_changed: int
    rules_nat: int  #: of kube-proxy, in the table of this name
    rules_filter: int
    rules: int = 0  #: of kube-proxy, in all tables
    rules_written: int = 0


class Cause(NamedTuple):
    """The first write of a change's way to the rules, which a controller answers with the write that nodes see (CP-1.1).

    A change that somebody wrote himself is its own cause. The oldest cause is the least.
    """

    trigger_ns: int  #: when it happened in the world (pod became ready, application ended, user patched)
    noticed_ns: int  #: when its writer knew of it; a kubelet's probes and looks take time (CP-2)
    stored_ns: int  #: when the API server stored the first write
    seen_ns: int  #: when the controller saw it
    change: str = ""  #: ``Pod shop/web-1 @ 41``; empty: no other write than the change itself


@dataclass(frozen=True, slots=True)
class Programming:
    """How one change reached one node's rules, stage by stage."""

    change: str  #: ``EndpointSlice shop/web-1 @ 42``: the object and a change number
    service: str  #: ``namespace/name``
    node: str
    family: str
    trigger_ns: int  #: when the cause happened (pod became ready, user patched)
    written_ns: int  #: when the API server stored it
    delivered_ns: int  #: when the node's informer handler saw it
    sync_start_ns: int
    programmed_ns: int  #: when the node's rules were in force
    reported_ns: int | None  #: kube-proxy's own network-programming latency sample (a duration), O-8.6
    cause: Cause | None = None  #: None: not recorded; all until ``written_ns`` then counts as one stage
    had_trigger_time: bool = True  #: False: the object says none, so kube-proxy measures nothing (CP-3.7.3)


@dataclass(frozen=True, slots=True)
class Unprogrammed:
    """A change that had not reached one node's rules when the run ended. The node's machine was on."""

    change: str
    service: str  #: ``namespace/name``
    node: str
    family: str
    trigger_ns: int
    written_ns: int
    delivered_ns: int | None = None  #: when kube-proxy had it; None: it had not
    sync_start_ns: int | None = None  #: when the sync began that had not ended; None: none had begun, or it failed


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """A load balancer's belief about a node for a service, and the truth, recorded whenever either changes."""

    at_ns: int
    service: str  #: ``namespace/name``
    node: str
    in_rotation: bool  #: the load balancer sends new connections to this node
    check_passes: bool  #: the health check node port would answer 200 now
    local_endpoints: int  #: local ready endpoints that the node's kube-proxy knows
    local_usable: int  #: local endpoints that the node's rules send Local traffic to


@dataclass(frozen=True, slots=True)
class Balancer:
    """The load balancer of a Service, as it was at the start."""

    service: str  #: ``namespace/name``
    preset: str  #: empty: none
    interval_ns: int
    unhealthy_threshold: int
    worst_window_ns: int  #: how long a node may get traffic that it cannot serve (FIG-3)


class HappeningKind(enum.StrEnum):
    """What gets a line in the log: scenario events, pod and node life, failed syncs, restarts, conntrack clean-ups."""

    ROLLOUT = "rollout"
    SCALE = "scale"
    POD_CREATED = "pod created"
    POD_UNSCHEDULABLE = "pod unschedulable"
    POD_SCHEDULED = "pod scheduled"
    POD_READY = "pod ready"
    POD_NOT_READY = "pod not ready"
    POD_CRASHED = "pod crashed"
    CONTAINER_KILLED = "container killed"
    POD_TERMINATING = "pod terminating"
    POD_FAILED = "pod failed"
    POD_GONE = "pod gone"
    NODE_DOWN = "node down"
    NODE_SHUTTING_DOWN = "node shutting down"
    NODE_LOST = "node lost"
    NODE_UP = "node up"
    NODE_ADDED = "node added"
    NODE_DELETED = "node deleted"
    NODE_LABELLED = "node labelled"
    NODE_TAINTED = "node tainted"
    NODE_UNTAINTED = "node untainted"
    NODE_CORDONED = "node cordoned"
    NODE_UNCORDONED = "node uncordoned"
    NODE_DRAINED = "node drained"
    PODS_EVICTED = "pods evicted"
    EVICTION_REFUSED = "eviction refused"
    DRAIN_DONE = "drain done"
    DRAIN_GAVE_UP = "drain gave up"
    ROLLING_UPGRADE = "rolling upgrade"
    NODE_UPGRADED = "node upgraded"
    ROLLING_UPGRADE_DONE = "rolling upgrade done"
    NODE_SET = "load balancer nodes"
    PODS_COLLECTED = "pods collected"
    PROBE_FAILS = "readiness probe fails"
    PROBE_PASSES = "readiness probe passes"
    LIVENESS_FAILS = "liveness probe fails"
    SERVICE_CREATED = "service created"
    SERVICE_PATCHED = "service patched"
    SERVICE_DELETED = "service deleted"
    PATCH_REFUSED = "patch refused"
    SLICE_CREATED = "slice created"
    SLICE_PATCHED = "slice patched"
    SLICE_DELETED = "slice deleted"
    NO_EFFECT = "event without effect"
    SLICE_SYNC_STALE = "slice sync stale"
    NAMESPACE_DELETED = "namespace deleted"
    ENDPOINTS_CREATED = "endpoints created"
    ENDPOINTS_PATCHED = "endpoints patched"
    ENDPOINTS_DELETED = "endpoints deleted"
    ENDPOINTS_REFUSED = "endpoints refused"
    ENDPOINTS_SYNC_STALE = "endpoints sync stale"
    INVALID_ADDRESS = "InvalidIPAddress"
    TOO_MANY_ADDRESSES = "TooManyAddressesToMirror"
    HINTS_ENABLED = "TopologyAwareHintsEnabled"
    HINTS_DISABLED = "TopologyAwareHintsDisabled"
    PROXY_STOPPED = "kube-proxy stopped"
    PROXY_STARTED = "kube-proxy started"
    PROXY_WARNING = "kube-proxy warning"
    SERVER_DRAINING = "server draining"
    SERVER_BACK = "draining server back"
    SERVER_DELETED = "drained server deleted"
    RULES_LOADED = "rules loaded"
    RULES_FLUSHED = "rules flushed"
    CANARY_MISSED = "canary not found"
    LOCK_HELD = "xtables lock held"
    PROXY_CRASHED = "kube-proxy exited"
    CONNTRACK_MAX = "nf_conntrack_max written"
    CONNTRACK_FILLED = "connection table filled"
    BALANCER_SLOW = "load balancer slow"
    PACKETS_LOST = "packets get lost"
    CLOCK_SKEW = "clock skew"
    SYNCS_FAIL = "syncs fail"
    SYNC_FAILED = "sync failed"
    CONNTRACK_CLEAN_UP = "conntrack clean-up"
    API_SERVER_DOWN = "API server down"
    API_SERVER_UP = "API server up"
    API_SERVER_SLOW = "API server slow"
    API_SERVER_BUSY = "API server busy"
    NODE_CUT_OFF = "node cut off"
    NODE_REACHED = "node reached again"
    NOT_EVICTED = "pods not evicted"
    WATCH_CLOSED = "watches closed"
    CONNECTION_LOST = "connection to API server lost"
    WATCH_RESUMED = "watch resumed"
    WATCH_EXPIRED = "watch too old"
    LISTED_ANEW = "listed anew"


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that gets a line in the log."""

    at_ns: int
    kind: HappeningKind
    subject: str
    detail: str = ""


API_SERVER = "API server"  #: the subject of what happens to it


@dataclass(frozen=True, slots=True)
class FaultSpell:
    """A stretch of time in which the scenario keeps something broken."""

    kind: HappeningKind
    subject: str  #: a node, the Service of a load balancer, or API_SERVER
    from_ns: int
    until_ns: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Connections that a traffic source did not attempt in its turns, for one reason."""

    traffic: str
    why: str
    connections: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class EndpointSpell:
    """A stretch of time in which an EndpointSlice lists an endpoint as ready."""

    service: str  #: ``namespace/name:port``
    endpoint: str  #: ``ip:port``
    node: str  #: empty: the slice names none
    from_ns: int
    until_ns: int | None = None  #: None: to the end of the run
    pod: str = ""  #: ``namespace/name``; empty: the slice names none
    listed: Cause | None = None  #: why the slice lists it since then; None: not recorded
    unlisted: Cause | None = None  #: why it no longer does


@dataclass(frozen=True, slots=True)
class AnswerSpell:
    """A stretch of time in which a pod's application answers, whoever knows of it."""

    pod: str  #: ``namespace/name``
    node: str
    ips: tuple[str, ...]
    from_ns: int
    until_ns: int | None = None  #: None: to the end of the run


@dataclass(frozen=True, slots=True)
class PodWrite:
    """A write of a pod's state: by its kubelet, or by who deletes it or declares it lost."""

    change: str
    pod: str  #: ``namespace/name``
    node: str  #: empty: not scheduled
    what: str  #: ``ready``, ``not ready``, ``terminating``, ``ended``, ``gone``
    cause: Cause  #: ``seen_ns`` is when it was stored: who saw it is not known here


@dataclass(frozen=True, slots=True)
class WatchWrite:
    """A write of an EndpointSlice or an Endpoints object, as the API server sends it to each of its watchers."""

    at_ns: int
    kind: str  #: ``EndpointSlice`` or ``Endpoints``
    event: str  #: ``ADDED``, ``MODIFIED``, ``DELETED``
    name: str
    service: str  #: ``namespace/name``
    endpoints: int  #: how many the object lists
    bytes: int  #: of one watch event
    proxies: int  #: kube-proxies that get it
    others: int  #: other watchers: kube-controller-manager, and those that the scenario names

    @property
    def watchers(self) -> int:
        return self.proxies + self.others

    @property
    def sent_bytes(self) -> int:
        """What all watchers together get."""
        return self.bytes * self.watchers


@dataclass(frozen=True)
class RunLog:
    """Everything that a run recorded.

    Each list is in time order; within one instant, in the declared order of the clock.
    """

    scenario: str
    seed: int
    duration_ns: int
    mode: str
    connections: list[Connection] = field(default_factory=list)
    syncs: list[Sync] = field(default_factory=list)
    programming: list[Programming] = field(default_factory=list)
    node_health: list[NodeHealth] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    description: str = ""  #: the scenario's own description
    #: what the scenario names, even if the log has no record of it: nodes, traffic sources, service ports with traffic
    nodes: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    zones: Mapping[str, str] = field(default_factory=dict)  #: node → zone; nodes without zone are left out
    endpoints: list[EndpointSpell] = field(default_factory=list)  #: in the order of their beginnings
    unprogrammed: list[Unprogrammed] = field(default_factory=list)  #: by node, family and change
    unsent: list[Unsent] = field(default_factory=list)  #: in the order of their first turns
    balancers: list[Balancer] = field(default_factory=list)  #: by Service
    faults: list[FaultSpell] = field(default_factory=list)  #: those that last, in the order of their beginnings
    answering: list[AnswerSpell] = field(default_factory=list)  #: in the order of their beginnings
    pod_writes: list[PodWrite] = field(default_factory=list)  #: those that say something new
    watched: list[WatchWrite] = field(default_factory=list)
