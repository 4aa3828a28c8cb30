"""Long after the last fault, every node's kernel holds what a kube-proxy would write that starts on an empty machine.

``KPSIM_FAULTS=10000`` plays more of each kind; ``make fuzz SUBJECT=faults`` goes on with other seeds.
"""

import os

import pytest

from fuzz.convergence import differences
from fuzz.fault_drawing import draw_scenario
from fuzz.fault_fuzzing import KINDS, left
from kpsim.config import Mode
from kpsim.verify.drawing.choices import SeededChoices

PLAYS = int(os.environ.get("KPSIM_FAULTS", "12"))


@pytest.mark.parametrize("kind", KINDS, ids=[name for name, *_ in KINDS])
def test_faults_leave_nothing_behind(kind: tuple[str, str, bool]) -> None:
    found = [each for seed in range(PLAYS) for each in left(seed, *kind)]
    assert found == [], "\n".join(map(str, found))


@pytest.mark.parametrize("mode", [mode.value for mode in Mode])
def test_what_is_not_repaired_yet_is_seen(mode: str) -> None:
    scenario = draw_scenario(SeededChoices(1, "faults"), duration_ms=400_000)
    whole = {**scenario, "events": [], "nodes": {"count": 1}, "objects": [SERVICE]}
    assert differences(whole, mode) == []
    flushed = [{"at": "399s", "flushRules": {"tool": "nft"}}, {"at": "399s", "flushRules": {"tool": "ipvsadm"}}]
    (found,) = differences({**whole, "events": flushed}, mode)
    assert found.endswith("is missing")


SERVICE = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
    "spec": {"clusterIP": "172.30.0.10", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}  # fmt: skip
