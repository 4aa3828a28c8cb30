"""A namespace that is deleted: what is in it goes, and nothing new is stored (CP-3.6.2)."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.simulation.runlog import HappeningKind, RunLog

DELETED = "events: [{at: 5s, deleteNamespace: {namespace: default}}]\n"
SERVING = "workloads[0].termination.preStop=3s"


def gone_ms(log: RunLog) -> list[int]:
    return [h.at_ns // MS for h in log.happenings if h.kind is HappeningKind.POD_GONE]


def slice_writes(log: RunLog) -> list[tuple[str, int]]:
    return [(w.event, w.at_ns // MS) for w in log.watched if w.kind == "EndpointSlice"]


def test_services_slices_and_pods_go_and_no_pod_is_replaced() -> None:
    log = simulate(DELETED, "duration=30s", SERVING)
    # stored at 5.007 and seen at 5.020; three or four kinds follow, 7 ms each, in an order that is drawn
    assert 5027 <= min(at for _, at in slice_writes(log)) <= 5048
    ends = gone_ms(log)
    assert len(ends) == 2 and all(8027 <= at <= 8090 for at in ends)  # they serve for their 3 s
    assert sum(h.kind is HappeningKind.POD_CREATED for h in log.happenings) == 0
    assert all(spell.until_ns is not None for spell in log.endpoints)


@pytest.mark.parametrize("seed", range(1, 9))
def test_slices_are_not_made_anew_whatever_goes_first(seed: int) -> None:
    """Pods that end later, or a slice that went before its Service, let the controller sync again: its create is refused, silently."""
    log = simulate(DELETED, "duration=30s", SERVING, "endpoints.written=true", seed=seed)
    last = max(at for _, at in slice_writes(log))
    assert [event for event, at in slice_writes(log) if at == last] == ["DELETED"]
    assert not [event for event, _ in slice_writes(log) if event == "ADDED"]
    assert [w.event for w in log.watched if w.kind == "Endpoints"][-1] == "DELETED"


def test_the_order_of_kinds_is_drawn() -> None:
    orders = {tuple(slice_writes(simulate(DELETED, "duration=30s", SERVING, seed=seed))) for seed in range(1, 9)}
    assert len(orders) > 1


def test_other_namespaces_stay() -> None:
    other = HEAD.replace("- name: web\n", "- name: web\n    namespace: shop\n", 1)
    other += "  - {apiVersion: v1, kind: Service, metadata: {name: w2, namespace: shop}, spec: {clusterIP: 172.30.0.12, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}\n"
    log = simulate(DELETED, "duration=30s", head=other)
    assert gone_ms(log) == []
    assert {s.service for s in log.endpoints if s.until_ns is None} == {"shop/w2"}


def test_what_comes_later_is_refused_or_without_effect() -> None:
    later = "events: [{at: 5s, deleteNamespace: {namespace: default}}, {at: 9s, scale: {workload: web, replicas: 5}}]\n"
    log = simulate(later, "duration=30s")
    assert [h.subject for h in log.happenings if h.kind is HappeningKind.NO_EFFECT] == ["web"]
    assert len(gone_ms(log)) == 2
    for event, words in (
        (
            "createService: {apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80}]}}",
            "nothing is created in it",
        ),
        ("patchService: {service: web, patch: {}}", "there is no Service default/web at that time"),
    ):
        with pytest.raises(InputError, match=words):
            simulate(f"events: [{{at: 5s, deleteNamespace: {{namespace: default}}}}, {{at: 9s, {event}}}]\n")
    with pytest.raises(InputError, match="there is no namespace 'defalt'; did you mean 'default'"):
        simulate("events: [{at: 5s, deleteNamespace: {namespace: defalt}}]\n")
