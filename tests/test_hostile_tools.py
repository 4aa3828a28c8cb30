"""Tools of this machine that hang, print without end, or are not what their names say: they end, and are named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kpsim.lab.namespace import BrokenTool, LabError, finished


def test_a_command_gets_its_input_and_gives_its_output_however_long_both_are() -> None:
    text = b"line\n" * 200_000
    assert finished(["cat"], text) == (0, text, b"")
    assert finished(["sh", "-c", "printf '\\377' >&2; exit 3"], b"") == (3, b"", b"\xff")
    assert finished(["sh", "-c", "kill -9 $$"], b"")[0] == -9


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with pytest.raises(BrokenTool, match=r"did not end within 0\.3 s"):
        finished(["sh", "-c", f"sleep 1000 & echo $! > {started}; wait"], b"", 0.3)
    child = int(started.read_text())
    for _ in range(100):
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the command's own child still runs")


def test_a_command_that_does_not_exist_measures_nothing() -> None:
    with pytest.raises(LabError, match="nosuch: No such file"):
        finished(["nosuch"], b"")


def test_a_command_ends_when_kpsim_is_killed(tmp_path: Path) -> None:
    program = (
        "from kpsim.lab.namespace import finished; finished(['sh', '-c', 'echo $$ > started; exec sleep 1000'], b'')"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    started = tmp_path / "started"
    for _ in range(400):
        if started.exists() and started.read_text().strip():
            break
        time.sleep(0.05)
    child = int(started.read_text())
    running.send_signal(signal.SIGKILL)
    running.wait()
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the command outlived kpsim")


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("cat >/dev/null; printf '\\377\\376'", "prints what is no text"),
        ("cat >/dev/null; echo junk", "does not print the rules that"),
        ("cat >/dev/null; exit 9", "exit code 9"),
        ("cat >/dev/null; kill -11 $$", "crashed (SIGSEGV)"),
    ],
)
def test_verify_refuses_tools_that_are_not_what_their_names_say(tmp_path: Path, program: str, words: str) -> None:
    for tool in ("iptables-nft", "ip6tables-nft"):
        for name in (tool, f"{tool}-restore", f"{tool}-save"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
            (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "kpsim", "verify", "--random", "1"], capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
