"""``kpsim explain-config`` explains every field of a KubeProxyConfiguration, and every field of ``ProxyConfig`` changes what it says."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from kpsim.config import ProxyConfig
from kpsim.manifests.proxy_config import FIELDS, Fields
from kpsim.manifests.proxy_flags import FLAGS
from kpsim.manifests.proxy_start import read_proxy_start
from kpsim.startup.account import SETTINGS, account_of
from kpsim.startup.situation import Given, situations
from kpsim.startup.writing import to_json

Json = dict[str, Any]
HEAD: Json = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
NODE: Json = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.0.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
}  # fmt: skip


def told(document: Json) -> Json:
    start = read_proxy_start(["-"], stdin=json.dumps([{**HEAD, **document}, NODE]).encode())
    return to_json(account_of(situations(start, Given())))


def words(document: Json) -> Json:
    """The account without the values themselves, which are there in any case, and without where they stand."""
    said = told(document)
    rows = [{name: each[name] for name in ("does", "remarks", "whyNot")} for each in said["settings"]]
    return {**said, "settings": rows, "from": ""}


_IPVS: Json = {"mode": "ipvs"}
_BRIDGE: Json = {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}}
_PREFIX: Json = {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}}
#: by field of ``ProxyConfig``: a configuration, and what makes it differ in that field
CASES: Mapping[str, tuple[Json, Json]] = {
    "mode": ({}, {"mode": "nftables"}),
    "hostname_override": ({}, {"hostnameOverride": "other"}),
    "bind_address": ({}, {"bindAddress": "192.168.0.9"}),
    "healthz_bind_address": ({}, {"healthzBindAddress": "127.0.0.1:7"}),
    "cluster_cidr": ({}, {"clusterCIDR": "10.0.0.0/16"}),
    "detect_local_mode": ({}, {"detectLocalMode": "NodeCIDR"}),
    "bridge_interface": (_BRIDGE, {"detectLocal": {"bridgeInterface": "br7"}}),
    "interface_name_prefix": (_PREFIX, {"detectLocal": {"interfaceNamePrefix": "veth"}}),
    "node_port_addresses": ({}, {"nodePortAddresses": ["192.168.0.0/24"]}),
    "masquerade_bit": ({}, {"iptables": {"masqueradeBit": 7}}),
    "masquerade_all": ({}, {"iptables": {"masqueradeAll": True}}),
    "localhost_node_ports": ({}, {"iptables": {"localhostNodePorts": False}}),
    "sync_period_ns": ({}, {"iptables": {"syncPeriod": "7s"}}),
    "min_sync_period_ns": ({}, {"iptables": {"minSyncPeriod": "7s"}}),
    "config_sync_period_ns": ({}, {"configSyncPeriod": "7m"}),
    "conntrack_tcp_be_liberal": ({}, {"conntrack": {"tcpBeLiberal": True}}),
    "conntrack_max_per_core": ({}, {"conntrack": {"maxPerCore": 100_000}}),
    "conntrack_min": ({}, {"conntrack": {"min": 400_000}}),
    "conntrack_tcp_established_timeout_ns": ({}, {"conntrack": {"tcpEstablishedTimeout": "1h"}}),
    "conntrack_tcp_close_wait_timeout_ns": ({}, {"conntrack": {"tcpCloseWaitTimeout": "7m"}}),
    "conntrack_udp_timeout_ns": ({}, {"conntrack": {"udpTimeout": "7s"}}),
    "conntrack_udp_stream_timeout_ns": ({}, {"conntrack": {"udpStreamTimeout": "7m"}}),
    "ipvs_scheduler": (_IPVS, {"ipvs": {"scheduler": "sh"}}),
    "ipvs_exclude_cidrs": (_IPVS, {"ipvs": {"excludeCIDRs": ["10.7.0.0/16"]}}),
    "ipvs_strict_arp": (_IPVS, {"ipvs": {"strictARP": True}}),
    "ipvs_tcp_timeout_ns": (_IPVS, {"ipvs": {"tcpTimeout": "7m"}}),
    "ipvs_tcp_fin_timeout_ns": (_IPVS, {"ipvs": {"tcpFinTimeout": "7s"}}),
    "ipvs_udp_timeout_ns": (_IPVS, {"ipvs": {"udpTimeout": "7s"}}),
    "allow_service_external_ips": ({}, {"featureGates": {"AllowServiceExternalIPs": False}}),
}


def test_every_typed_setting_has_its_case() -> None:
    assert set(CASES) == {field.name for field in fields(ProxyConfig)}


@pytest.mark.parametrize("name", CASES)
def test_a_setting_changes_what_is_said(name: str) -> None:
    document, change = CASES[name]
    assert words(document) != words({**document, **change})


def leaves(known: Fields, path: str = "") -> list[str]:
    found: list[str] = []
    for name, field in known.items():
        found += leaves(field, f"{path}{name}.") if isinstance(field, Mapping) else [f"{path}{name}"]
    return found


def test_every_field_of_the_configuration_is_explained_once() -> None:
    told_paths = [setting.path for setting in SETTINGS]
    assert sorted(told_paths) == sorted(set(leaves(FIELDS)) - {"apiVersion", "kind"})


_VALUES = (
    "7s",
    "x",
    "192.168.0.1:77",
    "10.0.0.0/16",
    "json",
    7,
    True,
    False,
    ["10.0.0.0/16"],
    {"AllowServiceExternalIPs": False},
    "NodeCIDR",
    "nftables",
    "192.168.0.1",
)


@pytest.mark.parametrize("path", [path for path in leaves(FIELDS) if path not in ("apiVersion", "kind")])
def test_a_written_field_is_told_with_its_place(path: str) -> None:
    """In force, or with the reason why not."""
    steps = path.split(".")
    for value in _VALUES:
        document: Json = {steps[0]: value if len(steps) == 1 else {steps[1]: value}}
        start = read_proxy_start(["-"], stdin=json.dumps({**HEAD, **document}).encode())
        if start.config is None:
            continue
        said = to_json(account_of(situations(start, Given())))
        (row,) = [each for each in said["settings"] if each["setting"] == path]
        assert row["from"] and (row["effective"] or row["whyNot"])
        plain = {each["setting"]: each["value"] for each in told({})["settings"]}
        if row["value"] != plain[path] or not row["effective"]:
            return
    pytest.fail("no value of it is told")


#: values of flags for which the texts below do not do, and what stands beside a flag so that it is read
_OF_FLAGS = {
    "proxy-mode": "nftables", "detect-local-mode": "NodeCIDR", "bind-address": "192.168.0.1", "feature-gates": "AllowServiceExternalIPs=false",
}  # fmt: skip
_BESIDE = {
    "pod-bridge-interface": "--detect-local-mode=BridgeInterface", "pod-interface-name-prefix": "--detect-local-mode=InterfaceNamePrefix",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.path])
def test_a_flag_is_told_as_the_place_of_its_value(name: str) -> None:
    beside = "--proxy-mode=ipvs" if name.startswith("ipvs") else _BESIDE.get(name, "--v=1")
    for text in (_OF_FLAGS.get(name, "7s"), "true", "7", "10.0.0.0/16", "192.168.0.1:7"):
        start = read_proxy_start(["-"], stdin=f"{beside} --{name}={text}".encode())
        if start.config is not None:
            said = to_json(account_of(situations(start, Given())))
            assert f"--{name}" in {each["from"] for each in said["settings"] if each["effective"]}
            return
    pytest.fail("no value of it is taken")
