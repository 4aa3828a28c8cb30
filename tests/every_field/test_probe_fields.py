"""Every field of a probe changes its answer or is refused; a field that does not exist is refused (docs/recordings.md)."""

import json
from typing import Any

import pytest

import kpsim
from kpsim.errors import InputError
from kpsim.tracing.probes import Prober, parse_probes

CLUSTER: list[dict[str, Any]] = [
    *(
        {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": f"10.180.{number}.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
        }
        for number, name in enumerate(("n1", "n2"), 1)
    ),
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "172.30.0.10", "internalTrafficPolicy": "Local",
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80, "protocol": "UDP"}, {"name": "c", "port": 81}],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "a", "port": 8080}],
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.180.1.5"], "nodeName": "n1"}],
    },
]  # fmt: skip
PROBE = {
    "id": 1, "node": "n1", "from": "pod", "dst": "172.30.0.10", "dport": 80, "src": "10.180.1.9", "sport": 40000, "protocol": "TCP",
}  # fmt: skip

#: the fields of a probe, each with a value that changes the answer
VALUES: dict[str, Any] = {
    "id": "two", "node": "n2", "from": "node", "dst": "172.30.0.99", "dport": 81, "src": "10.180.1.5", "sport": 40001,
    "protocol": "UDP",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> kpsim.Cluster:
    return kpsim.load(text=json.dumps(CLUSTER))


def answer(cluster: kpsim.Cluster, probe: dict[str, Any]) -> str:
    site = cluster.site
    try:
        return "\n".join(Prober(site, cluster.now_ns).lines(parse_probes([json.dumps(probe)], site, file="p")))
    except InputError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_field_of_a_probe_matters(cluster: kpsim.Cluster, name: str) -> None:
    said = answer(cluster, PROBE)
    assert not said.startswith("refused"), said
    assert answer(cluster, {**PROBE, name: VALUES[name]}) != said


def test_a_field_that_does_not_exist_is_refused(cluster: kpsim.Cluster) -> None:
    said = answer(cluster, {**PROBE, "colour": "red"})
    assert said.startswith("refused") and "colour" in said
    known = {word.strip(" ,.'") for word in said.replace("'", " ").split()}
    assert set(VALUES) <= known  # the refusal names every field, and the table above has each
