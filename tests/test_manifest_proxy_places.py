"""kube-proxy's configuration is found by content, wherever a cluster keeps it (CFG-1, CFG-2)."""

from pathlib import Path

import pytest

from kpsim.config import LocalMode, Mode, ProxyConfig
from kpsim.errors import InputError
from kpsim.manifests import load_manifests
from kpsim.manifests.loading import Loaded
from kpsim.units import SECOND_NS

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def load(tmp_path: Path, *texts: str, name: str = "given") -> Loaded:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"{name}{number}")
        paths[-1].write_text(text)
    return load_manifests(paths)


def config(tmp_path: Path, *texts: str) -> ProxyConfig:
    loaded = load(tmp_path, *texts)
    assert loaded.config is not None, loaded.notes
    return loaded.config


def refused(tmp_path: Path, *texts: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, *texts)
    return str(caught.value)


def config_map(text: str, name: str = "any-name", key: str = "any-key.yaml") -> str:
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: infra}}\ndata:\n  {key}: |\n{indented}"
    )


def daemon_set(command: str, env: str = "[]", kind: str = "DaemonSet") -> str:
    container = f"{{name: proxy, image: registry/kube-proxy:v1.36.2, {command}, env: {env}}}"
    head = f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: kp, namespace: kube-system}}\n"
    return f"{head}spec:\n  template:\n    spec:\n      containers:\n      - {container}\n"


# ------------------------------------------------------------------------------------------------------------ documents


def test_in_a_config_map_of_any_name_and_key(tmp_path: Path) -> None:
    loaded = load(tmp_path, config_map(HEAD + "clusterCIDR: 10.7.0.0/16\n"))
    assert loaded.config is not None and loaded.config.cluster_cidr == "10.7.0.0/16"
    said = f"kube-proxy's configuration: ConfigMap infra/any-name, key any-key.yaml ({tmp_path}/given0: any-key.yaml, line 1)"
    assert said in loaded.notes


def test_a_config_map_without_one_is_of_no_interest(tmp_path: Path) -> None:
    """Some clusters have a ConfigMap kube-proxy that holds credentials only, and the configuration in another."""
    other = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-proxy, namespace: kube-system}\ndata: {kubeconfig: x}\n"
    )
    assert config(tmp_path, f"{other}---\n{config_map(HEAD + 'mode: ipvs')}").mode is Mode.IPVS


def test_errors_in_a_config_map_have_lines_of_their_own(tmp_path: Path) -> None:
    assert f"{tmp_path}/given0: any-key.yaml:3: .mode: KubeProxyConfiguration: expected" in refused(
        tmp_path, config_map(HEAD + "mode: userspace\n")
    )


def test_two_that_agree_are_one(tmp_path: Path) -> None:
    """A period that stands at its default is no disagreement."""
    text = HEAD + "clusterCIDR: 10.7.0.0/16\n"
    flags = daemon_set('command: [kube-proxy, "--cluster-cidr=10.7.0.0/16"]')
    assert (
        config(tmp_path, text, config_map(text + "iptables: {minSyncPeriod: 1s}\n"), flags).cluster_cidr
        == "10.7.0.0/16"
    )


def test_two_that_disagree_are_an_error_that_names_both(tmp_path: Path) -> None:
    one, two = (
        config_map(HEAD + "clusterCIDR: 10.7.0.0/16\n"),
        daemon_set('command: [kube-proxy, "--cluster-cidr=10.8.0.0/16"]'),
    )
    message = refused(tmp_path, one, two)
    assert "flags of DaemonSet kube-system/kp and ConfigMap infra/any-name, key any-key.yaml" in message
    assert "clusterCIDR 10.8.0.0/16 here and 10.7.0.0/16 there" in message
    assert f"{tmp_path}/given1:8" in message and f"{tmp_path}/given0: any-key.yaml:1" in message


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    "command",
    [
        'command: [/usr/local/bin/kube-proxy, "--cluster-cidr=10.7.0.0/16", --masquerade-all]',
        'command: [kube-proxy], args: [--cluster-cidr, 10.7.0.0/16, "--masquerade-all=1"]',
        'args: ["--masquerade-all", "--cluster-cidr=10.7.0.0/16"]',
        'command: [/bin/sh, -c, "exec kube-proxy --masquerade-all --cluster-cidr=10.7.0.0/16 1>>/var/log/k.log 2>&1"]',
        'command: [hyperkube, kube-proxy, --masquerade-all, "--cluster_cidr=10.7.0.0/16"]',
        'command: [kube-proxy, "--cluster-cidr=$(CIDR)", --masquerade-all, "--hostname-override=$(NODE)"], stdin: true',
    ],
)
def test_flags_of_a_container(tmp_path: Path, command: str) -> None:
    env = "[{name: CIDR, value: 10.7.0.0/16}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]"
    found = config(tmp_path, daemon_set(command, env))
    assert (found.cluster_cidr, found.masquerade_all, found.hostname_override) == ("10.7.0.0/16", True, "")


def test_static_pods_have_a_name_for_each_node(tmp_path: Path) -> None:
    def pod(node: str) -> str:
        flags = f'["kube-proxy", "--cluster-cidr=10.7.0.0/16", "--hostname-override={node}"]'
        head = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: kube-proxy-{node}, namespace: kube-system}}\n"
        return f"{head}spec: {{nodeName: {node}, hostNetwork: true, containers: [{{name: p, command: {flags}}}]}}\n"

    found = config(tmp_path, f"{pod('node-1')}---\n{pod('node-2')}")
    assert (found.cluster_cidr, found.hostname_override) == ("10.7.0.0/16", "")


UNIT = """[Unit]
Description=Kubernetes Kube Proxy

[Service]
Environment="CIDR=10.7.0.0/16"
EnvironmentFile=-/etc/default/kube-proxy
ExecStart=/usr/local/bin/kube-proxy \\
  --cluster-cidr=${CIDR} \\
  # a comment between continued lines
  --iptables-min-sync-period=0 \\
  $KUBE_PROXY_ARGS
Restart=on-failure
"""


def test_a_systemd_unit_with_its_environment(tmp_path: Path) -> None:
    loaded = load(tmp_path, UNIT, '# of a package\nKUBE_PROXY_ARGS="--detect-local-mode=NodeCIDR --v=2"\n')
    assert loaded.config is not None
    found = loaded.config
    assert (found.cluster_cidr, found.detect_local_mode) == ("10.7.0.0/16", LocalMode.NODE_CIDR)
    assert found.min_sync_period_ns == 0  # by flag zero counts (CFG-2.2.2)
    assert f"kube-proxy's configuration: flags of the command ({tmp_path}/given0, line 7)" in loaded.notes


def test_an_environment_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert (
        f"{tmp_path}/given0:7: the command: the value of $KUBE_PROXY_ARGS is not known, which /etc/default/kube-proxy may hold: "
        "give that file too"
    ) in load(tmp_path, UNIT.replace("\n", "\r\n")).notes


def test_a_drop_in_replaces_the_command(tmp_path: Path) -> None:
    text = "[Service]\nExecStart=\nExecStart=/usr/bin/kube-proxy --cluster-cidr=10.9.0.0/16\n"
    assert config(tmp_path, text).cluster_cidr == "10.9.0.0/16"


def test_a_file_of_arguments(tmp_path: Path) -> None:
    assert config(tmp_path, "--kubeconfig=/x\n--cluster-cidr=10.7.0.0/16\n--masquerade-all\n").masquerade_all


def test_units_are_found_in_directories(tmp_path: Path) -> None:
    (tmp_path / "kube-proxy.service").write_text(UNIT)
    (tmp_path / "kubelet.service").write_text("[Service]\nExecStart=/usr/bin/kubelet --config=/x\n")
    (tmp_path / "web.yaml").write_text("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n")
    loaded = load_manifests([tmp_path])
    assert loaded.config is not None and loaded.config.cluster_cidr == "10.7.0.0/16"


def test_with_a_file_flags_do_not_count_but_the_host_name(tmp_path: Path) -> None:
    """CFG-1.1."""
    flags = daemon_set('command: [kube-proxy, "--config=/c/config.conf", --masquerade-all, "--hostname-override=N2 "]')
    loaded = load(tmp_path, flags, config_map(HEAD + "hostnameOverride: n1\n"))
    assert loaded.config is not None
    assert (loaded.config.masquerade_all, loaded.config.hostname_override) == (False, "n2")
    assert any("with --config kube-proxy ignores --masquerade-all (CFG-1.1)" in note for note in loaded.notes)


def test_a_file_that_is_not_given_is_named(tmp_path: Path) -> None:
    loaded = load(tmp_path, daemon_set('command: [kube-proxy, "--config=/c/config.conf"]'))
    assert loaded.config is None
    assert any(
        "reads its configuration from /c/config.conf, which is not among the files" in note for note in loaded.notes
    )


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--cluster-cidrs=10.7.0.0/16", "has no flag --cluster-cidrs (did you mean cluster-cidr?)"),
        ("--cluster-cidr=10.7.0.0/99", "clusterCIDR: expected CIDRs"),
        ("--proxy-mode=userspace", "mode: expected"),
        ("--masquerade-all=perhaps", "--masquerade-all: expected true or false"),
        ("--iptables-sync-period=30", "--iptables-sync-period: expected a duration"),
        ("--bind-address=node-1", "--bind-address: expected an IP address"),
        ("--cluster-cidr=$(CIDR)", "has a variable whose value is not known"),
        ("start", "unexpected word 'start'"),
    ],
)
def test_flags_that_kube_proxy_refuses(tmp_path: Path, flag: str, said: str) -> None:
    assert said in refused(tmp_path, daemon_set(f'command: [kube-proxy, "{flag}"]'))


@pytest.mark.parametrize("flag", ["--cleanup", "--init-only", "--write-config-to=/c"])
def test_a_kube_proxy_that_ends_at_once_configures_nothing(tmp_path: Path, flag: str) -> None:
    """CFG-1.3."""
    loaded = load(tmp_path, daemon_set(f'command: [kube-proxy, --masquerade-all, "{flag}"]'))
    assert loaded.config is None
    assert any("kube-proxy ends without writing rules" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "container",
    [
        "command: [kubectl, logs, kube-proxy]",
        "image: a/kube-proxy-exporter:1, args: [--web.listen-address=x]",
        "image: quay.io/brancz/kube-rbac-proxy:v1, args: [--upstream=x]",
        'command: [sh, -c, "pkill kube-proxy"]',
    ],
)
def test_other_programs_that_speak_of_it_are_none(tmp_path: Path, container: str) -> None:
    text = daemon_set("stdin: true").replace("image: registry/kube-proxy:v1.36.2, stdin: true", container)
    assert load(tmp_path, text).config is None


def test_the_configuration_of_windows_nodes_is_another(tmp_path: Path) -> None:
    windows = config_map(HEAD + "mode: kernelspace\nwinkernel: {networkName: x}\n", "kube-proxy-windows")
    assert config(tmp_path, f"{windows}---\n{config_map(HEAD + 'masqueradeAll: true')}").mode is Mode.IPTABLES
    assert "mode: KubeProxyConfiguration: expected" in refused(tmp_path, HEAD + "mode: kernelspace\n")


def test_a_flag_of_an_earlier_version_is_a_note(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, daemon_set('command: [kube-proxy, --proxy-port-range, "0-0", --logtostderr, "--masquerade-all"]')
    )
    assert loaded.config is not None and loaded.config.masquerade_all
    assert sum("and does not start with it" in note for note in loaded.notes) == 2


def test_flags_in_other_modes(tmp_path: Path) -> None:
    """CFG-2.2: the flags named after iptables set the periods of nftables too; ipvs has its own, and a least of 1 s."""

    def flags(*words: str) -> ProxyConfig:
        return config(tmp_path, "\n".join(words))

    nftables = flags("--proxy-mode=nftables", "--iptables-sync-period=7s", "--masquerade-all")
    assert (nftables.sync_period_ns, nftables.masquerade_all) == (7 * SECOND_NS, True)
    ipvs = flags("--proxy-mode=ipvs", "--iptables-sync-period=7s", "--ipvs-scheduler=mh")
    assert (ipvs.sync_period_ns, ipvs.min_sync_period_ns) == (30 * SECOND_NS, SECOND_NS)
    assert config(tmp_path, HEAD + "mode: ipvs\n").min_sync_period_ns == 0


# -------------------------------------------------------------------------------------------------------------- kubeadm

KUBEADM = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {podSubnet: 10.7.0.0/16}\n"


@pytest.mark.parametrize("text", [KUBEADM, config_map(KUBEADM, "kubeadm-config", "ClusterConfiguration")])
def test_kubeadms_pod_subnet_is_the_cluster_cidr(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, text)
    assert loaded.config is not None and loaded.config.cluster_cidr == "10.7.0.0/16"
    assert any(
        "clusterCIDR 10.7.0.0/16 is podSubnet of kubeadm's ClusterConfiguration" in note for note in loaded.notes
    )


def test_kubeadm_completes_the_configuration_that_it_is_given(tmp_path: Path) -> None:
    assert config(tmp_path, f"{KUBEADM}---\n{HEAD}mode: ipvs\n").cluster_cidr == "10.7.0.0/16"


def test_another_pod_subnet_is_a_disagreement(tmp_path: Path) -> None:
    message = refused(tmp_path, KUBEADM, config_map(HEAD + "clusterCIDR: 10.8.0.0/16\n"))
    assert "podSubnet 10.7.0.0/16 of kubeadm's ClusterConfiguration and clusterCIDR 10.8.0.0/16" in message
