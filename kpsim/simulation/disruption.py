"""When the node lifecycle controller evicts nobody, because too many nodes of a zone are lost.

Counterpart: its zone states. If most nodes of a zone are silent it is likely the network, or the controller itself.
"""

from collections.abc import Mapping

_LARGE = 50  #: nodes of a cluster that still counts as small
_UNHEALTHY_PERCENT = 55


def disruption(nodes: Mapping[str, tuple[str, bool]], name: str) -> str:
    """Return why a lost node's pods are not evicted now; empty: they are. ``nodes`` are zone and readiness by name.

    A zone is partly disrupted if more than two nodes, and at least 55 % of them, are not ready. A small cluster evicts nobody from it;
    a large one evicts more slowly there, which is not modelled. If all nodes of all zones are lost, nobody is evicted either.
    """
    if not any(ready for _, ready in nodes.values()):
        return "all nodes are lost"
    zone = nodes[name][0]
    here = [ready for of, ready in nodes.values() if of == zone]
    lost = here.count(False)
    if lost == len(here) or lost <= 2 or 100 * lost < _UNHEALTHY_PERCENT * len(here):
        return ""
    where = f"zone {zone}" if zone else "the cluster"
    if len(nodes) > _LARGE:
        return f"{lost} of {len(here)} nodes of {where} are lost: a large cluster evicts one node in 100 s, which is not modelled"
    return f"{lost} of {len(here)} nodes of {where} are lost"
