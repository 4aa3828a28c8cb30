"""Assesses a change of proxy mode: everything that the page says, as values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kpsim.backends.table import check_modelled
from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.inputs import Json
from kpsim.manifests.assumed import without_nodes
from kpsim.migration.configuration import Configuration, configuration_to_start_with
from kpsim.migration.cost import Cost, Sizes, sizes_and_costs
from kpsim.migration.differences import Effect, Group, Row, grouped
from kpsim.migration.facts import Change, Remark, Severity, Situation
from kpsim.migration.neighbours import Neighbour, neighbours
from kpsim.migration.nodes import NodeReport, node_reports, node_versions
from kpsim.migration.table import change_between


class Comparison(NamedTuple):
    """What two clusters do differently: how many classes of packets were compared, and ``kpsim diff``'s differences."""

    classes: int
    differences: Sequence[Json]


Compare = Callable[[Cluster, Cluster], Comparison]


@dataclass(frozen=True)
class Migration:
    """What a change of mode means for a cluster.

    ``groups`` are the differences if nothing but the mode changes; ``groups_at_start`` those that are left with
    ``configuration``.
    """

    cluster: Cluster
    target: Mode
    change: Change
    classes: int
    groups: tuple[Group, ...]
    groups_at_start: tuple[Group, ...]
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

    @cached_property
    def left(self) -> frozenset[Row]:
        """The rows that the configuration to start with does not prevent."""
        return frozenset(row for group in self.groups_at_start for row in group.rows)

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

    InputError if the cluster has no nodes, if it is in this mode already, or if a mode is not modelled.
    """
    target = Mode(target)
    change = change_between(cluster.config.mode, target)
    check_modelled(target)
    if not cluster.node_names:
        raise InputError(without_nodes(""))
    situation = Situation(cluster, node_versions(cluster))
    configuration = configuration_to_start_with(situation, target, change)
    after = cluster.with_config(config_from_json(cluster.document, mode=target))
    started = cluster.with_config(config_from_json(configuration.document))
    compared = compare(cluster, after)
    groups = grouped(compared.differences)
    at_start = groups if started.config == after.config else grouped(compare(cluster, started).differences)
    sizes, *costs = sizes_and_costs(cluster, after)
    said = ((remark, remark.concerns(situation)) for remark in change.remarks)
    return Migration(
        cluster=cluster,
        target=target,
        change=change,
        classes=compared.classes,
        groups=groups,
        groups_at_start=at_start,
        nodes=node_reports(situation.nodes, change.thresholds),
        neighbours=neighbours(cluster, change),
        remarks=tuple((remark, names) for remark, names in said if names is not None),
        sizes=sizes,
        costs=(costs[0], costs[1]),
        configuration=configuration,
    )
