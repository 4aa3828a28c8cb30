"""Kernel settings of a scenario's nodes: reading, refusals with the place, and their effects in a run."""

from collections import Counter

import jsonschema
import pytest
from simulations import simulate

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario, scenario_json_schema
from kpsim.scenario.nodes import cluster_nodes
from kpsim.scenario.settings import kernel_settings
from kpsim.simulation.history import history
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.units import SECOND_NS
from kpsim.verify.subjects import scenario_subjects

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 10s
"""
COUNTED = HEAD + "nodes:\n  count: 2\n"
UDP = "net.netfilter.nf_conntrack_udp_timeout"
LIST = HEAD + "nodes:\n  list:\n    - {name: a}\n"


def load(text: str):
    return parse_scenario(text, "test.yaml")


def refused(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


# ------------------------------------------------------------------------------------------------------------- reading


def test_settings_of_all_nodes_and_of_one() -> None:
    scenario = load(
        f"{LIST}    - {{name: b, cpu: 8, hairpin: true, sysctls: {{{UDP}: 7}}}}\n"
        f"  hairpin: false\n  sysctls: {{{UDP}: 5, net.ipv4.conf.all.rp_filter: 1}}\n"
    )
    a, b = cluster_nodes(scenario.spec.nodes)
    assert (a.hairpin, b.hairpin) == (False, True)
    first, second = (kernel_settings(node, scenario.proxy) for node in (a, b))
    assert (first.udp_timeout_ns, second.udp_timeout_ns) == (5 * SECOND_NS, 7 * SECOND_NS)
    assert (first.rp_filter, second.rp_filter) == (1, 1)
    # CFG-4: by the cores; CFG-6: kube-proxy switches it on
    assert (first.nf_conntrack_max, second.nf_conntrack_max) == (131_072, 262_144)
    assert first.route_localnet


def test_no_loopback_among_the_node_port_addresses_leaves_localnet_alone() -> None:  # CFG-6
    scenario = load(COUNTED + "proxy: {nodePortAddresses: [192.168.0.0/24]}\n")
    assert not any(kernel_settings(node, scenario.proxy).route_localnet for node in cluster_nodes(scenario.spec.nodes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{COUNTED}  sysctls: {{net.netfilter.nf_conntrack_udp_timout: 5}}\n",
         "test.yaml:7: .nodes.sysctls['net.netfilter.nf_conntrack_udp_timout']: no kernel setting "
         f"'net.netfilter.nf_conntrack_udp_timout' is modelled; did you mean '{UDP}'?"),
        (f"{COUNTED}  sysctls: {{{UDP}: 5s}}\n", f"test.yaml:7: .nodes.sysctls['{UDP}']: expected a valid integer, got \"5s\""),
        (f"{COUNTED}  sysctls: {{{UDP}: true}}\n", f"test.yaml:7: .nodes.sysctls['{UDP}']: expected a valid integer, got true"),
        (f"{COUNTED}  sysctls: {{{UDP}: -1}}\n",
         f"test.yaml:7: .nodes.sysctls['{UDP}']: {UDP}: expected a number from 0 to 2147483 seconds, got -1"),
        (f"{LIST}    - {{name: b, sysctls: {{net.ipv4.conf.all.rp_filter: 3}}}}\n",
         "test.yaml:8: .nodes.list[1].sysctls['net.ipv4.conf.all.rp_filter']: net.ipv4.conf.all.rp_filter: expected a number from "
         "0 to 2, got 3"),
        (f"{COUNTED}  hairpin: 0\n", "test.yaml:7: .nodes.hairpin: expected a valid boolean, got 0"),
    ],
)  # fmt: skip
def test_refusals(text: str, expected: str) -> None:
    assert refused(text) == [expected]


@pytest.mark.parametrize(
    ("name", "value", "proxy", "written", "unless", "kept"),
    [  # CFG-4, CFG-6
        ("net.netfilter.nf_conntrack_max", 1000, "", 131_072, "conntrack.maxPerCore is 0", "conntrack: {maxPerCore: 0}"),
        ("net.netfilter.nf_conntrack_buckets", 1024, "", 32_768, "conntrack.maxPerCore is 0", "conntrack: {maxPerCore: 0}"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", 7200, "", 86_400,
         "conntrack.tcpEstablishedTimeout is 0s", "conntrack: {tcpEstablishedTimeout: 0s}"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", 60, "", 3600,
         "conntrack.tcpCloseWaitTimeout is 0s", "conntrack: {tcpCloseWaitTimeout: 0s}"),
        (UDP, 5, "conntrack: {udpTimeout: 9s}", 9, "conntrack.udpTimeout is 0s", "conntrack: {udpTimeout: 0s}"),
        (f"{UDP}_stream", 5, "conntrack: {udpStreamTimeout: 9s}", 9, "conntrack.udpStreamTimeout is 0s", "conntrack: {}"),
        ("net.ipv4.conf.all.route_localnet", 0, "", 1,
         "iptables.localhostNodePorts is false", "iptables: {localhostNodePorts: false}"),
        ("net.netfilter.nf_conntrack_tcp_be_liberal", 0, "conntrack: {tcpBeLiberal: true}", 1,
         "conntrack.tcpBeLiberal is false", "conntrack: {tcpBeLiberal: false}"),
    ],
)  # fmt: skip
def test_what_kube_proxy_writes_at_its_start_wins(
    name: str, value: int, proxy: str, written: int, unless: str, kept: str
) -> None:
    text = f"{COUNTED}  sysctls: {{{name}: %s}}\nproxy: {{%s}}\n"
    assert refused(text % (value, proxy)) == [
        f"test.yaml:7: .nodes.sysctls['{name}']: kube-proxy writes {written} there when it starts, unless {unless}"
    ]
    load(text % (written, proxy))  # as it will be anyway
    scenario = load(text % (value, kept))
    for node in cluster_nodes(scenario.spec.nodes):
        assert kernel_settings(node, scenario.proxy) == kernel_settings(node, scenario.proxy).written({name: value})


def test_the_schema_knows_every_setting_by_name() -> None:
    validator = jsonschema.Draft202012Validator(scenario_json_schema())
    content = {"apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "x"}, "duration": "1s"}
    for sysctls, valid in (
        ({UDP: 5}, True),
        ({UDP: "5s"}, False),
        ({UDP: -1}, False),
        ({"net.core.somaxconn": 1}, False),
    ):
        for nodes in ({"count": 1, "sysctls": sysctls}, {"list": [{"name": "a", "sysctls": sysctls}]}):
            assert validator.is_valid({**content, "nodes": nodes}) is valid


# ------------------------------------------------------------------------------------------------------------- running

STALE = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: stale}
duration: 120s
nodes: {count: 2}
workloads:
  - {name: dns, replicas: 2, ports: [{containerPort: 53, protocol: UDP}]}
  - {name: client, replicas: 2}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: dns}
    spec: {clusterIP: 172.30.0.53, selector: {app: dns}, ports: [{port: 53, protocol: UDP}]}
events:
  - {at: 20s, scale: {workload: dns, replicas: 1}}
  - {at: 20s, failSyncs: {for: 5s}}  # the sync that would clean up fails, and no other does (O-12.2)
traffic:  # each of the 24 sockets sends every 6 seconds
  - {name: lookups, from: pods, workload: client, service: dns, perSecond: 4, sourcePorts: 12}
"""


def last_failure_s(log: RunLog) -> float:
    gone = [c.at_ns for c in log.connections if c.cause is Reason.ENDPOINT_GONE]
    return max(gone, default=0) / SECOND_NS


def test_no_flow_outlives_its_endpoint_if_its_entry_does_not_outlive_the_pause_between_datagrams() -> None:
    """K-1.7, CT-5: an entry of 30 s is kept alive by a datagram every 6 s, and with it the dead endpoint; one of 5 s
    is not.
    """
    pinned = simulate("", head=STALE, delays="")
    assert last_failure_s(pinned) > 110
    for_5_s = simulate("", f"nodes.sysctls={{{UDP}: 5}}", head=STALE, delays="")
    # the retry of the failed sync puts the right rules in force 30 s later (O-9), and that is all there is to wait for
    assert 20 < last_failure_s(for_5_s) < 60
    late = [c for c in for_5_s.connections if c.at_ns > 60 * SECOND_NS]
    assert len(late) > 200 and all(c.new_flow and c.disposition is Fate.DELIVERED for c in late)
    assert not all(c.new_flow for c in pinned.connections if c.at_ns > 60 * SECOND_NS)


def test_a_small_connection_table_loses_new_connections() -> None:  # CT-7.2
    traffic = "traffic: [{name: t, service: web, via: nodePort, perSecond: 50}]\n"
    head_settings = ["proxy={conntrack: {maxPerCore: 0}}", "duration=10s"]
    few = simulate(traffic, "nodes.sysctls={net.netfilter.nf_conntrack_max: 100}", *head_settings)
    full = [c for c in few.connections if c.cause is Reason.TABLE_FULL]
    assert len(full) > 200 and {c.disposition for c in full} == {Fate.DROPPED}
    enough = simulate(traffic, *head_settings)
    assert {c.disposition for c in enough.connections} == {Fate.DELIVERED}


@pytest.mark.parametrize("hairpin", [True, False])
def test_without_hairpin_no_pod_reaches_itself_through_its_service(hairpin: bool) -> None:  # K-2.6
    traffic = "traffic: [{name: t, from: pods, workload: web, service: web, perSecond: 40}]\n"
    log = simulate(traffic, f"nodes.hairpin={str(hairpin).lower()}", "duration=10s")
    home = {"web-1": "node-1", "web-2": "node-2"}
    to_itself = [c for c in log.connections if c.endpoint_node == home[c.client] or c.cause is Reason.NO_HAIRPIN]
    others = [c for c in log.connections if c not in to_itself]
    assert 100 < len(to_itself) < 300
    assert {c.disposition for c in others} == {Fate.DELIVERED}
    ends = Counter((c.disposition, c.cause) for c in to_itself)
    assert set(ends) == {(Fate.DELIVERED, Reason.NONE) if hairpin else (Fate.DROPPED, Reason.NO_HAIRPIN)}


def test_a_liberal_node_makes_kube_proxy_write_no_rule_against_invalid_packets() -> None:
    """CFG-6: kube-proxy reads be_liberal when it starts."""
    name = "net.netfilter.nf_conntrack_tcp_be_liberal"
    past = history(load(f"{LIST}    - {{name: b, sysctls: {{{name}: 1}}}}\n"))
    drops = {
        each.node: any(
            "INVALID" in str(rule) for rule in each.programmed.ruleset.table("filter").chains["KUBE-FORWARD"].rules
        )
        for each in past.loaded
        if each.family is Family.IPV4
    }
    assert drops == {"a": True, "b": False}


def test_verified_nodes_have_the_settings_of_the_scenario() -> None:
    scenario = load(f"{COUNTED}  hairpin: false\n  sysctls: {{{UDP}: 5}}\n")
    for subject in scenario_subjects(scenario, nodes=["node-2"]):
        machine = subject.site.machine("node-2")
        assert machine.sysctls.udp_timeout_ns == 5 * SECOND_NS
        assert not machine.routing.interfaces["cni0"].hairpin
