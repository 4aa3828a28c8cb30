"""Kernel settings in Linux: the model's defaults are the kernel's, and a lab's node has its machine's settings."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kpsim.addresses import Family
from kpsim.lab.namespace import Namespace
from kpsim.lab.node import LabNode
from kpsim.lab.tools.variants import Variant
from kpsim.nodes import Machine, make_machine
from kpsim.sysctls import SETTINGS, Setting, Sysctls
from kpsim.tracing.probes import ProbeResult
from kpsim.verify.runs import systematic, verify
from kpsim.verify.subjects import load_subjects

pytestmark = pytest.mark.kernel

OWN = [setting for setting in SETTINGS.values() if not setting.of_machine and not setting.module]


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


SCENARIO = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: settings}
duration: 10s
nodes:
  count: 1   # whose one pod is its own only endpoint
  hairpin: %s
  sysctls: {net.netfilter.nf_conntrack_udp_timeout: 10, net.ipv4.conf.all.rp_filter: 1}
workloads: [{name: web, replicas: 1, ports: [{containerPort: 8080}]}]
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
traffic: [{name: t, from: pods, workload: web, service: web, perSecond: 1}]
"""


def test_nodes_of_a_scenario_are_built_with_its_settings(tmp_path: Path) -> None:
    """K-2.6: Linux and the model agree that without hairpin more packets are lost."""
    dropped = []
    for hairpin in ("true", "false"):
        file = tmp_path / "settings.yaml"
        file.write_text(SCENARIO % hairpin)
        subjects = load_subjects([file], nodes=["node-1"], moments=2)
        report = verify(systematic(subjects, repeat=1), Variant.NFT)
        assert report.agrees and report.probes > 20
        dropped.append(sum(each.results[ProbeResult.DROPPED] for each in report.verifications))
    assert dropped[1] > dropped[0]
