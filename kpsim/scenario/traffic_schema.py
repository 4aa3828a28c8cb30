"""The traffic of a scenario: who sends how often to which address of a Service, and how clients go about it."""

import enum
from typing import Annotated

from pydantic import Field, model_validator

from kpsim.scenario.node_schema import HostAddress, InterfaceName, IpFamily, Name, PodNetwork
from kpsim.scenario.quantities import Delay, DurationNs, Part
from kpsim.scenario.service_names import FrontendName, SenderName
from kpsim.units import MILLISECOND_NS, SECOND_NS

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


class Retries(Part):
    """What a client does when a try to connect, or a request, fails: it waits and tries again from another port."""

    count: Annotated[int, Field(ge=1, le=100)]
    """How often, after the first try."""
    backoff_ns: DurationNs = 100 * MILLISECOND_NS
    """The wait before the second try."""
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 2.0
    """By how much each further wait is longer."""
    max_backoff_ns: DurationNs = 10 * SECOND_NS
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """The share of each wait that is random: with 0.5 a wait is between half of it and all of it."""

    def wait_ns(self, tries: int) -> int:
        """Return the longest wait after so many tries."""
        return min(round(self.backoff_ns * self.factor ** (tries - 1)), self.max_backoff_ns)


class KeepAlive(Part):
    """A pool of connections that each client keeps open. The source sends requests over them, in turn."""

    connections: Annotated[int, Field(ge=1, le=1000)] = 1
    idle_timeout_ns: Annotated[DurationNs, Field(ge=MILLISECOND_NS)] = 90 * SECOND_NS
    """After so long without a request the client closes a connection."""
    max_age_ns: Annotated[DurationNs, Field(ge=MILLISECOND_NS)] | None = None
    """A connection of this age is closed instead of being used again. Left out: it is used as long as it works."""


class HappyEyeballs(Part):
    """Clients of a dual-stack Service try one family, and the other if the first does not answer in time (RFC 8305)."""

    delay_ns: Annotated[DurationNs, Field(ge=MILLISECOND_NS)] = 250 * MILLISECOND_NS
    """How long the first family has; a refusal ends the wait."""


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
    retries: Retries | None = None
    keep_alive: KeepAlive | None = None
    happy_eyeballs: HappyEyeballs | None = None
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
        return self

    @model_validator(mode="after")
    def _of_clients(self) -> "Traffic":
        if self.long is not None and self.source_ports:
            raise ValueError("sourcePorts goes with short connections and datagrams: an open connection keeps its port")
        if self.connect_timeout_ns is not None and self.source_ports:
            raise ValueError("connectTimeout goes with a fresh port for every connection, not with sourcePorts")
        if (self.retries or self.keep_alive or self.happy_eyeballs) and self.source_ports:
            raise ValueError("retries, keepAlive and happyEyeballs go with fresh ports, not with sourcePorts")
        if self.retries is not None and self.connect_timeout_ns is None:
            raise ValueError("retries goes with connectTimeout: else a try without answer never ends")
        if self.keep_alive is not None and self.long is not None:
            raise ValueError("expected long or keepAlive, not both")
        if self.happy_eyeballs is not None and (self.client_network is not None or self.address is not None):
            raise ValueError("happyEyeballs goes with both families: clientNetwork and address are of one")
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
