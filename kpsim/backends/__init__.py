"""What a proxy mode offers to the sync engine (``proxier``): traits, and a sync from one kernel state to the next.

Counterpart: what the syncProxyRules functions of pkg/proxy/iptables, ipvs and nftables have in common. A backend is the
memory of one kube-proxy process, for one family. The kernel's state is not in the backend: each call gets a
:class:`Programmed` and returns another. So a restarted process, another program's rules, a flushed table or a machine
that was off need no method of their own: they are values given to the next call. ``table`` lists the modes.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ClassVar, NamedTuple, Protocol

from kpsim.backends.work import Calls, Tool, no_calls
from kpsim.config import ProxierSettings, ProxyConfig
from kpsim.inputs import Json
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import RealServer, VirtualServerKey
from kpsim.kubeproxy.metrics import MetricUpdate
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.programmed import Programmed
from kpsim.valueclass import dataclass

#: renders its text when it is called, because most texts are never read
Document = Callable[[], str]

#: the plans of some Services; a Service without plans is gone
Plans = Mapping[ServiceKey, tuple[ServicePlan, ...]]


class Stage(enum.Enum):
    """A part of a sync that can fail by itself (CP-13)."""

    JUMPS = "chains and jumps"  #: what iptables' modes create one by one (I-3, IPVS-8.2); part of full syncs only
    RULES = "rules"  #: the restore document, or the main transaction
    STALE = "stale chains"  #: listing them (I-13.5), or the transaction that deletes them (NFT-8.4)


#: what fails in a sync
Refusals = frozenset[Stage]
NONE_REFUSED: Refusals = frozenset()
RULES_FAIL: Refusals = frozenset((Stage.RULES,))


@dataclass(frozen=True, slots=True)
class Canary:
    """Chains without rules by which a process notices that somebody deleted the kernel's chains (I-14)."""

    tables: tuple[str, ...]  #: in the order in which the chain is created; that of the first is looked up regularly
    missing: Callable[[Programmed], tuple[str, ...]]  #: the tables that lack the chain
    plant: Callable[[Programmed], Programmed]  #: creates the chain where it is missing


@dataclass(frozen=True, slots=True)
class Traits:
    """How a mode differs from other modes for the sync engine. The engine reads these instead of the mode's name."""

    #: False: every sync does everything, and the output does not call any of them full (CP-10.1)
    partial_syncs: bool
    #: how long after a full sync the next one is due, given the endpoint total of the sync before (I-12.3); None: never
    full_after_ns: Callable[[ProxierSettings, int], int | None]
    #: the longest time that the runner waits before it syncs without a request (CP-9.1)
    longest_pause_ns: Callable[[ProxyConfig], int]
    #: whether the runner learns of a failed sync and tries again soon (CP-9.2; not in ipvs mode, IPVS-1.6)
    hastens_retry: bool
    #: how often the mode does something by its own timer, besides syncs; None: never (IPVS-6.2)
    tick_ns: int | None = None
    tools: tuple[Tool, ...] = ()  #: what a sync calls
    reads_service_cidrs: bool = False  #: whether rules depend on ServiceCIDR objects (NFT-5.9)
    #: the Warning event on its Node with which kube-proxy starts: reason and message (IPVS-1.5); empty: none
    warning: str = ""
    schedules: bool = False  #: whether virtual servers choose endpoints, by schedulers that remember (IPVS-11)
    #: why a real kernel cannot be asked about the mode's packets; empty: it can
    unverified: str = ""
    #: protocol and port of Services whose packets the kernel treats in a way that is not modelled, and what it does
    unmodelled_ports: Mapping[tuple[str, int], str] = field(default_factory=dict)
    canary: Canary | None = None  #: how the mode notices that its chains are gone; None: it does not
    deletes_stale_chains: bool = True  #: whether syncs look for chains that nothing uses (I-13.5, NFT-8.8)
    #: the calls of a sync that wait for the xtables lock one after the other, each with what fails if it waits in vain
    locked: tuple[Refusals, ...] = ()
    #: fields of a recording's ``host`` that the mode has no use for
    unused_host_fields: frozenset[str] = frozenset()
    #: metrics that are read from the kernel's named counters when somebody asks (CP-11.1), with the counters' names
    accounting: tuple[tuple[str, str], ...] = ()


#: the connections of ip_vs to a real server of a virtual server, as they are when it is asked
IpvsConnections = Callable[[VirtualServerKey, RealServer], Counters]


def no_ipvs_connections(_: VirtualServerKey, __: RealServer) -> Counters:
    """The connections of a machine where ip_vs has none."""
    return Counters()


@dataclass(frozen=True, slots=True)
class MachineView:
    """What a mode reads from its machine at each sync, besides what it wrote itself."""

    interface_addresses: tuple[int, ...] = ()  #: of the family; node port dispatch depends on them (I-9.3)
    #: of the family, sorted: what ServiceCIDR objects say, which only nftables mode reads (O-1.4, NFT-1.10)
    service_cidrs: tuple[str, ...] = ()
    ipvs_connections: IpvsConnections = no_ipvs_connections  #: only ipvs mode asks (IPVS-6.1)


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What the engine asks of a backend. ``changed`` has all Services in a full sync, else those that changed."""

    full: bool
    now_ns: int
    endpoint_total: int  #: over all service ports, unused endpoints included (I-12.3)
    changed: Plans
    machine: MachineView
    refused: Refusals = NONE_REFUSED  #: fault injection: what fails, and then changes nothing


class RuleCount(NamedTuple):
    """How many rules of a table kube-proxy owns (``total``), and how many of them a sync wrote (``last``) (I-15)."""

    table: str
    total: int
    last: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a backend did in one sync.

    ``documents`` are functions because rendering a text costs a hundred times the sync that it belongs to (10,000
    Services: 30 ms against 0.3 ms), and a simulation reads none of the texts. Each function holds the persistent values
    that the document was made from, so it returns the same text whenever it is called.
    """

    success: bool
    held: Programmed  #: what the kernel holds afterwards; a failed sync may have done some of its work
    error: str = ""
    commands: tuple[str, ...] = ()  #: single commands before the documents
    documents: tuple[Document, ...] = ()
    rule_counts: tuple[RuleCount, ...] = ()  #: by table, in order of name
    metrics: tuple[MetricUpdate, ...] = ()  #: the mode's own metrics; the engine updates those that all modes have
    #: what was refused because of the internal and the external Local policy, in the mode's unit: ports (I-6, NFT-8.12)
    #: or Services (IPVS-9.2)
    no_local_endpoints: tuple[int, int] = (0, 0)
    became_full: bool = False  #: the sync was to be partial, and the backend made it full (NFT-8.4)
    calls: Callable[[], Calls] = no_calls  #: what it had its tools do; counted when it is called

    @property
    def rules_written(self) -> int:
        """The number of rules that the sync wrote, over all tables."""
        return sum(count.last for count in self.rule_counts)


class Backend(Protocol):
    """One family's rules in one mode: what a kube-proxy process remembers of what it wrote."""

    traits: ClassVar[Traits]

    def start(self, held: Programmed) -> Programmed:
        """Does what the process does to the kernel when it starts, before any sync.

        Returns what the kernel then holds.
        """

    def sync(self, request: SyncRequest, held: Programmed) -> Transaction:
        """Brings the kernel in line, given what it holds. A failure is reported in the transaction, not raised."""

    def tick(self, now_ns: int, machine: MachineView, held: Programmed) -> Programmed:
        """Does now what the mode does between syncs by its own timer (IPVS-6.2). Returns what the kernel then holds."""

    def save(self, held: Programmed) -> str:
        """The kernel state as the mode's own tools print it, in a form that they can load again."""

    def flush(self, held: Programmed) -> Programmed:
        """The kernel state after another program has removed everything that this mode wrote."""

    def describe(self, transaction: Transaction, machine: MachineView) -> Callable[[], Mapping[str, Json]]:
        """A function that returns the mode's part of a sync's replay output, under the mode's name.

        Nothing is rendered before the function is called. It tells of now, whenever it is called.
        """
