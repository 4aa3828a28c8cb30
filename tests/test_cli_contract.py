"""What scripts rely on for every command: exit codes, streams, and that no output crashes the program."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shop import cluster_text

GOLDEN = Path(__file__).parent / "golden" / "iptables"
RECORDING = GOLDEN / "small-001.recording.jsonl"


def kpsim(*arguments: object, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "kpsim", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return file


def test_a_recording_may_come_from_standard_input() -> None:
    """As from ``zcat node-1.recording.jsonl.gz | kpsim replay -``."""
    content = RECORDING.read_bytes()
    replayed = kpsim("replay", "-", "--format", "json", stdin=content)
    assert replayed.returncode == 0, replayed.stderr
    expected = (GOLDEN / "small-001.expected.jsonl").read_text().splitlines()
    assert len(replayed.stdout.splitlines()) == len(expected)
    node = json.loads(content.splitlines()[0])["object"]["hostnameOverride"]
    by_file, by_stream = (kpsim("rules", path, "--node", node, stdin=content) for path in (RECORDING, "-"))
    assert by_stream.returncode == 0
    assert by_stream.stdout == by_file.stdout != b""


def test_manifests_may_come_through_a_pipe_with_a_name(cluster: Path) -> None:
    command = f"'{sys.executable}' -m kpsim rules <(cat '{cluster}') --node node-1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert piped.stdout == kpsim("rules", cluster, "--node", "node-1").stdout != b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_arrows_is_no_error(cluster: Path, encoding: str) -> None:
    arguments = ("trace", cluster, "--node", "node-1", "--dst", "172.30.0.10:80")
    traced = kpsim(*arguments, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
    assert (traced.returncode, b"internal error" in traced.stderr) == (0, False)
    assert kpsim(*arguments).stdout.count(b"\n") == traced.stdout.count(b"\n") > 1


def test_a_full_disk_is_said_as_such(cluster: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "kpsim", "rules", str(cluster), "--node", "node-1"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == b"error: No space left on device"


def test_a_path_that_no_file_can_have_is_bad_input() -> None:
    done = kpsim("check", "x" * 300)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: " + b"x" * 300)
