"""What a proxy mode offers to the sync engine (``proxier``): its traits, and a sync that turns one kernel state into the next.

Counterpart: what the syncProxyRules functions of pkg/proxy/iptables, ipvs and nftables have in common. A backend is the memory of
one kube-proxy process, for one family. It never holds what the kernel holds: each call is handed a :class:`Programmed` and gives
back another. So a restarted process, another program's rules, a flushed table or a machine that was off are nothing special: they
are values that the next call is handed. ``table`` lists the modes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from kpsim.config import ProxierSettings, ProxyConfig
from kpsim.inputs import Json
from kpsim.kubeproxy.metrics import MetricUpdate
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.programmed import Programmed

#: renders its text when it is called: most texts are never read
Document = Callable[[], str]

#: the plans of some Services; a Service without plans is gone
Plans = Mapping[ServiceKey, tuple[ServicePlan, ...]]


@dataclass(frozen=True, slots=True)
class Traits:
    """How a mode differs from others in the eyes of the sync engine, which therefore never asks for its name."""

    #: False: every sync does everything, and none is called full (CP-10.1)
    partial_syncs: bool
    #: how long after a full sync the next one is due, given the endpoint total of the sync before (I-12.3); None: never
    full_after_ns: Callable[[ProxierSettings, int], int | None]
    #: how long the runner waits at most before it syncs without being asked (CP-9.1)
    longest_pause_ns: Callable[[ProxyConfig], int]
    #: whether the runner hears of a failed sync and tries again soon (CP-9.2; not so in ipvs mode, IPVS-1.6)
    hastens_retry: bool


@dataclass(frozen=True, slots=True)
class MachineView:
    """What a mode reads of its machine at each sync, other than what it wrote itself."""

    interface_addresses: tuple[int, ...] = ()  #: of the family; node port dispatch depends on them (I-9.3)
    #: active connections of ip_vs by ``VIP:port/PROTO/RSIP:port`` (IPVS-6.1), as far as they are known
    ipvs_connections: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What the engine asks of a backend. A full sync's ``changed`` has every Service, a partial one's those that changed."""

    full: bool
    now_ns: int
    endpoint_total: int  #: over all service ports, unused endpoints included (I-12.3)
    changed: Plans
    machine: MachineView
    refused: bool = False  #: fault injection: the tool refuses the document and changes nothing


class RuleCount(NamedTuple):
    """How many rules of a table are kube-proxy's, and how many of them a sync has written (I-15)."""

    table: str
    total: int
    last: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a backend did in one sync.

    ``documents`` are functions because a text costs a hundred times the sync that it belongs to (10,000 Services: 30 ms against
    0.3 ms), and a simulation reads none of them. Each holds the persistent values that it was made from, so it gives the same
    text whenever it is called.
    """

    success: bool
    held: Programmed  #: what the kernel holds afterwards; after a failure, too, some of the work may be done
    error: str = ""
    commands: tuple[str, ...] = ()  #: single commands before the documents
    documents: tuple[Document, ...] = ()
    rule_counts: tuple[RuleCount, ...] = ()  #: by table, in order of name
    metrics: tuple[MetricUpdate, ...] = ()  #: the mode's own; those that all modes have are the engine's
    #: what was refused for internal and external Local policy, in the mode's unit: ports (I-6, NFT-8.12) or Services (IPVS-9.2)
    no_local_endpoints: tuple[int, int] = (0, 0)

    @property
    def rules_written(self) -> int:
        """Over all tables."""
        return sum(count.last for count in self.rule_counts)


class Backend(Protocol):
    """One family's rules in one mode: what a kube-proxy process remembers of what it wrote."""

    traits: ClassVar[Traits]

    def start(self, held: Programmed) -> Programmed:
        """What the process does to the kernel when it starts, before any sync; returns what the kernel then holds."""

    def sync(self, request: SyncRequest, held: Programmed) -> Transaction:
        """Bring the kernel in line, given what it holds. A failure is a result, not an error."""

    def tick(self, now_ns: int, machine: MachineView, held: Programmed) -> Programmed:
        """What the mode does between syncs by a timer of its own (IPVS-6.2), done now; returns what the kernel then holds."""

    def save(self, held: Programmed) -> str:
        """What the mode's own tools print of the kernel state, in a form that they can load again."""

    def flush(self, held: Programmed) -> Programmed:
        """The kernel state after another program has removed everything that is this mode's."""

    def describe(self, transaction: Transaction) -> Callable[[], Mapping[str, Json]]:
        """A function that gives the mode's part of a sync's replay output, under the mode's name. Nothing is rendered before."""
