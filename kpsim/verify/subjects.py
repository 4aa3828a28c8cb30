"""Subjects: what is verified, namely one family of one node at one moment. They come from clusters and scenarios on
the command line.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from kpsim.addresses import Family
from kpsim.backends.table import traits_of
from kpsim.config import Mode
from kpsim.dialects import OnUnknown
from kpsim.errors import InputError
from kpsim.explore import Cluster, load
from kpsim.inputs import is_stream
from kpsim.objects import Service
from kpsim.packetpath.routing import InterfaceKind
from kpsim.scenario import Scenario, load_scenario
from kpsim.scenario.nodes import cluster_nodes
from kpsim.scenario.problems import suggestion
from kpsim.scenarios import names_scenario, scenario_names
from kpsim.simulation import Progress
from kpsim.simulation.history import history
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Site
from kpsim.units import MILLISECOND_NS
from kpsim.verify.intent.judging import Intent, intent_of
from kpsim.verify.intent.settings import settings_of
from kpsim.verify.moments import distinct_moments, site_at, traffic_probes


@dataclass(frozen=True)
class Subject:
    """One family of one node at one moment. No other subject shares its ``site``, so its connections stay its own.

    ``probes`` are first packets of the cluster's own clients. Only scenarios know their clients.
    """

    name: str  #: ``local-rollout · node-1 · IPv4 · 12.3 s``, ``node-1 · IPv6``
    site: Site
    node: str
    family: Family
    probes: tuple[Probe, ...] = ()
    services: tuple[Service, ...] = ()  #: the cluster's Services at that moment
    intent: Intent | None = None  #: what is due to first packets; None: other rules beside kube-proxy's decide too


def _named(*parts: str) -> str:
    return " · ".join(filter(None, parts))


# --- clusters --------------------------------------------------------------------------------------------------------------


def cluster_subjects(cluster: Cluster, nodes: Sequence[str] = ()) -> Iterator[Subject]:
    """A subject for each node and each of its families. ``nodes`` names the nodes wanted; all if it is empty.

    A node has a family if it has an address, a pod network or pods of that family. A recording has one node and one
    family. InputError for an unknown node, a node without a family, and a cluster without subjects.
    """
    for name in nodes:
        cluster.check_node(name)
    if cluster.replay is not None:
        recorded = cluster.replay.recording.node_name
        for name in nodes:
            if name != recorded:
                raise InputError(f"the recording is of node {recorded}: of {name} it holds no rules")
        found = [(recorded, family) for family in cluster.families]
    else:
        families = {name: _families(cluster.site, name, cluster.families) for name in nodes or cluster.node_names}
        for name in nodes:
            if not families[name]:
                raise InputError(f"node {name} has no address, no pod network and no pods: nothing can be sent to it")
        found = [(name, family) for name, of_node in families.items() for family in of_node]
    if not found:
        raise InputError("the cluster has no node with an address, a pod network or pods: nothing to verify")
    services = tuple(cluster.state.services)
    return (
        Subject(
            _named(name, family.label), site := _own(cluster), name, family, services=services,
            intent=_intent(cluster, site, name, family),
        )
        for name, family in found
    )  # fmt: skip


def _intent(cluster: Cluster, site: Site, node: str, family: Family) -> Intent | None:
    """What is due at a node. It is not known beside other programs' rules, nor for a recording, which holds rules only,
    nor if an address is written in an unusual form, nor in a mode in which the lab's kernel lacks what decides.
    """
    if cluster.replay is not None or cluster.told_beside(node, family) is not None:
        return None
    if traits_of(cluster.config.mode).unverified:
        return None
    liberal = cluster.sysctls.tcp_be_liberal or cluster.host.tcp_be_liberal
    settings = settings_of(cluster.config, liberal=liberal, random_fully=cluster.host.random_fully)
    objects = [cluster.state.objects[key].json for key in sorted(cluster.state.objects)]
    try:
        return intent_of(objects, settings, node, family, site.machine(node), bind_address=cluster.config.bind_address)
    except ValueError:
        return None


def _families(site: Site, node: str, families: Sequence[Family]) -> list[Family]:
    machine = site.machine(node)
    interfaces = (each for each in machine.routing.interfaces.values() if each.kind is not InterfaceKind.LOOPBACK)
    found = {address.family for interface in interfaces for address in interface.addresses}
    found |= {network.family for network in machine.pod_networks}
    found |= {family for family in families if next(site.directory.pods_on(node, family), None) is not None}
    return [family for family in families if family in found]


def _own(cluster: Cluster) -> Site:
    """A site without connections. Its machines are the cluster's: they are values, so they can be shared."""
    return Site(cluster.node_names, cluster.site.directory, cluster.site.machine, cluster.told)


# --- scenarios -------------------------------------------------------------------------------------------------------------


def scenario_subjects(
    scenario: Scenario, *, nodes: Sequence[str] = (), moments: int = 8, progress: Progress | None = None
) -> Iterator[Subject]:
    """A subject for each different ruleset that a node held while the scenario ran, in order of node, family and time,
    and for each link by which packets may come in.

    ``nodes`` names the nodes wanted; all if it is empty. Each node and family has at most ``moments`` subjects, the
    first and the last always among them. The scenario runs when the first subject is taken. InputError for an unknown
    node, or fewer than two moments.
    """
    known = tuple(node.name for node in cluster_nodes(scenario.spec.nodes))
    for name in nodes:
        if name not in known:
            raise InputError(f"{scenario.name} has no node {name!r}{suggestion(name, known)}")
    if moments < 2:
        raise InputError(f"{moments} moments: expected at least 2, for the first and the last rules of a run")
    return _of_run(scenario, tuple(dict.fromkeys(nodes)) or known, moments, progress)


def _of_run(scenario: Scenario, nodes: Sequence[str], most: int, progress: Progress | None) -> Iterator[Subject]:
    past = history(scenario, progress=progress)
    for node in nodes:
        for family in past.families:
            for moment in distinct_moments(past, node, family, most):
                probes = tuple(traffic_probes(scenario, moment))
                services = tuple(moment.state.services)
                for link in past.machines[node].links:
                    site, where = site_at(past, moment), node
                    if link != past.machines[node].uplink:
                        site.let_in(node, link)
                        where = f"{node} by {link}"
                    name = _named(scenario.name, where, family.label, _seconds(moment.at_ns))
                    yield Subject(name, site, node, family, probes, services)


def _seconds(at_ns: int) -> str:
    whole, rest = divmod(at_ns // MILLISECOND_NS, 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".") + " s"


# --- command lines -----------------------------------------------------------------------------------------------------------


def load_subjects(
    paths: Sequence[Path | str],
    *,
    mode: Mode | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    nodes: Sequence[str] = (),
    moments: int = 8,
    beside: Sequence[str] = (),
    sysctls: Mapping[str, int] | None = None,
    assume_node: str | None = None,
    service_node_port_range: str = "",
    derive_slices: bool = False,
    unknown: OnUnknown = "refuse",
    note: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Iterator[Subject]:
    """The subjects of all scenarios among ``paths``, and of the one cluster that all other paths describe together.

    A scenario is named by its file or its built-in name. ``seed`` needs a scenario. ``settings`` change fields of the
    scenarios or, if there are none, edit objects of the cluster (:meth:`kpsim.explore.Cluster.with_edits`). ``beside``,
    ``sysctls``, ``assume_node``, ``service_node_port_range`` and ``derive_slices`` need a cluster (see
    :func:`kpsim.explore.load`). ``note`` is called with what loading the cluster defaulted, derived or skipped. Everything is loaded before the first subject is yielded. InputError as from
    :func:`load_scenario` and :func:`kpsim.explore.load`.
    """
    scenarios = [path for path in paths if is_scenario(path)]
    others = [path for path in paths if path not in scenarios]
    if not scenarios and seed is not None:
        raise InputError("a seed goes with a scenario, and there is none")
    if beside and not others:
        raise InputError("rules beside kube-proxy's go with a cluster, and there is none")
    if sysctls and not others:
        raise InputError("kernel settings go with a cluster, and there is none: a scenario has its own, nodes.sysctls")
    if (assume_node is not None or service_node_port_range or derive_slices) and not others:
        raise InputError(
            "--assume-node, --service-node-port-range and --derive-slices go with a cluster, and there is none"
        )
    loaded = [load_scenario(path, settings=settings, seed=seed, mode=mode) for path in scenarios]
    found = [scenario_subjects(each, nodes=nodes, moments=moments, progress=progress) for each in loaded]
    if others or not paths:
        cluster = load(
            others,
            mode=mode,
            beside=beside,
            sysctls=sysctls,
            assume_node=assume_node,
            service_node_port_range=service_node_port_range,
            unknown=unknown,
            derive_slices=derive_slices,
            edits=() if scenarios else settings,
        )
        cluster.print_notes(note)
        found.append(cluster_subjects(cluster, nodes))
    return chain.from_iterable(found)


def check_verifiable(mode: Mode) -> None:
    """InputError if no kernel at hand can say what becomes of all packets of a mode."""
    if why := traits_of(mode).unverified:
        raise InputError(f"mode {mode}: {why}")


def is_scenario(path: Path | str) -> bool:
    """Whether a path names a scenario. A path that does not exist counts if it may be a name: the loader then lists
    the names.
    """
    if str(path) in scenario_names():
        return True
    if is_stream(path) or Path(path).is_dir():
        return False
    return names_scenario(Path(path)) if Path(path).exists() else Path(path).suffix == ""
