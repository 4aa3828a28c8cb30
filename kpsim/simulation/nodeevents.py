"""Carries out the events of a scenario that concern nodes.

Counterpart: people with kubectl, autoscalers, and accidents. ``clusternodes`` does what they ask for.
"""

from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.simulation.clock import Clock
from kpsim.simulation.clusternodes import ClusterNodes
from kpsim.simulation.runlog import RunLog
from kpsim.simulation.upgrade import Upgrade


class NodeEvents:
    """Carries out the events of one scenario."""

    def __init__(self, clock: Clock, nodes: ClusterNodes, log: RunLog) -> None:
        self._clock = clock
        self._nodes = nodes
        self._log = log

    def happen(self, event: ScenarioEvent) -> None:
        """Carry out an event now."""
        self._switch(event)
        self._mark(event)

    def _switch(self, event: ScenarioEvent) -> None:
        """Let machines and Node objects come and go."""
        nodes = self._nodes
        for name in event.node_down.nodes if event.node_down else ():
            assert event.node_down is not None
            nodes.down(name, event.node_down.shutdown_grace_ns)
        for name in event.node_up.nodes if event.node_up else ():
            nodes.up(name)
        if event.add_node is not None:
            nodes.add(event.add_node.node)
        if event.delete_node is not None:
            nodes.delete(event.delete_node.node)
        if event.reboot is not None:
            nodes.reboot(event.reboot.node, event.reboot.takes)
        if event.rolling_upgrade is not None:
            Upgrade(self._clock, event.rolling_upgrade, nodes, self._log).start()

    def _mark(self, event: ScenarioEvent) -> None:
        """Change what Node objects say."""
        nodes = self._nodes
        if event.taint_node is not None:
            nodes.taint(event.taint_node.node, event.taint_node.key, event.taint_node.effect)
        if event.untaint_node is not None:
            nodes.untaint(event.untaint_node.node, event.untaint_node.key)
        if event.label_node is not None:
            nodes.label(event.label_node.node, event.label_node.labels)
        if event.cordon is not None:
            nodes.cordon(event.cordon.node)
        if event.uncordon is not None:
            nodes.uncordon(event.uncordon.node)
        if event.drain is not None:
            nodes.drain(event.drain.node, event.drain.timeout_ns)
