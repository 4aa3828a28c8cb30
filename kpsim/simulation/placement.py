"""Chooses the node for the next pod of a workload.

Counterpart: the scheduler with topology spread, much simplified.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from math import lcm

from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.schema import Placement, PlacementPolicy


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
        #: of each allowed node, in the order listed: how much one pod fills it, in whole numbers
        self._fills = {name: scale // weight for name, weight in weights.items()}

    def place(self, taken: Mapping[str, int], unfit: Container[str]) -> str | None:
        """Return the node for one more pod, or None if every allowed node is unfit.

        ``taken`` says how many pods the workload has on each node, terminating ones left out. Spread takes the node
        that has the fewest for its weight (how often ``placement.nodes`` lists it), and the earlier listed one of
        equals. Packed takes the first.
        """
        fit = (name for name in self._fills if name not in unfit)
        if self._policy is PlacementPolicy.PACKED:
            return next(fit, None)
        return min(fit, key=lambda name: taken.get(name, 0) * self._fills[name], default=None)
