"""What state each node was in over time, as far as events changed it: cordoned, drained, off, without Node object."""

import enum
from typing import NamedTuple

from kpsim.simulation.runlog import HappeningKind, RunLog


class NodeState(enum.StrEnum):
    """A state that a node may be in for a while. It may be in several at once."""

    CORDONED = "cordoned"
    DRAINING = "draining"
    SHUTTING_DOWN = "shutting down"
    OFF = "off"
    DELETED = "no Node object"


class NodeSpell(NamedTuple):
    """A stretch of time in which a node was in a state."""

    node: str
    state: NodeState
    from_ns: int
    until_ns: int


_BEGINS = {
    HappeningKind.NODE_CORDONED: (NodeState.CORDONED,),
    HappeningKind.NODE_DRAINED: (NodeState.CORDONED, NodeState.DRAINING),
    HappeningKind.NODE_SHUTTING_DOWN: (NodeState.SHUTTING_DOWN,),
    HappeningKind.NODE_DOWN: (NodeState.OFF,),
    HappeningKind.NODE_DELETED: (NodeState.DELETED,),
}
_ENDS = {
    HappeningKind.NODE_UNCORDONED: (NodeState.CORDONED,),
    HappeningKind.DRAIN_DONE: (NodeState.DRAINING,),
    HappeningKind.DRAIN_GAVE_UP: (NodeState.DRAINING,),
    HappeningKind.NODE_DOWN: (NodeState.SHUTTING_DOWN,),
    HappeningKind.NODE_UP: (NodeState.OFF,),
    HappeningKind.NODE_ADDED: (NodeState.DELETED, NodeState.CORDONED, NodeState.OFF),
}


def node_spells(log: RunLog) -> list[NodeSpell]:
    """Return the states of all nodes, by node in the order of the scenario, then by time."""
    found: list[NodeSpell] = []
    since: dict[tuple[str, NodeState], int] = {}
    for each in log.happenings:
        for state in _ENDS.get(each.kind, ()):
            from_ns = since.pop((each.subject, state), None)
            if from_ns is not None:
                found.append(NodeSpell(each.subject, state, from_ns, each.at_ns))
        for state in _BEGINS.get(each.kind, ()):
            since.setdefault((each.subject, state), each.at_ns)
    found += [NodeSpell(node, state, from_ns, log.duration_ns) for (node, state), from_ns in since.items()]
    order = {node: number for number, node in enumerate(log.nodes)}
    return sorted(
        found, key=lambda spell: (order.get(spell.node, len(order)), spell.from_ns, list(NodeState).index(spell.state))
    )
