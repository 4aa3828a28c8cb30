"""The iptables backend: service plans to restore documents, full and partial, and what the kernel then holds (spec 03).

Counterpart: pkg/proxy/iptables. It costs what changed: rules of unchanged service ports are kept as blocks, counts are kept up
to date, text is made when somebody reads it. It never knows when a sync runs nor how packets meet the rules.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from immutables import Map

from kpsim.backends import SyncRequest, Transaction
from kpsim.backends.iptables import names, static_rules
from kpsim.backends.iptables.service_rules import Placed, ServiceRules, write_service_rules
from kpsim.backends.iptables.tables import Blocks, RestoreDocument, RestoreFailed, SharedChain, Tables, TableUpdate
from kpsim.config import ProxierSettings
from kpsim.dialects.iptables import Style, render_rule, render_ruleset
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey, ServicePortName
from kpsim.ruleset import Chain, Rule, Ruleset, Table

_SHARED_FILTER = (names.SERVICES, names.EXTERNAL_SERVICES, names.NODE_PORTS, names.PROXY_FIREWALL)
_SHARED_NAT = (names.SERVICES, names.NODE_PORTS)


class _Counts:
    """Sums over all service ports' rules, kept up to date (I-15)."""

    def __init__(self) -> None:
        self.filter = self.dispatch = self.chains = self.no_local_internal = self.no_local_external = 0

    def add(self, rules: ServiceRules, sign: int) -> None:
        self.filter += sign * len(rules.filter)
        self.dispatch += sign * len(rules.dispatch)
        self.chains += sign * rules.chain_rule_count
        self.no_local_internal += sign * rules.refusals[0]
        self.no_local_external += sign * rules.refusals[1]


class IptablesBackend:
    """One family's iptables rules on one node."""

    def __init__(self, settings: ProxierSettings, tables: Tables | None = None) -> None:
        self.settings = settings
        self.tables = tables if tables is not None else Tables(settings.family)
        self.large_cluster = False  #: as decided in the last sync (I-12.3)
        self._interface_addresses = settings.interface_addresses
        self._blocks: Blocks = Map()
        self._names_of: dict[ServiceKey, tuple[ServicePortName, ...]] = {}
        self._counts = _Counts()
        self._in_use: set[str] = set()
        self._maybe_stale: set[str] = set()
        self._last_cleanup_ns: int | None = None

    @property
    def ruleset(self) -> Ruleset:
        return self.tables.ruleset

    @property
    def periodic_full_sync(self) -> bool:
        return not self.large_cluster

    def use_interface_addresses(self, addresses: Iterable[int]) -> None:
        self._interface_addresses = tuple(addresses)

    def save(self) -> str:
        return render_ruleset(self.ruleset, Style.SAVE)

    def flush(self) -> None:
        self.tables.flush_kube_proxy()

    def describe(self, transaction: Transaction) -> Callable[[], Mapping[str, Any]]:
        tables, large_cluster = self.ruleset.tables, self.large_cluster

        def render() -> Mapping[str, Any]:
            shown = {
                name: Table(name, tables[name].chains.delete(names.CANARY))
                if names.CANARY in tables[name].chains
                else tables[name]
                for name in ("filter", "nat")
            }
            save = render_ruleset(Ruleset(self.settings.family, Map(shown)), Style.KUBE_PROXY)
            return {
                "iptables": {
                    "ensure": list(transaction.commands),
                    "restore": [document() for document in transaction.documents],
                    "save": save,
                    "largeClusterMode": large_cluster,
                }
            }

        return render

    def create_canaries(self) -> None:
        """I-14; in this order."""
        for table in ("mangle", "nat", "filter"):
            self.tables.ensure_chain(table, names.CANARY)

    def sync(self, request: SyncRequest) -> Transaction:
        """I-13.4, steps 4 to 8."""
        commands = self._ensure_built_in_jumps() if request.full else ()
        self.large_cluster = request.endpoint_total > self.settings.large_cluster_endpoints
        base = None if request.full else self._blocks
        written = self._update_blocks(request)
        stale = self._collect_stale(request)
        document = self._document(written, stale, base)
        static = len(self._first_nat()) + len(self._last_nat())
        written_rules = sum(self._blocks[name].chain_rule_count for name in written if name in self._blocks)
        shared_nat = static + self._counts.dispatch
        filter_rules = len(self._first_filter()) + self._counts.filter + len(self._last_filter())
        error = ""
        try:
            if request.refuse_document:
                raise RestoreFailed("refused")
            self.tables.restore(document)
            self._maybe_stale.difference_update(stale)
        except RestoreFailed as failure:
            error = str(failure)
        return Transaction(
            success=not error,
            commands=commands,
            documents=(lambda: document.text,),
            rules_total={"filter": filter_rules, "nat": shared_nat + self._counts.chains},
            rules_last={"filter": filter_rules, "nat": shared_nat + written_rules},
            restore_failed=bool(error),
            no_local_endpoints=(self._counts.no_local_internal, self._counts.no_local_external),
            error=error,
        )

    def _ensure_built_in_jumps(self) -> tuple[str, ...]:
        """I-3, as the commands that a person would type."""
        commands = []
        for jump in static_rules.BUILT_IN_JUMPS:
            existed = self.tables.ensure_chain(jump.table, jump.chain)
            commands.append(f"-t {jump.table} -N {jump.chain}" + (" # exists" if existed else ""))
            existed = self.tables.ensure_first(jump.table, jump.source, jump.rule)
            arguments = render_rule(jump.source, jump.rule, Style.KUBE_PROXY).removeprefix("-A ")
            commands.append(f"-t {jump.table} -I {arguments}" + (" # exists" if existed else ""))
        return tuple(commands)

    def _update_blocks(self, request: SyncRequest) -> frozenset[ServicePortName]:
        """Rewrite the changed Services' blocks; returns their service ports, also those that are gone."""
        touched: set[ServicePortName] = set()
        with self._blocks.mutate() as blocks:
            for service, plans in request.changed.items():
                for name in self._names_of.pop(service, ()):
                    self._drop(blocks.pop(name))
                    touched.add(name)
                for plan in plans:
                    blocks[plan.name] = self._adopt(plan)
                    touched.add(plan.name)
                if plans:
                    self._names_of[service] = tuple(plan.name for plan in plans)
            self._blocks = blocks.finish()
        return frozenset(touched)

    def _drop(self, rules: ServiceRules) -> None:
        self._counts.add(rules, -1)
        chains = [chain.name for chain in rules.chains]
        self._in_use.difference_update(chains)
        self._maybe_stale.update(chains)

    def _adopt(self, plan: ServicePlan) -> ServiceRules:
        rules = write_service_rules(plan, self.settings, large_cluster=self.large_cluster)
        self._counts.add(rules, +1)
        chains = [chain.name for chain in rules.chains]
        self._in_use.update(chains)
        self._maybe_stale.difference_update(chains)
        return rules

    def _collect_stale(self, request: SyncRequest) -> tuple[str, ...]:
        """I-13.5: service chains in the kernel that nothing uses; in large clusters at most once per syncPeriod."""
        if request.full:
            self._maybe_stale = self.tables.service_chains - self._in_use
        if (
            self.large_cluster
            and self._last_cleanup_ns is not None
            and request.now_ns - self._last_cleanup_ns <= self.settings.config.sync_period_ns
        ):
            return ()
        self._last_cleanup_ns = request.now_ns
        return tuple(sorted(self._maybe_stale & self.tables.service_chains))

    def _first_filter(self) -> tuple[Placed, ...]:
        return static_rules.first_filter_rules(self.settings)

    def _last_filter(self) -> tuple[Placed, ...]:
        return static_rules.last_filter_rules(self.settings)

    def _first_nat(self) -> tuple[Placed, ...]:
        return static_rules.first_nat_rules(self.settings)

    def _last_nat(self) -> tuple[Placed, ...]:
        return static_rules.last_nat_rules(self.settings, self._interface_addresses)

    def _document(
        self, written: frozenset[ServicePortName], stale: tuple[str, ...], base: Blocks | None
    ) -> RestoreDocument:
        """I-4. ``written``: service ports whose own chains are in it; ``base``: the blocks of the document before."""
        blocks, settings = self._blocks, self.settings
        first_filter, last_filter = self._first_filter(), self._last_filter()
        first_nat, last_nat = self._first_nat(), self._last_nat()

        def shared(name: str, pick: str, last: tuple[Placed, ...] = ()) -> Chain:
            take = _PICK[pick]
            return SharedChain(name, blocks, _of_chain(name, last), take, base, written)

        in_document = sorted(name for name in written if name in blocks)
        filter_chains = [
            shared(names.SERVICES, "filter"),
            shared(names.EXTERNAL_SERVICES, "filter"),
            Chain(names.FORWARD, _of_chain(names.FORWARD, last_filter)),
            shared(names.NODE_PORTS, "filter"),
            shared(names.PROXY_FIREWALL, "filter"),
        ]
        if settings.localhost_node_ports:
            filter_chains.append(Chain(names.FIREWALL, _of_chain(names.FIREWALL, first_filter)))
        nat_chains = [
            shared(names.SERVICES, "dispatch", last_nat),
            shared(names.NODE_PORTS, "dispatch", last_nat),
            Chain(names.POSTROUTING, _of_chain(names.POSTROUTING, first_nat)),
            Chain(names.MARK_MASQ, _of_chain(names.MARK_MASQ, first_nat)),
        ]
        own_chains = [chain for name in in_document for chain in blocks[name].chains]

        def render() -> str:
            ports = [blocks[name] for name in sorted(blocks)]
            own = set(map(id, (blocks[name] for name in in_document)))
            parts = ["*filter\n", *(f":{chain.name} - [0:0]\n" for chain in filter_chains)]
            parts += [*_lines(first_filter), *(rules.filter_text for rules in ports), *_lines(last_filter)]
            parts += ["COMMIT\n*nat\n", *(f":{chain.name} - [0:0]\n" for chain in nat_chains)]
            parts += [blocks[name].chain_lines_text for name in in_document]
            parts += [*(f":{name} - [0:0]\n" for name in stale), *_lines(first_nat)]
            for rules in ports:
                parts.append(rules.dispatch_text)
                if id(rules) in own:
                    parts.append(rules.chain_rules_text)
            parts += [*(f"-X {name}\n" for name in stale), *_lines(last_nat), "COMMIT\n"]
            return "".join(parts)

        updates = (
            TableUpdate("filter", tuple(filter_chains)),
            TableUpdate("nat", (*nat_chains, *own_chains), stale),
        )
        return RestoreDocument(updates, render)


_PICK = {"filter": lambda rules: rules.filter, "dispatch": lambda rules: rules.dispatch}


def _of_chain(name: str, placed: tuple[Placed, ...]) -> tuple[Rule, ...]:
    return tuple(rule for chain, rule in placed if chain == name)


def _lines(placed: tuple[Placed, ...]) -> list[str]:
    return [f"{render_rule(chain, rule, Style.KUBE_PROXY)}\n" for chain, rule in placed]
