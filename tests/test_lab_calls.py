"""Calls of tools end: in time, in what they print, and with the process that made them. No kernel feature is needed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kpsim.cli import main
from kpsim.lab import calls
from kpsim.lab.calls import LabError, ToolFailed, call


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def install(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(f"#!/bin/sh\n{script}\n")
    (tools / name).chmod(0o755)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(what: "object", seconds: float = 20) -> bool:
    for _ in range(int(seconds * 50)):
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_output_and_input_of_any_size_pass() -> None:
    text = "rules\n" * 400_000
    assert call(["cat"], text) == text


def test_a_failure_is_told_in_the_tools_own_words() -> None:
    with pytest.raises(ToolFailed, match="sh -c echo no >&2; exit 3: no"):
        call(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(ToolFailed, match="exit code 4"):
        call(["sh", "-c", "exit 4"])
    with pytest.raises(ToolFailed, match=r"crashed \(SIGSEGV\)"):
        call(["sh", "-c", "kill -SEGV $$"])


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="no-such-tool: No such file"):
        call(["no-such-tool"])


def test_a_tool_that_hangs_is_ended_with_all_that_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TIME_LIMIT_S", 1)
    with pytest.raises(LabError, match="did not end within 1 s: nothing can be measured"):
        call(["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; wait"])
    pid = int((tmp_path / "pid").read_text())
    assert wait_for(lambda: not is_alive(pid))


def test_a_child_that_keeps_the_output_open_keeps_nobody_waiting(tmp_path: Path) -> None:
    assert call(["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/pid; echo done"]) == "done\n"
    child = int((tmp_path / "pid").read_text())
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)


def test_output_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MOST_OUTPUT", 1 << 16)
    with pytest.raises(ToolFailed):
        call(["yes"])


def test_output_that_is_no_text_is_refused() -> None:
    with pytest.raises(LabError, match="no text: nothing can be measured"):
        call(["printf", r"\377\376"])


def test_a_tool_dies_with_its_caller_even_if_that_is_killed(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG: nobody has to clean up."""
    program = f"from kpsim.lab.calls import call; call(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 1000'])"
    caller = subprocess.Popen([sys.executable, "-c", program])
    assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    tool = int((tmp_path / "pid").read_text())
    assert is_alive(tool)
    caller.kill()
    caller.wait()
    assert wait_for(lambda: not is_alive(tool))


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("tool", "script", "words"),
    [
        ("iptables-nft-save", "echo hello", "no ruleset"),
        ("iptables-nft-save", "printf '\\377'", "no text"),
        ("iptables-nft-save", "exit 0", "rules that the lab loaded itself are not there"),
        ("iptables-nft-restore", "sleep 1000", "did not end within 2 s"),
        ("ip", 'case "$*" in *-json*) echo "{";; *) exec {ip} "$@";; esac', "something else than a list"),
        ("ip", 'case "$*" in *-json*) echo "[{\\"ifname\\": 3, \\"address\\": []}]";; *) exec {ip} "$@";; esac', "nothing can be measured"),
    ],
    ids=["junk", "bytes", "silence", "hangs", "half a list", "odd list"],
)  # fmt: skip
def test_verify_with_a_broken_tool_measures_nothing(
    kernel: None, tools: Path, tmp_path: Path, tool: str, script: str, words: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 3 and a sentence: neither agreement nor disagreement, and no traceback."""
    from shop import cluster_text

    real = subprocess.run(["sh", "-c", "command -v ip"], capture_output=True, text=True).stdout.strip()
    install(tools, tool, script.replace("{ip}", real))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cluster_text())
    monkeypatch.setattr(calls, "TIME_LIMIT_S", 2)
    monkeypatch.setattr(sys, "argv", ["kpsim", "verify", str(cluster), "--node", "node-1"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert (ended.value.code, "Traceback" in told) == (3, False), told
    assert words in told
