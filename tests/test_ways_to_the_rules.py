"""The way of a change from its cause to the rules, in runs whose delays are constants, so that each leg is known beforehand."""

from runlogs import ms

from kpsim.reports.sync_lag import Stage, stage_ns
from kpsim.result import run
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import RunLog

CLUSTER = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: ways}
duration: 20s
nodes: {count: 2}
workloads:
  - {name: web, replicas: 1, ports: [{containerPort: 8080}], readiness: {probeDelay: 700ms}, startup: {delay: 10s}}
objects:
  - {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
delays:
  readinessToStatus: 10ms
  apiWrite: 5ms
  controllerWatch: 30ms
  controllerBatch: 200ms
  sliceWrite: 40ms
  watchDelivery: 50ms
  sync: {base: 100ms, perRule: 0s}
events:
  - {at: 5s, EVENT}
"""


def ran(event: str, *settings: str) -> RunLog:
    return run(parse_scenario(CLUSTER.replace("EVENT", event), "ways.yaml", settings=settings)).log


def test_a_crash_is_noticed_reported_seen_answered_delivered_and_synced() -> None:
    log = ran("crash: {workload: web, restarts: false}")
    assert {change.node for change in log.programming} == {"node-1", "node-2"}
    for change in log.programming:
        assert change.trigger_ns == ms(5000)
        assert [stage_ns(change, stage) for stage in Stage] == [ms(n) for n in (700, 15, 30, 240, 50, 0, 100)]
        assert change.cause is not None and change.cause.change.startswith("Pod default/web-1 @ ")


def test_what_a_user_writes_himself_has_neither_notice_nor_controller() -> None:
    log = ran("patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}")
    by_object = {change.change.split()[0]: change for change in log.programming}
    assert set(by_object) == {"Service"}
    assert [stage_ns(by_object["Service"], stage) for stage in Stage] == [ms(n) for n in (0, 5, 0, 0, 50, 0, 100)]


def test_a_deletion_is_written_by_its_client_and_the_exit_by_the_kubelet() -> None:
    """The deletion unlists the endpoint; the kubelet's look for ended containers (PLEG) is the notice of the exit."""
    log = ran("scale: {workload: web, replicas: 0}", "delays.pleg=400ms")
    legs = {change.change: [stage_ns(change, stage) // ms(1) for stage in Stage] for change in log.programming}
    deletion, exit_ = list(legs.values())
    assert deletion[:4] == [0, 5, 30, 240]
    assert exit_[:3] == [400, 15, 30]


def test_answers_and_writes_of_pods_are_logged() -> None:
    log = ran("crash: {workload: web}")
    assert [(s.pod, s.from_ns, s.until_ns) for s in log.answering] == [
        ("default/web-1", 0, ms(5000)),
        ("default/web-1", ms(15000), None),
    ]
    assert [(w.what, w.cause.trigger_ns, w.cause.stored_ns) for w in log.pod_writes][1:] == [
        ("not ready", ms(5000), ms(5715)),
        ("ready", ms(15700), ms(15715)),
    ]
