"""Plays scenarios of faults, and compares what each kernel holds long afterwards with what a kube-proxy would write that starts on an
empty machine.

**The bound.** In iptables and nftables mode nothing happens by itself but a sync an hour after the runner's last one (CP-9.1). It is full if
the last full sync is more than an hour ago (CP-10.1). A first sync and that of a canary bypass the runner, whose hour began before them: then
the next timed sync comes a little too early, is partial, and the full one comes an hour later. A sync that fails is tried again after
syncPeriod. So rules are right two hours and a little after the last fault and the last change. ipvs mode syncs every syncPeriod, and all of
its syncs do everything (IPVS-1.2).

**What may be left**, because kube-proxy leaves it:

* nftables: chains of ports that are gone. They are empty, and a sync that starts later than a second deletes them (NFT-8.8).
* iptables: canary chains of nat and filter that somebody deleted: only that of mangle is looked for (I-14).
* iptables, more than 1,000 endpoints: no full sync comes by itself (I-13.2). There a restart takes its place.
* what is not kube-proxy's: other programs' chains and tables, and comments of elements, which are not compared (NFT-8.5).
"""

import json
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import kpsim.simulation.kubeproxy
from fuzz.fault_drawing import AFTERMATH_MS, LONGEST_MS, SPAN_MS
from kpsim.addresses import Family
from kpsim.backends.table import make_backend, traits_of
from kpsim.cluster import through_selector
from kpsim.config import Host, resolve
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier
from kpsim.ruleset import Chain, Goto, Jump, Table
from kpsim.scenario import Scenario, parse_scenario
from kpsim.scenario.nodes import cluster_families
from kpsim.simulation.apiserver import initial_events
from kpsim.simulation.clock import wall_ns
from kpsim.simulation.engine import Run
from kpsim.units import MILLISECOND_NS

_KUBEPROXY: Any = kpsim.simulation.kubeproxy
_OF_NFTABLES = "kube-proxy"
_CANARY = "KUBE-PROXY-CANARY"
_MOST_SHOWN = 300  #: characters of what differs


def duration_ms(mode: str) -> int:
    """How long a scenario must be for rules to be right at its end."""
    config = parse_scenario(json.dumps(_EMPTY), "empty.json").with_mode(mode).proxy
    bound_ns = 2 * traits_of(config.mode).longest_pause_ns(config) + 2 * config.sync_period_ns
    return SPAN_MS + LONGEST_MS + AFTERMATH_MS + bound_ns // MILLISECOND_NS


_EMPTY = {
    "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "empty"}, "duration": "1s",
    "nodes": {"count": 1}, "workloads": [],
}  # fmt: skip


@contextmanager
def large_clusters_from(endpoints: int) -> Iterator[None]:
    """Let clusters of more than so many endpoints count as large inside the block."""
    before = _KUBEPROXY.Host
    _KUBEPROXY.Host = partial(Host, large_cluster_endpoints=endpoints)
    try:
        yield
    finally:
        _KUBEPROXY.Host = before


def differences(content: Mapping[str, Any], mode: str, seed: int = 1) -> list[str]:
    """What is not as a fresh start would have it at the end of a scenario, one line for each node and family."""
    scenario = parse_scenario(json.dumps(content), "faults.json").with_mode(mode)
    run = Run(scenario, seed)
    run.run(None)
    return differences_of_run(run, scenario)


def differences_of_run(run: Run, scenario: Scenario) -> list[str]:
    """What is not as a fresh start would have it now, one line for each node and family."""
    return [line for node in run.nodes for line in _of_node(run, scenario, node.name)]


def _of_node(run: Run, scenario: Scenario, node: str) -> Iterator[str]:
    proxy = run.proxies[node]
    if run.machines.is_off(node) or not proxy.running:
        yield f"{node}: no kube-proxy runs"
        return
    for family in cluster_families(scenario.spec.nodes):
        held = run.machines.netns(node).programmed.get(family, Programmed.nothing(family))
        wanted = _fresh(run, scenario, node, family)
        have, due = comparable(held, wanted), comparable(wanted, wanted)
        if have != due:
            yield f"{node} {family.label}: {_first(have, due)}"


def _fresh(run: Run, scenario: Scenario, node: str, family: Family) -> Programmed:
    """What a kube-proxy would write that starts on an empty machine now."""
    machine = run.machines.machine(node)
    (found,) = (each for each in run.nodes if each.name == node)
    host = _KUBEPROXY.Host(
        found.ips,
        machine.host_interfaces,
        tcp_be_liberal=machine.sysctls.tcp_be_liberal,
        service_cidrs=run.service_cidrs,
    )
    settings = resolve(scenario.proxy, host, run.api.state.node(node), family)
    now_ns = wall_ns(run.clock.now_ns)
    proxier = Proxier(settings, make_backend(settings), created_ns=now_ns)
    for event in initial_events(run.api.state):
        seen = through_selector(event, node)
        if seen is not None:
            proxier.on_event(seen, now_ns)
    proxier.services_synced()
    proxier.slices_synced()
    result = proxier.sync(now_ns)
    assert result.success, result.transaction.error
    return result.held


Parts = dict[str, Hashable]


def comparable(held: Programmed, wanted: Programmed) -> Parts:
    """What kube-proxy has told a kernel, without order and what may be left, by what it is."""
    found: Parts = {}
    for table in held.ruleset.in_order():
        found.update(_of_nftables(table, wanted) if table.name == _OF_NFTABLES else _of_iptables(table))
    for name, ipset in held.ipsets.items():
        if name.startswith("KUBE-"):
            found[f"ipset {name}"] = frozenset(ipset.elements)
    for key, virtual in held.virtual_servers.items():
        servers = frozenset((each.address, each.port, each.weight) for each in virtual.servers)
        found[f"virtual server {key}"] = virtual.scheduler, virtual.flags, virtual.timeout_s, servers
    found["kube-ipvs0"] = frozenset(held.local_addresses)
    return found


def _of_iptables(table: Table) -> Iterator[tuple[str, Hashable]]:
    for name, chain in table.chains.items():
        own = name.startswith("KUBE-")
        rules = chain.rules if own else tuple(rule for rule in chain.rules if _leads_to_kube_proxy(rule.target))
        if (own and (name != _CANARY or table.name == "mangle")) or rules:
            yield f"{table.key.space.value} {table.name} {name}", tuple(map(repr, rules))


def _leads_to_kube_proxy(target: object) -> bool:
    return isinstance(target, Jump | Goto) and target.chain.startswith("KUBE-")


def _of_nftables(table: Table, wanted: Programmed) -> Iterator[tuple[str, Hashable]]:
    fresh = wanted.ruleset.tables.get(table.key)
    for name, chain in table.chains.items():
        if not (fresh is not None and name not in fresh.chains and _is_stale(chain)):
            yield f"chain {name}", (str(chain.base), chain.policy, tuple(map(repr, chain.rules)))
    for name, of in table.sets.items():
        elements = frozenset((key, repr(element.value)) for key, element in of.elements.items())
        yield f"set {name}", (repr(of.type), of.timeout_ns, elements)


def _is_stale(chain: Chain) -> bool:
    return "/" in chain.name and not chain.rules and chain.base is None


def _first(have: Parts, due: Parts) -> str:
    for name in sorted({*have, *due}):
        if name not in due:
            return f"{name} is left: {str(have[name])[:_MOST_SHOWN]}"
        if name not in have:
            return f"{name} is missing"
        if have[name] != due[name]:
            return f"{name} is {str(have[name])[:_MOST_SHOWN]}\n  and not {str(due[name])[:_MOST_SHOWN]}"
    return "nothing"
