"""What programs that install clusters were told about kube-proxy is found and its place told (CFG-1, CFG-2)."""

from pathlib import Path

import pytest

from kpsim.config import LocalMode, Mode, ProxyConfig
from kpsim.errors import InputError
from kpsim.manifests import load_manifests
from kpsim.manifests.loading import Loaded

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


KIND = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {kubeProxyMode: nftables, podSubnet: 10.9.0.0/16}
nodes:
- role: control-plane
  kubeadmConfigPatches:
  - |
    kind: KubeProxyConfiguration
    nodePortAddresses: [192.0.2.0/24]
"""
KOPS = """\
apiVersion: kops.k8s.io/v1alpha2
kind: Cluster
metadata: {name: c.example}
spec:
  kubeProxy: {proxyMode: nftables, clusterCIDR: 10.9.0.0/16, nodePortAddresses: [192.0.2.0/24], cpuRequest: 100m}
"""
K0S = """\
apiVersion: k0s.k0sproject.io/v1beta1
kind: ClusterConfig
metadata: {name: k0s}
spec:
  network:
    podCIDR: 10.9.0.0/16
    kubeProxy: {mode: nftables, nodePortAddresses: [192.0.2.0/24]}
"""
TALOS = """\
version: v1alpha1
machine: {type: worker}
cluster:
  network: {podSubnets: [10.9.0.0/16]}
  proxy: {mode: nftables, extraArgs: {nodeport-addresses: 192.0.2.0/24}}
"""
RKE = """\
nodes: [{address: 192.0.2.1, role: [worker]}]
services:
  kube-controller: {cluster_cidr: 10.9.0.0/16}
  kubeproxy:
    extra_args: {proxy-mode: nftables, nodeport-addresses: 192.0.2.0/24, v: 4}
"""
K3S = """\
token: abc
cluster-cidr: 10.9.0.0/16
kube-proxy-arg: [proxy-mode=nftables, --nodeport-addresses=192.0.2.0/24]
"""
K3S_UNIT = """\
[Service]
ExecStart=/usr/local/bin/k3s \\
    server '--disable' 'traefik' '--kube-proxy-arg=proxy-mode=nftables' \\
    '--kube-proxy-arg' 'nodeport-addresses=192.0.2.0/24' --cluster-cidr 10.9.0.0/16
"""
VARIABLES = """\
KUBE_LOG_LEVEL="--v=2"
KUBE_PROXY_ARGS="--cluster-cidr=10.9.0.0/16 --proxy-mode=nftables \\
  --nodeport-addresses=192.0.2.0/24"
"""
HYPERKUBE = """\
apiVersion: v1
kind: Pod
metadata: {name: kube-proxy, namespace: kube-system}
spec:
  containers:
  - name: kube-proxy
    image: registry.example/hyperkube:v1
    command: [/hyperkube, proxy, --cluster-cidr=10.9.0.0/16, --proxy-mode=nftables, --nodeport-addresses=192.0.2.0/24]
"""
PLACES = [
    (KIND, "Cluster of kind", 3), (KOPS, "Cluster of kOps", 5), (K0S, "ClusterConfig of k0s", 7), (TALOS, "machine configuration of Talos", 5),
    (RKE, "cluster.yml of RKE", 4), (K3S, "config.yaml of k3s or RKE2", 3), (K3S_UNIT, "flags of the command", 2),
    (VARIABLES, "flags of the variables, whose unit is not among the files,", 1), (HYPERKUBE, "flags of Pod kube-system/kube-proxy", 8),
]  # fmt: skip
IDS = ["kind", "kops", "k0s", "talos", "rke", "k3s", "k3s-unit", "variables", "hyperkube"]


@pytest.mark.parametrize(("text", "words", "line"), PLACES, ids=IDS)
def test_every_setting_is_found_and_its_place_told(tmp_path: Path, text: str, words: str, line: int) -> None:
    loaded = load(tmp_path, text)
    assert loaded.config is not None
    assert loaded.config.mode is Mode.NFTABLES
    assert loaded.config.cluster_cidr == "10.9.0.0/16" and loaded.config.detect_local_mode is LocalMode.CLUSTER_CIDR
    assert loaded.config.node_port_addresses == ("192.0.2.0/24",)
    assert f"kube-proxy's configuration: {words} ({tmp_path}/given0, line {line})" in loaded.notes


@pytest.mark.parametrize("text", [KIND, KOPS, K0S, TALOS, RKE, K3S], ids=IDS[:6])
def test_what_the_installer_adds_is_not_known(tmp_path: Path, text: str) -> None:
    assert any("its own defaults for kube-proxy are not read" in note for note in load(tmp_path, text).notes)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking: {kubeProxyMode: none}\n", "networking.kubeProxyMode"),
        ("apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\nspec: {kubeProxy: {enabled: false}}\n", "spec.kubeProxy.enabled"),
        ("apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\nspec: {network: {kubeProxy: {disabled: true}}}\n", "kubeProxy.disabled"),
        ("version: v1alpha1\ncluster: {proxy: {disabled: true}}\n", "cluster.proxy.disabled"),
        ("disable-kube-proxy: true\ncluster-cidr: 10.9.0.0/16\n", "disable-kube-proxy"),
    ],
)  # fmt: skip
def test_a_cluster_without_kube_proxy_is_told(tmp_path: Path, text: str, field: str) -> None:
    loaded = load(tmp_path, text)
    assert loaded.config is None
    assert any(f"{field} the cluster has no kube-proxy" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "text",
    [
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: worker}]\n",
        "apiVersion: cluster.x-k8s.io/v1beta1\nkind: Cluster\nmetadata: {name: c}\n",
        "apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\nspec: {}\n",
    ],
)
def test_one_that_says_nothing_about_it_is_skipped(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, text)
    assert loaded.config is None and any(note.startswith("skipped 1 object") for note in loaded.notes)


def test_a_wrong_value_is_an_error_with_its_place(tmp_path: Path) -> None:
    for text, line in ((RKE, 4), (K3S, 3), (KIND, 3)):
        with pytest.raises(InputError) as caught:
            load(tmp_path, text.replace("nftables", "iptable"))
        assert f"given0:{line}: " in str(caught.value) and "iptable" in str(caught.value)
    with pytest.raises(InputError, match="has no flag --nodeport-adresses"):
        load(tmp_path, K3S.replace("addresses", "adresses"))


def test_the_cluster_s_own_configuration_counts_before_its_installer_s(tmp_path: Path) -> None:
    """The installer's own defaults are in the first, and no disagreement."""
    own = (
        HEAD
        + "mode: nftables\nclusterCIDR: 10.9.0.0/16\nnodePortAddresses: [192.0.2.0/24]\nconntrack: {tcpBeLiberal: true}\n"
    )
    for texts in ((KIND, own), (own, KIND)):
        assert config(tmp_path, *texts).conntrack_tcp_be_liberal
    with pytest.raises(
        InputError, match=r"disagree: Cluster of kind .*clusterCIDR 10\.9\.0\.0/16 here and 10\.8\.0\.0/16 there"
    ):
        load(tmp_path, own.replace("10.9", "10.8"), KIND)


def test_variables_go_to_their_unit_if_it_is_given(tmp_path: Path) -> None:
    unit = "[Service]\nExecStart=/usr/bin/kube-proxy $KUBE_LOG_LEVEL $KUBE_PROXY_ARGS\n"
    loaded = load(tmp_path, VARIABLES, unit)
    assert loaded.config is not None and loaded.config.cluster_cidr == "10.9.0.0/16"
    assert not any("not among the files" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "text",
    ['HTTP_PROXY="http://p:3128 --x"\n', 'KUBELET_ARGS="--cluster-cidr=10.9.0.0/16"\n', 'A="--proxy-mode=nftables"\n'],
)
def test_variables_of_other_programs_are_not_kube_proxy_s(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).config is None


def test_an_agent_of_k3s_without_kube_proxy_starts_none(tmp_path: Path) -> None:
    unit = K3S_UNIT.replace("'--disable' 'traefik'", "--disable-kube-proxy")
    assert load(tmp_path, unit).config is None


def test_a_variable_in_the_name_of_the_kubeconfig_decides_nothing(tmp_path: Path) -> None:
    text = "--kubeconfig=${SNAP_DATA}/proxy.config\n--cluster-cidr=10.9.0.0/16\n"
    assert config(tmp_path, text).cluster_cidr == "10.9.0.0/16"
    with pytest.raises(InputError, match="has a variable whose value is not known"):
        load(tmp_path, text.replace("10.9.0.0/16", "${CIDR}"))
