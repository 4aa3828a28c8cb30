"""KubeProxyConfiguration: what kube-proxy refuses at its start (CFG-2), and what it only logs (CFG-1.1)."""

from pathlib import Path
from typing import Any

import pytest

from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.manifests import check_proxy_config, load_manifests
from kpsim.manifests.places import format_path
from kpsim.manifests.proxy_config import with_defaults

HEAD = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}


def refused(config: dict[str, Any]) -> list[str]:
    return [format_path(path) for path, _ in check_proxy_config({**HEAD, **config}).complaints]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"mode": "ipvs", "ipvs": {"minSyncPeriod": "0s", "tcpTimeout": "0s", "excludeCIDRs": ["fd00::/64"]}},
        {"mode": "nftables", "ipvs": {"tcpTimeout": "-1s"}, "nodePortAddresses": ["primary"]},
        {"iptables": {"masqueradeBit": 31, "syncPeriod": "5s", "minSyncPeriod": "5s"}},
        {"iptables": {"syncPeriod": "0s"}},  # zero is unset (CFG-2.2.2)
        {"clusterCIDR": "10.180.0.0/16,fd00:180::/64"},
        {"clusterCIDR": ""},
        {"clusterCIDR": "nonsense", "detectLocalMode": "NodeCIDR"},  # not looked at in this mode
        {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}},
        {"bindAddress": "::", "healthzBindAddress": "192.168.0.1", "metricsBindAddress": "[::1]:10249"},
        {"nodePortAddresses": ["192.168.0.0/24", "fd00::/8"]},
        {"conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s"}},
        {"featureGates": {"AllowServiceExternalIPs": False}},
        {"iptables": None, "conntrack": None, "mode": None},
    ],
)
def test_accepted(config: dict[str, Any]) -> None:
    assert refused(config) == []
    config_from_json({**HEAD, **config})


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        ({"mode": "userspace"}, [".mode"]),
        ({"bindAddress": "10.10.12.11:2000"}, [".bindAddress"]),
        ({"healthzBindAddress": "192.168.0.1:foo"}, [".healthzBindAddress"]),
        ({"healthzBindAddress": "192.168.0.1:0"}, [".healthzBindAddress"]),
        ({"metricsBindAddress": "123.456.789.10:12345"}, [".metricsBindAddress"]),
        ({"metricsBindAddress": "::1:65536"}, [".metricsBindAddress"]),
        ({"configSyncPeriod": "-1s"}, [".configSyncPeriod"]),
        ({"iptables": {"syncPeriod": "-5s"}}, [".iptables.syncPeriod", ".iptables.syncPeriod"]),
        ({"iptables": {"minSyncPeriod": "-2s"}}, [".iptables.minSyncPeriod"]),
        ({"iptables": {"syncPeriod": "1s", "minSyncPeriod": "5s"}}, [".iptables.syncPeriod"]),
        ({"mode": "nftables", "nftables": {"syncPeriod": "1ms"}}, [".nftables.syncPeriod"]),
        ({"iptables": {"syncPeriod": 30}}, [".iptables.syncPeriod"]),
        ({"iptables": {"masqueradeBit": -10}}, [".iptables.masqueradeBit"]),
        ({"mode": "nftables", "iptables": {"masqueradeBit": 32}}, [".iptables.masqueradeBit"]),  # CFG-2.3.1
        ({"mode": "nftables", "nftables": {"masqueradeBit": 32}}, [".nftables.masqueradeBit"]),
        (
            {"mode": "ipvs", "ipvs": {"udpTimeout": "-1s", "excludeCIDRs": ["192.168.0.1"]}},
            [".ipvs.udpTimeout", ".ipvs.excludeCIDRs[0]"],
        ),
        ({"oomScoreAdj": -1001}, [".oomScoreAdj"]),
        ({"clientConnection": {"burst": -5}}, [".clientConnection.burst"]),
        ({"conntrack": {"min": -1, "udpStreamTimeout": "-5s"}}, [".conntrack.min", ".conntrack.udpStreamTimeout"]),
        ({"detectLocalMode": "Guess"}, [".detectLocalMode"]),
        ({"detectLocalMode": "BridgeInterface"}, [".detectLocal.bridgeInterface"]),
        ({"detectLocalMode": "InterfaceNamePrefix"}, [".detectLocal.interfaceNamePrefix"]),
        ({"clusterCIDR": "10.100.0.0/16,192.168.0.0/16"}, [".clusterCIDR"]),
        ({"clusterCIDR": "10.100.0.0"}, [".clusterCIDR"]),
        ({"nodePortAddresses": ["127.0.0.0/8", "1.2.3"]}, [".nodePortAddresses[1]"]),
        ({"nodePortAddresses": ["127.0.0.0/8", "primary"]}, [".nodePortAddresses[1]"]),
        ({"nodePortAddresses": "primary"}, [".nodePortAddresses"]),
        ({"logging": {"format": "yaml"}}, [".logging.format"]),
        ({"featureGates": {"NFTablesProxyMode": False}}, [".featureGates.NFTablesProxyMode"]),  # CFG-3
        ({"mode": 5, "iptables": [], "oomScoreAdj": 2000}, [".mode", ".iptables", ".oomScoreAdj"]),  # all at once
        ({"kind": "Other"}, [".kind"]),
    ],
)
def test_refused(config: dict[str, Any], paths: list[str]) -> None:
    assert refused(config) == paths


def test_unknown_fields_are_only_noted() -> None:
    check = check_proxy_config({**HEAD, "iptables": {"minSyncPeriods": "1s"}, "novelty": 1})
    assert check.complaints == ()
    assert check.notes == (
        "kube-proxy ignores the unknown field .iptables.minSyncPeriods of its configuration (did you mean minSyncPeriod?)",
        "kube-proxy ignores the unknown field .novelty of its configuration",
    )


def test_defaults_follow_the_family_of_the_bind_address() -> None:  # CFG-2.1
    four, six = with_defaults({"healthzBindAddress": "127.0.0.1"}), with_defaults({"bindAddress": "fd00::1"})
    assert (four["healthzBindAddress"], four["metricsBindAddress"]) == ("127.0.0.1:10256", "127.0.0.1:10249")
    assert (six["healthzBindAddress"], six["metricsBindAddress"]) == ("[::]:10256", "[::1]:10249")
    assert (four["ipvs"]["minSyncPeriod"], four["nftables"]["minSyncPeriod"]) == ("0s", "1s")


def test_another_mode_makes_its_section_count() -> None:
    config = {**HEAD, "mode": "iptables", "nftables": {"masqueradeBit": 32}}
    assert check_proxy_config(config).complaints == ()
    assert [path for path, _ in check_proxy_config(config, mode=Mode.NFTABLES).complaints] == [
        ("nftables", "masqueradeBit")
    ]


CONFIG = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"


def config_map(text: str) -> str:
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-proxy, namespace: kube-system}}\ndata:\n  config.conf: |\n{indented}"


def test_kubeadms_config_map(tmp_path: Path) -> None:
    path = tmp_path / "cm.yaml"
    path.write_text(config_map(CONFIG))
    loaded = load_manifests([path])
    assert loaded.config is not None and loaded.config.mode == "ipvs"
    overridden = load_manifests([path], mode=Mode.NFTABLES)
    assert overridden.config is not None and overridden.config.mode == "nftables"
    path.write_text(config_map(CONFIG + "iptables:\n  masqueradeBit: 99\n"))
    with pytest.raises(InputError) as caught:
        load_manifests([path])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.path) == (f"{path}: config.conf", 5, ".iptables.masqueradeBit")


def test_a_key_that_stands_twice_is_logged_by_kube_proxy(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(CONFIG + "mode: nftables\n")
    loaded = load_manifests([path])
    assert loaded.config is not None and loaded.config.mode == "nftables"
    assert any("'mode' stands twice" in note for note in loaded.notes)
