"""Long after the last fault, every node's kernel holds what a kube-proxy would write that starts on an empty machine.

``KPSIM_FAULTS=10000`` plays more of each kind; ``make fuzz SUBJECT=faults`` goes on with other seeds.
"""

import os

import pytest

from fuzz.fault_fuzzing import KINDS, left

PLAYS = int(os.environ.get("KPSIM_FAULTS", "12"))


@pytest.mark.parametrize("kind", KINDS, ids=[name for name, *_ in KINDS])
def test_faults_leave_nothing_behind(kind: tuple[str, str, bool]) -> None:
    found = [each for seed in range(PLAYS) for each in left(seed, *kind)]
    assert found == [], "\n".join(map(str, found))
