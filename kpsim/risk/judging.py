"""Applies the table of advice to a cluster: each node drained, each node lost, each zone lost, a rollout, and as it is now."""

from collections.abc import Callable, Collection, Iterator, Sequence

from kpsim.cluster import ClusterState
from kpsim.config import ProxyConfig
from kpsim.drafting.rollouts import near
from kpsim.errors import InputError, Problem
from kpsim.manifests.admission import Item
from kpsim.objects import LABEL_SERVICE_PROXY_NAME
from kpsim.risk.case import NOTICED_S, TOLERATED_S, WAY_S, Case, Timing
from kpsim.risk.facts import Endpoint, Facts, find_facts
from kpsim.risk.findings import findings
from kpsim.risk.remarks import in_seconds, remarks
from kpsim.risk.rules import RULES
from kpsim.risk.verdicts import Assessment, Left, Verdict
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.units import SECOND_NS


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
        verdicts.append(_verdict(Case(found, facts, timing)))
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
        "pods find room by labels, taints, host ports and required podAntiAffinity; requests and volumes are not asked",
    )


def _chosen(facts: Sequence[Facts], wanted: Sequence[str]) -> Sequence[Facts]:
    if not wanted:
        return facts
    known = {each.title: each for each in facts}
    names = {name if "/" in name else f"default/{name}" for name in wanted}
    if unknown := sorted(names.difference(known)):
        raise InputError([Problem(f"--service {n}: there is no such Service{near(n, known)}") for n in unknown])
    return [each for each in facts if each.title in names]


def _verdict(case: Case) -> Verdict:
    facts, about = case.facts, _about(case)
    if why := _not_judged(facts):
        return Verdict(facts.title, None, about, notes=(why,))
    found = sorted(findings(case), key=lambda each: list(RULES).index(each.cause))
    notes = tuple(dict.fromkeys(remarks(facts, case.found.budgets, case.found.nodes, _machine_off_s(case))))
    return Verdict(facts.title, bool(found), about, tuple(found), notes, tuple(_left(case)))


def _not_judged(facts: Facts) -> str:
    if facts.service.type == "ExternalName":
        return "an ExternalName is a DNS record: kube-proxy does nothing for it (O-4.2)"
    if LABEL_SERVICE_PROXY_NAME in facts.service.metadata.labels:
        return "another proxy serves it (label service.kubernetes.io/service-proxy-name, O-1.1)"
    return facts.unknown


def _about(case: Case) -> str:
    service = case.service
    words = ["headless" if case.headless else service.type or "ClusterIP"]
    if case.local:
        words.append("externalTrafficPolicy Local")
    if service.internal_traffic_policy == "Local" and not case.headless:
        words.append("internalTrafficPolicy Local")
    if service.session_affinity == "ClientIP":
        words.append("session affinity")
    nodes = len(case.facts.nodes)
    ends = f"{case.total} ready endpoint{'' if case.total == 1 else 's'}"
    words.append(f"{ends} on {nodes} of {len(case.names)} nodes" if nodes else ends)
    return ", ".join(words)


def _machine_off_s(case: Case) -> float | None:
    """How long a load balancer sends to a machine that went off; None: there is none."""
    if not case.balanced:
        return None
    return case.timing.balancer.resolved(local=case.local).worst_window_ns / SECOND_NS


def _left(case: Case) -> Iterator[Left]:
    """What is left of the Service after each drain, each lost node and each lost zone."""
    for node in case.names:
        gone = case.evicted(node)
        yield _row(case, "drained", node, gone, {node}, case.total - len(gone) + case.held_back(gone))
    for node in case.names:
        gone = case.on({node})
        yield _row(case, "node lost", node, gone, {node}, case.total - len(gone))
    if len(case.found.zones) > 1:
        for zone, nodes in case.found.zones.items():
            gone = case.on(nodes)
            yield _row(case, "zone lost", zone, gone, nodes, case.total - len(gone))


def _row(case: Case, event: str, subject: str, gone: Sequence[Endpoint], lost: Collection[str], during: int) -> Left:
    names = {id(each) for each in gone}
    held = during > case.total - len(gone)
    serving = sorted({e.node for e in case.facts.endpoints if e.node and (held or id(e) not in names)})
    after = min(case.total, case.total - len(gone) + case.replaced(gone, lost))
    return Left(event, subject, case.total, during, after, tuple(serving))
