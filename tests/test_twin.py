"""The simulation agrees with a second model of the control plane, to the nanosecond, on random scenarios.

``KPSIM_TWIN=2000`` plays as many scenarios instead of the usual number; ``KPSIM_TWIN_FROM=5000`` begins with another seed.
"""

import json
import os
from typing import Any

import pytest
from twin.comparison import Accounts, differences, of_kpsim, of_twin
from twin.scenarios import draw

from kpsim.scenario.event_schema import ActionKind
from kpsim.scenario.quantities import file_name

FIRST = int(os.environ.get("KPSIM_TWIN_FROM", "0"))
NUMBER = int(os.environ.get("KPSIM_TWIN", "96"))
PART = 16


@pytest.mark.parametrize("first", range(FIRST, FIRST + NUMBER, PART))
def test_both_models_agree(first: int) -> None:
    for seed in range(first, min(first + PART, FIRST + NUMBER)):
        document = draw(seed)
        found = differences(document)
        assert not found, f"seed {seed}: " + "\n".join(found[:10]) + "\n" + json.dumps(document)


def test_the_scenarios_have_every_event_but_those_that_need_packets_or_objects_of_their_own() -> None:
    drawn = {kind for seed in range(150) for event in draw(seed)["events"] for kind in event if kind != "at"}
    left_out = {"createService", "deleteService", "patchEndpointSlice", "createEndpointSlice", "deleteEndpointSlice"}
    left_out |= {"addNode", "deleteNode", "labelNode", "rollingUpgrade"}  # its nodes are always the same
    left_out |= {"liveness", "loadRules"}  # its pods have no probes, and its nodes no rules
    left_out |= {"apiServerDown", "apiServerSlow", "apiServerBusy", "cutOff", "closeWatches"}  # its watches never end
    left_out |= {
        "createEndpoints",
        "patchEndpoints",
        "deleteEndpoints",
        "deleteNamespace",
    }  # nor objects of other controllers
    # nor kernels, kubelets that start kube-proxies, links and clocks
    left_out |= {"flushRules", "holdLock", "crashProxy", "writeProxyConfig", "setConntrackMax"}
    left_out |= {"fillConntrack", "losePackets", "slowLoadBalancer", "clockSkew"}
    assert drawn == {file_name(kind) for kind in ActionKind} - left_out


def test_what_is_compared_is_not_empty() -> None:
    total = [0, 0, 0, 0]
    for seed in range(40):
        total = [count + len(rows) for count, rows in zip(total, of_twin(draw(seed)), strict=True)]
    pods, slices, syncs, turns = total
    assert pods > 200 and slices > 300 and syncs > 300 and turns > 30


# ------------------------------------------------------------------------------------------- the comparison itself finds things


@pytest.mark.parametrize("kind", Accounts._fields)
def test_a_nanosecond_more_is_found(kind: str) -> None:
    document = next(found for found in map(draw, range(50)) if getattr(of_twin(found), kind))

    def late(document: dict[str, Any]) -> Accounts:
        accounts = of_kpsim(document)
        rows = getattr(accounts, kind)
        place = next(n for n, part in enumerate(rows[-1]) if isinstance(part, int) and not isinstance(part, bool))
        last = (*rows[-1][:place], rows[-1][place] + 1, *rows[-1][place + 1 :])
        return accounts._replace(**{kind: [*rows[:-1], last]})

    assert [line for line in differences(document, late) if line.startswith(kind)]


# --------------------------------------------------------------------------------------------------------- disagreements, by name


def test_pods_of_the_workload_that_stands_earlier_in_the_file_come_first_at_one_instant() -> None:
    """A lost node's pods of two workloads are written at one instant; the controller's few tokens then tell their order."""
    for seed in (97, 120, 125, 306):
        document = draw(seed)
        for names in (("web", "api"), ("api", "web")):
            document["workloads"].sort(key=lambda workload, names=names: names.index(workload["name"]))
            assert differences(document) == [], (seed, names)


def test_a_rollout_counts_percentages_of_the_pods_wanted_now() -> None:
    """maxSurge 50% of two pods is one; scaled to six during the rollout it is three."""
    document = draw(1)
    document["workloads"] = [{**document["workloads"][0], "name": "web", "replicas": 2}]
    for item in document["objects"]:
        item["spec"]["selector"] = {"app": "web"}
    document["workloads"][0] |= {"startup": {"delay": "3000000000ns"}, "readiness": {"probeDelay": "0ns"}}
    document["events"] = [
        {"at": "5000000000ns", "rollout": {"workload": "web", "maxSurge": "50%", "maxUnavailable": 0}},
        {"at": "5500000001ns", "scale": {"workload": "web", "replicas": 6}},
    ]
    assert differences(document) == []
    created = [row for row in of_kpsim(document).pods if row[1] in {f"web-{n}" for n in range(3, 9)} and row[3] is None]
    assert len({row[0] for row in created}) == 2  # one at 5 s, and the other five, up to 6 + 3 pods in all, at 5.5 s
    assert len(created) == 6
