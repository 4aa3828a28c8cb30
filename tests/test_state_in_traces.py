"""State against rules in traces: a connection that the node has, beside what its rules do with a new flow.

Facts: an entry's translation is decided once (CT-3.5); the clean-up looks at UDP entries (CT-2.1) of Services with a
serving endpoint (CT-2.2), keeps those to serving endpoints (CT-2.3.4), and runs only with a change of UDP endpoints
(CT-1.1). A SYN on a finished connection begins a new one (K-1.8).
"""

import io
import json
import sys
from pathlib import Path

import pytest

from kpsim.cli import main
from kpsim.dialects import dialect_reading
from kpsim.errors import InputError
from kpsim.exchange import Verdict
from kpsim.explore import Cluster, load
from kpsim.explore.connections import parse_connections
from kpsim.explore.site import rules_site
from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.pins import PinKind
from kpsim.tracing.captured import Beginning, CaptureTracer
from kpsim.tracing.probes import first_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.standing import State
from kpsim.tracing.traces import Trace, trace_packet
from kpsim.wire import parse_packet

CLIENT, VIP, NODE = "10.180.1.7", "172.30.0.53", "192.168.0.1"
HEAD = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.180.0.0/16
"""
SERVING, ENDING = "{ready: true}", "{ready: false, serving: true, terminating: true}"
GONE = "{ready: false, serving: false, terminating: true}"


def node(number: int) -> str:
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: n{number}}}\nspec: {{podCIDR: 10.180.{number}.0/24}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: 192.168.0.{number}}}]}}\n"
    )


def service(protocol: str, *endpoints: str, more: str = "") -> str:
    """A Service ``shop/db`` at VIP:53 and node port 30053, with ``ADDRESS CONDITIONS`` on n2."""
    parts = [endpoint.partition(" ") for endpoint in endpoints]
    written = ", ".join(f"{{addresses: [{address}], nodeName: n2, conditions: {said}}}" for address, _, said in parts)
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{type: NodePort, clusterIP: {VIP}, "
        f"ports: [{{name: q, protocol: {protocol}, port: 53, nodePort: 30053}}]{more}}}\n---\n"
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
        "metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}\n"
        f"ports: [{{name: q, protocol: {protocol}, port: 53}}]\nendpoints: [{written}]\n"
    )


def listed(protocol: str, leads_to: str, *, dst: str = VIP, dport: int = 53, state: str = "", age: str = "") -> str:
    """A line of ``conntrack -L``: the client's flow from port 41000."""
    number = {"udp": 17, "tcp": 6}[protocol]
    address, _, port = leads_to.partition(":")
    return (
        f"{protocol} {number} 100 {state} src={CLIENT} dst={dst} sport=41000 dport={dport} "
        f"src={address} dst={CLIENT} sport={port} dport=41000 [ASSURED] mark=0 {age} use=1\n"
    )


def cluster(*documents: str) -> Cluster:
    return load(text="---\n".join([HEAD, node(1), node(2), *documents]))


def traced(
    of: Cluster, protocol: str, *, src: str = f"{CLIENT}:41000", dst: str = f"{VIP}:53", at: str = "n1"
) -> Trace:
    return of.trace(at, dst, sender="pod", src=src, protocol=protocol)


def state(of: Cluster, protocol: str, lines: str, **options: str) -> State:
    found = traced(of.with_connections("n1", text=lines), protocol, **options).state
    assert found is not None
    return found


OTHER = "10.180.2.6"


@pytest.mark.parametrize(
    ("protocol", "endpoints", "leads_to", "kind", "clean_up"),
    [
        ("udp", [], "10.180.2.5:53", PinKind.REFUSED, CleanUp.NOT_SERVING),
        ("udp", [f"10.180.2.5 {GONE}"], "10.180.2.5:53", PinKind.REFUSED, CleanUp.NOT_SERVING),
        ("tcp", [], "10.180.2.5:53", PinKind.REFUSED, CleanUp.NOT_ITS_PROTOCOL),
        ("udp", [f"{OTHER} {SERVING}"], "10.180.2.5:53", PinKind.FORMER_ENDPOINT, CleanUp.NOT_RUN),
        ("udp", [f"{OTHER} {SERVING}"], f"{OTHER}:5353", PinKind.FORMER_ENDPOINT, CleanUp.NOT_RUN),  # CT-2.3.3
        ("udp", [f"{OTHER} {SERVING}", f"10.180.2.5 {ENDING}"], "10.180.2.5:53", PinKind.FORMER_ENDPOINT, CleanUp.STILL_SERVES),
        ("tcp", [f"{OTHER} {SERVING}"], "10.180.2.5:53", PinKind.FORMER_ENDPOINT, CleanUp.NOT_ITS_PROTOCOL),
        ("udp", [f"{OTHER} {SERVING}"], f"{VIP}:53", PinKind.OLDER, CleanUp.NOT_RUN),  # CT-2.3.1
        ("tcp", [f"{OTHER} {SERVING}"], f"{VIP}:53", PinKind.OLDER, CleanUp.NOT_ITS_PROTOCOL),
        ("udp", [f"{OTHER} {SERVING}", f"10.180.2.5 {SERVING}"], "10.180.2.5:53", None, None),
    ],
)  # fmt: skip
def test_an_entry_beside_the_rules(
    protocol: str, endpoints: list[str], leads_to: str, kind: PinKind | None, clean_up: CleanUp | None
) -> None:
    lines = listed(protocol, leads_to, state="ESTABLISHED" if protocol == "tcp" else "")
    found = state(cluster(service(protocol.upper(), *endpoints)), protocol, lines)
    assert (found.kind, found.clean_up, found.node, found.leads_to) == (kind, clean_up, "n1", leads_to)
    assert found.age_ns is None


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_every_mode_says_it_in_the_same_words(mode: str) -> None:
    of = load(text="---\n".join([HEAD, node(1), node(2), service("UDP")]), mode=mode)
    assert (
        "the rules refuse a new one with icmp-port-unreachable (no endpoints of shop/db:q); the clean-up passed"
        in str(state(of, "udp", listed("udp", "10.180.2.5:53")))
    )
    of = load(text="---\n".join([HEAD, node(1), node(2), service("UDP", f"{OTHER} {SERVING}")]), mode=mode)
    assert state(of, "udp", listed("udp", "10.180.2.5:53")).kind is PinKind.FORMER_ENDPOINT


def test_an_entry_that_outlives_its_service() -> None:
    found = state(cluster(), "udp", listed("udp", "10.180.2.5:53", age="delta-time=12"))
    assert (found.kind, found.clean_up) == (PinKind.SERVICE_GONE, CleanUp.NO_SERVICE)
    assert str(found) == (
        "an entry of n1 made 12 s ago still sends the flow to 10.180.2.5:53; the rules leave a new one alone; "
        "the clean-up looks only at Services that exist (CT-2.2)"
    )


def test_a_node_port_counts_whatever_the_address() -> None:
    """Any flow to the port of a UDP node port is a stale one, if it leads elsewhere (CT-2.3.2)."""
    lines = listed("udp", "203.0.113.5:30053", dst="192.168.0.2", dport=30053)
    found = state(cluster(service("UDP", f"{OTHER} {SERVING}")), "udp", lines, dst="192.168.0.2:30053")
    assert (found.kind, found.clean_up) == (PinKind.FORMER_ENDPOINT, CleanUp.NOT_RUN)


def test_what_a_new_flow_gets_is_told_with_its_odds() -> None:
    of = cluster(service("UDP", f"{OTHER} {SERVING}", f"10.180.2.7 {SERVING}"))
    found = state(of, "udp", listed("udp", "10.180.2.5:53"))
    assert [(str(weight), outcome.endpoint, outcome.verdict) for weight, outcome in found.outcomes] == [
        ("1/2", f"{OTHER}:53", Verdict.WORKS), ("1/2", "10.180.2.7:53", Verdict.WORKS),
    ]  # fmt: skip
    assert "a former endpoint; the rules send a new one to 10.180.2.6:53, 10.180.2.7:53; no clean-up has run" in str(
        found
    )


def test_other_sockets_of_the_client_meet_the_rules() -> None:
    """A source port that is not named begins a connection, even if the usual one has an entry already."""
    lines = listed("udp", "10.180.2.5:53").replace("41000", "40000")
    of = cluster(service("UDP", f"{OTHER} {SERVING}")).with_connections("n1", text=lines)
    fresh = traced(of, "udp", src=CLIENT)
    assert fresh.state is None and fresh.journey.sent.sport == 40001 and fresh.verdict == {Verdict.WORKS: 1}
    assert of.probe("n1", f"{VIP}:53", sender="pod", src=CLIENT, protocol="UDP").state is None
    kept = of.probe("n1", f"{VIP}:53", sender="pod", src=f"{CLIENT}:40000", protocol="UDP")
    assert kept.state is not None and kept.exchange == {Verdict.MISDELIVERED: 1}
    assert len({fresh.answer, kept}) == 2  # answers are values


def test_a_finished_connection_is_no_state() -> None:
    lines = listed("tcp", "10.180.2.5:53", state="TIME_WAIT")
    of = cluster(service("TCP", f"{OTHER} {SERVING}")).with_connections("n1", text=lines)
    assert traced(of, "tcp").state is None and traced(of, "tcp").journey.packet.destination == OTHER


def test_the_entry_of_the_node_whose_rules_would_translate() -> None:
    """A pod of n2 dials the node port of n1: n2 translates nothing, and neither does the entry of n1."""
    lines = listed("udp", f"{NODE}:30053", dst=NODE, dport=30053).replace(CLIENT, "10.180.2.9")
    of = cluster(service("UDP", f"{OTHER} {SERVING}")).with_connections("n1", text=lines)
    found = traced(of, "udp", src="10.180.2.9:41000", dst=f"{NODE}:30053", at="n2").state
    assert found is not None and (found.node, found.kind) == ("n1", PinKind.OLDER)


def test_session_affinity_makes_no_former_endpoint() -> None:
    """The list holds the client to one endpoint; an older connection to another of the endpoints is in order (K-4)."""
    of = cluster(service("TCP", f"{OTHER} {SERVING}", f"10.180.2.7 {SERVING}", more=", sessionAffinity: ClientIP"))

    def sent(of: Cluster) -> list[Trace]:
        tracer = CaptureTracer(of.site, Beginning("n1", Sender.POD))
        packets = [f'IP(src="{CLIENT}",dst="{VIP}")/TCP(sport={port},dport=53,flags="S")' for port in (42000, 41000)]
        return [each for n, text in enumerate(packets) if (each := tracer.trace(n, parse_packet(text), of.now_ns))]

    chosen = {trace.journey.packet.destination for trace in sent(of)}
    other = ({OTHER, "10.180.2.7"} - chosen).pop()
    _, kept = sent(of.with_connections("n1", text=listed("tcp", f"{other}:53", state="ESTABLISHED")))
    assert kept.state is not None
    assert [outcome.endpoint for _, outcome in kept.state.outcomes] == [f"{chosen.pop()}:53"]
    assert (kept.state.leads_to, kept.state.kind) == (f"{other}:53", None)


def test_a_machine_known_by_its_rules_only() -> None:
    """A firewall that refuses new flows is one of the rules. Whose clean-up left an entry of UDP is not known."""
    text = (
        f"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -d {VIP} -p udp -j DNAT --to-destination 10.180.2.5:53\nCOMMIT\n"
        "*filter\n:FORWARD ACCEPT\n-A FORWARD -p udp -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"
    )
    (ruleset,) = dialect_reading(text).parse(text)
    site = rules_site(ruleset, node_ips=[NODE], pod_cidrs=["10.180.1.0/24"])
    site.remember("node", parse_connections(listed("udp", "10.180.2.5:53"), 10**18).entries)
    packet = first_packet(f"{VIP}:53", src=f"{CLIENT}:41000", protocol="UDP")
    found = trace_packet(site, packet, node="node", sender=Sender.POD, now_ns=10**18).state
    assert found is not None and (found.kind, found.clean_up) == (PinKind.REFUSED, None)
    assert str(found).endswith("the rules drop a new one (filter/FORWARD rule 1)")


def test_what_the_rules_do_may_be_unknown() -> None:
    text = f"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -d {VIP} -p udp -m set --match-set s src -j DNAT --to-destination 10.180.2.5:53\nCOMMIT\n"
    (ruleset,) = dialect_reading(text).parse(text, unknown="keep")
    site = rules_site(ruleset, node_ips=[NODE], pod_cidrs=["10.180.1.0/24"])
    site.remember("node", parse_connections(listed("udp", "10.180.2.5:53"), 10**18).entries)
    packet = first_packet(f"{VIP}:53", src=f"{CLIENT}:41000", protocol="UDP")
    found = trace_packet(site, packet, node="node", sender=Sender.POD, now_ns=10**18).state
    assert found is not None and found.kind is None and found.clean_up is None


# --- a recording, and all faces ---------------------------------------------------------------------------------------

FLOW = {
    "proto": "udp", "src": CLIENT, "sport": 41000, "dst": VIP, "dport": 53, "replySrc": "10.180.2.5", "replySport": 53,
    "replyDst": CLIENT, "replyDport": 41000,
}  # fmt: skip


def recording(tmp_path: Path) -> Path:
    """The endpoint of a flow goes 30 s after the flow began."""

    def slice_with(*addresses: str) -> dict[str, object]:
        return {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "ports": [{"name": "q", "protocol": "UDP", "port": 53}],
            "endpoints": [{"addresses": [a], "nodeName": "n2", "conditions": {"ready": True}} for a in addresses],
        }  # fmt: skip

    own = {
        "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.180.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
    }  # fmt: skip
    served = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "type": "ClusterIP", "clusterIP": VIP, "clusterIPs": [VIP], "ipFamilies": ["IPv4"],
            "ports": [{"name": "q", "protocol": "UDP", "port": 53, "targetPort": 53}],
        },
    }  # fmt: skip
    config = {"kind": "KubeProxyConfiguration", "clusterCIDR": "10.180.0.0/16", "hostnameOverride": "n1"}
    lines = [
        {"type": "CONFIG", "object": config, "node": own, "host": {"nodeIPs": [NODE]}},
        {"type": "ADDED", "object": served},
        {"type": "ADDED", "object": slice_with("10.180.2.5")},
        {"type": "SYNC"},
        {"type": "SYNC", "afterSeconds": 12.3, "host": {"conntrack": [FLOW]}},
        {"type": "MODIFIED", "object": slice_with()},
        {"type": "SYNC", "afterSeconds": 30},
    ]
    file = tmp_path / "db.recording.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


WORDS = (
    "an entry of n1 made 30 s ago still sends the flow to 10.180.2.5:53; the rules refuse a new one with "
    "icmp-port-unreachable (no endpoints of shop/db:q); the clean-up passed the Service over because it has no serving "
    "endpoint (CT-2.2)"
)
ASKED = ["--from", "pod", "--src", f"{CLIENT}:41000", "--dst", f"{VIP}:53", "--protocol", "UDP"]


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, stdin: str = ""
) -> str:
    monkeypatch.setattr(sys, "argv", ["kpsim", "trace", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    assert left.value.code in (0, None), captured.err
    return captured.out


def test_a_recording_has_its_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, the shortest form, JSON and probes say the same."""
    file = recording(tmp_path)
    assert f"\nstate against rules: {WORDS}\n" in said(monkeypatch, capsys, file, *ASKED)
    assert said(monkeypatch, capsys, file, *ASKED, "--minimal").splitlines() == [
        "delivered 10.180.2.5:53", f"state entry against refusal: {WORDS}", "exchange misdelivered (assumed)",
    ]  # fmt: skip
    record = json.loads(said(monkeypatch, capsys, file, *ASKED, "--expand", "--format", "json"))["state"]
    probe = {"id": 1, "node": "n1", "from": "pod", "src": CLIENT, "sport": 41000, "dst": VIP, "dport": 53}
    answered = json.loads(
        said(monkeypatch, capsys, file, "--probes", "-", stdin=json.dumps(probe | {"protocol": "UDP"}))
    )
    assert record == answered["state"]
    assert (record["kind"], record["node"], record["words"]) == ("entry against refusal", "n1", WORDS)
    assert record["entry"] == {
        "state": "", "original": f"udp {CLIENT}:41000 → {VIP}:53", "reply": f"udp 10.180.2.5:53 → {CLIENT}:41000",
        "ageSeconds": 30.0, "leadsTo": "10.180.2.5:53",
    }  # fmt: skip
    assert record["cleanUp"] == "the clean-up passed the Service over because it has no serving endpoint (CT-2.2)"
    assert record["rules"]["verdict"] == {"refused": "1"} and record["rules"]["outcomes"][0]["weight"] == "1"
    # a packet that meets the rules has none, and an answer to a probe then has no such key
    rules_only = [*ASKED[:2], "--src", CLIENT, *ASKED[4:]]
    assert json.loads(said(monkeypatch, capsys, file, *rules_only, "--format", "json"))["state"] is None
    answered = json.loads(
        said(monkeypatch, capsys, file, "--probes", "-", stdin=json.dumps(probe | {"protocol": "UDP", "sport": None}))
    )
    assert "state" not in answered


def test_the_list_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests, connections = tmp_path / "cluster.yaml", tmp_path / "ct.txt"
    manifests.write_text("---\n".join([HEAD, node(1), node(2), service("UDP", f"{OTHER} {SERVING}")]))
    connections.write_text(listed("udp", "10.180.2.5:53"))
    out = said(monkeypatch, capsys, manifests, "--node", "n1", "--conntrack", connections, *ASKED, "--minimal")
    assert out.splitlines()[1].startswith("state former endpoint: an entry of n1 still sends the flow to 10.180.2.5:53")
    # of a sequence of packets, each that the entry holds says so
    datagram = f'IP(src="{CLIENT}",dst="{VIP}")/UDP(sport=41000,dport=53)'
    several = ["--packet", datagram, "--packet", datagram.replace("41000", "41001"), "--from", "pod", "--minimal"]
    lines = said(monkeypatch, capsys, manifests, "--node", "n1", "--conntrack", connections, *several).splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("state")] == ["state former endpoint"]
    assert [line for line in lines if line.startswith("delivered")] == [
        "delivered 10.180.2.5:53",
        f"delivered {OTHER}:53",
    ]


def test_an_unknown_node_has_no_connections() -> None:
    with pytest.raises(InputError, match="no node 'n7'"):
        cluster().with_connections("n7", text=listed("udp", "10.180.2.5:53"))
