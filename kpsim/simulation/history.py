"""What the nodes' kernels held in the course of a run: all that they were told, and when, and the cluster at that time.

It only observes the run, as if ``iptables-save`` ran after every sync.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.nodes import Machine
from kpsim.programmed import Programmed
from kpsim.scenario import Scenario
from kpsim.scenario.nodes import cluster_families
from kpsim.simulation import Progress
from kpsim.simulation.engine import Run


@dataclass(frozen=True, slots=True)
class Loaded:
    """A sync that changed what a node's kernel holds. It may be a failed one."""

    at_ns: int  #: since the start of the run
    node: str
    family: Family
    programmed: Programmed
    state: ClusterState  #: the API server's objects at that time; kube-proxy's rules may be made from earlier ones


@dataclass(frozen=True)
class History:
    """All that was loaded, in order of time.

    The first entries, at 0, are those of every node and family as the run begins.
    """

    nodes: tuple[str, ...]
    families: tuple[Family, ...]
    machines: Mapping[str, Machine]
    loaded: tuple[Loaded, ...]


def history(scenario: Scenario, *, progress: Progress | None = None) -> History:
    """Run a scenario to its end and return what its nodes' kernels held.

    No traffic is sent: packets change no rules.
    """
    quiet = replace(scenario, spec=scenario.spec.model_copy(update={"traffic": ()}))
    run = Run(quiet, scenario.seed)
    loaded: list[Loaded] = []
    holds: dict[tuple[str, Family], Programmed] = {}
    seen = 0
    for _ in run.steps(progress):
        for sync in run.log.syncs[seen:]:  # at most one, except before the run begins
            family = Family.from_label(sync.family)
            held = run.machines.netns(sync.node).programmed[family]
            if holds.get((sync.node, family)) is not held:
                holds[sync.node, family] = held
                loaded.append(Loaded(sync.end_ns, sync.node, family, held, run.api.state))
        seen = len(run.log.syncs)
    names = tuple(node.name for node in run.nodes)
    families = cluster_families(run.spec.nodes)
    return History(names, families, {name: run.machines.machine(name) for name in names}, tuple(loaded))
