"""Sweeps on a Dask cluster: a real scheduler with two workers, of which one is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import PRE_STOP, file_of

from kpsim.errors import InputError
from kpsim.sweeping.sweep import sweep


def _started(*words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """The scheduler's address, and the process of each worker."""
    file = tmp_path / "scheduler.json"
    processes = [
        _started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    ]
    try:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--death-timeout", "60")
        processes += [
            _started(
                "worker", "--scheduler-file", str(file), *options, "--local-directory", str(tmp_path / f"w{number}")
            )
            for number in range(2)
        ]
        for _ in range(300):
            if file.exists():
                break
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], [process.pid for process in processes[1:]]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_gives_what_one_process_gives_though_a_worker_is_killed(
    cluster: tuple[str, list[int]], tmp_path: Path
) -> None:
    from distributed import Client

    address, workers = cluster
    with Client(address, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    path = file_of(tmp_path)
    vary = {PRE_STOP: ["0s", "300ms"]}
    killed: list[int] = []

    def progress(done: int, _all: int) -> None:
        if done and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    spread = sweep(path, vary=vary, seeds=4, scheduler=address, keep=False, progress=progress)
    assert killed
    alone = sweep(path, vary=vary, seeds=4, jobs=1, keep=False)
    assert spread.to_json() == alone.to_json()
    for name, frame in alone.frames().items():
        assert frame.to_csv() == spread.frames()[name].to_csv()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("tcp://127.0.0.1:1", "no Dask scheduler answers there"), ("nowhere", "expected tcp://HOST:PORT")],
)
def test_where_no_scheduler_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, expected: str) -> None:
    monkeypatch.setattr("kpsim.sweeping.workers._CONNECT_S", 0.3)
    with pytest.raises(InputError, match=expected):
        sweep(file_of(tmp_path), seeds=1, scheduler=address, keep=False)
