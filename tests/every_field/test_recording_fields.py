"""Every field of a recording's lines decides something, earns a note, or is refused; mistyped fields are refused (docs/recordings.md)."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from kpsim.errors import InputError
from kpsim.recording import CONFIG_HOST_FIELDS, FLOW_FIELDS, SYNC_HOST_FIELDS, parse_recording
from kpsim.replay import Replay

Json = dict[str, Any]

FLOW: Json = {
    "proto": "udp", "src": "10.180.1.7", "sport": 40000, "dst": "172.30.0.60", "dport": 5060, "replySrc": "10.180.2.9",
    "replySport": 5060, "replyDst": "10.180.1.7", "replyDport": 40000,
}  # fmt: skip
TCP: Json = {**FLOW, "proto": "tcp"}
SERVICE: Json = {
    "kind": "Service", "apiVersion": "v1", "metadata": {"name": "sip", "namespace": "tel"},
    "spec": {
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.168.0.1/32"], "clusterIP": "172.30.0.60", "clusterIPs": ["172.30.0.60"], "externalTrafficPolicy": "Local",
        "ports": [{"name": "sip", "protocol": "UDP", "port": 5060, "nodePort": 30060}],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}},
}  # fmt: skip
SLICE: Json = {
    "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
    "metadata": {"name": "sip-1", "namespace": "tel", "labels": {"kubernetes.io/service-name": "sip"}},
    "ports": [{"name": "sip", "protocol": "UDP", "port": 5060}],
    "endpoints": [{"addresses": [f"10.180.{n}.5"], "nodeName": f"n{n}", "conditions": {"ready": True}} for n in (1, 2)],
}  # fmt: skip
LINES: list[Json] = [
    {
        "type": "CONFIG", "ipFamily": "IPv4",
        "object": {"clusterCIDR": "10.180.0.0/16", "hostnameOverride": "n1", "nodePortAddresses": ["192.168.0.0/24"]},
        "node": {"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}},
        "host": {"interfaces": [{"name": "eth0", "addresses": ["192.168.0.1/24"]}]},
    },
    {"type": "ADDED", "object": SERVICE},
    {"type": "ADDED", "object": SLICE},
    {"type": "SYNC", "afterSeconds": 1, "host": {"conntrack": [FLOW]}},
    {"type": "MODIFIED", "object": {**SLICE, "endpoints": SLICE["endpoints"][:1]}},
    {"type": "SYNC", "afterSeconds": 30, "host": {"conntrack": [{**FLOW, "sport": 40001, "replyDport": 40001}]}},
]  # fmt: skip


def observe(lines: list[Json]) -> str:
    try:
        replay = Replay(parse_recording([json.dumps(line) for line in lines], file="r.jsonl"))
        return "\n".join([*(outcome.to_line() for outcome in replay.outcomes()), *replay.notes, str(replay.now_ns)])
    except InputError as error:
        return f"refused: {error}"


def changed(number: int, path: tuple[str | int, ...], value: Any) -> list[Json]:
    lines = copy.deepcopy(LINES)
    inner: Any = lines[number]
    for step in path[:-1]:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    inner[path[-1]] = value
    return lines


def test_the_sample_is_right() -> None:
    said = observe(LINES)
    assert not said.startswith("refused") and said.count('"replySrc":"10.180.2.9"') == 2


#: a value that is accepted and changes something, by field
LINE_FIELDS: dict[tuple[int, tuple[str | int, ...]], Any] = {
    (0, ("ipFamily",)): "IPv6",
    (0, ("object", "hostnameOverride")): "n2",
    (0, ("node", "metadata", "name")): "n2",
    (0, ("node", "status", "addresses", 0, "address")): None,
    (1, ("type",)): "DELETED",
    (1, ("at",)): "2026-01-01T00:00:05Z",
    (1, ("object", "spec", "clusterIP")): "172.30.0.61",
    (5, ("afterSeconds",)): 90,
}
CONFIG_VALUES: dict[str, Any] = {
    "nodeIPs": ["192.168.0.9"],
    "interfaces": [{"name": "eth0", "addresses": ["192.168.0.7/24"]}],
    "nfacct": False,
    "randomFully": False,
    "tcpBeLiberal": True,
    "serviceCIDRs": ["172.30.0.0/16"],
    "largeClusterEndpoints": 1,
    "detectLocal": "none",
}
SYNC_VALUES: dict[str, Any] = {
    "conntrack": [],
    "conntrackReplace": True,
    "ipvsConns": {"172.30.0.60:5060/UDP/10.180.2.5:5060": 3},
    "gracefulTick": True,
    "localAddrs": [{"name": "eth0", "addresses": ["192.168.0.8/24"]}],
    "forceFullSync": True,
    "iptablesFlushed": True,
    "failSync": True,
    "skip": True,
}
FLOW_VALUES: dict[str, Any] = {
    "proto": "tcp", "src": "10.180.1.8", "sport": 40002, "dst": "172.30.0.99", "dport": 53, "replySrc": "10.180.2.5",
    "replySport": 5061, "replyDst": "10.180.1.8", "replyDport": 40003,
}  # fmt: skip


def cases() -> Iterator[tuple[int, tuple[str | int, ...], Any]]:
    yield from ((number, path, value) for (number, path), value in LINE_FIELDS.items())
    yield from ((0, ("host", name), CONFIG_VALUES[name]) for name in sorted(CONFIG_HOST_FIELDS))
    yield from ((5, ("host", name), SYNC_VALUES[name]) for name in sorted(SYNC_HOST_FIELDS))
    yield from ((3, ("host", "conntrack", 0, name), FLOW_VALUES[name]) for name in FLOW_FIELDS)
    yield 0, ("host", "interfaces", 0, "addresses"), ["192.168.0.6/24"]


CASES = list(cases())


@pytest.mark.parametrize(
    ("number", "path", "value"), CASES, ids=[f"{n}{'.'.join(map(str, path))}" for n, path, _ in CASES]
)
def test_a_field_of_a_line_matters(number: int, path: tuple[str | int, ...], value: Any) -> None:
    lines = changed(number, path, value)
    if path == ("host", "conntrackReplace"):  # it replaces flows that are there only if some stay
        lines[3]["host"]["conntrack"] = [TCP]
        kept = copy.deepcopy(lines)
        del kept[5]["host"]["conntrackReplace"]
        lines[5]["host"]["conntrack"] = kept[5]["host"]["conntrack"] = []
        replays = [Replay(parse_recording([json.dumps(line) for line in each])) for each in (lines, kept)]
        assert [len(list(replay.outcomes())) and len(replay.flows) for replay in replays] == [0, 1]
        return
    said = observe(lines)
    assert said != observe(LINES)
    assert not said.startswith("refused") or "kube-proxy reads the Node with its own name" in said, said


@pytest.mark.parametrize(
    ("number", "path"),
    [
        (0, ("colour",)), (0, ("host", "colour")), (1, ("colour",)), (3, ("colour",)), (3, ("host", "colour")),
        (3, ("host", "conntrack", 0, "colour")), (0, ("host", "interfaces", 0, "colour")), (0, ("node", "colour")),
        (1, ("object", "spec", "colour")), (0, ("object", "colour")),
    ],
)  # fmt: skip
def test_a_field_that_does_not_exist_is_refused_or_named(number: int, path: tuple[str | int, ...]) -> None:
    assert "colour" in observe(changed(number, path, "red"))
