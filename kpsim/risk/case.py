"""A Service to be judged: what a drain or a loss takes from it, and what the seconds of a judgement rest on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import ceil

from kpsim.objects import CLUSTER_IP_NONE, Service
from kpsim.risk.facts import Endpoint, Facts, Found, Keeper
from kpsim.risk.remarks import in_seconds
from kpsim.risk.rules import STATEFUL_SET, Helps, Remedy
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.units import SECOND_NS

#: a node that is lost: its pods stay ready for so long (CP-2.9), and are replaced so much later (CP-2.9.1)
NOTICED_S, TOLERATED_S = 50, 300
#: from a change of a pod until kube-proxy's rules have it, beside minSyncPeriod: status, slice, watch, sync (CP-1.2)
WAY_S = 1.0


@dataclass(frozen=True)
class Timing:
    """What the seconds rest on: the load balancer's probes, and how long a change takes to the rules."""

    balancer: LoadBalancerSpec = field(default_factory=LoadBalancerSpec)
    min_sync_s: float = 1.0

    @property
    def lag_s(self) -> float:
        """How long after a pod's change the last node's rules have it, in a small cluster."""
        return self.min_sync_s + WAY_S

    def window_s(self, *, local: bool) -> float:
        """How long, at most, a load balancer sends to a node that cannot serve: (N + 1) × period (FIG-3), after the sync that makes its health check fail (PP-11.7).

        If its probes are refused at once, it is N × period.
        """
        return self.balancer.resolved(local=local).worst_window_ns / SECOND_NS + self.lag_s

    @property
    def patience_s(self) -> float:
        """How long, at least, a load balancer goes on sending to a node whose health check fails: N − 1 periods."""
        found = self.balancer.resolved(local=True)
        return (found.unhealthy_threshold - 1) * found.interval_ns / SECOND_NS

    @property
    def return_s(self) -> float:
        """How long a load balancer takes to send to a node that can serve again."""
        found = self.balancer.resolved(local=True)
        return found.healthy_threshold * found.interval_ns / SECOND_NS

    @property
    def probes(self) -> str:
        """Such as ``(2 + 1) × 5 s``."""
        found = self.balancer.resolved(local=True)
        return f"({found.unhealthy_threshold} + 1) × {in_seconds(found.interval_ns / SECOND_NS)}"


@dataclass(frozen=True)
class Case:
    """A Service in its cluster. Its questions are about ready endpoints."""

    found: Found
    facts: Facts
    timing: Timing

    @property
    def service(self) -> Service:
        return self.facts.service

    @property
    def total(self) -> int:
        return len(self.facts.endpoints)

    @property
    def names(self) -> list[str]:
        """The names of all nodes."""
        return [node.metadata.name for node in self.found.nodes]

    @property
    def headless(self) -> bool:
        return self.service.cluster_ip == CLUSTER_IP_NONE

    @property
    def balanced(self) -> bool:
        """Whether clients come by a load balancer."""
        return not self.headless and self.service.type == "LoadBalancer"

    @property
    def local(self) -> bool:
        """Whether clients from outside get local endpoints only."""
        outside = not self.headless and self.service.externally_accessible
        return outside and self.service.external_traffic_policy == "Local"

    def back_s(self, keeper: Keeper) -> float:
        """From the creation of a pod until all clients can reach it. A load balancer has to believe in its node first (Local)."""
        return keeper.starts_s + self.timing.lag_s + (self.timing.return_s if self.balanced and self.local else 0)

    def outage_s(self, keeper: Keeper, *, one_by_one: bool) -> float:
        """For how long clients lose, at most, if all pods end at once. ``one_by_one``: new ones come when the old ones are gone.

        Pods that terminate and still serve are used while none is ready (T-2.3). With the policy Local no health check counts them (CP-15.2), so
        a load balancer leaves their nodes before their hooks are over.
        """
        reached_s = min(keeper.serves_s, self.timing.patience_s) if self.balanced and self.local else keeper.serves_s
        begins_s = keeper.serves_s if one_by_one else 0.0
        return max(begins_s + self.back_s(keeper) - reached_s, 0.0)

    @property
    def selected(self) -> int:
        """How many pods the Service has, ready or not."""
        return self.total + self.facts.unready

    @property
    def one_member(self) -> bool:
        """Whether the Service selects some members of a StatefulSet only."""
        return any(k.kind == STATEFUL_SET and k.replicas > self.selected for k in self.facts.keepers)

    def on(self, nodes: Collection[str]) -> list[Endpoint]:
        return [each for each in self.facts.endpoints if each.node in nodes]

    def evicted(self, node: str) -> list[Endpoint]:
        """The endpoints that a drain takes from a node, at once or later.

        It leaves pods of DaemonSets, static ones, what is no pod, and pods that budgets never let go.
        """
        return [e for e in self.on({node}) if e.group is not None and self._may_be_evicted(e.group)]

    def emptied(self) -> tuple[str, ...]:
        """The nodes that a drain leaves without endpoint."""
        return tuple(n for n in self.facts.nodes if len(self.evicted(n)) == len(self.on({n})))

    def _may_be_evicted(self, keeper: Keeper) -> bool:
        budgets = self.found.budgets.get(keeper.group.name, ())
        return not keeper.stays and len(budgets) < 2 and all(each.allowed > 0 or not each.settled for each in budgets)

    def held_back(self, gone: Sequence[Endpoint]) -> int:
        """How many of the pods that a drain would evict at once their budgets hold back until others are ready."""
        held = 0
        for keeper in keepers_of(gone):
            own = [e for e in gone if e.group is keeper]
            budgets = self.found.budgets.get(keeper.group.name, ())
            allowed = min((max(b.allowed, 0) for b in budgets), default=len(own))
            held += max(len(own) - allowed, 0)
        return held

    def replaced(self, gone: Sequence[Endpoint], lost: Collection[str]) -> int:
        """How many of the endpoints come back on other nodes."""
        others = [node for node in self.found.nodes if node.metadata.name not in lost]
        back = 0
        for keeper in keepers_of(gone):
            own = sum(e.group is keeper for e in gone)
            if not keeper.stays:
                room = keeper.takes(others)
                back += min(own, len(room)) if keeper.alone_on_node else (own if room else 0)
        return back


def keepers_of(endpoints: Sequence[Endpoint]) -> list[Keeper]:
    """The workloads of the endpoints' pods, each once."""
    return list({id(e.group): e.group for e in endpoints if e.group is not None}.values())


def names(several: Sequence[str], last: str = ", ") -> str:
    """Such as ``a, b or c``; of many only the first, and how many more there are."""
    if len(several) > 4:
        return f"{', '.join(several[:3])}{last}{len(several) - 3} more nodes"
    return last.join([", ".join(several[:-1]), several[-1]]) if len(several) > 1 else several[0]


def pre_stop(seconds: float, *keepers: Keeper) -> Helps:
    """A preStop hook that sleeps for so long, and the grace period that it needs if one of the workloads has less."""
    sleep = ceil(seconds)
    longer = any(keeper.spec.grace_s <= sleep for keeper in keepers)
    grace = f" and terminationGracePeriodSeconds ≥ {sleep + 1}" if longer else ""
    return {Remedy.PRE_STOP: f"preStop sleep ≥ {sleep} s{grace}"}
