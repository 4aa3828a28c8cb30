"""Probes: the exact fates of first packets. Expectations come from PP (who reaches what) and K (the kernel)."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from shop import CONFIG, EVERYTHING, WEB, cluster_text

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.explore import Cluster, load
from kpsim.tracing.probes import Answer, Prober, ProbeResult, make_packet, parse_probes, sender_of, split_end

CLIENT = "203.0.113.7:40000"
POD = "10.180.0.77:40000"  # of node-1, no endpoint


def loaded(folder: Path, text: str) -> Cluster:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return load(file)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return loaded(tmp_path_factory.mktemp("shop"), cluster_text())


def short(answer: Answer) -> str:
    """``delivered 10.180.0.5:8080 as 10.180.0.77, …``; an endpoint that sees a masquerade is followed by ``masq``."""
    parts = [
        f"{o.endpoint} {'masq ' if o.masquerade else ''}as {o.seen.src}:{'*' if o.seen.sport is None else o.seen.sport}"
        for o in answer.outcomes
    ]
    return " ".join([str(answer.result), *([answer.with_] if answer.with_ else []), ", ".join(parts)]).rstrip()


# --- who reaches what ------------------------------------------------------------------------------------------------------

REJECTED = "rejected icmp-port-unreachable"
KEPT = ", ".join(f"{ip}:8080 as {POD}" for ip in ("10.180.0.5", "10.180.1.5", "10.180.2.5"))
#: a local endpoint sees the bridge's address, a remote one the uplink's (K-2.2)
MASQ = (
    "10.180.0.5:8080 masq as 10.180.0.1:*, 10.180.1.5:8080 masq as 192.168.0.1:*, 10.180.2.5:8080 masq as 192.168.0.1:*"
)
LOCAL_MASQ = "10.180.0.6:8080 masq as 10.180.0.1:*, 10.180.1.6:8080 masq as 192.168.0.1:*"

FLOWS = [
    ("PP-3.2", "pod", POD, "172.30.0.10:80", f"delivered {KEPT}"),
    ("PP-3.2", "node", "", "172.30.0.10:80", f"delivered {MASQ}"),
    ("PP-3.2", "external", CLIENT, "172.30.0.10:80", f"delivered {MASQ}"),
    ("PP-3.2", "peer", "", "172.30.0.10:80", f"delivered {MASQ}"),
    ("PP-4", "external", CLIENT, "192.168.0.1:30080", f"delivered {MASQ}"),
    ("PP-4", "pod", POD, "192.0.2.10:80", f"delivered {MASQ}"),
    ("PP-4", "pod", POD, "192.168.0.1:30080", f"delivered {MASQ}"),
    ("PP-7.1", "node", "127.0.0.1:40000", "127.0.0.1:30080", f"delivered {MASQ}"),
    ("PP-5 others", "external", CLIENT, "192.0.2.11:80", f"delivered 10.180.0.6:8080 as {CLIENT}"),
    ("PP-5 others", "external", CLIENT, "192.168.0.1:30081", f"delivered 10.180.0.6:8080 as {CLIENT}"),
    ("PP-5 pods", "pod", POD, "192.0.2.11:80", f"delivered 10.180.0.6:8080 as {POD}, 10.180.1.6:8080 as {POD}"),
    ("PP-5 H", "node", "", "192.0.2.11:80", f"delivered {LOCAL_MASQ}"),
    ("PP-5 no LO", "external", CLIENT, "192.168.0.1:30082", "dropped"),
    ("PP-5.1", "pod", POD, "192.168.0.1:30082", f"delivered 10.180.1.7:8080 as {POD}"),
    ("PP-5.1", "node", "", "192.168.0.1:30082", "delivered 10.180.1.7:8080 masq as 192.168.0.1:*"),
    ("PP-3.1 iTP Local", "pod", POD, "172.30.0.13:80", "dropped"),
    ("PP-3.1 iTP Local", "node", "", "172.30.0.13:80", "dropped"),
    ("PP-3.1 any=false", "pod", POD, "172.30.0.14:80", REJECTED),
    ("PP-3.1 any=false", "node", "", "172.30.0.14:80", REJECTED),
    ("PP-6", "external", CLIENT, "192.168.0.1:30084", REJECTED),
    ("PP-8 inside", "external", CLIENT, "192.0.2.15:80", "delivered 10.180.1.9:8080 masq as 192.168.0.1:*"),
    ("PP-8 outside", "external", "203.0.113.200:40000", "192.0.2.15:80", "dropped"),
    ("PP-8 pod", "pod", POD, "192.0.2.15:80", "dropped"),
    ("PP-8 H", "node", "", "192.0.2.15:80", "dropped"),
    ("PP-7.5", "external", "203.0.113.200:40000", "192.168.0.1:30085",
     "delivered 10.180.1.9:8080 masq as 192.168.0.1:*"),
    ("PP-2 other port", "pod", POD, "172.30.0.10:81", "passed"),
    ("PP-2 endpoint", "pod", POD, "10.180.1.5:8080", "passed"),
    ("PP-2 own node", "external", CLIENT, "192.168.0.1:22", "passed"),
    ("PP-2 health check", "external", CLIENT, "192.168.0.1:32011", "passed"),
    ("PP-7.6", "pod", POD, "192.168.0.2:30080", "passed"),
]  # fmt: skip


@pytest.mark.parametrize(("fact", "sender", "src", "dst", "expected"), FLOWS)
def test_flows(cluster: Cluster, fact: str, sender: str, src: str, dst: str, expected: str) -> None:
    assert short(cluster.probe("node-1", dst, sender=sender, src=src)) == expected, fact


def test_an_endpoint_on_the_node_itself_keeps_the_source(cluster: Cluster) -> None:
    """K-2.5: DNAT to the node has no POSTROUTING for what arrives."""
    answer = cluster.probe("node-1", "172.30.0.16:53", protocol="UDP", src=CLIENT)
    assert short(answer) == f"delivered 192.168.0.1:5353 as {CLIENT}"
    assert short(cluster.probe("node-2", "172.30.0.16:53", protocol="UDP", src=CLIENT)) == (
        "delivered 192.168.0.1:5353 masq as 192.168.0.2:*"
    )


def test_a_node_that_reaches_itself_borrows_no_loopback_address(cluster: Cluster) -> None:
    """K-2.2; Linux 6.18 over lo, endpoint 192.168.0.1: the server sees 192.168.0.1, for --random-fully from another
    port.
    """
    answer = cluster.probe("node-1", "172.30.0.16:53", protocol="UDP", sender="node")
    assert short(answer) == "delivered 192.168.0.1:5353 masq as 192.168.0.1:*"


def test_a_pod_that_reaches_itself_is_masqueraded(cluster: Cluster) -> None:
    """PP-1.6."""
    answer = cluster.probe("node-1", "172.30.0.10:80", sender="pod", src="10.180.0.5:40000")
    assert [outcome.masquerade for outcome in answer.outcomes] == [True, False, False]


def test_udp_to_a_tcp_port_is_left_alone(cluster: Cluster) -> None:
    """PP-12.3."""
    assert cluster.probe("node-1", "172.30.0.10:80", protocol="UDP").result is ProbeResult.PASSED


def test_a_ping_to_a_cluster_ip_is_left_alone(cluster: Cluster) -> None:
    """K-8.2."""
    assert cluster.probe("node-1", "172.30.0.10", protocol="ICMP", sender="pod").result is ProbeResult.PASSED


def test_ipv6(cluster: Cluster) -> None:
    answer = cluster.probe("node-1", "[fd00:172:30::10]:80", sender="external", src="[2001:db8::7]:40000")
    assert [outcome.to_json() for outcome in answer.outcomes] == [
        {
            "weight": "1", "endpoint": "[fd00:180::5]:8080", "masquerade": True,
            "seen": {"src": "fd00:180::1", "sport": None, "dst": "fd00:180::5", "dport": 8080},
        }
    ]  # fmt: skip


def test_weights_are_exact(cluster: Cluster) -> None:
    answer = cluster.probe("node-1", "172.30.0.10:80", sender="pod")
    assert [outcome.weight for outcome in answer.outcomes] == [Fraction(1, 3)] * 3


def test_affinity_does_not_change_the_first_packets_odds(tmp_path: Path) -> None:
    """PP-9: no client is remembered yet."""
    sticky = WEB[0].replace("type: LoadBalancer", "type: LoadBalancer, sessionAffinity: ClientIP")
    answer = loaded(tmp_path, cluster_text([sticky, WEB[1]])).probe("node-1", "172.30.0.10:80", sender="pod")
    assert [outcome.weight for outcome in answer.outcomes] == [Fraction(1, 3)] * 3


@pytest.mark.parametrize(
    ("settings", "entrance"),
    [
        ("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}", "cbr0"),
        ("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}", "veth0"),
        ("detectLocalMode: NodeCIDR", "cni0"),
    ],
)
def test_pods_are_recognised_in_every_detection_mode(tmp_path: Path, settings: str, entrance: str) -> None:
    """PP-1.2: a pod of the node keeps its source on the way to a cluster IP, others do not."""
    cluster = loaded(tmp_path, cluster_text(WEB, config=f"{CONFIG}{settings}\n"))
    pod = cluster.probe("node-1", "172.30.0.10:80", sender="pod", src=POD)
    assert {outcome.masquerade for outcome in pod.outcomes} == {False}
    client = cluster.probe("node-1", "172.30.0.10:80", src=CLIENT)
    assert {outcome.masquerade for outcome in client.outcomes} == {True}
    assert cluster.site.machine("node-1").pod_interface == entrance


# --- which rule ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "dst", "begins"),
    [
        ("pod", "172.30.0.10:80", 'nat/KUBE-SERVICES -m comment --comment "shop/web:p cluster IP" -m tcp -p tcp '
         "-d 172.30.0.10 --dport 80 -j KUBE-SVC-"),
        ("external", "192.0.2.10:80", 'nat/KUBE-SERVICES -m comment --comment "shop/web:p loadbalancer IP" '),
        ("external", "192.168.0.1:30080", "nat/KUBE-NODEPORTS -m comment --comment shop/web:p -m tcp -p tcp "
         "--dport 30080 -j KUBE-EXT-"),
        ("pod", "172.30.0.14:80", 'filter/KUBE-SERVICES -m comment --comment "shop/empty:p has no endpoints" '
         "-m tcp -p tcp -d 172.30.0.14 --dport 80 -j REJECT"),
        ("external", "192.168.0.1:30082",
         'filter/KUBE-EXTERNAL-SERVICES -m comment --comment "shop/remote:p has no local endpoints" '),
        ("pod", "192.0.2.15:80", "filter/KUBE-PROXY-FIREWALL "),
    ],
)  # fmt: skip
def test_the_deciding_rule_is_named_in_kube_proxys_own_text(
    cluster: Cluster, sender: str, dst: str, begins: str
) -> None:
    by = cluster.probe("node-1", dst, sender=sender).by
    assert by is not None
    assert by.startswith(begins)


def test_a_packet_that_the_kernel_itself_drops_has_no_rule(cluster: Cluster) -> None:
    """K-7.3: a source that is one of the node's own addresses does not come in from outside."""
    answer = cluster.probe("node-1", "192.168.0.1:22", src="192.168.0.1:40000")
    assert (answer.result, answer.by) == (ProbeResult.DROPPED, "kernel: martian source")


def test_what_the_kernel_drops_behind_a_translation_is_not_laid_on_that_rule(cluster: Cluster) -> None:
    """K-7.3 again: routing, where the packet ends, comes after PREROUTING, where it got its endpoint."""
    answer = cluster.probe("node-1", "172.30.0.10:80", src="192.168.0.1:40000")
    assert (answer.result, answer.by) == (ProbeResult.DROPPED, "kernel: martian source")


# --- sources that are chosen -----------------------------------------------------------------------------------------------


def chosen(cluster: Cluster, sender: str, dst: str, node: str = "node-1") -> str:
    ip, port = split_end(dst)
    return cluster.site.begin(make_packet("TCP", ip, port), node, sender_of(sender)).source


def test_a_pod_is_chosen_that_is_no_endpoint_of_the_dialled_service(cluster: Cluster) -> None:
    assert chosen(cluster, "pod", "172.30.0.10:80") == "10.180.0.6"
    assert chosen(cluster, "pod", "172.30.0.11:80") == "10.180.0.5"
    assert chosen(cluster, "pod", "192.168.0.1:30081") == "10.180.0.5"


def test_where_there_is_no_such_pod_an_address_of_the_pod_network_is_chosen(cluster: Cluster) -> None:
    source = chosen(cluster, "pod", "172.30.0.10:80", "node-3")
    assert source.startswith("10.180.2.")
    assert source != "10.180.2.5"


def test_others_are_chosen_too(cluster: Cluster) -> None:
    assert chosen(cluster, "external", "192.0.2.10:80") == "203.0.113.7"
    assert chosen(cluster, "peer", "192.0.2.10:80") == "192.168.0.2"
    assert chosen(cluster, "peer", "192.0.2.10:80", "node-2") == "192.168.0.1"


def test_a_client_is_not_given_an_address_of_the_cluster(tmp_path: Path) -> None:
    text = cluster_text([WEB[0].replace("192.0.2.10", "203.0.113.7"), WEB[1]])
    assert chosen(loaded(tmp_path, text), "external", "192.168.0.1:30080") == "203.0.113.8"


# --- lines -----------------------------------------------------------------------------------------------------------------


def test_a_line_has_exactly_the_keys_of_its_disposition(cluster: Cluster) -> None:
    lines = [
        {"id": "a", "node": "node-1", "from": "pod", "src": "10.180.0.77", "sport": 1234, "dst": "172.30.0.13",
         "dport": 80, "protocol": "TCP"},
        {"id": "b", "node": "node-2", "from": "pod", "src": "10.180.1.77", "sport": 1234, "dst": "172.30.0.13", "dport": 80},
        {"id": 3, "node": "node-1", "from": "external", "dst": "192.168.0.1", "dport": 30084, "protocol": "tcp"},
        {"id": "d", "node": "node-1", "from": "external", "dst": "172.30.0.10", "protocol": "ICMP"},
    ]  # fmt: skip
    probes = parse_probes(map(json.dumps, lines), cluster.site, file="p.jsonl")
    dropped, delivered, rejected, passed = map(json.loads, Prober(cluster.site, 0).lines(probes))
    assert list(dropped) == ["id", "disposition", "outcomes", "by", "exchange"]
    assert dropped["outcomes"] == []
    assert list(rejected) == ["id", "disposition", "outcomes", "with", "by", "exchange"]
    assert (rejected["id"], rejected["with"]) == (3, "icmp-port-unreachable")
    assert passed == {
        "id": "d", "disposition": "passed", "outcomes": [], "by": None, "exchange": {"request-lost": "1"},
    }  # fmt: skip
    exchanges = [line["exchange"] for line in (dropped, delivered, rejected)]
    assert exchanges == [{"request-lost": "1"}, {"works": "1"}, {"refused": "1"}]
    assert delivered["outcomes"] == [
        {
            "weight": "1", "endpoint": "10.180.1.8:8080", "masquerade": False,
            "seen": {"src": "10.180.1.77", "sport": 1234, "dst": "10.180.1.8", "dport": 8080},
        }
    ]  # fmt: skip


GOOD = {"id": "p", "node": "node-1", "from": "pod", "dst": "172.30.0.10", "dport": 80}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("[" * 100_000, "nested too deep"),
        ('{"id": "p", "id": "q"}', "'id' comes twice"),
        (r'{"id": "\ud800"}', "half of a surrogate pair"),
        (json.dumps(GOOD | {"node": "nod-1"}), "no node 'nod-1'; there is node-1"),
        (json.dumps(GOOD | {"from": "moon"}), "'moon'"),
        (json.dumps(GOOD | {"dst": "172.30.0.300"}), "172.30.0.300"),
        (json.dumps(GOOD | {"src": "fd00::1"}), "IPv6"),
        (json.dumps(GOOD | {"dport": 70000}), "70000"),
        (json.dumps(GOOD | {"dport": "80"}), "'dport' is not a number"),
        (json.dumps(GOOD | {"dport": True}), "'dport' is not a number"),
        (json.dumps(GOOD | {"protocol": "GRE"}), "GRE"),
        (json.dumps(GOOD | {"prot": "TCP"}), "'prot'"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "dport"}), "port"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "id"}), "'id' is missing"),
    ],
)
def test_a_bad_line_is_named(cluster: Cluster, line: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_probes(["", line], cluster.site, file="p.jsonl")
    assert str(refused.value).startswith("p.jsonl:2: ")
    assert named in str(refused.value)


def test_all_bad_lines_are_told_at_once(cluster: Cluster) -> None:
    lines = [json.dumps(GOOD | {"dst": "x"}), json.dumps(GOOD), json.dumps(GOOD | {"node": "y"})]
    with pytest.raises(InputError) as refused:
        parse_probes(lines, cluster.site, file="p.jsonl")
    assert [problem.line for problem in refused.value.problems] == [1, 3]


def test_a_family_that_is_not_there_is_refused(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="IPv6"):
        parse_probes(
            [json.dumps(GOOD | {"dst": "fd00::1"})], cluster.site, file="p.jsonl", families=(Family.IPV4,)
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("172.30.0.10:80", ("172.30.0.10", 80)),
        ("172.30.0.10", ("172.30.0.10", None)),
        ("fd00::10", ("fd00::10", None)),
        ("[fd00::10]", ("fd00::10", None)),
        ("[fd00::10]:80", ("fd00::10", 80)),
    ],
)
def test_ends_as_people_write_them(text: str, end: tuple[str, int | None]) -> None:
    assert split_end(text) == end


@pytest.mark.parametrize("text", ["[fd00::10", "[fd00::10]80", "172.30.0.10:", "172.30.0.10:http"])
def test_ends_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        split_end(text)


# --- recordings ------------------------------------------------------------------------------------------------------------


def test_a_recorded_machine_without_interfaces_has_loopback_and_the_node_ips(tmp_path: Path) -> None:
    """K-2.2: without an address on a bridge, the uplink's is the source towards local pods too."""
    config = {"kind": "KubeProxyConfiguration", "hostnameOverride": "node-1", "clusterCIDR": "10.180.0.0/16"}
    objects = [obj.json for obj in loaded(tmp_path, cluster_text(EVERYTHING)).state.objects.values()]
    lines = [
        {"type": "CONFIG", "ipFamily": "IPv4", "object": config},
        *({"type": "ADDED", "object": obj} for obj in objects),
        {"type": "SYNC"},
    ]
    file = tmp_path / "node-1.recording.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    cluster = load(file)
    assert {o.seen.src for o in cluster.probe("node-1", "192.0.2.10:80", src=CLIENT).outcomes} == {"192.168.0.1"}


def test_a_recorded_machine_has_the_interfaces_that_were_recorded(tmp_path: Path) -> None:
    """K-2.2: without an address on the pods' side, the uplink's is the source. K-2.3: the port is kept."""
    config = {
        "type": "CONFIG", "ipFamily": "IPv4",
        "object": {"kind": "KubeProxyConfiguration", "hostnameOverride": "node-1", "clusterCIDR": "10.180.0.0/16"},
        "host": {
            "nodeIPs": ["192.168.0.1"], "randomFully": False,
            "interfaces": [
                {"name": "lo", "addresses": ["127.0.0.1/8"]},
                {"name": "eth0", "addresses": ["192.168.0.1/24"]},
                {"name": "vip0", "addresses": ["192.0.2.10/32"]},
            ],
        },
    }  # fmt: skip
    objects = [obj.json for obj in loaded(tmp_path, cluster_text(EVERYTHING)).state.objects.values()]
    events = [{"type": "ADDED", "object": obj} for obj in objects]
    file = tmp_path / "node-1.recording.jsonl"
    file.write_text("\n".join(map(json.dumps, [config, *events, {"type": "SYNC"}])))
    cluster = load(file)
    answer = cluster.probe("node-1", "192.0.2.10:80", src=CLIENT)
    assert [(o.endpoint, o.seen.src, o.seen.sport) for o in answer.outcomes] == [
        ("10.180.0.5:8080", "192.168.0.1", 40000),
        ("10.180.1.5:8080", "192.168.0.1", 40000),
        ("10.180.2.5:8080", "192.168.0.1", 40000),
    ]
    assert cluster.probe("node-1", "192.0.2.10:22").result is ProbeResult.PASSED
    assert cluster.trace("node-1", "192.0.2.10:22").journey.end is not None  # its own address: not forwarded
    with pytest.raises(InputError, match="IPv6"):
        cluster.probe("node-1", "[fd00:172:30::10]:80")
