"""Why a Service with a Local policy is at risk: nodes without endpoint, now, in a drain, or in a rollout."""

from collections.abc import Iterator, Sequence
from math import ceil

from kpsim.drafting.podspecs import PodSpec
from kpsim.risk.case import Case, keepers_of, names, pre_stop
from kpsim.risk.facts import Keeper, pods_of
from kpsim.risk.remarks import in_seconds
from kpsim.risk.rules import DAEMON_SET, RULES, STATEFUL_SET, Cause, Helps, Remedy, helps_with
from kpsim.risk.verdicts import Finding


def local_findings(case: Case) -> Iterator[Finding]:
    """Yield the reasons that lie in a Local policy."""
    if case.local and case.balanced:
        yield from _window(case)
        yield from _return(case)
    elif case.local:
        bare = [name for name in case.names if name not in case.facts.nodes]
        dialling = "clients from outside that dial"
        yield from _bare(case, Cause.LOCAL_NODE_PORT, Remedy.EXTERNAL_CLUSTER, bare, dialling, "from outside")
    if case.service.internal_traffic_policy == "Local":
        free = [node.metadata.name for node in case.found.nodes if PodSpec().may_run_on(node)]
        bare = [name for name in free if name not in case.facts.nodes]
        yield from _bare(case, Cause.LOCAL_INTERNAL, Remedy.INTERNAL_CLUSTER, bare, "pods on", "pods of the node")


def _window(case: Case) -> Iterator[Finding]:
    """The load balancer's window at a node that a drain or a rollout leaves without endpoint."""
    window_s = case.timing.window_s(local=True)
    clients = f"1 of {len(case.facts.nodes)} of the load balancer's"
    at_most = f"{case.timing.probes} and {in_seconds(case.timing.lag_s)} until its health check fails"
    worst = {node: window_s - min(k.serves_s for k in keepers_of(case.evicted(node))) for node in case.emptied()}
    drained = tuple(node for node, lost_s in worst.items() if lost_s > 0)
    moving = [keeper for keeper in _moving(case) if keeper.serves_s < window_s]
    if drained or moving:
        lost_s = window_s - min(k.serves_s for k in keepers_of(case.facts.endpoints) if not k.stays)
        event = _event(drained, moving)
        words = (
            f"{event} may leave a node without endpoint; what the load balancer sends there is lost for at most {in_seconds(lost_s)}: "
            f"it may go on for {at_most}"
        )
        keepers = keepers_of([e for node in drained for e in case.evicted(node)])
        helps = pre_stop(window_s, *keepers, *moving) | helps_with(Remedy.EXTERNAL_CLUSTER)
        yield Finding(Cause.LOCAL_WINDOW, event, drained or case.facts.nodes, clients, lost_s, words, helps)
    for keeper in _one_after_the_other(case):
        lost_s = min(window_s - keeper.serves_s, case.back_s(keeper))
        if lost_s <= 0:
            continue
        event = _event((), [keeper])
        words = (
            f"{event} leaves one node after the other without endpoint; what the load balancer sends there is lost for at most "
            f"{in_seconds(lost_s)}: it may go on for {at_most}"
        )
        helps = pre_stop(window_s, keeper) | helps_with(Remedy.EXTERNAL_CLUSTER) | keeper.surging()
        yield Finding(Cause.LOCAL_WINDOW, event, case.facts.nodes, clients, lost_s, words, helps)


def _return(case: Case) -> Iterator[Finding]:
    """The time in which a rollout has taken the old pods' nodes out of the load balancer, and it does not send to the new ones' yet."""
    timing, keepers = case.timing, case.facts.keepers
    if len(keepers) != 1 or any(e.group is None for e in case.facts.endpoints):
        return
    (keeper,) = keepers
    controller = keeper.group.controller
    strategy = controller.strategy if controller is not None else None
    if controller is None or strategy is None or strategy.recreates or not keeper.rolls(case.found.nodes):
        return
    if (keeper.surges and keeper.kind == DAEMON_SET) or (keeper.replicas == 1 and not keeper.surges):
        return  # each node keeps a ready pod; or a rollout leaves none, which is worse
    at_once = pods_of(strategy.max_surge, keeper.replicas, up=True)
    at_once += pods_of(strategy.max_unavailable, keeper.replicas, up=keeper.kind == DAEMON_SET)
    step_s = keeper.starts_least_s + controller.min_ready_s
    if keeper.kind in (DAEMON_SET, STATEFUL_SET):
        step_s += keeper.serves_s  # a new pod comes when the old one is gone
    found_s = timing.return_s + timing.lag_s - timing.patience_s
    steps = ceil(keeper.replicas / max(at_once, 1))
    lost_s = found_s - controller.min_ready_s - (steps - 1) * step_s
    if lost_s <= 0:
        return
    event = _event((), [keeper])
    words = (
        f"{event} may end the last old pod before the load balancer sends to the nodes of new ones, which it believes in after "
        f"{in_seconds(timing.return_s)}; all that it gets is lost for at most {in_seconds(lost_s)}"
    )
    helps = {Remedy.MIN_READY: f"minReadySeconds ≥ {ceil(found_s)}"} | helps_with(Remedy.EXTERNAL_CLUSTER)
    clients = "all of the load balancer's"
    yield Finding(Cause.LOCAL_RETURN, event, case.facts.nodes, clients, lost_s, words, helps)


def _event(drained: Sequence[str], rolled: Sequence[Keeper]) -> str:
    """Such as ``draining a or b, or a rollout of shop/web``."""
    parts = [f"draining {names(drained, ' or ')}"] if drained else []
    return ", or ".join([*parts, *(f"a rollout of {keeper.group.title}" for keeper in rolled)])


def _bare(
    case: Case, cause: Cause, cluster: Remedy, bare: Sequence[str], whose: str, clients: str
) -> Iterator[Finding]:
    """Nodes without endpoint for a Local policy, now or in time; ``whose`` clients then get nothing. ``cluster`` is the other policy."""
    policy, drained, moving = RULES[cause].reason.partition(":")[0], case.emptied(), _moving(case)
    if bare:
        words = f"{policy}: {whose} {names(bare, ' or ')} get no answer now, as there is no endpoint"
        yield Finding(cause, "", tuple(bare), clients, None, words, helps_with(cluster) | _everywhere(case, bare))
    elif drained or moving:
        event = _event(drained, moving)
        words = f"{policy}: {event} may leave {whose} a node without answer until a pod is there again"
        nodes = drained or case.facts.nodes
        yield Finding(cause, event, nodes, clients, None, words, helps_with(cluster, Remedy.DAEMON_SET))
    for keeper in _one_after_the_other(case):
        event, seconds = _event((), [keeper]), keeper.starts_s + case.timing.lag_s
        words = (
            f"{policy}: {event} leaves one node after the other without endpoint; {whose} that node get no answer for at most "
            f"{in_seconds(seconds)}"
        )
        yield Finding(cause, event, case.facts.nodes, clients, seconds, words, helps_with(cluster) | keeper.surging())


def _everywhere(case: Case, bare: Sequence[str]) -> Helps:
    """A DaemonSet; of one that is there already, pods on the nodes that it leaves out."""
    if any(k.kind == DAEMON_SET for k in case.facts.keepers):
        return {Remedy.DAEMON_SET: f"pods of the DaemonSet on {names(bare)} too (tolerations, nodeSelector)"}
    return helps_with(Remedy.DAEMON_SET)


def _moving(case: Case) -> list[Keeper]:
    """The workloads whose rollout may make a node's new pod elsewhere."""
    return [k for k in case.facts.keepers if k.kind != DAEMON_SET and k.rolls(case.found.nodes)]


def _one_after_the_other(case: Case) -> list[Keeper]:
    """The DaemonSets whose rollout takes a node's pod away before it makes the new one."""
    return [k for k in case.facts.keepers if k.kind == DAEMON_SET and k.rolls(case.found.nodes) and not k.surges]
