"""The rules load with the kernel's own tools, over ip_tables and over nf_tables.

The kernel then holds what the model says.
"""

import shlex
from contextlib import closing
from pathlib import Path

import pytest
from labs import tables_of

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.explore import load
from kpsim.lab.accounting import LinuxAccounting
from kpsim.lab.calls import ToolFailed
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools.variants import Variant
from kpsim.recording import load_recording
from kpsim.replay import Replay

GOLDEN = Path(__file__).parents[1] / "golden" / "iptables"

CLUSTER = """
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIPs: [172.30.0.10, "fd00:172:30::a"]
  clusterIP: 172.30.0.10
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [203.0.113.0/25, "2001:db8:1::/64"]
  externalIPs: [198.51.100.9, "2001:db8:51::9"]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: dns, protocol: UDP, port: 53}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.10}, {ip: "2001:db8:51::a"}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: idle}
spec: {clusterIP: 172.30.0.11, ports: [{port: 90, protocol: SCTP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, protocol: UDP, port: 5353}]
endpoints:
- {addresses: [10.180.0.3], nodeName: node-1}
- {addresses: [10.180.1.7], nodeName: node-2}
- {addresses: [10.180.0.12], nodeName: node-1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd00:10:180::3"], nodeName: node-1}]
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: "2001:db8::2"}]}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.180.0.0/16,fd00:10:180::/48
"""

COUNTERS = ("ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts")
pytestmark = [pytest.mark.kernel, pytest.mark.parametrize("variant", list(Variant))]


@pytest.fixture
def counting(namespace: Namespace) -> Namespace:
    """A namespace with kube-proxy's counters."""
    with closing(LinuxAccounting(namespace)) as accounting:
        for name in COUNTERS:
            accounting.create(name)
    return namespace


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_printed_rules_load_and_are_saved_as_printed(
    counting: Namespace, variant: Variant, family: Family, tmp_path: Path
) -> None:
    """I-17: every table, canaries included."""
    manifest = tmp_path / "cluster.yaml"
    manifest.write_text(CLUSTER, encoding="utf-8")
    printed = str(load(manifest).rules("node-1", family=family))
    counting.run([variant.tool(family, "restore")], stdin=printed)
    saved = counting.run([variant.tool(family, "save")])
    assert tables_of(saved) == tables_of(printed)


@pytest.mark.parametrize("name", ["small-013", "small-016", "special-005", "special-012", "large-003"])
def test_syncs_leave_the_kernel_as_the_model_says(counting: Namespace, variant: Variant, name: str) -> None:
    """I-13: the fold of single commands and documents, full and partial, with stale chains deleted on the way."""
    replay = Replay(load_recording(GOLDEN / f"{name}.recording.jsonl"))
    family = replay.recording.family
    tool, restore = variant.command(family), [variant.tool(family, "restore"), "--noflush", "--counters"]
    for table in ("mangle", "nat", "filter"):
        counting.run([tool, "-t", table, "-N", "KUBE-PROXY-CANARY"])
    for outcome in replay.outcomes():
        assert outcome.result.success
        done = outcome.result.transaction
        for command in done.commands:
            if not command.endswith("# exists"):
                counting.run([tool, *shlex.split(command, comments=True)])
        for text in done.documents:
            counting.run(restore, stdin=text())
    ruleset = replay.proxier.held.ruleset
    saved = counting.run([variant.tool(family, "save")])
    assert tables_of(saved) == tables_of(render_ruleset(ruleset, Style.SAVE))


def test_a_chain_in_use_keeps_all_chains_of_its_table(namespace: Namespace, variant: Variant) -> None:
    """I-18: another program's rule leads to KUBE-MARK-MASQ, so the document that deletes it deletes nothing."""
    restore = [variant.tool(Family.IPV4, "restore"), "--noflush", "--counters"]
    before = (
        "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n"
        "-A POSTROUTING -d 100.64.0.0/10 -j KUBE-MARK-MASQ\n-A KUBE-SERVICES -d 172.30.0.10/32 -j RETURN\nCOMMIT\n"
    )
    delete = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-X KUBE-SERVICES\n-X KUBE-MARK-MASQ\nCOMMIT\n"
    namespace.run(restore, stdin=before)
    held = tables_of(namespace.run([variant.tool(Family.IPV4, "save")]))
    with pytest.raises(ToolFailed):
        namespace.run([*restore, "-T", "nat"], stdin=delete)
    assert tables_of(namespace.run([variant.tool(Family.IPV4, "save")])) == held
