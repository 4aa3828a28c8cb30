"""The iptables rules of service ports: worked documents (I-20, I-21), names (I-2), node ports (I-9), detection
(I-10), IPv6 (I-16).
"""

from pathlib import Path
from typing import Any

import pytest
from proxiers import (
    Rig,
    document,
    endpoint,
    endpoint_slice,
    make_settings,
    port,
    rules_last,
    rules_total,
    service,
    slice_port,
)

from kpsim.addresses import Family
from kpsim.backends.iptables.names import chain_hash
from kpsim.comparison.documents import canonical_tables, document_differences
from kpsim.config import Host, HostInterface, LocalMode
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.objects import EndpointSlice, Service
from kpsim.proxier import SyncResult

DOCUMENTS = Path(__file__).parent / "iptables_documents"
NODE = "test-node"
HOST = Host(node_ips=("192.168.0.2",))
EDGE = "DP2MXYD5GNOSPYYK"

Json = dict[str, Any]


def worked_rig(host: Host = HOST, **config: Any) -> Rig:
    """The settings of I-20.1."""
    fields = {"hostname_override": NODE, "cluster_cidr": "10.180.0.0/16", **config}
    return Rig(make_settings(host=host, **fields))


def at(ip: str, node: str) -> Json:
    return endpoint(ip, node, "unset")


def same(result: SyncResult, name: str) -> list[str]:
    return list(document_differences((DOCUMENTS / f"{name}.txt").read_text(), document(result)))


# --------------------------------------------------------------------------------------------------- worked example 1


DNS = service(
    "kube-system/dns", [port(53, "dns", "UDP"), port(53, "dns-tcp")], cluster_ip="172.30.0.10", type="ClusterIP"
)
DNS_SLICE = endpoint_slice(
    "kube-system/dns", [at("10.180.0.2", NODE)], [slice_port(5353, "dns", "UDP"), slice_port(5353, "dns-tcp")]
)
WEB_SLICE = endpoint_slice(
    endpoints=[at("10.180.0.3", NODE), at("10.180.1.7", "node-b"), at("10.180.0.12", NODE)], ports=[slice_port()]
)


def cluster_ip_rig() -> Rig:
    rig = worked_rig()
    web = service(ports=[port(80, node_port=30080)], type="NodePort", externalTrafficPolicy="Cluster")
    empty = service("shop/empty", [port(9000, "")], cluster_ip="172.30.10.9")
    rig.apply(web, DNS, empty, WEB_SLICE, DNS_SLICE)
    return rig


def counts(result: SyncResult) -> tuple[Json, Json]:
    return rules_total(result), rules_last(result)


def test_cluster_ip_node_port_udp_and_no_endpoints() -> None:  # I-20.3 to I-20.5
    result = cluster_ip_rig().sync()
    assert document(result) == (DOCUMENTS / "cluster_ip.txt").read_text()
    assert counts(result) == ({"filter": 5, "nat": 30},) * 2


def test_partial_sync_after_an_endpoint_is_gone() -> None:  # I-20.8
    rig = cluster_ip_rig()
    rig.sync()
    rig.apply(endpoint_slice(endpoints=[at("10.180.0.3", NODE), at("10.180.1.7", "node-b")], version=2))
    result = rig.sync()
    assert not result.full
    assert same(result, "cluster_ip_endpoint_gone") == []
    assert counts(result) == ({"filter": 5, "nat": 27}, {"filter": 5, "nat": 19})


def test_partial_sync_after_a_service_is_gone() -> None:  # I-20.9, after I-20.8
    rig = cluster_ip_rig()
    rig.sync()
    rig.apply(endpoint_slice(endpoints=[at("10.180.0.3", NODE), at("10.180.1.7", "node-b")], version=2))
    rig.sync()
    rig.delete(DNS, DNS_SLICE)
    result = rig.sync()
    assert same(result, "cluster_ip_service_gone") == []
    assert counts(result) == ({"filter": 5, "nat": 17}, {"filter": 5, "nat": 8})
    assert not any("2KKYJRIGYGQNRODB" in chain for chain in rig.chains())


def test_what_the_kernel_holds_after_a_full_sync() -> None:  # I-3.1: each jump went to position 1
    rig = cluster_ip_rig()
    rig.sync()
    assert [rule.split("-j ")[1] for rule in rig.rules("filter", "INPUT")] == [
        "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"
    ]  # fmt: skip
    assert [rule.split("-j ")[1] for rule in rig.rules("filter", "FORWARD")] == [
        "KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"
    ]  # fmt: skip
    assert [rule.split("-j ")[1] for rule in rig.rules("filter", "OUTPUT")] == [
        "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"
    ]  # fmt: skip
    for chain, target in (("PREROUTING", "SERVICES"), ("OUTPUT", "SERVICES"), ("POSTROUTING", "POSTROUTING")):
        assert [rule.split("-j ")[1] for rule in rig.rules("nat", chain)] == [f"KUBE-{target}"]
    assert rig.rules("nat", "INPUT") == []


def test_single_commands_before_the_document() -> None:  # I-3: in this order, and what is there stays
    rig = cluster_ip_rig()
    first = rig.sync().transaction.commands
    assert first[:4] == (
        "-t filter -N KUBE-EXTERNAL-SERVICES",
        '-t filter -I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals"'
        " -j KUBE-EXTERNAL-SERVICES",
        "-t filter -N KUBE-EXTERNAL-SERVICES # exists",
        '-t filter -I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals"'
        " -j KUBE-EXTERNAL-SERVICES",
    )
    assert first[-2:] == ("-t filter -N KUBE-FIREWALL # exists", "-t filter -I OUTPUT -j KUBE-FIREWALL")
    assert len(first) == 28
    assert rig.sync().transaction.commands == ()  # none in a partial sync
    rig.proxier.force_full_sync()
    assert all(command.endswith(" # exists") for command in rig.sync().transaction.commands)


# --------------------------------------------------------------------------------------------------- worked example 2


def edge(**changes: Any) -> Service:
    """I-21.1; ``changes`` replace fields of the spec, or the load balancer's addresses, or the node port."""
    fields: Json = {
        "cluster_ip": "172.30.20.5",
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32100,
        "externalIPs": ["192.168.99.22"],
        "loadBalancerSourceRanges": ["203.0.113.0/25", "192.168.0.0/24"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "ingress": ["1.2.3.4"],
        "ports": [port(443, "https", node_port=31443)],
    }
    return service("prod/edge", **(fields | changes))


def edge_slice(*endpoints: Json, version: int = 1) -> EndpointSlice:
    return endpoint_slice("prod/edge", endpoints, [slice_port(8443, "https")], version=version)


HERE, ELSEWHERE = at("10.180.0.21", NODE), at("10.180.2.9", "node-b")
HERE_CHAIN, ELSEWHERE_CHAIN = "KUBE-SEP-TEOGDV5A54MTBY2S", "KUBE-SEP-BTVXOB5CV3XNLUCQ"


def edge_rig(*endpoints: Json, host: Host = HOST, config: Json | None = None, **changes: Any) -> Rig:
    rig = worked_rig(host, **(config or {}))
    rig.apply(edge(**changes), edge_slice(*(endpoints or (HERE, ELSEWHERE))))
    return rig


def test_load_balancer_with_local_policy_source_ranges_and_affinity() -> None:  # I-21.2, I-21.3
    result = edge_rig().sync()
    assert document(result) == (DOCUMENTS / "load_balancer.txt").read_text()
    assert counts(result) == ({"filter": 6, "nat": 29},) * 2
    assert result.transaction.no_local_endpoints == (0, 0)


def test_partial_syncs_until_no_endpoint_is_left() -> None:  # I-21.5, I-21.6
    rig = edge_rig()
    rig.sync()
    rig.apply(edge_slice(ELSEWHERE, version=2))
    result = rig.sync()
    assert same(result, "load_balancer_no_local") == []
    assert counts(result) == ({"filter": 9, "nat": 22},) * 2
    assert result.transaction.no_local_endpoints == (0, 1)
    assert [server.local_endpoints for server in rig.proxier.service_health.servers] == [0]

    rig.delete(edge_slice(ELSEWHERE, version=2))
    result = rig.sync()
    assert same(result, "load_balancer_no_endpoints") == []
    assert counts(result) == ({"filter": 9, "nat": 5},) * 2
    assert result.transaction.no_local_endpoints == (0, 0)


# ---- the variations of I-21.7, as what they change in the document of I-21.2 and I-21.3


def lines_of(text: str) -> set[str]:
    return {line for line in text.split("\n") if line and line != "COMMIT"}


def changed_lines(rig: Rig) -> tuple[set[str], set[str]]:
    """Lines of the worked document that are not written any more, and those that are new."""
    before, after = lines_of((DOCUMENTS / "load_balancer.txt").read_text()), lines_of(document(rig.sync()))
    return before - after, after - before


def in_chains(lines: set[str], *chains: str) -> set[str]:
    """The lines without those of these chains."""
    return {line for line in lines if not any(line.startswith((f"-A {chain} ", f":{chain} ")) for chain in chains)}


SVC, SVL, EXT, FW = (f"KUBE-{kind}-{EDGE}" for kind in ("SVC", "SVL", "EXT", "FW"))
HEALTH = '-A KUBE-NODEPORTS -m comment --comment "prod/edge:https health check node port" -m tcp -p tcp --dport 32100 -j ACCEPT'
TO_CLUSTER_IP = "-m tcp -p tcp -d 172.30.20.5 --dport 443"
R1 = f'-A KUBE-SERVICES -m comment --comment "prod/edge:https cluster IP" {TO_CLUSTER_IP} -j {SVC}'
R9 = f'-A {SVC} -m comment --comment "prod/edge:https cluster IP" {TO_CLUSTER_IP} ! -s 10.180.0.0/16 -j KUBE-MARK-MASQ'
R12 = f'-A {EXT} -m comment --comment "pod traffic for prod/edge:https external destinations" -s 10.180.0.0/16 -j {SVC}'
R6A = (
    "-A KUBE-NODEPORTS -m comment --comment prod/edge:https -m tcp -p tcp -d 127.0.0.0/8 --dport 31443"
    f" -m nfacct --nfacct-name localhost_nps_accepted_pkts -j {EXT}"
)
NO_LOCAL = "prod/edge:https has no local endpoints"
LAST = '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'


def test_external_policy_cluster() -> None:
    gone, new = changed_lines(edge_rig(externalTrafficPolicy="Cluster", healthCheckNodePort=0))
    assert in_chains(gone, EXT, SVL) == {HEALTH}
    assert in_chains(new, EXT) == set()
    assert {line for line in new if line.startswith(f"-A {EXT} ")} == {
        f'-A {EXT} -m comment --comment "masquerade traffic for prod/edge:https external destinations" -j KUBE-MARK-MASQ',
        f"-A {EXT} -j {SVC}",
    }
    assert f":{SVL} - [0:0]" in gone


CLUSTER_POLICY: Json = {"externalTrafficPolicy": "Cluster", "healthCheckNodePort": 0}


def test_internal_policy_local_with_a_remote_endpoint_only() -> None:
    rig = edge_rig(ELSEWHERE, internalTrafficPolicy="Local", **CLUSTER_POLICY)
    text = document(rig.sync())
    assert f'-A KUBE-SERVICES -m comment --comment "{NO_LOCAL}" {TO_CLUSTER_IP} -j DROP\n' in text
    assert R1 not in text
    assert f"{TO_CLUSTER_IP} ! -s" not in text
    assert f"-A {EXT} -j {SVC}\n" in text
    assert rig.rules("filter", "KUBE-EXTERNAL-SERVICES") == []


def test_internal_policy_local_with_both_endpoints() -> None:
    gone, new = changed_lines(edge_rig(internalTrafficPolicy="Local", **CLUSTER_POLICY))
    assert {R1, R9} <= gone
    assert {R1.replace(SVC, SVL), R9.replace(SVC, SVL)} <= new


def test_cluster_ip_service_with_internal_policy_local_and_a_remote_endpoint_only() -> None:
    bare: Json = {"type": "ClusterIP", "externalIPs": [], "ingress": [], "ports": [port(443, "https")]}
    rig = edge_rig(ELSEWHERE, internalTrafficPolicy="Local", **CLUSTER_POLICY, **bare)
    text = document(rig.sync())
    drop = f'-A KUBE-SERVICES -m comment --comment "{NO_LOCAL}" {TO_CLUSTER_IP} -j DROP'
    assert [line for line in text.split("\n") if "prod/edge" in line] == [drop]
    assert EDGE not in text


def balanced(text: str, chain: str) -> list[str]:
    """Endpoint chains that a chain jumps to without affinity, in order."""
    rules = [line for line in text.split("\n") if line.startswith(f"-A {chain} ") and " -> " in line]
    return [rule.rsplit(" ", 1)[1] for rule in rules if "-m recent" not in rule]


HERE_ENDS = endpoint("10.180.0.21", NODE, "serving-terminating")
ELSEWHERE_ENDS = endpoint("10.180.2.9", "node-b", "serving-terminating")


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ((HERE_ENDS, ELSEWHERE), [ELSEWHERE_CHAIN], [HERE_CHAIN]),
        ((HERE_ENDS, ELSEWHERE_ENDS), [HERE_CHAIN, ELSEWHERE_CHAIN], [HERE_CHAIN]),
    ],
)
def test_terminating_endpoints(endpoints: tuple[Json, ...], cluster: list[str], local: list[str]) -> None:
    text = document(edge_rig(*endpoints).sync())
    assert (balanced(text, SVC), balanced(text, SVL)) == (cluster, local)
    assert {HERE_CHAIN, ELSEWHERE_CHAIN} <= canonical_tables(text)["nat"].rules.keys()


def test_endpoints_that_nobody_may_use() -> None:
    unready = endpoint("10.180.2.9", "node-b") | {"conditions": {"ready": False, "serving": True, "terminating": False}}
    rig = edge_rig(endpoint("10.180.0.21", NODE, "terminating"), unready)
    text = document(rig.sync())
    wanted = (DOCUMENTS / "load_balancer_no_endpoints.txt").read_text()
    stale = (EDGE, "KUBE-SEP-")  # of which there is none yet
    fresh = "\n".join(line for line in wanted.split("\n") if not any(name in line for name in stale))
    assert list(document_differences(fresh, text)) == []


def test_masquerade_all() -> None:  # R9 instead of R9', R12 unchanged
    gone, new = changed_lines(edge_rig(config={"masquerade_all": True}))
    assert (gone, new) == ({R9}, {R9.replace(" ! -s 10.180.0.0/16", "")})


@pytest.mark.parametrize("cidr", ["", "fd00:180::/48"])
def test_without_cluster_cidr_of_the_family(cidr: str) -> None:
    assert changed_lines(edge_rig(config={"cluster_cidr": cidr})) == ({R9, R12}, set())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"detect_local_mode": LocalMode.BRIDGE_INTERFACE, "bridge_interface": "cni0"}, "-i cni0"),
        ({"detect_local_mode": LocalMode.INTERFACE_NAME_PREFIX, "interface_name_prefix": "cali"}, "-i cali+"),
    ],
)
def test_detection_by_interface(config: Json, match: str) -> None:  # I-10
    written = {rule.replace("-s 10.180.0.0/16", match) for rule in (R9, R12)}
    assert changed_lines(edge_rig(config=config)) == ({R9, R12}, written)


@pytest.mark.parametrize("ranges", [["fd00::/64"], ["203.0.113.0/25", "0.0.0.0/0"], []])
def test_source_ranges_that_restrict_nothing(ranges: list[str]) -> None:
    gone, new = changed_lines(edge_rig(loadBalancerSourceRanges=ranges))
    to_vip = '-A KUBE-SERVICES -m comment --comment "prod/edge:https loadbalancer IP" -m tcp -p tcp -d 1.2.3.4 --dport 443 -j'
    assert new == {f"{to_vip} {EXT}"}
    assert in_chains(gone, FW, "KUBE-PROXY-FIREWALL") == {f"{to_vip} {FW}"}
    assert not any(line.startswith(f"-A {EXT}") for line in gone)


def test_a_source_range_without_the_node() -> None:  # R17 only if the node IP is inside
    rig = edge_rig(loadBalancerSourceRanges=["203.0.113.77/25 "])
    rig.sync()
    allowed = 'comment --comment "prod/edge:https loadbalancer IP" -s 203.0.113.0/25 -j'
    other = 'comment --comment "other traffic to prod/edge:https will be dropped by KUBE-PROXY-FIREWALL"'
    assert rig.rules("nat", FW) == [f"-m {allowed} {EXT}", f"-m {other}"]


def test_load_balancer_address_in_proxy_mode() -> None:
    gone, new = changed_lines(edge_rig(ingress=[{"ip": "1.2.3.4", "ipMode": "Proxy"}]))
    assert new == set()
    assert all("1.2.3.4" in line or FW in line for line in gone)
    assert len(gone) == 7  # R3, R4, three of R16 and R17, R18, the chain line


def test_local_policy_without_any_external_address() -> None:  # I-6.1
    rig = edge_rig(ingress=[], externalIPs=[], ports=[port(443, "https")])
    result = rig.sync()
    assert result.transaction.no_local_endpoints == (0, 1)
    text = document(result)
    assert {R1, R9, HEALTH} <= lines_of(text)
    assert not any(name in text for name in (EXT, FW, SVL))
    assert rig.rules("filter", "KUBE-EXTERNAL-SERVICES") == []


def test_no_node_ports_on_localhost() -> None:
    gone, new = changed_lines(edge_rig(config={"localhost_node_ports": False}))
    assert new == {f"{LAST} -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -j KUBE-NODEPORTS"}
    assert in_chains(gone, "KUBE-FIREWALL") == {R6A, f"{LAST} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"}


def test_node_port_addresses() -> None:
    host = Host(
        node_ips=("192.168.0.2",), interfaces=(HostInterface("eth0", ("192.168.0.2/24", "10.0.0.1/8", "127.0.0.1/8")),)
    )
    gone, new = changed_lines(edge_rig(host=host, config={"node_port_addresses": ("192.168.0.0/24", "127.0.0.0/8")}))
    assert gone == {f"{LAST} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"}
    assert new == {f"{LAST} -d {ip} -j KUBE-NODEPORTS" for ip in ("127.0.0.1", "192.168.0.2")}


def test_without_packet_counters() -> None:
    gone, new = changed_lines(edge_rig(host=Host(node_ips=("192.168.0.2",), nfacct=False)))
    dropped = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    assert new == {dropped}
    assert gone == {R6A, dropped.replace("-j", "-m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j")}


def test_liberal_connection_tracking() -> None:
    gone, new = changed_lines(edge_rig(host=Host(node_ips=("192.168.0.2",), tcp_be_liberal=True)))
    assert new == set()
    assert gone == {
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP"
    }


# --------------------------------------------------------------------------------------------------- names, odds, gates


@pytest.mark.parametrize(
    ("text", "hashed"),
    [
        ("ns1/svc1:p80tcp", "XPGD46QRK7WJZT7O"),
        ("shop/web:httptcp", "67NZLRHBNDSAWJRO"),
        ("shop/web:httptcp10.180.0.3:8080", "JQD5QAB7X3L27L5I"),
        ("kube-system/dns:dnsudp", "2KKYJRIGYGQNRODB"),
        ("shop/emptytcp", "2UF6VVLXTX3AY6EU"),
        ("x/ytcp[fd00::1]:80", "LXJB2JXQEZRLOTWF"),
    ],
)
def test_chain_names(text: str, hashed: str) -> None:  # I-2.2
    assert chain_hash(text) == hashed


@pytest.mark.parametrize("count", [3, 4, 6, 7, 11])
def test_odds_have_ten_decimals(count: int) -> None:  # I-8.2
    rig = Rig()
    rig.apply(service(), endpoint_slice(endpoints=[f"10.180.1.{n}" for n in range(count)]))
    rig.sync()
    rules = [rule for rule in rig.rules("nat", "KUBE-SVC-67NZLRHBNDSAWJRO") if " -> " in rule]
    odds = [rule.split("--probability ")[1].split()[0] for rule in rules if "--probability" in rule]
    known = {3: "0.3333333333", 4: "0.2500000000", 6: "0.1666666667", 7: "0.1428571429", 11: "0.0909090909"}
    assert odds[0] == known[count]
    assert odds[-1] == "0.5000000000"
    assert len(odds) == count - 1
    assert "statistic" not in rules[-1]


@pytest.mark.parametrize(("affinity", "per_endpoint"), [("None", 3), ("ClientIP", 4)])
def test_rule_counts(affinity: str, per_endpoint: int) -> None:  # I-7.7
    rig = Rig()
    assert rules_total(rig.sync()) == {"filter": 4, "nat": 5}
    config = {"clientIP": {"timeoutSeconds": 10800}}
    rig.apply(
        service(sessionAffinity=affinity, sessionAffinityConfig=config),
        endpoint_slice(endpoints=["10.180.0.1", "10.180.0.2"]),
    )
    assert rules_total(rig.sync())["nat"] == 5 + 2 + per_endpoint * 2


def test_external_ip_gate() -> None:  # O-5.6, I-7.6: the EXT chain is written though nothing jumps to it
    rig = Rig(allow_service_external_ips=False)
    rig.apply(service(externalIPs=["203.0.113.9"]), endpoint_slice())
    text = document(rig.sync())
    assert "203.0.113.9" not in text
    assert ":KUBE-EXT-67NZLRHBNDSAWJRO - [0:0]" in text
    assert "-j KUBE-EXT-67NZLRHBNDSAWJRO" not in text


def test_an_address_that_is_external_ip_and_load_balancer_ip_bypasses_the_ranges() -> None:  # I-7.4: R2 comes first
    rig = Rig()
    rig.apply(
        service(externalIPs=["203.0.113.9"], ingress=["203.0.113.9"], loadBalancerSourceRanges=["198.51.100.0/24"]),
        endpoint_slice(),
    )
    rig.sync()
    targets = [rule.rsplit(" ", 1)[1] for rule in rig.rules("nat", "KUBE-SERVICES") if "203.0.113.9" in rule]
    assert targets == ["KUBE-EXT-67NZLRHBNDSAWJRO", "KUBE-FW-67NZLRHBNDSAWJRO"]


def test_node_ports_without_endpoints_are_refused_on_all_local_addresses() -> None:  # I-7.5
    rig = Rig(node_port_addresses=("192.168.0.0/24",))
    rig.apply(service(ports=[port(node_port=30080)]))
    rig.sync()
    assert rig.rules("filter", "KUBE-EXTERNAL-SERVICES") == [
        '-m comment --comment "shop/web:http has no endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j REJECT'
    ]


def test_health_check_rule_is_tcp_and_once_per_port() -> None:  # R8
    rig = Rig()
    ports = [port(53, "dns", "UDP"), port(53, "dns-tcp")]
    rig.apply(service(ports=ports, type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32100))
    rig.sync()
    assert [rule.split('" ')[1] for rule in rig.rules("filter", "KUBE-NODEPORTS")] == [
        "-m tcp -p tcp --dport 32100 -j ACCEPT"
    ] * 2


@pytest.mark.parametrize(
    ("bit", "mark"), [(0, "0x00000001"), (14, "0x00004000"), (15, "0x00008000"), (31, "0x80000000")]
)
def test_masquerade_mark(bit: int, mark: str) -> None:  # I-1, I-5
    rig = Rig(masquerade_bit=bit)
    rig.sync()
    assert rig.rules("nat", "KUBE-MARK-MASQ") == [f"-j MARK --or-mark {mark}"]
    assert rig.rules("nat", "KUBE-POSTROUTING")[:2] == [
        f"-m mark ! --mark {mark}/{mark} -j RETURN",
        f"-j MARK --xor-mark {mark}",
    ]
    assert f"-m mark --mark {mark}/{mark} -j ACCEPT" in rig.rules("filter", "KUBE-FORWARD")[-2]


def test_masquerade_without_random_ports() -> None:
    rig = Rig(make_settings(host=Host(node_ips=("192.168.0.2",), random_fully=False)))
    rig.sync()
    assert rig.rules("nat", "KUBE-POSTROUTING")[2].endswith(" -j MASQUERADE")


def test_service_ports_are_written_in_order_of_namespace_name_port_protocol() -> None:  # I-12.2: not of their text
    rig = Rig()
    for key in ("a/x", "a-b/x", "a/w"):
        rig.apply(service(key, [port(80, "b"), port(80, "a"), port(81, "a", "UDP")]))
    text = document(rig.sync())
    written = [
        (line.split('"')[1].split(" ")[0], line.split(" -p ")[1].split()[0])
        for line in text.split("\n")
        if "REJECT" in line
    ]
    order = [
        (key, name, proto)
        for key in ("a/w", "a/x", "a-b/x")
        for name, proto in (("a", "tcp"), ("a", "udp"), ("b", "tcp"))
    ]
    assert written == [(f"{key}:{name}", proto) for key, name, proto in order]
    assert ServicePortName("a", "x", "", "TCP") < ServicePortName("a-b", "x", "", "TCP")


# --------------------------------------------------------------------------------------------------- IPv6


def test_ipv6() -> None:  # I-16
    rig = Rig(family=Family.IPV6)
    rig.apply(
        service(cluster_ip="fd00:172::1", ports=[port(node_port=30080)]),
        endpoint_slice(endpoints=["fd00:180::3"], family="IPv6"),
    )
    text = document(rig.sync())
    assert "-A KUBE-FIREWALL" not in text
    assert ":KUBE-FIREWALL" not in text
    assert "127.0.0.0/8" not in text
    assert "localhost_nps_accepted_pkts" not in text
    assert f"{LAST} -m addrtype --dst-type LOCAL ! -d ::1/128 -j KUBE-NODEPORTS\n" in text
    chain = "KUBE-SEP-" + chain_hash("shop/web:httptcp[fd00:180::3]:8080")
    assert rig.rules("nat", chain) == [
        "-m comment --comment shop/web:http -s fd00:180::3 -j KUBE-MARK-MASQ",
        "-m comment --comment shop/web:http -m tcp -p tcp -j DNAT --to-destination [fd00:180::3]:8080",
    ]
    balanced_rule = f'-m comment --comment "shop/web:http -> [fd00:180::3]:8080" -j {chain}'
    assert rig.rules("nat", "KUBE-SVC-67NZLRHBNDSAWJRO")[-1] == balanced_rule  # the IPv4 hash
    assert "KUBE-FIREWALL" in rig.chains("filter")  # I-3.3: the chain and its jumps are there for both families
