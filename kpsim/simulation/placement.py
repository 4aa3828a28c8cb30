"""Which node gets the next pod of a workload.

Counterpart: the scheduler with topology spread, much simplified. It never knows what the pods do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.schema import Placement, PlacementPolicy


def place(placement: Placement, nodes: Sequence[ClusterNode], taken: Iterable[str], down: frozenset[str]) -> str | None:
    """The node for one more pod; None if no node is allowed or up.

    ``taken``: the node of each pod that the workload has, terminating ones left out. Spread takes the node that has the
    fewest for its weight (how often ``placement.nodes`` lists it), the earlier listed first; packed takes the first.
    """
    listed = list(placement.nodes) or [node.name for node in nodes]
    if placement.zones:
        zones = {node.name: node.zone for node in nodes}
        listed = [name for name in listed if zones.get(name) in placement.zones]
    weights = Counter(name for name in listed if name not in down)
    if not weights:
        return None
    if placement.policy is PlacementPolicy.PACKED:
        return next(iter(weights))
    counts = Counter(taken)
    return min(weights, key=lambda name: Fraction(counts[name], weights[name]))
