"""The same input and seed give the same bytes in every process, whatever its hash seed (decision 5 of the design)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shop import cluster_text

ROOT = Path(__file__).parents[2]
SHOP = ["CLUSTER", "--node", "node-1"]  # the shop's file stands for CLUSTER
CLUSTER_IP = ["--from", "pod", "--src", "10.180.0.77:40000", "--dst", "172.30.0.10:80"]

COMMANDS = {
    "run, text": ["run", "stale-udp", "--seed", "7"],
    "run, JSON": ["run", "sync-lag-burst", "--set", "duration=20s", "--seed", "7", "--format", "json"],
    "rules": ["rules", *SHOP],
    "trace": ["trace", *SHOP, *CLUSTER_IP, "--seed", "7", "--detailed"],
    "trace, every outcome": ["trace", *SHOP, *CLUSTER_IP, "--expand", "--format", "json"],
    "replay": ["replay", "tests/golden/iptables/faults-003.recording.jsonl", "--format", "json"],
    "replay, text": ["replay", "tests/golden/iptables/faults-006.recording.jsonl"],
}


def outputs(*arguments: str, only: int = 2) -> tuple[bytes, bytes]:
    """Standard output of two processes that hash strings differently, side by side; ``only=1``: of one, twice."""
    running = [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in ("1", "2")[:only]
    ]
    told = [process.communicate(timeout=120)[0] for process in running]
    assert {process.returncode for process in running} == {0}
    return told[0], told[-1]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_two_processes_say_the_same(command: list[str], tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cluster_text(), encoding="utf-8")
    first, second = outputs("-m", "kpsim", *(str(cluster) if word == "CLUSTER" else word for word in command))
    assert len(first) > 100
    assert first == second


def test_the_processes_do_hash_differently() -> None:
    """Else the test above could not fail."""
    first, second = outputs("-c", "print({f'KUBE-SVC-{n}' for n in range(50)})")
    assert first != second


def test_another_seed_says_something_else() -> None:
    """What is compared above depends on draws."""
    command = COMMANDS["run, JSON"]
    (first, _), (second, _) = (outputs("-m", "kpsim", *command[:5], seed, *command[6:], only=1) for seed in "78")
    assert first != second
