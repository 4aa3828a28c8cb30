"""What ``kpsim upgrade`` tries against losses: each row of the table helps where it should, the cheapest is found, and patches say what was tried."""

from typing import Any

import pytest
import yaml
from drafts import Json, cluster
from upgrades import BALANCED, CLUSTER_IP, NODES, upgraded, verdict, web

import kpsim
from kpsim.risk.rules import Remedy
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate
from kpsim.upgrading.remedies import NOT_TRIED, ROWS

NODE_PORT = {**CLUSTER_IP, "type": "NodePort", "externalTrafficPolicy": "Local", "ports": BALANCED["ports"]}


def sent(stop: int, *, rate: int = 20, start: int = 9, **how: Any) -> str:
    words = "".join(f", {key}: {value}" for key, value in ({"from": "nodes", "nodes": "[n3]"} | how).items() if value)
    return f"traffic=[{{name: t, service: shop/web, perSecond: {rate}, start: {start}s, stop: {stop}s{words}}}]"


BY_BALANCER = {"from": "", "nodes": "", "via": "loadBalancer", "clients": 10}

#: by row: the cluster's objects, settings, nodes, how long machines are off
CASES: dict[str, tuple[list[Json], list[str], list[str], int]] = {
    # a pod takes 15 s to start: without a budget the second drain comes before
    "PodDisruptionBudget": (
        web("n1", "n2", sleep=5), [sent(45, rate=4), "workloads[web].startup.delay=15s"], ["n1", "n2"], 1
    ),
    "preStop": (web("n1", "n2"), [sent(18, rate=60)], ["n1", "n2"], 1),
    "exclude from load balancers": (
        web("n1", "n2", sleep=5, **BALANCED), [sent(34, rate=10, **BY_BALANCER)], ["n3"], 15
    ),
    "trafficDistribution PreferSameNode": (
        web("n1", "n2", "n3", kind="DaemonSet"), [sent(14, rate=20)], ["n1"], 5
    ),
    "replicas on different nodes": (
        web("n1", sleep=5), [sent(78, rate=2), "workloads[web].startup.delay=62s"], ["n1"], 1
    ),
    "policy Cluster": (
        web("n1", "n2", "n3", sleep=5, **NODE_PORT), [sent(100, rate=1, **{"from": "", "nodes": "[n1]", "via": "nodePort"})], ["n1"], 1
    ),
    "clients that try again": (web("n1", kind="StatefulSet"), [sent(14, rate=20)], ["n1"], 1),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_is_the_cheapest_that_helps_somewhere(row: Any) -> None:
    objects, settings, nodes, takes = CASES[row.name]
    found = upgraded(objects, *settings, nodes=nodes, takes=takes)
    own = verdict(found)
    assert own.risk is True and sum(own.lost) > 0
    assert own.chosen is not None and own.chosen.row == row.name
    assert not any(each.left.nothing for each in own.tried if ROWS_BY_NAME[each.attempt.row] < ROWS_BY_NAME[row.name])
    assert found.outcome.together == {"shop/web": 0}
    if row.name == "preStop":  # the least of the ladder, as it would be patched
        assert own.chosen.settings == ("workloads[web].termination.preStop=2s",)
        (patch,) = yaml.safe_load_all(found.patch)
        assert patch["spec"]["template"]["spec"]["containers"] == [
            {"name": "c", "lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}
        ]
        assert "# kubectl patch deployment web -n shop --patch-file FILE\n" in found.patch
    # tried by hand: the scenario with the remedy's own --set
    text = parse_scenario(found.scenario, "written.yaml", settings=own.chosen.settings)
    log = run(text, seed=1)
    assert all(each.disposition is Fate.DELIVERED for each in log.connections if each.frontend != "nodePort" or each.node != "n1" or each.cause != "node down")  # fmt: skip


ROWS_BY_NAME = {row.name: number for number, row in enumerate(ROWS)}


def test_every_piece_of_advice_is_tried_or_said_not_to_be() -> None:
    tried = {remedy for row in ROWS for remedy in row.advice}
    assert tried | NOT_TRIED == set(Remedy) and not tried & NOT_TRIED


def test_two_remedies_are_tried_together_if_each_leaves_what_the_other_avoids() -> None:
    """Pods that end at once, behind a load balancer that does not see that a machine is off."""
    found = upgraded(web("n1", "n2", **BALANCED), sent(64, rate=10, **BY_BALANCER), nodes=["n1"], takes=15)
    own = verdict(found)
    assert own.chosen is not None and set(own.chosen.row.split(" and ")) == {"preStop", "exclude from load balancers"}
    assert found.outcome.together == {"shop/web": 0}


def test_what_no_remedy_avoids_is_said() -> None:
    """The one pod cannot run elsewhere, and its node is off for longer than clients try again."""
    objects = web("n1", kind="StatefulSet")
    own = verdict(
        found := upgraded(objects, sent(100, rate=1), "workloads[web].placement={nodes: [n1]}", nodes=["n1"], takes=60)
    )
    assert own.risk is True and own.remedy is None and found.outcome.together is None and not found.patch
    assert own.tried and "helps: nothing of what was tried" in found.text()


def test_processes_do_not_change_what_is_found() -> None:
    objects, settings, nodes, takes = CASES["clients that try again"]
    event = f"events[0].rollingUpgrade={{nodes: {nodes}, takes: {takes}s, maxUnavailable: 1}}"
    one, two = (
        kpsim.upgrade(cluster(*objects, nodes=NODES), seeds=2, settings=[event, *settings], jobs=jobs, remedies=False)
        for jobs in (1, 2)
    )
    assert one.to_json() == two.to_json()
