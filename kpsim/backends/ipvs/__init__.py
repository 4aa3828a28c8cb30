"""The ipvs backend: turns service plans into virtual servers, ipsets and iptables rules (spec 05).

Counterpart: pkg/proxy/ipvs. Every sync does everything, in stages that take effect one after the other. A stage that
fails ends the sync, and what the stages before it did stays done (IPVS-9). ``proxier`` decides when a sync runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

from kpsim.addresses import Family, parse_network
from kpsim.backends import MachineView, RuleCount, Stage, SyncRequest, Traits, Transaction
from kpsim.backends.iptables.document import kube_proxy_text
from kpsim.backends.iptables.jumps import ensure_chain, ensure_jump
from kpsim.backends.iptables.tables import RestoreDocument, Tables, without_kube_proxy
from kpsim.backends.ipvs import rules
from kpsim.backends.ipvs.document import (
    addresses_json,
    ipsets_json,
    name_of,
    restore_document,
    saved_text,
    servers_json,
)
from kpsim.backends.ipvs.frontends import (
    DEFAULT_SCHEDULER,
    Frontend,
    NodeAddresses,
    PortFrontends,
    node_addresses,
    write_frontends,
)
from kpsim.backends.ipvs.graceful import DrainingServers
from kpsim.backends.ipvs.ipsets import Contents, Entry, contents_of, entries_of, with_contents, with_sets
from kpsim.backends.ipvs.rules import Rules, write_rules
from kpsim.backends.ipvs.servers import (
    Balancing,
    device_addresses,
    without_unwanted_addresses,
    without_unwanted_servers,
)
from kpsim.backends.ipvs.work import calls_of
from kpsim.backends.leftovers import without_nftables
from kpsim.backends.work import Tool
from kpsim.config import ProxierSettings, ProxyConfig
from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.ipvs.schedulers import SCHEDULERS
from kpsim.ipvs.servers import UNMODELLED
from kpsim.ipvs.states import Timeouts
from kpsim.kubeproxy.metrics import MetricUpdate
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.programmed import Programmed
from kpsim.units import SECOND_NS

#: how often the list of draining servers is looked through, besides the look at a sync (IPVS-6.2)
GRACEFUL_TICK_NS = 60 * SECOND_NS


def _longest_pause_ns(config: ProxyConfig) -> int:
    """Everything is brought in line at least once in a syncPeriod (IPVS-1.2)."""
    return config.sync_period_ns


def _never_full(_: ProxierSettings, __: int) -> None:
    return None


def _timeouts(config: ProxyConfig, before: Timeouts) -> Timeouts:
    """The timeouts of ip_vs once kube-proxy has started: in whole seconds, and a zero leaves the kernel's (IPVS-2.2)."""
    given = config.ipvs_tcp_timeout_ns, config.ipvs_tcp_fin_timeout_ns, config.ipvs_udp_timeout_ns
    return Timeouts(*(each // SECOND_NS or old for each, old in zip(given, before, strict=True)))


@dataclass(frozen=True, slots=True)
class Failed:
    """A stage of a sync that failed: what the kernel holds then, and why. ``restored``: iptables-restore failed."""

    held: Programmed
    reason: str
    restored: bool = False


class _Written(NamedTuple):
    """What a service port wants with these addresses of the node, and its entries in the ipsets."""

    addresses: NodeAddresses
    port: PortFrontends
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class _Wanted:
    """What one sync is to bring about."""

    family: Family
    ports: tuple[PortFrontends, ...]
    contents: Contents
    rules: Rules

    @cached_property
    def frontends(self) -> tuple[Frontend, ...]:
        return tuple(frontend for port in self.ports for frontend in port.frontends)

    @cached_property
    def document(self) -> RestoreDocument:
        return restore_document(self.family, self.rules)

    @property
    def rule_counts(self) -> tuple[RuleCount, ...]:
        """Every sync writes all rules."""
        counted = (("filter", len(self.rules.filter)), ("nat", len(self.rules.nat)))
        return tuple(RuleCount(table, count, count) for table, count in counted)

    @property
    def no_local_endpoints(self) -> tuple[int, int]:
        """How many Services, not ports, lack local endpoints, by the internal and by the external policy (IPVS-9.2)."""
        internal, external = (
            len({port.plan.name.service for port in self.ports if port.no_local[policy]}) for policy in range(2)
        )
        return internal, external


class IpvsBackend:
    """What one family's kube-proxy process in ipvs mode remembers: which real servers it drains, and little else."""

    traits: ClassVar[Traits] = Traits(
        partial_syncs=False,
        full_after_ns=_never_full,
        longest_pause_ns=_longest_pause_ns,
        hastens_retry=False,
        tick_ns=GRACEFUL_TICK_NS,
        warning=(
            "IPVSDeprecation: The ipvs proxier is now deprecated and may be removed in a future release. "
            "Please use 'nftables' instead."
        ),
        schedules=True,
        deletes_stale_chains=False,
        locked=(frozenset((Stage.JUMPS,)), frozenset((Stage.RULES,))),  # the first is only logged (IPVS-9)
        unverified="ip_vs decides what becomes of its packets, and the lab has no kernel with ip_vs",
        unmodelled_ports=UNMODELLED,
        tools=(Tool.IPTABLES, Tool.IPSET, Tool.IP_VS),
        unused_host_fields=frozenset(("nfacct", "serviceCIDRs", "largeClusterEndpoints", "forceFullSync")),
    )

    def __init__(self, settings: ProxierSettings) -> None:
        scheduler = settings.config.ipvs_scheduler or DEFAULT_SCHEDULER
        if scheduler not in SCHEDULERS:
            known = ", ".join(SCHEDULERS)
            raise InputError(
                f"ipvs.scheduler: the kernel has no scheduler {scheduler!r}, so kube-proxy does not start; it has {known}"
            )
        self.settings = settings
        self._draining = DrainingServers()
        self._synced_before = False
        self._written: dict[ServicePortName, _Written] = {}
        excluded = map(parse_network, settings.config.ipvs_exclude_cidrs)
        self._excluded = [network for network in excluded if network and network.family is settings.family]

    def start(self, held: Programmed) -> Programmed:
        """Removes what nftables mode left behind (what iptables mode left stays, CFG-6), and sets ip_vs' timeouts."""
        return replace(without_nftables(held), ipvs_timeouts=_timeouts(self.settings.config, held.ipvs_timeouts))

    def tick(self, now_ns: int, machine: MachineView, held: Programmed) -> Programmed:
        """Looks once through the list of draining servers (IPVS-6.2)."""
        left = self._draining.pass_over(held.virtual_servers, machine.ipvs_connections)
        return replace(held, virtual_servers=left)

    def save(self, held: Programmed) -> str:
        return saved_text(held)

    def flush(self, held: Programmed) -> Programmed:
        return replace(held, ruleset=without_kube_proxy(held.ruleset))

    def describe(self, transaction: Transaction, machine: MachineView) -> Callable[[], Mapping[str, Json]]:
        held, connections = transaction.held, machine.ipvs_connections
        listed = [name_of(held.family, *each) for each in self._draining.listed()]
        servers = servers_json(held, connections)

        def render() -> Mapping[str, Json]:
            return {
                self.settings.config.mode: {
                    "virtualServers": servers,
                    "ipsets": ipsets_json(held),
                    "boundAddresses": addresses_json(held),
                    "gracefulTerminating": sorted(listed),
                    "iptables": {
                        "restore": [document() for document in transaction.documents],
                        "save": kube_proxy_text(held.ruleset),
                    },
                }
            }

        return render

    def sync(self, request: SyncRequest, held: Programmed) -> Transaction:
        """Does one sync, stage by stage, until one fails (IPVS-9)."""
        wanted = self._wanted(request, held)
        first, self._synced_before = not self._synced_before, True
        balancing = Balancing(self._draining, request.machine.ipvs_connections, first=first)
        tables, before = Tables(held.ruleset), held
        jumps_fail = Stage.JUMPS in request.refused
        commands = () if jumps_fail else _ensure_chains_and_jumps(tables, held.family)
        held = replace(held, ruleset=tables.ruleset)
        stages: tuple[Callable[[Programmed], Programmed | Failed], ...] = (
            _create_ipsets,
            lambda held: balancing.serve(held, wanted.frontends),
            lambda held: replace(held, ipsets=with_contents(held.ipsets, held.family, wanted.contents)),
            lambda held: _restore(held, wanted.document, refused=Stage.RULES in request.refused),
            lambda held: without_unwanted_addresses(held, wanted.frontends),
            lambda held: without_unwanted_servers(held, wanted.frontends, self._excluded),
        )
        failed: Failed | None = None
        for stage in stages:
            after = stage(held)
            if isinstance(after, Failed):
                held, failed = after.held, after
                break
            held = after
        return Transaction(
            success=failed is None,
            held=held,
            error="" if failed is None else failed.reason,
            commands=commands,
            documents=(lambda: wanted.document.text,) if failed is None or failed.restored else (),
            rule_counts=wanted.rule_counts,
            metrics=self._metrics(failed),
            no_local_endpoints=wanted.no_local_endpoints,
            calls=lambda: calls_of(wanted.document, wanted.rule_counts, before, held),
        )

    def _wanted(self, request: SyncRequest, held: Programmed) -> _Wanted:
        of_device = tuple(device_addresses(held))
        addresses = node_addresses(self.settings, request.machine.interface_addresses, of_device)
        plans = sorted((plan for plans in request.changed.values() for plan in plans), key=lambda plan: plan.name)
        self._written = {plan.name: self._port(plan, addresses) for plan in plans}
        ports = tuple(written.port for written in self._written.values())
        contents = contents_of(entry for written in self._written.values() for entry in written.entries)
        return _Wanted(self.settings.family, ports, contents, write_rules(self.settings, ports, contents.keys()))

    def _port(self, plan: ServicePlan, addresses: NodeAddresses) -> _Written:
        """What a service port wants. What an equal plan wanted at the last sync is not written again."""
        known = self._written.get(plan.name)
        if known is not None and known.addresses == addresses and known.port.plan.is_like(plan):
            return known
        port = write_frontends(plan, self.settings, addresses)
        return _Written(addresses, port, tuple(entries_of(port, self.settings)))

    def _metrics(self, failed: Failed | None) -> tuple[MetricUpdate, ...]:
        """The one metric of its own: failed restores (CP-11.1)."""
        if failed is None or not failed.restored:
            return ()
        family = {"ip_family": self.settings.family.label}
        return (MetricUpdate("sync_proxy_rules_iptables_restore_failures_total", 1, family, adds=True),)


def _ensure_chains_and_jumps(tables: Tables, family: Family) -> tuple[str, ...]:
    """Creates all chains, then the jumps to them, if they are missing (IPVS-8.2, IPVS-8.3). Returns the commands."""
    chains = [(table, chain) for table, names in rules.CHAINS.items() for chain in names]
    return (
        *[ensure_chain(tables, table, chain) for table, chain in chains],
        *[ensure_jump(tables, jump, family) for jump in rules.BUILT_IN_JUMPS],
    )


def _create_ipsets(held: Programmed) -> Programmed | Failed:
    ipsets, error = with_sets(held.ipsets, held.family)
    held = replace(held, ipsets=ipsets)
    return Failed(held, error) if error else held


def _restore(held: Programmed, document: RestoreDocument, *, refused: bool) -> Programmed | Failed:
    """Hands the document to iptables-restore. All that its rules lead to, and the sets that they name, exist by then."""
    if refused:
        return Failed(held, "refused", restored=True)
    tables = Tables(held.ruleset)
    tables.restore(document)
    return replace(held, ruleset=tables.ruleset)
