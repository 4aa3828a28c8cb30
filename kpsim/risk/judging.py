"""Applies the table of advice to a cluster: each node drained, each node lost, each zone lost, a rollout, and as it is now."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

from kpsim.cluster import ClusterState
from kpsim.config import ProxyConfig
from kpsim.drafting.podspecs import PodSpec
from kpsim.drafting.rollouts import near
from kpsim.errors import InputError, Problem
from kpsim.manifests.admission import Item
from kpsim.objects import CLUSTER_IP_NONE, LABEL_SERVICE_PROXY_NAME
from kpsim.risk.facts import Endpoint, Facts, Found, Keeper, find_facts
from kpsim.risk.remarks import DAEMON_SET, in_seconds, remarks
from kpsim.risk.rules import RULES, Cause
from kpsim.risk.verdicts import Assessment, Finding, Left, Verdict
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.units import SECOND_NS

#: a node that is lost: its pods stay ready for so long (CP-2.9), and are replaced so much later (CP-2.9.1)
NOTICED_S, TOLERATED_S = 50, 300
#: from a change of a pod until kube-proxy's rules have it, beside minSyncPeriod: status, slice, watch, sync (CP-1.2)
WAY_S = 1.0
_SURGE = "maxSurge 1 of the DaemonSet (not with host ports)"
_ONE_MEMBER = "clients that try again, as the Service leads to one member of a StatefulSet"


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
        """How long a load balancer may send to a node that cannot serve: (N + 1) × period (FIG-3), after the sync that makes its health check fail (PP-11.7)."""
        return self.balancer.resolved(local=local).worst_window_ns / SECOND_NS + self.lag_s

    @property
    def probes(self) -> str:
        """Such as ``5 s × 2``."""
        found = self.balancer.resolved(local=True)
        return f"{in_seconds(found.interval_ns / SECOND_NS)} × {found.unhealthy_threshold}"


def assess(
    state: ClusterState, config: ProxyConfig, controllers: Sequence[Item] = (), *, services: Sequence[str] = (),
    balancer: LoadBalancerSpec | None = None, progress: Callable[[int, int], None] | None = None,
) -> Assessment:  # fmt: skip
    """Judge every Service, or those named (``namespace/name``).

    ``balancer`` is how load balancers probe nodes. InputError for names that the cluster does not have, for a cluster without Services or
    Nodes, and for objects that cannot be read.
    """
    found = find_facts(state, controllers)
    timing = Timing(balancer or LoadBalancerSpec(), config.min_sync_period_ns / SECOND_NS)
    chosen = _chosen(found.facts, services)
    verdicts = []
    for number, facts in enumerate(chosen, 1):
        verdicts.append(_Judge(found, facts, timing).verdict())
        if progress is not None:
            progress(number, len(chosen))
    verdicts.sort(key=lambda each: (not each.risk, each.risk is None, each.service))
    return Assessment(verdicts, _assumed(timing))


def _assumed(timing: Timing) -> tuple[str, ...]:
    return (
        f"load balancers probe nodes every {in_seconds(timing.balancer.resolved(local=True).interval_ns / SECOND_NS)} and believe"
        f" {timing.balancer.resolved(local=True).unhealthy_threshold} failures, so a node that cannot serve gets traffic for up to"
        f" {in_seconds(timing.window_s(local=True))} (PP-11.7, FIG-3)",
        f"a change of a pod is in all rules after up to {in_seconds(timing.lag_s)}: minSyncPeriod and {in_seconds(WAY_S)} (CP-1.2)",
        "an application ends on SIGTERM at once, unless its preStop hook sleeps (CP-2.8)",
        f"a lost node's pods stay endpoints for {NOTICED_S} s, and are replaced {TOLERATED_S} s later (CP-2.9, CP-2.9.1)",
        "pods find room by labels, taints and required podAntiAffinity; requests and volumes are not asked",
    )


def _chosen(facts: Sequence[Facts], wanted: Sequence[str]) -> Sequence[Facts]:
    if not wanted:
        return facts
    known = {each.title: each for each in facts}
    names = {name if "/" in name else f"default/{name}" for name in wanted}
    if unknown := sorted(names.difference(known)):
        raise InputError([Problem(f"--service {n}: there is no such Service{near(n, known)}") for n in unknown])
    return [each for each in facts if each.title in names]


class _Judge:
    """Judges one Service."""

    def __init__(self, found: Found, facts: Facts, timing: Timing) -> None:
        self._found, self._facts, self._timing = found, facts, timing
        self._service = facts.service
        self._total = len(facts.endpoints)
        self._names = [node.metadata.name for node in found.nodes]
        headless = self._service.cluster_ip == CLUSTER_IP_NONE
        self._headless = headless
        self._outside = not headless and self._service.externally_accessible
        self._balanced = not headless and self._service.type == "LoadBalancer"
        self._local = self._outside and self._service.external_traffic_policy == "Local"

    def verdict(self) -> Verdict:
        facts, about = self._facts, self._about()
        if why := self._not_judged():
            return Verdict(facts.title, None, about, notes=(why,))
        findings = sorted(self._findings(), key=lambda each: list(RULES).index(each.cause))
        notes = tuple(dict.fromkeys(remarks(facts, self._found.budgets, self._machine_off_s())))
        return Verdict(facts.title, bool(findings), about, tuple(findings), notes, tuple(self._left()))

    def _not_judged(self) -> str:
        if self._service.type == "ExternalName":
            return "an ExternalName is a DNS record: kube-proxy does nothing for it (O-4.2)"
        if LABEL_SERVICE_PROXY_NAME in self._service.metadata.labels:
            return "another proxy serves it (label service.kubernetes.io/service-proxy-name, O-1.1)"
        if self._facts.unknown:
            return self._facts.unknown
        return ""

    def _about(self) -> str:
        service = self._service
        kind = "headless" if self._headless else service.type or "ClusterIP"
        words = [kind]
        if self._local:
            words.append("externalTrafficPolicy Local")
        if service.internal_traffic_policy == "Local" and not self._headless:
            words.append("internalTrafficPolicy Local")
        if service.session_affinity == "ClientIP":
            words.append("session affinity")
        nodes = len(self._facts.nodes)
        ends = f"{self._total} ready endpoint{'' if self._total == 1 else 's'}"
        words.append(f"{ends} on {nodes} of {len(self._names)} nodes" if nodes else ends)
        return ", ".join(words)

    def _machine_off_s(self) -> float | None:
        """How long a load balancer sends to a machine that went off; None: there is none."""
        if not self._balanced:
            return None
        return self._timing.balancer.resolved(local=self._local).worst_window_ns / SECOND_NS

    # -------------------------------------------------------------------------------------------------- what is left

    def _on(self, nodes: Collection[str]) -> list[Endpoint]:
        return [each for each in self._facts.endpoints if each.node in nodes]

    def _evicted(self, node: str) -> list[Endpoint]:
        """The endpoints that a drain takes from a node: it leaves a DaemonSet's pods, and what is no pod."""
        return [e for e in self._on({node}) if e.group is not None and e.group.kind != DAEMON_SET]

    def _held_back(self, gone: Sequence[Endpoint]) -> int:
        """How many of the pods that a drain would evict at once their budgets hold back until others are ready."""
        held = 0
        for keeper in _keepers(gone):
            own = [e for e in gone if e.group is keeper]
            budgets = self._found.budgets.get(keeper.group.name, ())
            allowed = 0 if len(budgets) > 1 else min((max(b.allowed, 0) for b in budgets), default=len(own))
            held += max(len(own) - allowed, 0)
        return held

    def _replaced(self, gone: Sequence[Endpoint], lost: Collection[str]) -> int:
        """How many of the endpoints come back on other nodes."""
        others = [node for node in self._found.nodes if node.metadata.name not in lost]
        back = 0
        for keeper in _keepers(gone):
            own = sum(e.group is keeper for e in gone)
            if keeper.kind != DAEMON_SET:
                room = keeper.takes(others)
                back += min(own, len(room)) if keeper.alone_on_node else (own if room else 0)
        return back

    def _left(self) -> Iterator[Left]:
        for node in self._names:
            gone = self._evicted(node)
            during = self._total - len(gone) + self._held_back(gone)
            yield self._row("drained", node, gone, {node}, during)
        for node in self._names:
            gone = self._on({node})
            yield self._row("node lost", node, gone, {node}, self._total - len(gone))
        if len(self._found.zones) > 1:
            for zone, nodes in self._found.zones.items():
                gone = self._on(nodes)
                yield self._row("zone lost", zone, gone, nodes, self._total - len(gone))

    def _row(self, event: str, subject: str, gone: Sequence[Endpoint], lost: Collection[str], during: int) -> Left:
        names = {id(each) for each in gone}
        held = during > self._total - len(gone)
        serving = sorted({e.node for e in self._facts.endpoints if e.node and (held or id(e) not in names)})
        after = min(self._total, self._total - len(gone) + self._replaced(gone, lost))
        return Left(event, subject, self._total, during, after, tuple(serving))

    # ------------------------------------------------------------------------------------------------------ findings

    def _findings(self) -> Iterator[Finding]:
        if not self._total:
            unready = f"; {self._facts.unready} not ready" if self._facts.unready else ""
            rule = RULES[Cause.NO_ENDPOINT]
            yield Finding(Cause.NO_ENDPOINT, "", (), "all", None, f"{rule.reason}{unready}", rule.remedy)
            return
        yield from self._budgets()
        if (alone := self._alone()) is not None:
            yield alone
        elif (zone := self._one_zone()) is not None:
            yield zone
        yield from self._rollouts()
        if not self._headless:
            yield from self._local_window()
            yield from self._local_node_port()
            yield from self._local_internal()
        if (ends := self._ends_at_once()) is not None:
            yield ends

    def _budgets(self) -> Iterator[Finding]:
        for keeper in self._facts.keepers:
            budgets = self._found.budgets.get(keeper.group.name, ())
            if keeper.kind == DAEMON_SET or not budgets:
                continue
            nodes = tuple(sorted({pod.node for pod in keeper.pods}))
            draining = f"draining {_names(nodes)}"
            if len(budgets) > 1:
                titles = " and ".join(each.title for each in budgets)
                words = (
                    f"{draining} does not end: {titles} select the same pods, and the API then refuses every eviction"
                )
                yield Finding(
                    Cause.BUDGET, draining, nodes, "none", None, words, "one PodDisruptionBudget over these pods"
                )
                continue
            (budget,) = budgets
            if budget.allowed >= 1:
                continue
            now = "" if budget.settled else " as long as pods are missing or not ready"
            words = f"{draining} does not end{now}: PodDisruptionBudget {budget.title} allows no disruption of {keeper.group.title}"
            yield Finding(Cause.BUDGET, draining, nodes, "none", None, words, RULES[Cause.BUDGET].remedy)

    def _alone(self) -> Finding | None:
        """All ready endpoints on one node."""
        nodes = self._facts.nodes
        if len(nodes) != 1 or any(not e.node for e in self._facts.endpoints):
            return None
        (node,) = nodes
        gone = self._evicted(node)
        lost_s = (
            NOTICED_S + TOLERATED_S + max((k.starts_s for k in self._facts.keepers), default=0) + self._timing.lag_s
        )
        rule = RULES[Cause.ALONE]
        member = any(k.kind == "StatefulSet" and k.replicas > self._total for k in self._facts.keepers)
        remedy = _ONE_MEMBER if member else rule.remedy
        if len(gone) == self._total and not self._held_back(gone):
            seconds = self._outage_s(gone, node)
            if seconds is None:
                words = f"draining {node} leaves none, and no other node may run the pods"
                remedy = f"another node that may run its pods, then {rule.remedy}"
                return Finding(Cause.ALONE, f"draining {node}", nodes, "all", None, words, remedy)
            if seconds > 0:
                words = f"draining {node} leaves none; all its traffic is lost for up to {in_seconds(seconds)} until a new pod is ready"
                return Finding(Cause.ALONE, f"draining {node}", nodes, "all", seconds, words, remedy)
        if all(e.group is None for e in self._facts.endpoints):
            words = f"losing {node} leaves none until the node is back"
            return Finding(Cause.ALONE, f"losing {node}", nodes, "all", None, words, "endpoints on several nodes")
        if any(k.kind == DAEMON_SET for k in self._facts.keepers) or not self._replaced(self._on({node}), {node}):
            words = f"losing {node} leaves none until the node is back"
            return Finding(Cause.ALONE, f"losing {node}", nodes, "all", None, words, remedy)
        words = f"losing {node} leaves none; all its traffic is lost for about {in_seconds(lost_s)}"
        return Finding(Cause.ALONE, f"losing {node}", nodes, "all", lost_s, words, remedy)

    def _outage_s(self, gone: Sequence[Endpoint], node: str) -> float | None:
        """How long nobody serves when all pods are evicted at once. None: until somebody acts, since no node takes a new pod.

        Pods that terminate and still serve are used while none is ready (T-2.3). A StatefulSet's pod is replaced after it is gone.
        """
        others = [each for each in self._found.nodes if each.metadata.name != node]
        times = []
        for keeper in _keepers(gone):
            if not keeper.takes(others):
                continue
            new_s = keeper.starts_s + self._timing.lag_s
            times.append(new_s if keeper.kind == "StatefulSet" else max(new_s - keeper.serves_s, 0.0))
        return min(times, default=None)

    def _one_zone(self) -> Finding | None:
        zones = self._found.zones
        own = {zone for zone, nodes in zones.items() if any(e.node in nodes for e in self._facts.endpoints)}
        inside = {name for zone in own for name in zones[zone]}
        if len(zones) < 2 or len(own) != 1 or any(e.node not in inside for e in self._facts.endpoints):
            return None
        if not self._facts.keepers:
            return None
        (zone,) = own
        back = self._replaced(self._facts.endpoints, inside)
        starts_s = max(k.starts_s for k in self._facts.keepers)
        seconds = NOTICED_S + TOLERATED_S + starts_s + self._timing.lag_s if back else None
        until = f"for about {in_seconds(seconds)}" if seconds is not None else "until the zone is back"
        words = f"losing zone {zone} leaves none; all its traffic is lost {until}"
        nodes = tuple(sorted({e.node for e in self._facts.endpoints}))
        return Finding(Cause.ZONE, f"losing zone {zone}", nodes, "all", seconds, words, RULES[Cause.ZONE].remedy)

    def _rollouts(self) -> Iterator[Finding]:
        """A rollout that may take all pods of the Service away before new ones are ready."""
        keepers = self._facts.keepers
        if len(keepers) != 1 or any(e.group is None for e in self._facts.endpoints):
            return
        (keeper,) = keepers
        controller = keeper.group.controller
        strategy = controller.strategy if controller is not None else None
        if controller is None or strategy is None:
            return
        down = _share(strategy.max_unavailable, keeper.replicas, up=keeper.kind == DAEMON_SET)
        if not down and strategy.max_surge in (0, "0%"):
            down = 1  # a controller that may do neither takes one away
        if down < self._total:
            return
        recreated = strategy.words == "strategy Recreate"
        one_by_one = recreated or keeper.kind in (
            "StatefulSet",
            DAEMON_SET,
        )  # the new pod comes when the old one is gone
        seconds = keeper.starts_s + self._timing.lag_s - (0 if one_by_one else keeper.serves_s)
        if seconds <= 0:
            return
        how = "strategy Recreate" if recreated else f"maxUnavailable {strategy.max_unavailable} of {keeper.replicas}"
        if keeper.kind == "StatefulSet" and keeper.replicas > self._total:
            how = f"the Service leads to {self._total} of {keeper.replicas} members"
        words = f"a rollout leaves none ({how}); all its traffic is lost for up to {in_seconds(seconds)}"
        yield Finding(
            Cause.ROLLOUT,
            f"a rollout of {keeper.group.title}",
            self._facts.nodes,
            "all",
            seconds,
            words,
            self._rollout_remedy(keeper),
        )

    def _rollout_remedy(self, keeper: Keeper) -> str:
        if keeper.kind == "Deployment":
            return RULES[Cause.ROLLOUT].remedy
        if keeper.kind == "StatefulSet" and keeper.replicas > self._total:
            return _ONE_MEMBER
        return "more replicas than maxUnavailable"

    def _local_window(self) -> Iterator[Finding]:
        """The load balancer's window at a node that a drain, or a DaemonSet's rollout, leaves without endpoint."""
        if not (self._balanced and self._local):
            return
        window_s = self._timing.window_s(local=True)
        worst: dict[str, float] = {}
        for node in self._facts.nodes:
            gone = self._evicted(node)
            if gone and len(gone) == len(self._on({node})):
                lost_s = window_s - min(k.serves_s for k in _keepers(gone))
                if lost_s > 0:
                    worst[node] = lost_s
        ends = ceil(window_s)
        remedy = f"preStop sleep ≥ {ends} s and terminationGracePeriodSeconds ≥ {ends + 1}"
        if worst:
            nodes, lost_s = tuple(worst), max(worst.values())
            words = (
                f"draining {_names(nodes, ' or ')} leaves that node without endpoint; what the load balancer sends there is lost for up to "
                f"{in_seconds(lost_s)} at {self._timing.probes}"
            )
            yield Finding(
                Cause.LOCAL_WINDOW,
                f"draining {_names(nodes, ' or ')}",
                nodes,
                _share_of(1, self._facts.nodes, "the load balancer's"),
                lost_s,
                words,
                remedy,
            )
        for keeper in self._one_after_the_other():
            lost_s = min(window_s - keeper.serves_s, keeper.starts_s + self._timing.lag_s)
            if lost_s > 0:
                words = (
                    f"a rollout of {keeper.group.title} leaves one node after the other without endpoint; what the load balancer sends "
                    f"there is lost for up to {in_seconds(lost_s)} at {self._timing.probes}"
                )
                yield Finding(
                    Cause.LOCAL_WINDOW,
                    f"a rollout of {keeper.group.title}",
                    self._facts.nodes,
                    _share_of(1, self._facts.nodes, "the load balancer's"),
                    lost_s,
                    words,
                    remedy,
                )

    def _local_node_port(self) -> Iterator[Finding]:
        if not self._local or self._balanced:
            return
        bare = [name for name in self._names if name not in self._facts.nodes]
        yield from self._bare(Cause.LOCAL_NODE_PORT, bare, "clients from outside that dial", "from outside")

    def _local_internal(self) -> Iterator[Finding]:
        if self._service.internal_traffic_policy != "Local":
            return
        free = [node.metadata.name for node in self._found.nodes if PodSpec().may_run_on(node)]
        bare = [name for name in free if name not in self._facts.nodes]
        yield from self._bare(Cause.LOCAL_INTERNAL, bare, "pods on", "pods of the node")

    def _bare(self, cause: Cause, bare: Sequence[str], whose: str, clients: str) -> Iterator[Finding]:
        """Nodes without endpoint for a Local policy, now or in time; ``whose`` clients then get nothing."""
        policy, remedy = RULES[cause].reason.partition(":")[0], RULES[cause].remedy
        drained = tuple(n for n in self._facts.nodes if len(self._evicted(n)) == len(self._on({n})))
        if bare:
            words = f"{policy}: {whose} {_names(bare, ' or ')} get no answer now, as there is no endpoint"
            yield Finding(cause, "", tuple(bare), clients, None, words, remedy)
        elif drained:
            event = f"draining {_names(drained, ' or ')}"
            words = f"{policy}: {event} leaves {whose} that node without answer until a pod is there again"
            yield Finding(cause, event, drained, clients, None, words, remedy)
        for keeper in self._one_after_the_other():
            event, seconds = f"a rollout of {keeper.group.title}", keeper.starts_s + self._timing.lag_s
            words = (
                f"{policy}: {event} leaves one node after the other without endpoint; {whose} that node get no answer for up to "
                f"{in_seconds(seconds)}"
            )
            yield Finding(cause, event, self._facts.nodes, clients, seconds, words, _SURGE)

    def _one_after_the_other(self) -> list[Keeper]:
        """The DaemonSets whose rollout takes a node's pod away before it makes the new one."""
        found = []
        for keeper in self._facts.keepers:
            strategy = keeper.group.controller.strategy if keeper.group.controller is not None else None
            if (
                keeper.kind == DAEMON_SET
                and strategy is not None
                and not _share(strategy.max_surge, keeper.replicas, up=True)
            ):
                found.append(keeper)
        return found

    def _ends_at_once(self) -> Finding | None:
        """Pods that do not serve until all rules have dropped them."""
        lag_s = self._timing.lag_s
        brief = [e for e in self._facts.endpoints if e.group is not None and e.group.serves_s < lag_s]
        if self._headless or not brief:
            return None
        drained = sorted({e.node for e in brief if e.node and e in self._evicted(e.node)})
        lost_s = lag_s - min(k.serves_s for k in _keepers(brief))
        event = f"draining {_names(tuple(drained), ' or ')}" if drained else "a rollout"
        share = max((len(self._on({n})) for n in drained), default=1)
        words = (
            f"{event} ends pods at SIGTERM, up to {in_seconds(lost_s)} before all nodes' rules have dropped them; "
            f"{share} of {self._total} new connections are lost meanwhile"
        )
        sleep = ceil(lag_s)
        remedy = f"preStop sleep ≥ {sleep} s"
        return Finding(
            Cause.ENDS_AT_ONCE, event, tuple(drained), f"{share} of {self._total} of all", lost_s, words, remedy
        )


def _keepers(endpoints: Sequence[Endpoint]) -> list[Keeper]:
    return list({id(e.group): e.group for e in endpoints if e.group is not None}.values())


def _share(share: int | str, replicas: int, *, up: bool) -> int:
    """How many pods maxUnavailable is: percentages are rounded down, those of DaemonSets ``up``."""
    if isinstance(share, int):
        return share
    number = share.removesuffix("%")
    if not number.isdecimal():
        raise InputError(f"a strategy's maxSurge or maxUnavailable: expected a number or a percentage, got {share!r}")
    return (int(number) * replicas + 99 * up) // 100


def _share_of(part: int, nodes: Sequence[str], whose: str) -> str:
    return f"{part} of {len(nodes)} of {whose}"


def _names(names: Sequence[str], last: str = ", ") -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])}{last}{len(names) - 3} more nodes"
    return last.join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
