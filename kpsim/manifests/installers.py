"""Configurations of programs that install clusters, and what they say about kube-proxy.

Counterpart: kind's Cluster, kOps' Cluster, k0s' ClusterConfig, Talos' machine configuration, cluster.yml of RKE,
config.yaml of k3s and RKE2. They are recognised by their content. Only what is written is read: an installer adds
defaults of its own, which its version decides.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from kpsim.inputs import Json, JsonObject
from kpsim.manifests.places import Path
from kpsim.manifests.proxy_flags import FLAGS
from kpsim.manifests.yaml_reader import YamlRefused, read_yaml


class Installed(NamedTuple):
    """What an installer's configuration says: flags, and fields of a KubeProxyConfiguration.

    ``path`` is the field that says most. ``off`` is the field by which no kube-proxy runs, empty if it does.
    """

    words: str
    path: Path = ()
    flags: tuple[str, ...] = ()
    json: Json = MappingProxyType({})
    off: str = ""


def installer_settings(value: Any) -> Installed | None:
    """Return what an installer's configuration says about kube-proxy. None if it is none, or says nothing."""
    found: Installed | None
    if not isinstance(value, Mapping):
        return None
    group = str(value.get("apiVersion") or "").rpartition("/")[0]
    match group, value.get("kind"):
        case "kind.x-k8s.io", "Cluster":
            found = _kind(value)
        case "kops.k8s.io", "Cluster":
            found = _kops(value)
        case "k0s.k0sproject.io", "ClusterConfig":
            found = _k0s(value)
        case "", None if "apiVersion" not in value:
            found = _talos(value) or _rke(value) or _k3s(value)
        case _:
            return None
    return found if found is not None and (found.flags or found.json or found.off) else None


def _at(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _mapping(value: Any, *path: str) -> Json:
    found = _at(value, *path)
    return found if isinstance(found, Mapping) else {}


def _flags(arguments: Any) -> Iterator[str]:
    """Yield flags from ``{name: value}`` or ``[name=value]``, with or without hyphens before the name."""
    if isinstance(arguments, Mapping):
        for name, value in arguments.items():
            for one in value if isinstance(value, list) else [value]:
                yield f"--{str(name).lstrip('-')}={_text(one)}"
    else:
        for word in arguments if isinstance(arguments, list) else [arguments]:
            if word:
                yield f"--{str(word).lstrip('-')}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _kind(value: Json) -> Installed:
    network = _mapping(value, "networking")
    json: JsonObject = {}
    mode = network.get("kubeProxyMode")
    if mode == "none":
        return Installed("Cluster of kind", ("networking", "kubeProxyMode"), off="networking.kubeProxyMode")
    if mode:
        json["mode"] = mode
    if network.get("podSubnet"):
        json["clusterCIDR"] = _joined(network["podSubnet"])
    for patch in _patches(value):
        json = _merged(
            json, {name: each for name, each in patch.items() if name not in ("kind", "apiVersion", "metadata")}
        )
    return Installed("Cluster of kind", ("networking",) if network else (), json=json)


def _patches(value: Json) -> Iterator[Json]:
    """Yield the patches of KubeProxyConfiguration, which kind hands to kubeadm."""
    nodes = value.get("nodes")
    for holder in (value, *(nodes if isinstance(nodes, list) else ())):
        texts = _at(holder, "kubeadmConfigPatches")
        for text in texts if isinstance(texts, list) else ():
            try:
                documents = list(read_yaml(str(text)))
            except YamlRefused:
                continue
            for document in documents:
                if _at(document.value, "kind") == "KubeProxyConfiguration":
                    yield document.value


def _merged(base: Json, over: Json) -> JsonObject:
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _kops(value: Json) -> Installed:
    proxy = _mapping(value, "spec", "kubeProxy")
    where = ("spec", "kubeProxy")
    if proxy.get("enabled") is False:
        return Installed("Cluster of kOps", where, off="spec.kubeProxy.enabled")
    known = {_FLAG_OF[str(name).lower()]: each for name, each in proxy.items() if str(name).lower() in _FLAG_OF}
    if isinstance(gates := known.get("feature-gates"), Mapping):
        known["feature-gates"] = ",".join(f"{name}={_text(each)}" for name, each in gates.items())
    return Installed("Cluster of kOps", where, flags=tuple(_flags(known)))


#: kOps names a field as the flag, in its own spelling: ``clusterCIDR`` → ``cluster-cidr``
_FLAG_OF = {name.replace("-", ""): name for name in FLAGS}


def _k0s(value: Json) -> Installed:
    network = _mapping(value, "spec", "network")
    proxy = _mapping(network, "kubeProxy")
    where = ("spec", "network", "kubeProxy") if proxy else ("spec", "network")
    if proxy.get("disabled") is True:
        return Installed("ClusterConfig of k0s", where, off="spec.network.kubeProxy.disabled")
    fields = ("mode", "iptables", "ipvs", "nftables", "nodePortAddresses", "metricsBindAddress")
    json = {name: proxy[name] for name in fields if name in proxy}
    dual = _mapping(network, "dualStack")
    subnets = [network.get("podCIDR"), dual.get("IPv6podCIDR") if dual.get("enabled") else None]
    if any(subnets):
        json["clusterCIDR"] = ",".join(str(each) for each in subnets if each)
    return Installed("ClusterConfig of k0s", where, tuple(_flags(_mapping(proxy, "extraArgs"))), json)


def _talos(value: Json) -> Installed | None:
    if "version" not in value or not ("machine" in value or "cluster" in value):
        return None
    proxy = _mapping(value, "cluster", "proxy")
    words, where = "machine configuration of Talos", ("cluster", "proxy")
    if proxy.get("disabled") is True:
        return Installed(words, where, off="cluster.proxy.disabled")
    subnets = _at(value, "cluster", "network", "podSubnets")
    flags = {"proxy-mode": proxy.get("mode"), "cluster-cidr": _joined(subnets) if subnets else None}
    named = {name: each for name, each in flags.items() if each} | dict(_mapping(proxy, "extraArgs"))
    return Installed(words, where if proxy else ("cluster",), tuple(_flags(named)))


def _rke(value: Json) -> Installed | None:
    services = _mapping(value, "services")
    if "nodes" not in value or not services:
        return None
    subnet = _at(services, "kube-controller", "cluster_cidr")
    named = {"cluster-cidr": subnet} if subnet else {}
    extra = _mapping(services, "kubeproxy", "extra_args")
    where = ("services", "kubeproxy") if extra else ("services",)
    return Installed("cluster.yml of RKE", where, tuple(_flags({**named, **extra})))


def _k3s(value: Json) -> Installed | None:
    arguments, subnet = value.get("kube-proxy-arg"), value.get("cluster-cidr")
    words = "config.yaml of k3s or RKE2"
    if value.get("disable-kube-proxy") is True:
        return Installed(words, ("disable-kube-proxy",), off="disable-kube-proxy")
    if not arguments and not isinstance(subnet, str | list):
        return None
    given = [f"--cluster-cidr={_joined(subnet)}"] if subnet else []
    where = ("kube-proxy-arg",) if arguments else ("cluster-cidr",)
    return Installed(words, where, (*given, *(_flags(arguments) if arguments else ())))
