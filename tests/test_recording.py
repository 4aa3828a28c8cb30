"""Reading recordings: what they may contain, and how every error in one is reported by line and path."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kpsim import inputs
from kpsim.addresses import Family
from kpsim.config import HostInterface, LocalMode, Mode
from kpsim.errors import InputError
from kpsim.objects import EndpointSlice, Service
from kpsim.recording import Recording, SyncStep, WatchStep, load_recording, parse_recording
from kpsim.replay import Replay
from kpsim.units import SECOND_NS, parse_rfc3339_ns

Json = dict[str, Any]

FLOW: Json = {
    "proto": "udp", "src": "10.180.0.9", "sport": 40000, "dst": "172.30.0.10", "dport": 53,
    "replySrc": "10.180.0.3", "replySport": 53, "replyDst": "10.180.0.9", "replyDport": 40000,
}  # fmt: skip
SERVICE: Json = {
    "kind": "Service",
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {"clusterIP": "172.30.10.1", "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
}


def config(host: Json | None = None, **fields: Any) -> Json:
    return {"type": "CONFIG", "ipFamily": "IPv4", "object": {"hostnameOverride": "node-1"}, "host": host or {}} | fields


def added(obj: Json, **fields: Any) -> Json:
    return {"type": "ADDED", "object": obj} | fields


def sync(**host: Any) -> Json:
    return {"type": "SYNC", "host": host}


def parse(*lines: Json | str) -> Recording:
    return parse_recording([line if isinstance(line, str) else json.dumps(line) for line in lines], file="r.jsonl")


def problems(*lines: Json | str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(*lines)
    return [str(problem) for problem in caught.value.problems]


# --------------------------------------------------------------------------------------------------- what is read


def test_a_recording() -> None:
    made = parse(
        config(
            {
                "nodeIPs": ["192.168.0.2"],
                "interfaces": [{"name": "eth0", "addresses": ["192.168.0.2/24"]}],
                "nfacct": False,
                "randomFully": False,
                "tcpBeLiberal": True,
                "serviceCIDRs": ["172.30.0.0/16"],
                "largeClusterEndpoints": 0,
                "detectLocal": "none",
            },
            ipFamily="IPv6",
            object={"hostnameOverride": "node-1", "detectLocalMode": "NodeCIDR", "iptables": {"masqueradeBit": 15}},
        ),
        added(SERVICE, at="2026-01-01T00:00:05Z"),
        {
            "type": "SYNC",
            "afterSeconds": 0.3,
            "host": {"conntrack": [FLOW], "conntrackReplace": True, "failSync": True},
        },
    )
    assert (made.family, made.node_name, made.config.masquerade_bit) == (Family.IPV6, "node-1", 15)
    assert made.config.detect_local_mode is LocalMode.NODE_CIDR
    host = made.host
    assert (host.node_ips, host.interfaces) == (("192.168.0.2",), (HostInterface("eth0", ("192.168.0.2/24",)),))
    assert (host.nfacct, host.random_fully, host.tcp_be_liberal, host.detect_local) == (False, False, True, False)
    assert host.large_cluster_endpoints == 0
    event, done = made.steps
    assert isinstance(event, WatchStep)
    assert isinstance(event.object, Service)
    assert event.at_ns == parse_rfc3339_ns("2026-01-01T00:00:05Z")
    assert isinstance(done, SyncStep)
    assert (done.after_ns, done.conntrack_replace, done.refuse, done.skip) == (SECOND_NS * 3 // 10, True, True, False)
    assert tuple(done.conntrack[0]) == tuple(FLOW.values())


def test_what_is_absent_or_null_has_its_default() -> None:
    bare = {"type": "CONFIG"}
    nulls = {"type": "CONFIG", "ipFamily": None, "object": None, "node": None, "host": None}
    for first, second in ((bare, {"type": "SYNC"}), (nulls, {"type": "SYNC", "afterSeconds": None, "host": None})):
        made = parse(first, second)
        assert made.family is Family.IPV4
        assert made.config.mode is Mode.IPTABLES
        assert (made.host.nfacct, made.host.random_fully, made.host.detect_local) == (True, True, True)
        assert (made.host.large_cluster_endpoints, made.host.interfaces) == (1000, None)
        assert made.steps == (SyncStep(after_ns=0),)


def test_nulls_everywhere_in_objects() -> None:
    service = {"kind": "Service", "metadata": None, "spec": None, "status": None}
    slice_ = {
        "kind": "EndpointSlice",
        "metadata": {"labels": None},
        "ports": None,
        "endpoints": [{"conditions": None, "hints": None}],
    }
    first, second = parse(config(), added(service), added(slice_)).steps
    assert isinstance(first, WatchStep)
    assert isinstance(second, WatchStep)
    assert isinstance(second.object, EndpointSlice)
    assert second.object.endpoints[0].addresses == ()


def test_what_only_one_mode_has_a_use_for_is_read_for_all() -> None:
    step = parse(config(), sync(ipvsConns={"172.30.10.1:80/TCP/10.180.0.3:80": 7}, gracefulTick=True)).steps[0]
    assert isinstance(step, SyncStep)
    assert step.graceful_tick
    assert step.ipvs_connections == {"172.30.10.1:80/TCP/10.180.0.3:80": 7}
    nothing = parse(config(), sync()).steps[0]
    assert isinstance(nothing, SyncStep)
    assert (nothing.ipvs_connections, nothing.graceful_tick) == (None, False)


def test_blank_lines_carriage_returns_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [json.dumps(config()), "", "  ", json.dumps(added(SERVICE)), json.dumps(sync()), ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert len(load_recording(path).steps) == 2


def test_a_line_ends_only_where_the_file_has_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    note = {**SERVICE, "metadata": {"namespace": "shop", "name": "web", "annotations": {"note": "a\u2028b\x85c"}}}
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in (config(), added(note))))
    assert len(load_recording(path).steps) == 1


def test_addresses_of_flows_are_canonical() -> None:
    (step,) = parse(config(), sync(conntrack=[FLOW | {"dst": "172.030.000.010", "src": "FD00:0::9"}])).steps
    assert isinstance(step, SyncStep)
    assert (step.conntrack[0].dst, step.conntrack[0].src) == ("172.30.0.10", "fd00::9")


def test_kinds_that_kube_proxy_does_not_watch_are_left_out() -> None:
    assert parse(config(), added({"kind": "Namespace", "metadata": {"name": "shop"}})).steps == ()


@pytest.mark.parametrize("at", [None, "2026-01-01T00:00:00Z"])
def test_recordings_without_syncs_are_recordings(at: str | None) -> None:
    made = parse(config(), added(SERVICE, **({"at": at} if at else {})))
    assert not made.has_syncs
    assert len(made.steps) == 1


NODE = {"kind": "Node", "metadata": {"name": "node-1"}}


def test_the_node_that_is_read_at_the_start() -> None:
    other = {"kind": "Node", "metadata": {"name": "node-2"}}
    assert parse(config(), added(other), added(NODE), sync()).node == parse(config(node=NODE)).node
    assert parse(config(), sync(), added(NODE)).node is None  # too late


def test_the_mode_can_be_chosen_by_the_caller() -> None:
    lines = [json.dumps(config(object={"mode": "nftables"}))]
    assert parse_recording(lines).config.mode is Mode.NFTABLES
    assert parse_recording(lines, mode=Mode.IPTABLES).config.mode is Mode.IPTABLES


# --------------------------------------------------------------------------------------------------- what is wrong

MISSING = (
    'a recording starts with a CONFIG line, which says whose kube-proxy it is, such as {"type":"CONFIG","ipFamily":"IPv4",'
    '"object":{"hostnameOverride":"NODE"}}: put one before the events'
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], [f"r.jsonl:1: {MISSING}"]),
        (["", sync()], [f"r.jsonl:2: {MISSING}"]),
        ([added(SERVICE), config()], ["r.jsonl:1: " + MISSING, "r.jsonl:2: CONFIG must be the first line, once"]),
        ([config(), config()], ["r.jsonl:2: CONFIG must be the first line, once"]),
        ([config(), "[1]"], ["r.jsonl:2: expected an object, got a list"]),
        ([config(), {"type": "BOOKMARK"}], ["r.jsonl:2: .type: expected CONFIG, ADDED, MODIFIED, DELETED or SYNC"]),
        ([config(), {}], ["r.jsonl:2: .type: expected CONFIG, ADDED, MODIFIED, DELETED or SYNC"]),
        ([config(), {"type": 5}], ["r.jsonl:2: .type: expected a string, got an integer"]),
        ([config(), {"type": "ADDED"}], ["r.jsonl:2: .object: expected a Kubernetes object with its kind"]),
        ([config(), added({})], ["r.jsonl:2: .object: expected a Kubernetes object with its kind"]),
        ([config(), {"type": "ADDED", "object": []}], ["r.jsonl:2: .object: expected an object, got a list"]),
        ([config(), added(SERVICE, at="now")], ["r.jsonl:2: not readable: not an RFC 3339 time: 'now'"]),
        ([config(ipFamily="v4")], ["r.jsonl:1: .ipFamily: expected IPv4 or IPv6, got 'v4'"]),
        ([{"type": "CONFIG", "host": []}], ["r.jsonl:1: .host: expected an object, got a list"]),
        ([config({"nodeIPs": "192.168.0.2"})], ["r.jsonl:1: .host.nodeIPs: expected a list of strings, got a string"]),
        ([config({"nfacct": "no"})], ["r.jsonl:1: .host.nfacct: expected true or false, got a string"]),
        ([config({"detectLocal": "all"})], ["r.jsonl:1: .host.detectLocal: expected none, or nothing"]),
        ([config({"kernel": "6.18"})], ["r.jsonl:1: .host.kernel: not modelled"]),
        ([config({"largeClusterEndpoints": "3"})], ["r.jsonl:1: .host.largeClusterEndpoints: expected an integer, got a string"]),
        ([config({"largeClusterEndpoints": 1 << 40})], ["r.jsonl:1: .host.largeClusterEndpoints: expected an integer of 32 bits"]),
        ([config(node={"metadata": {"name": 1}})], ["r.jsonl:1: .node.metadata.name: expected a string, got 1"]),
        ([config(), sync(ipvsConns=[])], ["r.jsonl:2: .host.ipvsConns: expected an object, got a list"]),
        (
            [config(), sync(ipvsConns={"a": "b"})],
            ["r.jsonl:2: .host.ipvsConns.a: expected an integer, got a string"],
        ),
        ([config(), sync(gracefulTick=1)], ["r.jsonl:2: .host.gracefulTick: expected true or false, got an integer"]),
        ([config(), sync(failSync=1)], ["r.jsonl:2: .host.failSync: expected true or false, got an integer"]),
        ([config(), sync(reboot=True, melt=1)], ["r.jsonl:2: .host.melt: not modelled", "r.jsonl:2: .host.reboot: not modelled"]),
        ([config(), sync(conntrack=[{}])], ["r.jsonl:2: .host.conntrack[0]: a flow needs proto, src, sport, dst, dport, replySrc, "
                                            "replySport, replyDst, replyDport"]),
        ([config(), sync(conntrack=[FLOW | {"dst": "web"}])], ["r.jsonl:2: .host.conntrack[0].dst: expected an IP address"]),
        ([config(), sync(conntrack=[FLOW | {"dport": 65536}])], ["r.jsonl:2: .host.conntrack[0].dport: expected a port from 0 to 65535"]),
        ([config(), sync(localAddrs=[{"name": "lo", "addresses": [1]}])],
         ["r.jsonl:2: .host.localAddrs[0].addresses[0]: expected a string, got an integer"]),
    ],
)  # fmt: skip
def test_everything_wrong_is_said_with_its_place(lines: list[Json | str], expected: list[str]) -> None:
    assert problems(*lines) == expected


@pytest.mark.parametrize("seconds", [-1, 1e300, 400_000_000])
def test_pauses_are_seconds_up_to_ten_years(seconds: float) -> None:
    found = problems(config(), {"type": "SYNC", "afterSeconds": seconds})
    assert found == ["r.jsonl:2: .afterSeconds: expected seconds from 0 to ten years"]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("mode",), "userspace", ".object.mode: "),
        (("iptables", "masqueradeBit"), 10**9, ".object.iptables.masqueradeBit: "),
        (("iptables", "masqueradeBit"), "14", ".object.iptables.masqueradeBit: expected an integer"),
        (("iptables", "syncPeriod"), 30, ".object.iptables.syncPeriod: expected a duration"),
        (("nodePortAddresses",), ["192.168.0.0"], ".object.nodePortAddresses[0]: "),
        (("clusterCIDR",), ["10.180.0.0/16"], ".object.clusterCIDR: expected a string"),
        (("detectLocalMode",), "Magic", ".object.detectLocalMode: "),
        (("hostnameOverride",), 1, ".object.hostnameOverride: expected a string"),
    ],
)
def test_configurations_that_kube_proxy_would_refuse(path: tuple[str, ...], value: Any, expected: str) -> None:
    obj: Any = value
    for name in reversed(path):
        obj = {name: obj}
    (found,) = problems(config(object=obj))
    assert found.startswith(f"r.jsonl:1: {expected}")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("spec", "ports", 0, "port"), "80", ".object.spec.ports[0].port: expected an integer, got a string"),
        (("spec", "ports", 0, "port"), 80.5, ".object.spec.ports[0].port: expected an integer, got a number"),
        (("spec", "ports", 0, "port"), True, ".object.spec.ports[0].port: expected an integer, got a boolean"),
        (("spec", "ports", 0, "port"), 10**30, ".object.spec.ports[0].port: expected an integer of 32 bits"),
        (("spec", "ports", 0), None, ".object.spec.ports[0]: expected an object, got null"),
        (("spec", "ports"), {}, ".object.spec.ports: expected a list, got an object"),
        (("spec",), "", ".object.spec: expected an object, got a string"),
        (("metadata", "labels"), {"app": 1}, ".object.metadata.labels.app: expected a string, got an integer"),
    ],
)
def test_objects_with_wrong_types(path: tuple[str | int, ...], value: Any, expected: str) -> None:
    obj = json.loads(json.dumps(SERVICE))
    inner: Any = obj
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert problems(config(), added(obj)) == [f"r.jsonl:2: {expected}"]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "{} {}",
        '{"type": "SYNC"},',
        '{"type": "SYNC", "afterSeconds": NaN}',
        '{"type": "SYNC", "afterSeconds": Infinity}',
        '{"type": "SYNC", "type": "SYNC"}',
        '{"type": "ADDED", "object": {"kind": "Service", "metadata": {"name": "a", "name": "b"}}}',
        '{"type": "ADDED", "object": {"kind": "Service", "metadata": {"name": "\\ud800"}}}',
        '{"type": "SYNC", "afterSeconds": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "\x00",
    ],
)
def test_lines_that_are_no_json(line: str) -> None:
    (found,) = problems(config(), line)
    assert found.startswith("r.jsonl:2: ")


def test_a_first_line_that_cannot_be_read_is_one_problem() -> None:
    """Such as the first line of a list that was not printed as lines."""
    (found,) = problems("{", '"kind": "List"', "}")
    assert found.startswith("r.jsonl:1: not readable: ")
    assert "a recording is JSON lines, one whole object a line" in found


def test_all_problems_come_at_once_in_order() -> None:
    found = problems(config(ipFamily=4), "{", added({"kind": "Service", "spec": []}), sync(skip="yes"))
    assert [text.split(": ")[0] for text in found] == [f"r.jsonl:{line}" for line in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\n\xff\xfe", r"r\.jsonl:2: no UTF-8 text: invalid start byte"),
        (gzip.compress(b"{}", mtime=0), r"r\.jsonl: compressed with gzip: decompress it first"),
        (None, r"r\.jsonl: cannot be read: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_recording(path)


def test_a_device_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="/dev/zero: larger than 1 MiB, the limit for a file"):
        load_recording("/dev/zero")


def test_a_recording_in_the_encoding_that_its_byte_order_mark_names(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(config()).encode("utf-16"))
    assert load_recording(path).node_name == "node-1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (sync() | {"afterSecond": 2}, "r.jsonl:2: .afterSecond: there is no such field here; there is type, afterSeconds, host"),
        (added(SERVICE, time="x"), "r.jsonl:2: .time: there is no such field here; there is type, object, at"),
    ],
)  # fmt: skip
def test_a_mistyped_field_does_not_count_as_absent(line: Json, message: str) -> None:
    assert problems(config(), line) == [message]


def test_times_that_run_back_are_refused() -> None:
    """As in watches of several kinds put one behind the other: their order would be guessed."""
    times = ("2026-03-01T00:00:05Z", "2026-03-01T00:00:05Z", "2026-03-01T00:00:04Z")
    found = problems(config(), *(added(SERVICE, at=time) for time in times))
    assert found == ["r.jsonl:4: .at: earlier than the event before it: sort the events by time"]


def test_a_year_that_syncs_would_never_reach_is_refused() -> None:
    lines = added(SERVICE, at="2026-03-01T00:00:00Z"), added(SERVICE, at="9999-12-31T00:00:00Z")
    assert problems(config(), *lines) == ["r.jsonl:3: .at: more than ten years after the first event"]


# --------------------------------------------------------------------------------------------------- what replays make of it


def test_a_deletion_is_of_what_was_last_seen() -> None:
    relabelled = {
        **SERVICE,
        "metadata": {**SERVICE["metadata"], "labels": {"service.kubernetes.io/service-proxy-name": "x"}},
    }
    replay = Replay(parse(config(), added(SERVICE), sync(), {"type": "DELETED", "object": relabelled}, sync()))
    first, second = replay.outcomes()
    assert (first.requested, second.requested) == (False, True)
    assert "172.30.10.1" in json.dumps(first.to_json()["iptables"])
    assert "172.30.10.1" not in json.dumps(second.to_json()["iptables"]["save"])


def test_adding_a_known_object_updates_and_deleting_an_unknown_one_is_nothing() -> None:
    other = {**SERVICE, "metadata": {"namespace": "shop", "name": "api"}}
    lines = (config(), added(SERVICE), added(SERVICE), {"type": "DELETED", "object": other}, sync())
    (outcome,) = Replay(parse(*lines)).outcomes()
    assert outcome.metrics["kubeproxy_sync_proxy_rules_service_changes_total"] == 2


def test_time_passes_before_the_events_of_a_sync() -> None:
    at = {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:01Z"}
    labels = {"kubernetes.io/service-name": "web"}
    slice_ = {
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "web-1", "labels": labels, "annotations": at},
    }
    later = {"type": "SYNC", "afterSeconds": 3}
    _, second = Replay(parse(config(), sync(), added({**slice_, "addressType": "IPv4"}), later)).outcomes()
    (sample,) = second.result.trigger_times_ns
    assert second.result.trigger_times_ns == ((sample[0], parse_rfc3339_ns("2026-01-01T00:00:01Z")),)
    assert second.metrics['kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}'] == 1


def test_skipped_syncs_take_over_nothing() -> None:
    outcomes = list(Replay(parse(config(), sync(), added(SERVICE), sync(skip=True), sync())).outcomes())
    assert [(o.requested, o.result.ran) for o in outcomes] == [(False, True), (True, False), (False, True)]
    assert "fullSync" not in outcomes[1].to_json()
    assert outcomes[1].metrics["kubeproxy_sync_proxy_rules_service_changes_pending"] == 1


# ------------------------------------------------------------------------------------ nothing is taken without use


@pytest.mark.parametrize("written", ["udp", "UDP", "Udp"])
def test_the_protocol_of_a_flow_counts_in_any_case(written: str) -> None:
    (step,) = parse(config(), sync(conntrack=[FLOW | {"proto": written}])).steps
    assert isinstance(step, SyncStep)
    assert step.conntrack[0].protocol == "udp"


def test_a_protocol_that_no_flow_has_is_refused_with_those_that_exist() -> None:
    expected = "r.jsonl:2: .host.conntrack[0].proto: expected udp or tcp or sctp, got 'banana'"
    assert problems(config(), sync(conntrack=[FLOW | {"proto": "banana"}])) == [expected]


def test_flows_that_kube_proxy_never_deletes_are_named() -> None:
    """CT-2: it lists UDP entries of its own family alone."""
    other = {"src": "fd00::9", "dst": "fd00::a", "replySrc": "fd00::3", "replyDst": "fd00::9"}
    made = parse(config(), sync(conntrack=[FLOW, FLOW | {"proto": "TCP"}, FLOW | {"proto": "sctp"}, FLOW | other]))
    assert made.notes == (
        "kube-proxy deletes stale flows of UDP only (CT-2): these stay, whatever changes: SCTP 1, TCP 1",
        "flows of the other family are not this proxier's, and stay: 1",
    )


def test_objects_hold_what_an_api_server_returns() -> None:
    """O-3.2. A lower-case protocol would make other rules than any cluster has."""
    port = {"name": "http", "protocol": "udp", "port": 80}
    service = {**SERVICE, "spec": {"clusterIP": "172.30.10.1", "ports": [port]}}
    expected = (
        "r.jsonl:2: .object.spec.ports[0].protocol: expected TCP, UDP or SCTP, got the string 'udp' (did you mean UDP?)"
    )
    assert problems(config(), added(service)) == [expected]


def test_what_kube_proxy_does_not_watch_or_know_is_named() -> None:
    config_map = {"kind": "ConfigMap", "metadata": {"name": "a"}}
    service = {**SERVICE, "spec": {**SERVICE["spec"], "colour": "red"}}
    made = parse(config(object={"colour": "red"}), added(config_map), added(config_map), added(service))
    assert made.notes == (
        "kube-proxy ignores the unknown field .colour of its configuration",
        "kube-proxy watches no objects of these kinds: ConfigMap 2",
        "ignored fields that Kubernetes 1.36 does not have: Service .spec.colour (1)",
    )


def test_times_beside_sync_lines_are_named() -> None:
    made = parse(config(), added(SERVICE, at="2026-01-01T00:00:05Z"), sync())
    assert made.notes == ("SYNC lines say when syncs run: the times of the events (at) have no effect",)
    assert parse(config(), added(SERVICE, at="2026-01-01T00:00:05Z")).notes == ()


def test_a_sync_that_does_not_run_cannot_fail() -> None:
    assert problems(config(), sync(skip=True, failSync=True)) == [
        "r.jsonl:2: .host.failSync: no sync runs (skip), so none can fail"
    ]


def test_the_node_that_kube_proxy_reads_has_its_name() -> None:
    """CFG-7.1, CFG-2.1."""
    stranger = config(node={"metadata": {"name": "node-2"}})
    assert problems(stranger) == [
        "r.jsonl:1: .node.metadata.name: kube-proxy reads the Node with its own name, 'node-1' (hostnameOverride), not 'node-2'"
    ]


def test_what_the_mode_has_no_use_for_is_named() -> None:
    made = Replay(parse(config({"serviceCIDRs": ["172.30.0.0/16"]}), sync(gracefulTick=True, ipvsConns={})))
    assert made.notes == (
        "kube-proxy in iptables mode has no use for host.gracefulTick",
        "kube-proxy in iptables mode has no use for host.ipvsConns",
        "kube-proxy in iptables mode has no use for host.serviceCIDRs",
    )
