"""``kpsim explain-config``: what a kube-proxy does at its start (CFG-1 to CFG-9, CP-12)."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer import Context

import kpsim
from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.cli.completion import complete_node_of_config
from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.ipvs.schedulers import SCHEDULERS
from kpsim.manifests.proxy_start import read_proxy_start
from kpsim.nodes import sysctls_of
from kpsim.proxier import Proxier
from kpsim.startup.account import Account, Row, account_of, refused
from kpsim.startup.conditions import Severity
from kpsim.startup.situation import Given, situations
from kpsim.startup.writing import markdown, to_json
from kpsim.sysctls import SETTINGS, Sysctls
from kpsim.units import SECOND_NS, format_duration

Json = dict[str, Any]
HEAD: Json = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
MAX = "net.netfilter.nf_conntrack_max"


def node(
    name: str, *, cpu: object = "8", cidrs: object = ("10.0.1.0/24",), ips: object = ("192.168.0.1",), **info: str
) -> Json:
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]  # type: ignore[attr-defined]
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": list(cidrs)},  # type: ignore[call-overload]
        "status": {"addresses": addresses, "capacity": {"cpu": cpu, "memory": "32Gi"}, "nodeInfo": info},
    }  # fmt: skip


def told(fields: Json | str, *objects: Json, name: str = "", mode: Mode | None = None, **given: Any) -> Account:
    """The account of a configuration, or of a text of flags, with Nodes beside it."""
    text = fields if isinstance(fields, str) else json.dumps([{**HEAD, **fields}, *objects])
    start = read_proxy_start(["-"], stdin=text.encode(), mode=mode)
    return refused(start) if start.config is None else account_of(situations(start, Given(**given), name))


def row(account: Account, path: str) -> Row:
    (found,) = [each for each in account.rows if each.path == path]
    return found


def names(account: Account, severity: Severity) -> list[str]:
    return [each.name for each in account.of(severity)]


def written(account: Account) -> dict[str, int]:
    return {change.name: change.new for change in account.changes}


def remarks(account: Account, path: str) -> str:
    return "\n".join(f"{each.kind}: {each.words}" for each in row(account, path).remarks)


# ------------------------------------------------------------------------------------------- kernel settings (CFG-4)


@pytest.mark.parametrize(
    ("cores", "conntrack", "most"),
    [
        (1, {}, 131_072), (4, {}, 131_072), (8, {}, 262_144), (16, {}, 524_288), (32, {}, 1_048_576), (33, {}, 1_048_576), (256, {}, 1_048_576),
        (2, {"maxPerCore": 7, "min": 77}, 77),
        (2, {"maxPerCore": 70, "min": 77}, 140),
        (2, {"maxPerCore": 7, "min": 2_000_000}, 2_000_000),  # min is not capped
        (64, {"min": 2_000_000}, 1_048_576),  # the cap comes first
    ],
)  # fmt: skip
def test_the_size_of_the_table(cores: int, conntrack: Json, most: int) -> None:
    account = told({"conntrack": conntrack}, cores=cores)
    assert written(account)[MAX] == most
    assert f"{most:,}" in row(account, "conntrack.maxPerCore").does


def test_zero_per_core_leaves_the_table_and_forgets_min() -> None:
    account = told({"conntrack": {"maxPerCore": 0, "min": 5}}, cores=64)
    assert MAX not in written(account)
    assert (names(account, Severity.INEFFECTIVE), account.holds) == (["without-effect"], False)
    assert told({"conntrack": {"maxPerCore": 0}}).holds


def test_the_hash_grows_to_a_quarter_of_the_table() -> None:
    small = {"net.netfilter.nf_conntrack_buckets": 65_536}
    assert written(told({}, cores=32, sysctls=small))["net.netfilter.nf_conntrack_buckets"] == 262_144
    assert "net.netfilter.nf_conntrack_buckets" not in written(told({}, cores=8, sysctls=small))


def test_a_table_that_kube_proxy_makes_smaller_is_a_risk() -> None:
    assert "risk: the machine had 500,000" in remarks(told({}, sysctls={MAX: 500_000}), "conntrack.maxPerCore")
    assert "risk" not in remarks(told({}, sysctls={MAX: 100_000}), "conntrack.maxPerCore")


def test_cores_and_memory_are_those_of_the_node_unless_given() -> None:
    assert written(told({}, node("n1", cpu="16")))[MAX] == 524_288
    assert written(told({}, node("n1", cpu="16"), cores=8))[MAX] == 262_144
    assert "32,768 MiB" in remarks(told({}, node("n1")), "conntrack.maxPerCore")
    assert "costs: a full table takes 34 MiB" in remarks(told({}, node("n1"), cores=4), "conntrack.maxPerCore")
    assert "risk: a full table takes 34 MiB, 53 %" in remarks(told({}, memory=64 << 20), "conntrack.maxPerCore")


@pytest.mark.parametrize(("timeout", "seconds"), [("90m", 5400), ("1500ms", 1), ("500ms", 0), ("0s", None)])
def test_timeouts_are_written_in_whole_seconds(timeout: str, seconds: int | None) -> None:
    """Half a second becomes none at all, and entries end at once (CFG-2.4)."""
    account = told({"conntrack": {"tcpEstablishedTimeout": timeout, "udpTimeout": timeout}})
    for name in ("tcp_timeout_established", "udp_timeout"):
        assert written(account).get(f"net.netfilter.nf_conntrack_{name}") == seconds
    if seconds == 0:
        assert "becomes 0 s" in remarks(account, "conntrack.udpTimeout")


CONFIGURATIONS: tuple[Json, ...] = (
    {},
    {"clusterCIDR": "10.0.0.0/16", "conntrack": {"tcpBeLiberal": True, "udpTimeout": "7s", "udpStreamTimeout": "77s", "tcpCloseWaitTimeout": "0s"}},
    {"nodePortAddresses": ["192.168.0.0/24"], "iptables": {"syncPeriod": "7s", "minSyncPeriod": "3s"}},
    {"iptables": {"localhostNodePorts": False}, "conntrack": {"maxPerCore": 0}},
    {"mode": "nftables", "nftables": {"syncPeriod": "2m", "minSyncPeriod": "0s"}},
    {"mode": "ipvs", "ipvs": {"syncPeriod": "11s", "tcpTimeout": "99s", "strictARP": True}},
    {"mode": "ipvs", "ipvs": {"udpTimeout": "9s"}, "conntrack": {"maxPerCore": 100_000}},
)  # fmt: skip


@pytest.mark.parametrize("fields", CONFIGURATIONS)
def test_numbers_are_those_of_the_model(fields: Json) -> None:
    """What the account says of kernel settings, periods and timeouts is what simulated nodes have."""
    objects = [{**HEAD, **fields}, node("n1", cpu="4")]
    cluster = kpsim.load(text=json.dumps(objects))
    account = told(fields, node("n1", cpu="4"))
    after = cluster.kernel_settings("n1")
    said = written(account)
    for name, setting in SETTINGS.items():
        assert said.get(name, setting.of(Sysctls())) == setting.of(after), name
    settings = cluster.settings("n1", Family.IPV4)
    proxier = Proxier(settings, make_backend(settings), created_ns=0)
    runner, section = proxier.make_runner(), str(settings.config.mode)
    sync = row(account, f"{section}.syncPeriod")
    assert format_duration(proxier.proxy_health.timeout_ns) in sync.does
    assert format_duration(min(runner.retry_interval_ns, runner.max_interval_ns)) in sync.does
    assert row(account, f"{section}.minSyncPeriod").value == format_duration(runner.min_interval_ns)
    if settings.uses_ipvs:
        kept = proxier.held.ipvs_timeouts
        for name, seconds in (
            ("tcpTimeout", kept.tcp_s),
            ("tcpFinTimeout", kept.tcp_fin_s),
            ("udpTimeout", kept.udp_s),
        ):
            assert f"after {seconds:,} s" in row(account, f"ipvs.{name}").does


def test_the_model_cuts_timeouts_too() -> None:
    config = kpsim.load(text=json.dumps({**HEAD, "conntrack": {"udpTimeout": "2900ms"}})).config
    assert sysctls_of(config, route_localnet=False, liberal=False).udp_timeout_ns == 2 * SECOND_NS


# ---------------------------------------------------------------------------------------------- modes (CFG-5, CFG-6)


def test_what_a_mode_removes_and_makes() -> None:
    by_mode = {mode: told({"mode": mode}) for mode in ("iptables", "nftables", "ipvs")}
    removed = {mode: " ".join(account.steps[1].lines) for mode, account in by_mode.items()}
    assert "ip kube-proxy" in removed["iptables"] and "ip kube-proxy" in removed["ipvs"]
    assert "all virtual servers" in removed["nftables"] and "KUBE-FIREWALL" in removed["nftables"]
    assert "net.ipv4.conf.all.route_localnet" in written(by_mode["iptables"])
    assert "net.ipv4.conf.all.route_localnet" not in written(by_mode["nftables"])
    ipvs = written(by_mode["ipvs"])
    assert {
        ipvs[f"net.ipv4.{name}"]
        for name in ("ip_forward", "vs.conntrack", "vs.expire_nodest_conn", "vs.expire_quiescent_template")
    } == {1}
    assert "net.ipv4.conf.all.arp_ignore" not in ipvs
    strict = written(told({"mode": "ipvs", "ipvs": {"strictARP": True}}))
    assert (strict["net.ipv4.conf.all.arp_ignore"], strict["net.ipv4.conf.all.arp_announce"]) == (1, 2)


@pytest.mark.parametrize(
    ("kernel", "reuse"), [("4.0.1", None), ("4.19.3-generic", 0), ("5.8.0", 0), ("5.9.0", None), ("6.1.0", None)]
)
def test_reused_ports_on_old_kernels(kernel: str, reuse: int | None) -> None:
    account = told({"mode": "ipvs"}, node("n1", kernelVersion=kernel))
    assert written(account).get("net.ipv4.vs.conn_reuse_mode") == reuse


def test_localhost_needs_a_loopback_address_among_the_node_port_addresses() -> None:
    there = told({"iptables": {"localhostNodePorts": True}, "nodePortAddresses": ["127.0.0.0/8", "10.0.0.0/8"]})
    away = told({"iptables": {"localhostNodePorts": True}, "nodePortAddresses": ["10.0.0.0/8"]})
    assert "net.ipv4.conf.all.route_localnet" in written(there) and there.holds
    assert "net.ipv4.conf.all.route_localnet" not in written(away)
    assert names(away, Severity.INEFFECTIVE) == ["without-effect"]
    assert told({"nodePortAddresses": ["10.0.0.0/8"]}).holds  # nobody asks for it


def test_default_node_port_addresses() -> None:
    assert "192.168.0.1/32" in row(told({"mode": "nftables"}, node("n1")), "nodePortAddresses").does
    assert names(told({"mode": "nftables"}, node("n1")), Severity.WARNING) == []
    for mode in ("iptables", "ipvs"):
        assert "node-ports-everywhere" in names(told({"mode": mode}, node("n1")), Severity.WARNING)


# --------------------------------------------------------------------------------------------- what ends kube-proxy


@pytest.mark.parametrize(
    ("fields", "given", "name", "step"),
    [
        ({"mode": "ipvs", "ipvs": {"scheduler": "lcx"}}, {}, "unknown-scheduler", 5),
        ({"detectLocalMode": "NodeCIDR"}, {"cidrs": ()}, "no-pod-cidr", 3),
        ({"mode": "nftables"}, {"kernelVersion": "5.12.9"}, "kernel-too-old", 5),
        ({"featureGates": {"TopologyAwareHints": True}}, {}, "unknown-gate", 1),
        ({"conntrack": {"tcpEstablishedTimeout": "1000h"}}, {}, "kernel-setting-refused", 4),
        ({"metricsBindAddress": "0.0.0.0:10256", "bindAddressHardFail": True}, {}, "address-in-use", 7),
    ],
)
def test_what_is_fatal_has_a_name_and_a_step(fields: Json, given: Json, name: str, step: int) -> None:
    account = told(fields, node("n1", **given))
    assert (names(account, Severity.FATAL), account.starts, account.holds) == ([name], False, False)
    assert len(account.steps) == step  # what comes later does not happen


def test_what_is_not_fatal() -> None:
    assert told({"mode": "nftables"}, node("n1", kernelVersion="5.13.0")).starts
    assert told({"mode": "iptables"}, node("n1", kernelVersion="4.19.0")).starts
    assert told({"mode": "ipvs", "ipvs": {"scheduler": "mh"}}).starts
    assert told({"ipvs": {"scheduler": "lcx"}}).starts  # not read in iptables mode
    assert told({"detectLocalMode": "NodeCIDR"}).starts  # without Node objects nothing is known
    assert names(told({"metricsBindAddress": "0.0.0.0:10256"}), Severity.FATAL) == []


@pytest.mark.parametrize(
    ("family", "fatal"), [(Family.IPV4, []), (Family.IPV6, ["cluster-cidr-of-other-family"]), (None, [])]
)
def test_cluster_cidrs_of_the_wrong_family(family: Family | None, fatal: list[str]) -> None:
    bind = "::" if family is Family.IPV6 else "0.0.0.0"
    account = told({"clusterCIDR": "10.0.0.0/16", "bindAddress": bind}, family=family)
    assert names(account, Severity.FATAL) == fatal


def test_the_primary_family_must_be_there() -> None:
    account = told({}, node("n1"), family=Family.IPV6)
    assert names(account, Severity.FATAL) == ["primary-family-unsupported"]


def test_a_machine_without_ipv4_has_no_loopback_for_node_ports() -> None:
    account = told({"bindAddress": "::", "clusterCIDR": "fd00::/48"}, family=Family.IPV6)
    assert account.starts and account.families == ("IPv6",)
    assert "net.ipv4.conf.all.route_localnet" not in written(account)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "iptabels"}, {"iptables": {"syncPeriod": "1s", "minSyncPeriod": "2s"}}, {"conntrack": {"min": -1}}, {"conntrack": {"min": "many"}},
        {"featureGates": {"NFTablesProxyMode": False}}, {"detectLocalMode": "BridgeInterface"}, {"nodePortAddresses": ["primary", "10.0.0.0/8"]},
    ],
)  # fmt: skip
def test_what_validation_refuses_ends_kube_proxy_before_it_touches_anything(fields: Json) -> None:
    account = told(fields, node("n1"))
    assert set(names(account, Severity.FATAL)) == {"invalid-configuration"}
    assert (account.steps, account.rows, account.holds) == ((), (), False)


# ------------------------------------------------------------------------------------------- where values come from


FILE = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
nftables:
  minSyncPeriod: 2s
iptables:
  syncPeriod: 7s
clusterCidr: 10.0.0.0/16
"""


def test_values_of_a_file_have_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "kube-proxy.yaml"
    file.write_text(FILE)
    start = read_proxy_start([file])
    account = account_of(situations(start, Given()))
    assert row(account, "mode").origin == f"{file}:3"
    assert row(account, "nftables.minSyncPeriod").origin == f"{file}:5"
    assert row(account, "nftables.syncPeriod").origin == ""
    unread = row(account, "iptables.syncPeriod")
    assert (unread.origin, unread.unread) == (f"{file}:7", "nftables mode reads nftables.syncPeriod")
    assert [(each.name, each.where) for each in account.of(Severity.INEFFECTIVE)] == [
        ("not-read", f"{file}:7"), ("unknown-field", f"{file}:8"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "file", "least"),
    [
        ("--proxy-mode=ipvs", {"mode": "ipvs"}, ("1s", "0s")),  # CFG-2.2.1
        ("--iptables-min-sync-period=0", {"iptables": {"minSyncPeriod": "0s"}}, ("0s", "1s")),  # CFG-2.2.2
        (
            "--proxy-mode=nftables --iptables-min-sync-period=4s",
            {"mode": "nftables", "iptables": {"minSyncPeriod": "4s"}},
            ("4s", "1s"),
        ),
    ],
)
def test_flags_and_files_differ(flags: str, file: Json, least: tuple[str, str]) -> None:
    by_flags, by_file = told(flags), told(file)
    section = by_flags.mode
    assert (row(by_flags, f"{section}.minSyncPeriod").value, row(by_file, f"{section}.minSyncPeriod").value) == least
    assert by_flags.holds


def test_a_mode_that_is_asked_for_moves_what_flags_set() -> None:
    """``--iptables-min-sync-period`` counts in nftables mode and not in ipvs mode (CFG-2.2)."""
    flags = "--iptables-min-sync-period=4s"
    assert row(told(flags, mode=Mode.NFTABLES), "nftables.minSyncPeriod").value == "4s"
    assert row(told(flags, mode=Mode.IPVS), "ipvs.minSyncPeriod").value == "1s"


@pytest.mark.parametrize(
    ("flags", "address"),
    [("--v=2", "0.0.0.0:10256"), ("--healthz-port=0", '""'), ("--healthz-port=7", "0.0.0.0:7"), ("--healthz-port=7 --healthz-bind-address=1.2.3.4", "1.2.3.4:7"),
     ("--healthz-port=7 --healthz-bind-address=1.2.3.4:8", "1.2.3.4:8"), ("--bind-address=::", "[::]:10256")],
)  # fmt: skip
def test_where_health_is_asked(flags: str, address: str) -> None:
    assert row(told(flags), "healthzBindAddress").value == address


def test_metrics_cannot_be_turned_off() -> None:
    assert names(told("--metrics-port=0"), Severity.FATAL) == ["no-metrics-address"]
    assert names(told("--cleanup-ipvs --v=2"), Severity.FATAL) == ["unknown-flag"]
    assert names(told("--no-such-flag=1"), Severity.FATAL) == ["invalid-configuration"]


DAEMON_SET: Json = {
    "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kube-proxy"},
    "spec": {"template": {"spec": {"containers": [{
        "name": "kube-proxy", "image": "registry.k8s.io/kube-proxy:v1.36.2",
        "command": ["/usr/local/bin/kube-proxy", "--config=/c", "--hostname-override=N7", "--v=4", "--proxy-mode=ipvs", "--cluster-cidr=10.0.0.0/16", "--ipvs-scheduler=lc", "--healthz-port=7", "--metrics-port=10249"],
    }]}}},
}  # fmt: skip


def test_flags_beside_a_file_are_ignored_but_for_some() -> None:
    """The host name and what is about logs count (CFG-1.1). A flag that says what the file says does no harm."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "p"},
        "data": {"c": json.dumps({**HEAD, "clusterCIDR": "10.0.0.0/16"})},
    }
    start = read_proxy_start(["-"], stdin=json.dumps([config_map, DAEMON_SET]).encode())
    account = account_of(situations(start, Given()))
    ignored = account.of(Severity.INEFFECTIVE)
    assert {each.name for each in ignored} == {"flag-beside-file"}
    assert [each.words.partition(" ")[0] for each in ignored] == [
        "--proxy-mode=ipvs",
        "--ipvs-scheduler=lc",
        "--healthz-port=7",
    ]
    assert account.mode == "iptables"
    assert (row(account, "hostnameOverride").origin, account.node) == ("--hostname-override", "n7")
    assert row(account, "logging.verbosity").value == "4"


@pytest.mark.parametrize(
    ("tag", "noted"), [("v1.36.2", False), ("v1.30.14-eks.1", True), ("1.37.0", True), ("latest", False)]
)
def test_another_release_is_noted(tag: str, noted: bool) -> None:
    image = json.dumps([HEAD, DAEMON_SET]).replace("v1.36.2", tag)
    notes = read_proxy_start(["-"], stdin=image.encode()).notes
    assert any(tag in note and "holds for 1.36" in note for note in notes) is noted


# ------------------------------------------------------------------------------------------------------------ nodes


def test_what_differs_on_other_nodes_is_told() -> None:
    nodes = [
        node("n1"),
        node("n2", cpu="64"),
        node("n3", cpu="64"),
        node("n4", kernelVersion="5.4.0"),
        node("n5", cpu="8"),
    ]
    account = told({"mode": "nftables", "clusterCIDR": "10.0.0.0/16"}, *nodes)
    assert account.node == "n1" and account.starts and not account.holds
    assert {other.nodes: other.fatal for other in account.others} == {("n2", "n3"): False, ("n4",): True}
    assert told({"mode": "nftables"}, *nodes, name="n2").others == ()
    assert told({"mode": "nftables"}, node("n0", kernelVersion="5.4.0", operatingSystem="windows"), nodes[0]).holds
    with pytest.raises(InputError, match="no node 'n9'; there is n1"):
        told({}, *nodes, name="n9")


def test_one_host_name_is_one_node() -> None:
    account = told({"hostnameOverride": "n2"}, node("n1"), node("n2", cpu="64"))
    assert (account.node, account.others, written(account)[MAX]) == ("n2", (), 1_048_576)
    assert "risk" in remarks(account, "hostnameOverride")
    elsewhere = told({"hostnameOverride": "n2"}, node("n1", ips=("192.168.0.7",)), node("n2", cpu="64"), name="n1")
    assert (elsewhere.node, written(elsewhere)[MAX]) == ("n1", 262_144)  # n1's processors
    assert "takes itself for n2" in elsewhere.steps[2].lines[0] and "192.168.0.1" in elsewhere.steps[2].lines[1]


def test_without_cluster_cidr_no_pod_is_recognised() -> None:
    for mode in Mode:
        bare = told({"mode": str(mode)})
        assert "risk" in remarks(bare, "detectLocalMode"), mode
        assert "risk" not in remarks(told({"mode": str(mode), "clusterCIDR": "10.0.0.0/16"}), "detectLocalMode"), mode


def test_an_address_of_one_node_is_a_risk_on_the_others() -> None:
    account = told({"healthzBindAddress": "192.168.0.1:10256"}, node("n1"), node("n2", ips=("192.168.0.2",)))
    assert "risk" not in remarks(account, "healthzBindAddress")
    ((other),) = account.others
    assert (other.nodes, other.words, other.fatal) == (("n2",), ("at risk: healthzBindAddress",), False)
    assert account.holds


# ---------------------------------------------------------------------------------------------------------- remarks


@pytest.mark.parametrize(
    ("path", "fine", "remarked", "words"),
    [
        ("iptables.syncPeriod", "60s", "61s", "risk: after a failure"),
        ("iptables.syncPeriod", "5s", "4s", "risk: a sync of 8s makes the node unhealthy"),
        ("iptables.minSyncPeriod", "29s", "30s", "risk: a pod that ends is served for up to 30s"),
        ("iptables.minSyncPeriod", "5s", "6s", "costs: new endpoints get traffic"),
        ("iptables.masqueradeAll", False, True, "risk: pods no longer see"),
        ("iptables.masqueradeBit", 14, 15, "risk: another program that uses the bit 0x8000"),
        ("iptables.localhostNodePorts", True, False, "risk: what uses localhost:nodePort"),
        ("conntrack.tcpEstablishedTimeout", "3h", "2h", "risk: Linux sends keepalives after 2h"),
        ("conntrack.tcpCloseWaitTimeout", "60s", "59s", "risk: a server that is silent"),
        ("conntrack.tcpCloseWaitTimeout", "60s", "61s", "costs: a connection that one side does not close"),
        ("conntrack.udpTimeout", "5s", "4s", "risk: resolvers wait 5 s"),
        ("conntrack.udpTimeout", "60s", "61s", "costs: each DNS question"),
        ("conntrack.udpStreamTimeout", "300s", "301s", "costs: a client that keeps its port"),
        ("conntrack.tcpBeLiberal", False, True, "note: never set back"),
        ("configSyncPeriod", "1m", "59s", "costs: every Service and slice is compared"),
        ("oomScoreAdj", -999, 0, "risk: when memory is short"),
        ("enableProfiling", False, True, "costs: whoever reaches"),
        ("healthzBindAddress", "0.0.0.0:10256", "127.0.0.1:10256", "risk: load balancers"),
        ("metricsBindAddress", "127.0.0.1:10249", "0.0.0.0:10249", "risk: metrics are served"),
        ("bindAddress", "0.0.0.0", "192.168.0.9", "risk: it is none of the node's"),
        ("nodePortAddresses", ["10.0.0.0/8", "fd00::/8"], ["10.0.0.0/8"], "risk: no CIDR of IPv6"),
        ("clusterCIDR", "10.0.0.0/16,fd00::/48", "10.0.0.0/16", "note: no CIDR of IPv6"),
    ],
)  # fmt: skip
def test_where_a_value_begins_to_cost_something(path: str, fine: Any, remarked: Any, words: str) -> None:
    section, _, name = path.rpartition(".")
    plain, special = (
        told({section: {name: value}} if section else {name: value}, node("n1")) for value in (fine, remarked)
    )
    assert words in remarks(special, path)
    assert words not in remarks(plain, path)


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"scheduler": "sh"}, "scheduler", "a server that drains still gets its clients"),
        ({"scheduler": "dh"}, "scheduler", "do not share its load"),
        ({"scheduler": "ovf"}, "scheduler", "new ones are refused"),
        ({"strictARP": False}, "strictARP", "needs true"),
        ({"tcpTimeout": "0s"}, "tcpTimeout", "remembers it for 24h, but ip_vs decides"),
        ({"excludeCIDRs": ["10.0.0.0/8"]}, "excludeCIDRs", "none of IPv6"),
        ({"syncPeriod": "9s"}, "syncPeriod", "everything is written again every 9s"),
        ({"minSyncPeriod": "0s"}, "minSyncPeriod", "every change may have its own sync"),
    ],
)
def test_what_ipvs_mode_makes_of_its_settings(fields: Json, name: str, words: str) -> None:
    assert words in remarks(told({"mode": "ipvs", "ipvs": fields}), f"ipvs.{name}")
    other = {
        "scheduler": "rr",
        "strictARP": True,
        "tcpTimeout": "24h",
        "excludeCIDRs": [],
        "syncPeriod": "10s",
        "minSyncPeriod": "1s",
    }
    assert words not in remarks(told({"mode": "ipvs", "ipvs": {name: other[name]}}), f"ipvs.{name}")


def test_every_scheduler_of_the_kernel_has_its_words() -> None:
    for name in SCHEDULERS:
        assert f"by {name}" not in row(told({"mode": "ipvs", "ipvs": {"scheduler": name}}), "ipvs.scheduler").does


# ------------------------------------------------------------------------------------------------------------ output


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


@pytest.mark.parametrize("fields", CONFIGURATIONS)
def test_every_form_says_everything(fields: Json) -> None:
    account = told(fields, node("n1"), node("n2", cpu="2"))
    page = markdown(account).replace("\\", "")
    said = to_json(account)
    assert json.loads(json.dumps(said)) == said
    for row in said["settings"]:
        for text in (row["setting"], row["does"] or "", *(each["words"] for each in row["remarks"])):
            assert text.replace("\\", "") in page
    assert all(text == text.strip() and "  " not in text for text in texts(said))
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Node\napiVersion: v1\nmetadata: {name: n}\n", "no configuration of kube-proxy among the input"),
        ("a: [", "expected"),
        (json.dumps({**HEAD, "clusterCIDR": "{{ .Values.cidr }}"}), "template"),
        (json.dumps([{**HEAD, "mode": "ipvs"}, {**HEAD, "mode": "nftables"}]), "disagree"),
        (json.dumps([HEAD, {**node("n1"), "status": {"capacity": {"cpu": "many"}}}]), "not a quantity: 'many'"),
    ],
)
def test_bad_input_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        start = read_proxy_start(["-"], stdin=text.encode())
        account_of(situations(start, Given()))


def test_a_shell_offers_the_nodes_beside_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(json.dumps([HEAD, node("n1"), node("n2"), node("other")]))
    context = cast(Context, SimpleNamespace(params={"config": (file,)}, args=[]))
    assert complete_node_of_config(context, "n") == ["n1", "n2"]
    context.params["config"] = (tmp_path / "missing.yaml",)
    assert complete_node_of_config(context, "") == []


def test_python_says_what_the_command_says() -> None:
    text = json.dumps([{**HEAD, "mode": "ipvs"}, node("n1")])
    found = kpsim.explain_config(text=text, cores=8, memory="16Gi", sysctls={MAX: 77})
    account = told({"mode": "ipvs"}, node("n1"), cores=8, memory=16 << 30, sysctls={MAX: 77})
    assert found.to_json() == to_json(account)
    assert (found.starts, found.holds, found.markdown()) == (True, True, markdown(account))
    assert "Settings that are set, or at risk" in found.text() and "Settings that are set" not in found.text(
        everything=True
    )
    assert kpsim.explain_config(text=text, mode="nftables").account.mode == "nftables"
    assert not kpsim.explain_config(text="--no-such-flag").starts
    for wrong in ({"cores": 0}, {"memory": "x"}, {"memory": 5}, {"sysctls": {"x": 1}}, {"node": "zz"}):
        with pytest.raises(InputError):
            kpsim.explain_config(text=text, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["--node", "--memory"])
def test_an_option_without_a_value_is_no_default(option: str) -> None:
    """As from a shell variable that is unset."""
    shop = Path(__file__).parents[1] / "notebooks" / "shop.yaml"
    words = [sys.executable, "-m", "kpsim", "explain-config", str(shop), f"{option}="]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert option in ended.stderr
