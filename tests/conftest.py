"""Settings for all tests.

Kernel tests run if the machine can run them; if not they are skipped with the reason, in CI they fail.

Property tests try the same examples in every run, so a failure comes from a change. KPSIM_FUZZ=1 draws new examples.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)  # machines are shared, so times mean nothing
settings.register_profile("anew", deadline=None)
settings.load_profile("anew" if os.environ.get("KPSIM_FUZZ") else "repeatable")


@pytest.fixture(scope="session", autouse=True)
def runs_are_kept_elsewhere() -> Iterator[None]:
    """Finished runs of sweeps go to a directory of this session, not to that of the user."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KPSIM_CACHE"] = folder
        yield


@cache
def kernel_obstacle() -> str | None:
    """Why no packet can be sent through this machine's netfilter, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [command for command in ("iptables", "ip", "unshare") if shutil.which(command) is None]:
        return f"needs {', '.join(missing)}"
    probe = subprocess.run(
        ["unshare", "--net", "iptables", "--wait", "--table", "nat", "--list-rules"], capture_output=True, text=True
    )
    return None if probe.returncode == 0 else f"no netfilter in a network namespace: {probe.stderr.strip()}"


def _require_kernel() -> None:
    reason = kernel_obstacle()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"kernel tests must run in CI: {reason}", pytrace=False)
    pytest.skip(f"kernel: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check a test marked ``kernel`` before any of its fixtures is set up."""
    if item.get_closest_marker("kernel") is not None:
        _require_kernel()


@pytest.fixture(scope="session")
def prometheus() -> dict[str, str]:
    """Find a real Prometheus and its tool, installed or unpacked by ``make prometheus``. In CI they must be there."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.prefix) / "prometheus/usr/bin")])
    found = {command: shutil.which(command, path=places) for command in ("prometheus", "promtool")}
    missing = [command for command, path in found.items() if path is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"tests with Prometheus must run in CI: needs {', '.join(missing)}", pytrace=False)
    if missing:
        pytest.skip(f"prometheus: needs {', '.join(missing)}")
    return {command: path for command, path in found.items() if path is not None}


@pytest.fixture(scope="session")
def kernel() -> None:
    """Check what fixtures that build network namespaces need."""
    _require_kernel()
