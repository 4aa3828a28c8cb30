"""Every field of a KubeProxyConfiguration and every flag decides something, earns a note, is refused, or has its reason here.

A field matters if one of its values changes rules, kernel settings, what loading says, or a run of a small scenario.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest

import kpsim
from kpsim.errors import InputError
from kpsim.manifests.proxy_config import FIELDS, Fields
from kpsim.manifests.proxy_flags import FLAGS
from kpsim.scenario import parse_scenario

Json = dict[str, Any]

CLUSTER: tuple[Json, ...] = (
    *(
        {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": f"10.180.{number}.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
        }
        for number, name in enumerate(("n1", "n2"), 1)
    ),
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "172.30.0.10", "externalIPs": ["198.51.100.7"], "internalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["192.168.0.77/32"], "ports": [{"port": 80, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}},
    },
    {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 80}],
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.180.1.5"], "nodeName": "n1"}, {"addresses": ["10.180.2.5"], "nodeName": "n2"}],
    },
)  # fmt: skip
HEAD: Json = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
BASE: Json = {"clusterCIDR": "10.180.0.0/16"}

SCENARIO: Json = {
    "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "periods"}, "duration": "100s",
    "nodes": {"count": 1}, "workloads": [{"name": "w", "replicas": 4}],
    "objects": [{
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "172.30.0.10", "selector": {"app": "w"}, "ports": [{"port": 80}]},
    }],
    "events": [{"at": "1s", "rollout": {"workload": "w"}}, {"at": "2s", "failSyncs": {"for": "30s"}}],
}  # fmt: skip


def loaded(fields: Json) -> str:
    """What kpsim says of a cluster with this configuration: rules, kernel settings, notes, or the refusal."""
    try:
        cluster = kpsim.load(text=json.dumps([*CLUSTER, {**HEAD, **fields}]))
        rules = [cluster.rules(name) + str(cluster.kernel_settings(name)) for name in cluster.node_names]
    except InputError as error:
        return f"refused: {error}"
    return "\n".join((*rules, *cluster.notes))


def ran(fields: Json) -> str:
    """What a run with this configuration gives."""
    try:
        scenario = parse_scenario(json.dumps({**SCENARIO, "proxy": fields}), "periods.json")
        result = kpsim.run(scenario)
    except InputError as error:
        return f"refused: {error}"
    return f"{result.summary()}{sorted(result.figures.items())}{result.log.syncs}{scenario.notes}"


@cache
def base(observe: Any) -> str:
    said: str = observe(BASE)
    assert not said.startswith("refused"), said
    return said


def leaves(fields: Fields, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in fields.items():
        if isinstance(field, Mapping):
            yield from leaves(field, (*path, name))
        else:
            yield (*path, name)


_GENERIC = (
    "x", "7s", "n2", "192.168.0.77", "10.181.0.0/16", "cni0", "nftables", "NodeCIDR", 3, 400_000, 1.5, True, False, ["192.168.0.0/24"],
    {"AllowServiceExternalIPs": False},
)  # fmt: skip
_TALK = "how kube-proxy talks to the API server, logs and is watched; what it writes does not depend on it"
NEVER: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "clientConnection.kubeconfig", "clientConnection.acceptContentTypes", "clientConnection.contentType",
            "clientConnection.qps", "clientConnection.burst", "logging.flushFrequency", "logging.verbosity", "logging.vmodule",
            "logging.options", "enableProfiling", "showHiddenMetricsForVersion", "metricsBindAddress", "logging.format",
        ),
        _TALK,
    ),
    "oomScoreAdj": "only how the machine treats the process when memory is short",
    "bindAddressHardFail": "kube-proxy's own sockets can always be bound here",
    "healthzBindAddress": "kube-proxy's own health check is answered by the machine, not by rules",
    "configSyncPeriod": "the resync hands over objects that have not changed, of which a tracker makes no change (CP-6.8)",
}  # fmt: skip

PATHS = [path for path in leaves(FIELDS) if ".".join(path) not in NEVER]


@pytest.mark.parametrize("path", PATHS, ids=[".".join(path) for path in PATHS])
def test_a_field_of_the_configuration_matters(path: tuple[str, ...]) -> None:
    """A refused value counts only if another one is accepted and changes something: all fields refuse nonsense."""
    changing = 0
    for observe in (loaded, ran):
        for value in _GENERIC:
            fields: Json = {**BASE, path[0]: value if len(path) == 1 else {path[1]: value}}
            said = observe(fields)
            if said != base(observe) and not said.startswith("refused"):
                changing += 1
                break
        if changing:
            return
    # the head of the document is the same in every configuration that is accepted
    assert path in (("apiVersion",), ("kind",)), "nothing came of any value"


@pytest.mark.parametrize("name", ["masqueradeBit", "masqueradeAll", "syncPeriod", "minSyncPeriod"])
def test_a_field_of_nftables_mode_matters_in_it(name: str) -> None:
    observe = loaded if name.startswith("masquerade") else ran
    values = {observe({**BASE, "mode": "nftables", "nftables": {name: value}}) for value in ("7s", 3, True)}
    assert any(said != observe({**BASE, "mode": "nftables"}) for said in values if not said.startswith("refused"))


#: values that change something, by field of the section ``ipvs``
IPVS_VALUES: Mapping[str, tuple[Any, Any]] = {
    "syncPeriod": (ran, "7s"),
    "minSyncPeriod": (ran, "7s"),
    "scheduler": (loaded, "sh"),
    "strictARP": (loaded, True),
    "tcpTimeout": (ran, "3s"),
    "udpTimeout": (ran, "3s"),
}
#: fields of it that change no rule and no run, and why
NO_RULE_AND_NO_RUN: Mapping[str, str] = {
    "excludeCIDRs": "it spares virtual servers of other programs (IPVS-4.6), of which there are none",
    "tcpFinTimeout": "of a connection that its server closes first (IPVS-12); clients do here",
}
LASTING: Json = {
    "duration": "20s",
    "events": [{"at": "1s", "failSyncs": {"count": 1}}, {"at": "2s", "scale": {"workload": "w", "replicas": 3}}],
    "objects": [{
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "172.30.0.10", "selector": {"app": "w"},
            "ports": [{"name": name, "port": 80, "protocol": name.upper()} for name in ("tcp", "udp")],
        },
    }],
    "traffic": [
        {"name": "idle", "from": "nodes", "service": "web", "port": "tcp", "perSecond": 0.2, "long": {"lasts": "9s", "packetEvery": "5s"}},
        {"name": "asks", "from": "nodes", "service": "web", "port": "udp", "perSecond": 0.2, "sourcePorts": 1},
    ],
}  # fmt: skip


def test_every_field_of_ipvs_mode_is_named() -> None:
    section = FIELDS["ipvs"]
    assert isinstance(section, Mapping) and set(section) == {*IPVS_VALUES, *NO_RULE_AND_NO_RUN}


@pytest.mark.parametrize("name", IPVS_VALUES)
def test_a_field_of_ipvs_mode_matters_in_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for field, value in LASTING.items():
        monkeypatch.setitem(SCENARIO, field, value)
    observe, value = IPVS_VALUES[name]
    said = [observe({**BASE, "mode": "ipvs", "ipvs": section}) for section in ({}, {name: value})]
    assert said[0] != said[1] and not any(each.startswith("refused") for each in said)


@pytest.mark.parametrize(("name", "value"), [("masqueradeBit", 3), ("masqueradeAll", True)])
def test_ipvs_mode_reads_how_to_masquerade_in_the_section_of_iptables(name: str, value: Any) -> None:
    said = [loaded({**BASE, "mode": "ipvs", "iptables": section}) for section in ({}, {name: value})]
    assert said[0] != said[1] and not any(each.startswith("refused") for each in said)


def test_the_table_names_fields_that_exist() -> None:
    assert set(NEVER) <= {".".join(path) for path in leaves(FIELDS)}


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_a_flag_sets_a_field_or_is_known_to_decide_nothing(name: str) -> None:
    path = FLAGS[name].path
    if path:
        known: Any = FIELDS
        for step in path:
            known = known[str(step)]
        assert not isinstance(known, Mapping)
    else:
        assert name in _ENDS or name in _DECIDES_NOTHING


#: flags that are read by their names: they end kube-proxy, or say where its configuration is
_ENDS = ("config", "cleanup", "init-only", "write-config-to")
_DECIDES_NOTHING = (
    "healthz-port", "metrics-port", "master", "version", "help", "v", "vmodule", "log-flush-frequency", "logging-format",
    "log-json-split-stream", "log-json-info-buffer-size", "log-text-split-stream", "log-text-info-buffer-size",
)  # fmt: skip
