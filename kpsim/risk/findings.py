"""Why a Service is at risk: the rows of the table of advice that hold for it. Those about Local policies are in ``local_findings``."""

from collections.abc import Iterator, Sequence

from kpsim.drafting.controllers import Strategy
from kpsim.risk.case import NOTICED_S, TOLERATED_S, Case, keepers_of, names, pre_stop
from kpsim.risk.facts import Counted, Endpoint, Keeper, pods_of
from kpsim.risk.local_findings import local_findings
from kpsim.risk.remarks import in_seconds
from kpsim.risk.rules import DAEMON_SET, RULES, STATEFUL_SET, WORDS, Cause, Helps, Remedy, helps_with
from kpsim.risk.verdicts import Finding

_MEMBER_HELPS = {Remedy.RETRIES: f"{WORDS[Remedy.RETRIES]}, as the Service leads to one member of a StatefulSet"}


def findings(case: Case) -> Iterator[Finding]:
    """Yield every reason why the Service is at risk, and what helps."""
    if not case.total:
        unready = f"; {case.facts.unready} not ready" if case.facts.unready else ""
        words = f"{RULES[Cause.NO_ENDPOINT].reason}{unready}"
        yield Finding(Cause.NO_ENDPOINT, "", (), "all", None, words, helps_with(Remedy.READY))
        yield from _budgets(case)
        return
    yield from _budgets(case)
    if (alone := _alone(case)) is not None:
        yield alone
    elif (zone := _one_zone(case)) is not None:
        yield zone
    yield from _rollouts(case)
    if not case.headless:
        yield from local_findings(case)
    if (ends := _ends_at_once(case)) is not None:
        yield ends


def _budgets(case: Case) -> Iterator[Finding]:
    """The drains that do not end, because a budget allows no eviction or several are over one pod."""
    for keeper in [*case.facts.keepers, *case.facts.idle]:
        budgets = case.found.budgets.get(keeper.group.name, ())
        if keeper.stays or not budgets:
            continue
        if len(budgets) > 1:
            nodes = tuple(sorted({pod.node for pod in keeper.pods}))
            titles = " and ".join(each.title for each in budgets)
            draining = f"draining {names(nodes)}"
            words = f"{draining} fails: {titles} select the same pods, and the API evicts none of them"
            yield Finding(Cause.BUDGET, draining, nodes, "none", None, words, helps_with(Remedy.ONE_BUDGET))
            continue
        (budget,) = budgets
        nodes = tuple(sorted({pod.node for pod in keeper.pods if not budget.lets_go(pod.ready)}))
        if not nodes:
            continue
        draining = f"draining {names(nodes)}"
        now = "" if budget.settled else " as long as pods are missing or not ready"
        words = f"{draining} does not end{now}: PodDisruptionBudget {budget.title} allows no disruption of {keeper.group.title}"
        yield Finding(Cause.BUDGET, draining, nodes, "none", None, words, _budget_helps(budget))


def _budget_helps(budget: Counted) -> Helps:
    if not budget.settled:
        return helps_with(Remedy.READY)
    if isinstance(budget.budget.min_available, int):
        return helps_with(Remedy.ALLOWING_BUDGET) | {Remedy.REPLICA: _more_than(budget.wanted)}
    return helps_with(Remedy.ALLOWING_BUDGET)  # a percentage, or a number that may go, grows with the replicas


def _alone(case: Case) -> Finding | None:
    """All ready endpoints on one node."""
    nodes = case.facts.nodes
    if len(nodes) != 1 or any(not e.node for e in case.facts.endpoints):
        return None
    (node,) = nodes
    gone = case.evicted(node)
    if len(gone) == case.total and not case.held_back(gone):
        seconds, helps = _outage_s(case, gone, node), _alone_helps(case, gone)
        if seconds is None:
            bare = all(keeper.group.bare for keeper in keepers_of(gone))
            why = "nothing makes its pods anew" if bare else "no other node may run the pods"
            words = f"draining {node} leaves none, and {why}"
            helps = {
                Remedy.OTHER_NODES: f"a Deployment of {WORDS[Remedy.OTHER_NODES]}"
                if bare
                else f"{WORDS[Remedy.OTHER_NODES]}; now only {node} may run its pods"
            }
            return Finding(Cause.ALONE, f"draining {node}", nodes, "all", None, words, helps)
        if seconds > 0:
            words = f"draining {node} leaves none; all its traffic is lost for at most {in_seconds(seconds)} until a new pod is ready"
            return Finding(Cause.ALONE, f"draining {node}", nodes, "all", seconds, words, helps)
    helps = helps_with(Remedy.OTHER_NODES)
    if all(e.group is None for e in case.facts.endpoints):
        words = f"losing {node} leaves none until the node is back"
        helps = {Remedy.OTHER_NODES: "endpoints on several nodes"}
        return Finding(Cause.ALONE, f"losing {node}", nodes, "all", None, words, helps)
    if case.one_member:
        helps = _MEMBER_HELPS
    if any(k.stays for k in case.facts.keepers) or not case.replaced(case.on({node}), {node}):
        words = f"losing {node} leaves none until the node is back"
        return Finding(Cause.ALONE, f"losing {node}", nodes, "all", None, words, helps)
    lost_s = NOTICED_S + TOLERATED_S + max(case.back_s(k) for k in case.facts.keepers)
    words = f"losing {node} leaves none; all its traffic is lost for about {in_seconds(lost_s)}"
    return Finding(Cause.ALONE, f"losing {node}", nodes, "all", lost_s, words, helps)


def _alone_helps(case: Case, gone: Sequence[Endpoint]) -> Helps:
    """What helps if a drain evicts all pods at once."""
    if case.one_member:
        return _MEMBER_HELPS
    helps = dict(helps_with(Remedy.OTHER_NODES))
    keepers = keepers_of(gone)
    if len(keepers) > 1:
        return helps
    (keeper,) = keepers
    if len(gone) > 1 and not case.found.budgets.get(keeper.group.name):
        helps |= helps_with(Remedy.KEEPING_BUDGET)
    if keeper.kind != STATEFUL_SET and not (case.balanced and case.local):
        # the new pod starts at once, and pods that terminate serve meanwhile (T-2.3)
        helps |= pre_stop(case.back_s(keeper), keeper)
    return helps


def _outage_s(case: Case, gone: Sequence[Endpoint], node: str) -> float | None:
    """How long no endpoint serves when all pods are evicted at once. None: until an operator acts, since no node takes a new pod."""
    others = [each for each in case.found.nodes if each.metadata.name != node]
    times = [
        case.outage_s(keeper, one_by_one=keeper.kind == STATEFUL_SET)
        for keeper in keepers_of(gone)
        if keeper.takes(others)
    ]
    return min(times, default=None)


def _one_zone(case: Case) -> Finding | None:
    zones = case.found.zones
    own = {zone for zone, nodes in zones.items() if any(e.node in nodes for e in case.facts.endpoints)}
    inside = {name for zone in own for name in zones[zone]}
    if len(zones) < 2 or len(own) != 1 or any(e.node not in inside for e in case.facts.endpoints):
        return None
    if not case.facts.keepers:
        return None
    (zone,) = own
    back = case.replaced(case.facts.endpoints, inside)
    starts_s = max(case.back_s(k) for k in case.facts.keepers)
    seconds = NOTICED_S + TOLERATED_S + starts_s if back else None
    until = f"for about {in_seconds(seconds)}" if seconds is not None else "until the zone is back"
    words = f"losing zone {zone} leaves none; all its traffic is lost {until}"
    nodes = tuple(sorted({e.node for e in case.facts.endpoints}))
    return Finding(Cause.ZONE, f"losing zone {zone}", nodes, "all", seconds, words, helps_with(Remedy.ZONES))


def _rollouts(case: Case) -> Iterator[Finding]:
    """A rollout that may take all pods of the Service away before new ones are ready."""
    keepers = case.facts.keepers
    if len(keepers) != 1 or any(e.group is None for e in case.facts.endpoints):
        return
    (keeper,) = keepers
    controller = keeper.group.controller
    strategy = controller.strategy if controller is not None else None
    if controller is None or strategy is None:
        return
    selected = case.selected if keeper.kind == STATEFUL_SET else keeper.replicas
    down = pods_of(strategy.max_unavailable, keeper.replicas, up=keeper.kind == DAEMON_SET)
    if not down and strategy.max_surge in (0, "0%"):
        down = 1  # a controller that may do neither takes one away
    if down < selected or (keeper.kind == DAEMON_SET and keeper.surges):
        return
    recreated = strategy.recreates
    # with these the new pod comes when the old one is gone
    one_by_one = recreated or keeper.kind in (STATEFUL_SET, DAEMON_SET)
    seconds = case.outage_s(keeper, one_by_one=one_by_one)
    if seconds <= 0:
        return
    how = "strategy Recreate" if recreated else f"maxUnavailable {strategy.max_unavailable} of {keeper.replicas}"
    if case.one_member:
        how = f"the Service leads to {case.total} of {keeper.replicas} members"
    words = f"a rollout leaves none ({how}); all its traffic is lost for at most {in_seconds(seconds)}"
    event, helps = f"a rollout of {keeper.group.title}", _rollout_helps(case, keeper, strategy)
    yield Finding(Cause.ROLLOUT, event, case.facts.nodes, "all", seconds, words, helps)


def _rollout_helps(case: Case, keeper: Keeper, strategy: Strategy) -> Helps:
    if strategy.recreates:
        return helps_with(Remedy.ROLLING)
    if case.one_member:
        return _MEMBER_HELPS
    helps: Helps = {}
    if keeper.kind == "Deployment" and keeper.replicas == 1:
        helps[Remedy.FEWER_UNAVAILABLE] = "maxUnavailable 0 with maxSurge 1"
    elif keeper.replicas > 1:
        helps[Remedy.FEWER_UNAVAILABLE] = f"maxUnavailable below {keeper.replicas}"
    if keeper.kind == DAEMON_SET:
        return helps | keeper.surging()
    if isinstance(strategy.max_unavailable, int) or keeper.replicas == 1:
        most = strategy.max_unavailable if isinstance(strategy.max_unavailable, int) else 1
        helps[Remedy.REPLICA] = _more_than(max(most, 1))
    return helps


def _more_than(replicas: int) -> str:
    return f"more than {replicas} replica{'s' if replicas > 1 else ''}"


def _ends_at_once(case: Case) -> Finding | None:
    """Pods that do not serve until all rules have dropped them."""
    lag_s = case.timing.lag_s
    brief = [
        e for e in case.facts.endpoints
        if e.group is not None and e.group.serves_s < lag_s and (not e.group.stays or e.group.rolls(case.found.nodes))
    ]  # fmt: skip
    if case.headless or not brief:
        return None
    drained = sorted({e.node for e in brief if e.node and e in case.evicted(e.node)})
    lost_s = lag_s - min(k.serves_s for k in keepers_of(brief))
    event = f"draining {names(tuple(drained), ' or ')}" if drained else "a rollout"
    share = max((len(case.on({n})) for n in drained), default=1)
    words = (
        f"{event} ends pods at SIGTERM, at most {in_seconds(lost_s)} before all nodes' rules have dropped them; "
        f"{share} of {case.total} new connections are lost meanwhile"
    )
    clients = f"{share} of {case.total} of all"
    helps = pre_stop(lag_s, *keepers_of(brief))
    return Finding(Cause.ENDS_AT_ONCE, event, tuple(drained), clients, lost_s, words, helps)
