"""Verifying without root, where the kernel grants users namespaces: as nobody, and as a root without rights."""

import ctypes
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from labs import shop_subject
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.lab.requirements import obstacles
from kpsim.lab.rootless import become_root, has_rights
from kpsim.lab.tools.variants import Variant
from kpsim.verify.drawing.probes import every_probe
from kpsim.verify.verification import Verifier

pytestmark = pytest.mark.kernel

_NOBODY, _PR_SET_DUMPABLE = 65534, 4


def as_nobody(variant: Variant, family: Family) -> str:
    """What happens to a user without root who verifies node-1 of the shop; empty: it agrees."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)  # as for a program that this user starts: /proc/self is its own
    if has_rights():
        return "nobody has root's rights"
    if why := become_root():
        return why
    if not has_rights():
        return "still no rights"
    if missing := obstacles(variant, [family]):
        return "; ".join(map(str, missing))
    subject = shop_subject(family)
    probes = list(every_probe(subject.site, subject.node, family, subject.services))
    with Verifier(variant) as verifier:
        found = verifier.verify(subject, probes, repeat=20)
    if found.probes < len(probes) or found.answers < 20:
        return f"{found.probes} probes and {found.answers} answers only"
    return "; ".join(str(each) for each in found.disagreements)


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
@pytest.mark.parametrize("variant", list(Variant))
def test_a_user_without_root_measures(kernel: None, variant: Variant, family: Family) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # a process may give its rights away only once
        try:
            told = as_nobody(variant, family)
        except BaseException:
            told = traceback.format_exc()
        os.write(writer, told.encode()[:60_000] or b"agrees")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == "agrees"
    os.waitpid(child, 0)


def _without_rights(*arguments: str) -> list[str]:
    """kpsim as a root that may do nothing but map users."""
    rights = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]
    return [*rights, sys.executable, "-m", "kpsim", "verify", *arguments]


def test_the_command_finds_its_namespaces_itself(kernel: None, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cluster_text())
    done = subprocess.run(
        _without_rights(str(cluster), "--node", "node-1", "--repeat", "1"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does what the model says" in done.stdout


def test_a_kernel_that_grants_no_namespaces_is_named(kernel: None, tmp_path: Path) -> None:
    """Inside a user namespace whose limit of namespaces is 0."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cluster_text())
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *_without_rights(str(cluster))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "grants this user no namespaces (unshare: No space left on device)" in done.stderr
    assert "sudo" in done.stderr or "lacks" in done.stderr
