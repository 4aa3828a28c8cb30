"""Kernel settings in Linux: the defaults are the kernel's own, and a lab's node has what its machine says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kpsim.addresses import Family
from kpsim.lab.namespace import Namespace
from kpsim.lab.node import LabNode
from kpsim.nodes import Machine, make_machine
from kpsim.packetpath.sysctls import SETTINGS, Setting, Sysctls

pytestmark = pytest.mark.kernel

OWN = [setting for setting in SETTINGS.values() if not setting.of_machine]


@pytest.fixture
def machine() -> Machine:
    return make_machine(["192.168.0.1"], ["10.180.0.0/24"])


@pytest.fixture
def fresh() -> Iterator[Namespace]:
    namespace = Namespace()
    namespace.run(["iptables", "--wait", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
    yield namespace
    namespace.close()


def value(namespace: Namespace, setting: Setting) -> int:
    with namespace.entered():
        return int(Path(f"/proc/sys/{setting.name.replace('.', '/')}").read_text())


def other(setting: Setting) -> int:
    """A value that is not the default."""
    return 1 - setting.default if setting.is_switch else setting.default + 1


def test_conntrack_starts_with_the_defaults_of_the_model(fresh: Namespace) -> None:
    """K-6.2, CT-4.1, CT-5. Of the other settings a distribution may have its own."""
    timers = [each for each in OWN if each.name.startswith("net.netfilter.") and fresh.has_sysctl(each.name)]
    assert len(timers) > 25
    assert {each.name: value(fresh, each) for each in timers} == {each.name: each.default for each in timers}


def test_a_lab_s_node_has_the_settings_of_its_machine(machine: Machine) -> None:
    wanted = {each.name: other(each) for each in OWN}
    node = LabNode(replace(machine, sysctls=Sysctls().written(wanted)), Family.IPV4)
    try:
        assert {each.name: value(node.namespace, each) for each in OWN} == wanted
    finally:
        node.close()
