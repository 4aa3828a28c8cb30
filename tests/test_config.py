"""kpsim.config: defaults (CFG-2), effective node IPs (CFG-7, O-11.3), detection of local traffic (I-10), settings
(I-1).
"""

from typing import Any

import pytest
from proxiers import make_settings, node

from kpsim.addresses import Family, format_ip
from kpsim.config import (
    Host,
    HostInterface,
    LocalDetector,
    LocalMode,
    Mode,
    ProxyConfig,
    config_from_json,
    effective_node_ips,
    resolve,
)
from kpsim.objects import node_from_json
from kpsim.units import HOUR_NS, MINUTE_NS, SECOND_NS

V4, V6 = Family.IPV4, Family.IPV6

Json = dict[str, Any]


def test_defaults() -> None:  # CFG-2
    config = config_from_json({})
    assert config == ProxyConfig()
    assert (config.mode, config.detect_local_mode) == (Mode.IPTABLES, LocalMode.CLUSTER_CIDR)
    assert (config.masquerade_bit, config.masquerade_all, config.localhost_node_ports) == (14, False, True)
    assert (config.sync_period_ns, config.min_sync_period_ns) == (30 * SECOND_NS, SECOND_NS)
    assert config.config_sync_period_ns == 15 * MINUTE_NS
    assert (config.conntrack_max_per_core, config.conntrack_min) == (32768, 131072)
    assert config.conntrack_tcp_established_timeout_ns == 24 * HOUR_NS
    assert config.conntrack_tcp_close_wait_timeout_ns == HOUR_NS
    assert (config.conntrack_udp_timeout_ns, config.conntrack_udp_stream_timeout_ns) == (0, 0)
    assert config.allow_service_external_ips


@pytest.mark.parametrize(
    ("section", "mode", "least_ns"),
    [("iptables", "", SECOND_NS), ("nftables", "nftables", SECOND_NS), ("ipvs", "ipvs", 0)],
)
def test_a_zero_period_is_an_unset_one(section: str, mode: str, least_ns: int) -> None:  # CFG-2.2.2
    config = config_from_json({"mode": mode, section: {"syncPeriod": "0s", "minSyncPeriod": "0s"}})
    assert (config.sync_period_ns, config.min_sync_period_ns) == (30 * SECOND_NS, least_ns)


def test_periods_come_from_the_section_of_the_mode() -> None:  # CFG-2.2.1
    obj = {"iptables": {"syncPeriod": "10s"}, "nftables": {"syncPeriod": "20s"}, "ipvs": {"syncPeriod": "40s"}}
    found = [config_from_json(obj, mode=mode).sync_period_ns // SECOND_NS for mode in Mode]
    assert found == [10, 20, 40]


def test_values() -> None:
    config = config_from_json(
        {
            "hostnameOverride": " Node-1 ",
            "bindAddress": "192.168.7.7",
            "clusterCIDR": "10.180.0.0/16",
            "detectLocalMode": "BridgeInterface",
            "detectLocal": {"bridgeInterface": "cni0"},
            "nodePortAddresses": ["192.168.0.0/24"],
            "iptables": {
                "masqueradeBit": 0,
                "masqueradeAll": True,
                "localhostNodePorts": False,
                "minSyncPeriod": "10s",
            },
            "conntrack": {"maxPerCore": 0, "tcpBeLiberal": True, "tcpEstablishedTimeout": "0s"},
            "featureGates": {"AllowServiceExternalIPs": False},
        }
    )
    assert config.hostname_override == "node-1"  # O-1.6
    assert config.detect_local_mode is LocalMode.BRIDGE_INTERFACE
    assert (config.masquerade_bit, config.masquerade_all, config.localhost_node_ports) == (0, True, False)
    assert config.min_sync_period_ns == 10 * SECOND_NS
    assert (config.conntrack_max_per_core, config.conntrack_tcp_established_timeout_ns) == (0, 0)
    assert config.conntrack_tcp_be_liberal
    assert not config.allow_service_external_ips


@pytest.mark.parametrize("obj", [{"mode": "userspace"}, {"detectLocalMode": "Magic"}, {"configSyncPeriod": "soon"}])
def test_what_kube_proxy_refuses(obj: Json) -> None:
    with pytest.raises(ValueError, match=r"userspace|Magic|soon"):
        config_from_json(obj)


@pytest.mark.parametrize(
    ("bind", "node_ips", "v4", "v6"),
    [
        ("", ["192.168.0.2", "2001:db8::2"], "192.168.0.2", "2001:db8::2"),
        ("", ["2001:db8::2", "192.168.0.2"], "192.168.0.2", "2001:db8::2"),
        ("", ["192.168.0.2", "192.168.0.3"], "192.168.0.2", "::1"),
        ("", [], "127.0.0.1", "::1"),
        ("", ["192.168.000.002"], "192.168.0.2", "::1"),
        ("0.0.0.0", ["192.168.0.2"], "192.168.0.2", "::1"),
        ("::", ["192.168.0.2"], "192.168.0.2", "::1"),
        ("192.168.7.7", ["192.168.0.2", "2001:db8::2"], "192.168.7.7", "2001:db8::2"),
        ("2001:db8::7", ["192.168.0.2", "2001:db8::2"], "192.168.0.2", "2001:db8::7"),
    ],
)
def test_effective_node_ips(bind: str, node_ips: list[str], v4: str, v6: str) -> None:  # O-11.3, CFG-7.1
    assert effective_node_ips(bind, node_ips) == {V4: v4, V6: v6}


def test_node_ips_are_the_nodes_unless_the_host_has_its_own() -> None:  # O-11: internal ones first
    addresses = [
        {"type": "ExternalIP", "address": "203.0.113.5"},
        {"type": "Hostname", "address": "node-1"},
        {"type": "InternalIP", "address": "192.168.0.9"},
        {"type": "ExternalIP", "address": "2001:db8::5"},
    ]
    read = node_from_json({"metadata": {"name": "node-1"}, "status": {"addresses": addresses}})
    found = {family: resolve(ProxyConfig(), Host(), read, family) for family in Family}
    assert {f: format_ip(f, s.node_ip) for f, s in found.items()} == {V4: "192.168.0.9", V6: "2001:db8::5"}
    assert found[V4].node_name == "node-1"
    own = resolve(ProxyConfig(), Host(node_ips=("192.168.0.2",)), read, V4)
    assert format_ip(V4, own.node_ip) == "192.168.0.2"


@pytest.mark.parametrize(
    ("config", "v4", "v6"),
    [
        ({"cluster_cidr": "10.180.3.4/16"}, "10.180.0.0/16", None),  # normalised
        ({"cluster_cidr": "fd00:180::/48,10.180.0.0/16"}, "10.180.0.0/16", "fd00:180::/48"),
        ({"cluster_cidr": "10.1.0.0/16,10.2.0.0/16"}, "10.1.0.0/16", None),  # the first of a family
        ({"cluster_cidr": ""}, None, None),
        ({"detect_local_mode": LocalMode.NODE_CIDR}, "10.180.1.0/24", "fd00:180:0:1::/64"),
    ],
)
def test_detection_by_cidr(config: Json, v4: str | None, v6: str | None) -> None:  # I-10
    own = node(podCIDRs=["10.180.1.0/24", "fd00:180:0:1::/64", "10.180.2.0/24"])
    found = {family: resolve(ProxyConfig(**config), Host(), own, family).detector for family in Family}
    assert {f: d and str(d.cidr) for f, d in found.items()} == {V4: v4, V6: v6}


def test_node_cidr_without_a_node_detects_nothing() -> None:
    assert make_settings(detect_local_mode=LocalMode.NODE_CIDR).detector is None


@pytest.mark.parametrize("family", list(Family))
def test_detection_by_interface_is_for_both_families(family: Family) -> None:
    bridge = make_settings(family, detect_local_mode=LocalMode.BRIDGE_INTERFACE, bridge_interface="cni0")
    prefix = make_settings(family, detect_local_mode=LocalMode.INTERFACE_NAME_PREFIX, interface_name_prefix="cali")
    assert bridge.detector == LocalDetector(interface="cni0")
    assert prefix.detector == LocalDetector(interface="cali+")


def test_a_host_without_detection() -> None:
    assert make_settings(host=Host(detect_local=False)).detector is None


def test_interfaces_that_nobody_names_are_loopback_and_the_node_ips() -> None:
    host = Host(node_ips=("192.168.0.2", "2001:db8::2"))
    found = {f: [format_ip(f, a) for a in make_settings(f, host).interface_addresses] for f in Family}
    assert found == {V4: ["127.0.0.1", "192.168.0.2"], V6: ["::1", "2001:db8::2"]}


def test_interface_addresses_lose_their_prefix_length() -> None:
    host = Host(interfaces=(HostInterface("eth0", ("10.0.0.5/8", "fe80::1/64", "nonsense", "10.0.0.6")),))
    assert [format_ip(V4, a) for a in make_settings(V4, host).interface_addresses] == ["10.0.0.5", "10.0.0.6"]
    assert [format_ip(V6, a) for a in make_settings(V6, host).interface_addresses] == ["fe80::1"]


@pytest.mark.parametrize(
    ("host", "config", "liberal"),
    [(Host(), {}, False), (Host(tcp_be_liberal=True), {}, True), (Host(), {"conntrack_tcp_be_liberal": True}, True)],
)
def test_liberal_tracking_is_what_the_sysctl_says_after_kube_proxy_set_it(
    host: Host, config: Json, liberal: bool
) -> None:
    assert make_settings(host=host, **config).liberal is liberal  # I-1, CFG-4.2


@pytest.mark.parametrize(("mode", "wanted"), [(Mode.IPTABLES, True), (Mode.NFTABLES, False), (Mode.IPVS, False)])
def test_only_iptables_mode_serves_node_ports_on_loopback_addresses(mode: Mode, wanted: bool) -> None:
    """CFG-6, NFT-12.4, IPVS-2.1, though all addresses take node ports."""
    settings = make_settings(mode=mode, node_port_addresses=("0.0.0.0/0",))
    assert settings.node_ports.contains_loopback
    assert settings.localhost_node_ports is wanted
