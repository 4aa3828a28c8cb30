"""Chooses the node for the next pod of a workload.

Counterpart: the scheduler with topology spread constraints, much simplified.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from math import lcm

from kpsim.objects import LABEL_ZONE
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.workload_schema import Placement, PlacementPolicy, TopologySpread


class Placer:
    """Chooses nodes for the pods of one workload."""

    def __init__(self, placement: Placement, nodes: Sequence[ClusterNode]) -> None:
        listed = list(placement.nodes) or [node.name for node in nodes]
        if placement.zones:
            zones = {node.name: node.zone for node in nodes}
            listed = [name for name in listed if zones.get(name) in placement.zones]
        weights = Counter(listed)
        scale = lcm(*weights.values())
        self._policy = placement.policy
        self._spread = placement.topology_spread
        #: of each allowed node, in the order listed: how much one pod fills it, in whole numbers
        self._fills = {name: scale // weight for name, weight in weights.items()}

    @property
    def allowed(self) -> tuple[str, ...]:
        """The nodes that may get pods, in the order listed."""
        return tuple(self._fills)

    def place(
        self, taken: Mapping[str, int], unfit: Container[str], zones: Mapping[str, str | None] | None = None
    ) -> str | None:
        """Return the node for one more pod, or None if every allowed node is unfit.

        ``taken`` says how many pods the workload has on each node, terminating ones left out. Spread takes the node
        that has the fewest for its weight (how often ``placement.nodes`` lists it), and the earlier listed one of
        equals. Packed takes the first. ``zones`` are those of the nodes that have a Node object; topology spread
        constraints come before the policy and need them.
        """
        fit = [name for name in self._fills if name not in unfit]
        crowds: list[Mapping[str, int]] = []  #: of each constraint that is only a wish: pods of each node's domain
        for constraint in self._spread:
            crowd = self._crowd(constraint, taken, zones or {})
            if constraint.when_unsatisfiable == "ScheduleAnyway":
                crowds.append(crowd)
            else:
                most = min(crowd.values(), default=0) + constraint.max_skew
                fit = [name for name in fit if name in crowd and crowd[name] < most]

        def wish(name: str) -> tuple[int, ...]:
            return tuple(crowd.get(name, taken.get(name, 0)) for crowd in crowds)

        if self._policy is PlacementPolicy.PACKED:
            return min(fit, key=wish, default=None)
        return min(fit, key=lambda name: (wish(name), taken.get(name, 0) * self._fills[name]), default=None)

    def _crowd(
        self, constraint: TopologySpread, taken: Mapping[str, int], zones: Mapping[str, str | None]
    ) -> dict[str, int]:
        """Return how many pods the domain of each node has. Nodes without the label are in no domain.

        Nodes where no pod can be placed now count, too: the scheduler ignores their taints by default.
        """
        by_zone = constraint.topology_key == LABEL_ZONE
        domains = {name: zones[name] if by_zone else name for name in self._fills if name in zones}
        pods: Counter[str | None] = Counter()
        for name, domain in domains.items():
            pods[domain] += taken.get(name, 0)
        return {name: pods[domain] for name, domain in domains.items() if domain is not None}
