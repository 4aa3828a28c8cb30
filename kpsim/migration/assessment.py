"""Assesses a change of proxy mode: everything that the page says, as values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.manifests.assumed import without_nodes
from kpsim.migration.configuration import Configuration, configuration_to_start_with
from kpsim.migration.cost import Cost, Sizes, sizes_and_costs
from kpsim.migration.differences import Differing, Effect, Group, Row, grouped, noticed
from kpsim.migration.facts import Change, Remark, Severity, Situation
from kpsim.migration.keeping import Keeping
from kpsim.migration.neighbours import Neighbour, neighbours
from kpsim.migration.nodes import NodeReport, node_reports, node_versions
from kpsim.migration.ordinary import Ordinary
from kpsim.migration.table import change_between


class Comparison(NamedTuple):
    """What two clusters do differently, and how many classes of packets were compared."""

    classes: int
    differences: Sequence[Differing]


Compare = Callable[[Cluster, Cluster], Comparison]


@dataclass(frozen=True)
class Migration:
    """What a change of mode means for a cluster.

    ``groups`` are the differences that ordinary packets meet if nothing but the mode changes. ``set_aside`` counts the
    differences that only other packets meet, or that no client notices.
    """

    cluster: Cluster
    target: Mode
    change: Change
    classes: int
    groups: tuple[Group, ...]
    set_aside: int
    nodes: tuple[NodeReport, ...]
    neighbours: tuple[Neighbour, ...]
    remarks: tuple[tuple[Remark, tuple[str, ...]], ...]  #: with the names of those whom each concerns
    sizes: Sizes
    costs: tuple[Cost, Cost]  #: today's and the new
    configuration: Configuration

    @property
    def source(self) -> Mode:
        return self.cluster.config.mode

    @cached_property
    def stopping(self) -> tuple[Row, ...]:
        """The rows of what works today and stops."""
        return tuple(row for group in self.groups for row in group.rows if row.effect is Effect.STOPS)

    @property
    def failing_nodes(self) -> tuple[str, ...]:
        """The nodes on which kube-proxy would not start."""
        return tuple(node.name for node in self.nodes if node.severity is Severity.FAILS)

    @property
    def breaks(self) -> bool:
        """Whether something that works today stops working."""
        return bool(self.stopping or self.failing_nodes)


def assess(cluster: Cluster, target: Mode | str, compare: Compare) -> Migration:
    """Assess a change of mode. ``compare`` finds what two clusters do differently.

    InputError if the cluster has no nodes, if it is in this mode already, or if the change is not modelled.
    """
    target = Mode(target)
    change = change_between(cluster.config.mode, target)
    if not cluster.node_names:
        raise InputError(without_nodes(""))
    situation = Situation(cluster, node_versions(cluster))
    configuration = configuration_to_start_with(situation, target, change)
    after = cluster.with_config(config_from_json(cluster.document, mode=target))
    started = cluster.with_config(config_from_json(configuration.document))
    ordinary = Ordinary(cluster, after)
    compared = compare(cluster, after)
    met = [found for found in map(ordinary.of, compared.differences) if found is not None and noticed(found)]
    set_aside = len(compared.differences) - len(met)
    if started.config != after.config:
        met = list(Keeping.between(cluster, started).divided(met))
    sizes, *costs = sizes_and_costs(cluster, after)
    said = ((_complete(remark, situation), remark.concerns(situation)) for remark in change.remarks)
    return Migration(
        cluster=cluster,
        target=target,
        change=change,
        classes=compared.classes,
        groups=grouped(met, ordinary),
        set_aside=set_aside,
        nodes=node_reports(situation.nodes, change.thresholds),
        neighbours=neighbours(cluster, change),
        remarks=tuple((remark, names) for remark, names in said if names is not None),
        sizes=sizes,
        costs=(costs[0], costs[1]),
        configuration=configuration,
    )


def _complete(remark: Remark, situation: Situation) -> Remark:
    """The remark with the sentences that depend on the cluster."""
    return replace(remark, words=f"{remark.words}{remark.more(situation)}")
