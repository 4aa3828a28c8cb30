"""How long a person waits for a command: whole processes from start to exit."""

import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

RECORDING = Path(__file__).parents[1] / "tests" / "golden" / "iptables" / "small-016.recording.jsonl"

CLUSTER = Path(__file__).parents[1] / "docs" / "scenario-init.yaml"


def _kpsim(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "kpsim", *arguments], check=True, stdout=subprocess.DEVNULL)


def test_help(benchmark: BenchmarkFixture) -> None:
    """At most 0.3 s."""
    benchmark.pedantic(_kpsim, args=("--help",), rounds=5)


def test_trace_in_a_small_cluster(benchmark: BenchmarkFixture) -> None:
    """At most 0.33 s."""
    benchmark.pedantic(_kpsim, args=("trace", str(CLUSTER), "shop/web:http", "--from", "external"), rounds=5)


def test_replay_of_a_small_recording(benchmark: BenchmarkFixture) -> None:
    """At most 0.25 s."""
    benchmark.pedantic(_kpsim, args=("replay", str(RECORDING), "--format", "json"), rounds=5)
