"""What is due to first packets, read from objects alone: the vectors of PP-12, T-4 and I-9, in our own objects.

No rule is looked at here, and nothing that writes rules is used.
"""

from typing import Any

import pytest

from kpsim.addresses import Family, parse_ip
from kpsim.nodes import make_machine
from kpsim.verify.intent.due import Asked, Due, Fate
from kpsim.verify.intent.judging import Intent, intent_of
from kpsim.verify.intent.objects import MeantPort, meant_ports, serves_udp
from kpsim.verify.intent.settings import settings_in

V4, V6 = Family.IPV4, Family.IPV6
VIP, CLUSTER, EXTERNAL = "192.0.2.1", "172.30.0.1", "198.51.100.1"
HERE, THERE = "10.180.0.5", "10.180.1.5"
POD, NODE, CLIENT, BLOCKED = "10.180.0.9", "192.168.0.2", "203.0.113.2", "203.0.113.130"
PODS = {"clusterCIDR": "10.180.0.0/16"}


def number(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def service(**spec: Any) -> dict[str, Any]:
    """A LoadBalancer with every kind of address. Names in ``spec`` replace its fields."""
    status = spec.pop("status", {"loadBalancer": {"ingress": [{"ip": VIP}]}})
    port = {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}
    whole = {
        "type": "LoadBalancer", "clusterIP": CLUSTER, "clusterIPs": [CLUSTER], "ipFamilies": ["IPv4"],
        "externalIPs": [EXTERNAL], "ports": [port],
    }  # fmt: skip
    return {"kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": whole | spec, "status": status}


def endpoint(address: str, node: str, state: str = "R", **hints: list[str]) -> dict[str, Any]:
    """``state``: R ready, S serving while it terminates, T terminating, N not ready."""
    conditions = {
        "R": {"ready": True}, "S": {"ready": False, "serving": True, "terminating": True},
        "T": {"ready": False, "serving": False, "terminating": True}, "N": {"ready": False, "serving": True},
    }[state]  # fmt: skip
    found = {kind: [{"name": name} for name in names] for kind, names in hints.items()}
    return {"addresses": [address], "nodeName": node, "conditions": conditions} | ({"hints": found} if found else {})


def endpoints(*found: dict[str, Any]) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"}
    ports = [{"name": "http", "protocol": "TCP", "port": 8080}]
    meta = {"namespace": "shop", "name": "web-1", "labels": labels}
    return {"kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": list(found)}


BOTH = endpoints(endpoint(HERE, "node-1"), endpoint(THERE, "node-2"))


def node(zone: str = "") -> dict[str, Any]:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    addresses = [{"type": "InternalIP", "address": each} for each in (NODE, "192.168.1.2")]
    spec = {"podCIDRs": ["10.180.0.0/24"]}
    return {
        "kind": "Node",
        "metadata": {"name": "node-1", "labels": labels},
        "spec": spec,
        "status": {"addresses": addresses},
    }


def intent(*objects: dict[str, Any], configuration: dict[str, Any] = PODS, closed: tuple[str, ...] = ()) -> Intent:
    machine = make_machine([NODE, "192.168.1.2"], ["10.180.0.0/24"])
    found = [node(), *objects]
    return intent_of(found, settings_in(configuration), "node-1", V4, machine, closed=frozenset(closed))


def due(of: Intent, source: str, destination: str, dport: int = 80, interface: str | None = None) -> Due:
    own = {NODE, "192.168.1.2", "127.0.0.1"}
    by = "" if source in own else "cni0" if source.startswith("10.180.0") else "eth0"
    return of.node.due(Asked("tcp", number(source), number(destination), dport, by if interface is None else interface))


def told(found: Due) -> str:
    """``2 masq``, ``1 keep``, ``DROP`` …, as PP-12.1 writes outcomes."""
    if found.fate is not Fate.ENDPOINT:
        return {Fate.REJECT: "REJ", Fate.DROP: "DROP", Fate.ALONE: "PASS"}[found.fate]
    return f"{len(found.ends)} {'masq' if found.masquerade else 'keep'}"


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "base": PODS, "no detector": {}, "all": PODS | {"iptables": {"masqueradeAll": True}},
    "all, no detector": {"iptables": {"masqueradeAll": True}},
}  # fmt: skip
PODS_OF, LOCAL = {"externalTrafficPolicy": "Cluster"}, {"externalTrafficPolicy": "Local"}
#: source, destination, port, policies, outcome for each configuration (PP-12.1)
ROWS: list[tuple[str, str, int, dict[str, str], str]] = [
    (POD, CLUSTER, 80, {}, "2 keep/2 keep/2 masq/2 masq"),
    (NODE, CLUSTER, 80, {}, "2 masq/2 keep/2 masq/2 masq"),
    (CLIENT, CLUSTER, 80, {}, "2 masq/2 keep/2 masq/2 masq"),
    *((source, *to, PODS_OF, "2 masq/2 masq/2 masq/2 masq") for source in (POD, NODE, CLIENT)
      for to in ((NODE, 30080), (VIP, 80), (EXTERNAL, 80))),
    ("127.0.0.1", "127.0.0.1", 30080, PODS_OF, "2 masq/2 masq/2 masq/2 masq"),
    *((POD, *to, LOCAL, "2 keep/1 keep/2 keep/1 keep") for to in ((NODE, 30080), (VIP, 80), (EXTERNAL, 80))),
    *((NODE, *to, LOCAL, "2 masq/2 masq/2 masq/2 masq") for to in ((NODE, 30080), (VIP, 80))),
    ("127.0.0.1", "127.0.0.1", 30080, LOCAL, "2 masq/2 masq/2 masq/2 masq"),
    *((CLIENT, *to, LOCAL, "1 keep/1 keep/1 keep/1 keep") for to in ((NODE, 30080), (VIP, 80), (EXTERNAL, 80))),
    (POD, CLUSTER, 80, {"internalTrafficPolicy": "Local"}, "1 keep/1 keep/1 masq/1 masq"),
    (NODE, CLUSTER, 80, {"internalTrafficPolicy": "Local"}, "1 masq/1 keep/1 masq/1 masq"),
    (CLIENT, CLUSTER, 80, {"internalTrafficPolicy": "Local"}, "1 masq/1 keep/1 masq/1 masq"),
    (CLIENT, VIP, 80, {"internalTrafficPolicy": "Local"}, "2 masq/2 masq/2 masq/2 masq"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "destination", "dport", "policies", "outcomes"), ROWS)
def test_who_gets_which_endpoints_and_whose_source_is_kept(
    source: str, destination: str, dport: int, policies: dict[str, str], outcomes: str
) -> None:  # PP-12.1
    for configuration, expected in zip(CONFIGURATIONS.values(), outcomes.split("/"), strict=True):
        of = intent(service(**policies), BOTH, configuration=configuration)
        assert told(due(of, source, destination, dport)) == expected


def test_an_endpoint_that_dials_itself_is_masqueraded() -> None:  # PP-12.2
    found = due(intent(service(), BOTH), HERE, CLUSTER)
    assert not found.masquerade
    assert found.masquerades(number(HERE), (number(HERE), 8080))
    assert not found.masquerades(number(HERE), (number(THERE), 8080))


@pytest.mark.parametrize(
    ("source", "destination", "dport", "expected"),
    [
        (CLIENT, VIP, 80, "2 masq"), (BLOCKED, VIP, 80, "DROP"), (BLOCKED, NODE, 30080, "2 masq"), ("203.0.113.127", VIP, 80, "2 masq"),
        ("203.0.113.128", VIP, 80, "DROP"), ("203.0.112.255", VIP, 80, "DROP"), ("203.0.113.0", VIP, 80, "2 masq"), (POD, VIP, 80, "DROP"),
        (NODE, VIP, 80, "2 masq"), (VIP, VIP, 80, "2 masq"), (BLOCKED, EXTERNAL, 80, "2 masq"), (BLOCKED, CLUSTER, 80, "2 masq"),
    ],
)  # fmt: skip
def test_source_ranges_from_their_first_to_their_last_address(
    source: str, destination: str, dport: int, expected: str
) -> None:
    """PP-8, PP-12.4. The node's own range admits the VIP as a source."""
    ranges = {"loadBalancerSourceRanges": ["192.168.0.0/24", " 203.0.113.0/25 "]}
    assert told(due(intent(service(**ranges), BOTH), source, destination, dport)) == expected


def test_a_range_of_everybody_or_of_the_other_family_restricts_nobody() -> None:  # O-5.4
    for ranges in (["203.0.113.0/25", "0.0.0.0/0"], ["2001:db8::/32"]):
        assert told(due(intent(service(loadBalancerSourceRanges=ranges), BOTH), BLOCKED, VIP)) == "2 masq"


@pytest.mark.parametrize(
    "found", [(), (endpoint(HERE, "node-1", "N"),), (endpoint(HERE, "node-1", "T"), endpoint(THERE, "node-2", "T"))]
)
def test_without_endpoints_all_are_refused_but_a_process_that_dials_elsewhere(
    found: tuple[dict[str, Any], ...],
) -> None:
    of = intent(service(**LOCAL, loadBalancerSourceRanges=["203.0.113.0/25"]), endpoints(*found))  # PP-6, PP-8, PP-12.5
    for source in (POD, CLIENT, BLOCKED):
        for to in ((CLUSTER, 80), (VIP, 80), (EXTERNAL, 80), (NODE, 30080)):
            assert told(due(of, source, *to)) == "REJ"
    assert [told(due(of, NODE, *to)) for to in ((CLUSTER, 80), (VIP, 80), (EXTERNAL, 80), (NODE, 30080))] == [
        "REJ",
        "PASS",
        "PASS",
        "REJ",
    ]


#: local and remote endpoints by state; pod → C, outside → V under a Local policy (PP-12.6)
@pytest.mark.parametrize(
    ("local", "remote", "inside", "outside"),
    [
        ("RRST", "R", "R1 R2 R5", "R1 R2"), ("SST", "R", "R5", "S1 S2"), ("", "S", "S5", "DROP"), ("T", "T", "REJ", "REJ"),
        ("N", "R", "R5", "DROP"),
    ],
)  # fmt: skip
def test_terminating_endpoints_are_a_fallback_of_each_set(local: str, remote: str, inside: str, outside: str) -> None:
    states = {
        **{f"10.180.0.{n}": s for n, s in enumerate(local, 1)},
        **{f"10.180.0.{n}": s for n, s in enumerate(remote, 5)},
    }
    found = [endpoint(a, "node-1" if int(a[-1]) < 5 else "node-2", s) for a, s in states.items()]
    of = intent(service(**LOCAL), endpoints(*found))

    def names(wanted: Due) -> str:
        ends = sorted(f"{states[f'10.180.0.{address & 255}']}{address & 255}" for address, _ in wanted.ends)
        return " ".join(ends) or told(wanted)

    assert (names(due(of, POD, CLUSTER)), names(due(of, CLIENT, VIP))) == (inside, outside)


#: endpoints a, b, c as (node, state, zones, nodes); the own zone; CL (T-4, rows 15 to 25)
@pytest.mark.parametrize(
    ("found", "zone", "cluster"),
    [
        ("n2 R A -, n2 R B -, n2 R AB -", "A", "ac"), ("n2 R A -, n2 R - -", "A", "ab"), ("n2 R A -, n2 R B -, n2 N - -", "A", "a"),
        ("n2 R C -, n2 R B -", "A", "ab"), ("n2 S A -, n2 R B -", "A", "b"), ("n2 R A -, n2 R B -", "", "ab"),
        ("node-1 R A node-1, n2 R A n2", "A", "a"), ("n3 R A n3, n2 R B n2", "A", "a"), ("node-1 R A node-1, n2 R A -, n2 R B -", "A", "ab"),
        ("n3 R - n3, n2 R - n2", "A", "ab"), ("node-1 R - n2, n2 R - node-1", "A", "b"),
    ],
)  # fmt: skip
def test_hints_of_ready_endpoints_choose_nodes_before_zones(found: str, zone: str, cluster: str) -> None:
    ends = []
    for letter, row in zip("abc", found.split(", "), strict=False):
        where, state, zones, nodes = row.split()
        hints = {"forZones": list(zones.strip("-"))} if zones != "-" else {}
        hints |= {"forNodes": [nodes]} if nodes != "-" else {}
        ends.append(endpoint(f"10.180.1.{ord(letter)}", where, state, **hints))
    [port] = ports(node(zone), service(), endpoints(*ends))
    assert "".join(sorted(chr(address & 255) for address, _ in port.everywhere)) == cluster


def ports(*objects: dict[str, Any]) -> list[MeantPort]:
    return list(meant_ports(objects, "node-1", V4, external_ips=True))


def test_services_that_produce_nothing() -> None:  # O-4
    label = service()
    label["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": ""}
    for each in (
        service(clusterIP="None"),
        service(type="ExternalName"),
        service(ipFamilies=["IPv6"], clusterIPs=["fd00::1"]),
        label,
    ):
        assert ports(each, BOTH) == []


def test_a_proxys_address_is_no_vip_and_the_gate_closes_external_ips() -> None:  # O-5.5, O-5.6
    status = {"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "Proxy"}, {"hostname": "lb"}]}}
    [port] = ports(service(status=status), BOTH)
    assert port.vips == ()
    [port] = meant_ports([service(), BOTH], "node-1", V4, external_ips=False)
    assert port.external == ()


@pytest.mark.parametrize(
    ("addresses", "localhost", "accepted"),
    [
        ([], True, {NODE, "192.168.1.2", "127.0.0.1", "127.0.0.9"}), ([], False, {NODE, "192.168.1.2"}),
        (["192.168.0.0/24"], True, {NODE}), (["192.168.0.2/31"], True, {NODE}), (["192.168.0.0/31"], True, set()),
        (["primary"], True, {NODE}), (["127.0.0.0/8"], True, {"127.0.0.1"}), (["127.0.0.0/8"], False, set()),
        (["192.168.1.0/24", "0.0.0.0/0"], True, {NODE, "192.168.1.2", "127.0.0.1", "127.0.0.9"}), (["2001:db8::/32"], True, {NODE, "192.168.1.2", "127.0.0.1", "127.0.0.9"}),
    ],
)  # fmt: skip
def test_where_node_ports_are_accepted(addresses: list[str], localhost: bool, accepted: set[str]) -> None:  # I-9, PP-7
    configuration = PODS | {"nodePortAddresses": addresses, "iptables": {"localhostNodePorts": localhost}}
    of = intent(service(), BOTH, configuration=configuration)
    for address in (NODE, "192.168.1.2", "127.0.0.1", "127.0.0.9"):
        found = due(of, "127.0.0.1" if address.startswith("127") else POD, address, 30080)
        assert (found.fate is Fate.ENDPOINT) == (address in accepted), address


def test_the_wall_around_loopback_lets_translated_packets_through() -> None:  # PP-7.4
    of = intent(service(), BOTH)
    assert told(due(of, CLIENT, "127.0.0.1", 30080)) == "2 masq"
    assert told(due(of, CLIENT, "127.0.0.1", 22)) == "DROP"
    assert told(due(of, "127.0.0.1", "127.0.0.1", 22)) == "PASS"
    refused = intent(service(), endpoints())
    assert told(due(refused, CLIENT, "127.0.0.1", 30080)) == "DROP"
    assert told(due(refused, "127.0.0.1", "127.0.0.1", 30080)) == "REJ"
    open_ = intent(service(), BOTH, configuration=PODS | {"iptables": {"localhostNodePorts": False}})
    assert told(due(open_, CLIENT, "127.0.0.1", 22)) == "PASS"


@pytest.mark.parametrize(
    ("configuration", "interface", "expected"),
    [
        ({"detectLocalMode": "NodeCIDR"}, "cni0", "2 keep"), ({"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}}, "cni0", "2 keep"),
        ({"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"}}, "eth0", "2 masq"),
        ({"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}}, "cali7", "2 keep"),
        ({"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}}, "", "2 masq"),
        ({"clusterCIDR": "fd00::/48,10.180.0.0/28"}, "cni0", "2 keep"), ({"clusterCIDR": "10.180.0.0/29"}, "cni0", "2 masq"),
    ],
)  # fmt: skip
def test_how_a_local_pod_is_recognised(configuration: dict[str, Any], interface: str, expected: str) -> None:  # CFG-8
    assert (
        told(due(intent(service(), BOTH, configuration=configuration), POD, CLUSTER, interface=interface)) == expected
    )


def test_an_endpoint_at_a_guarded_address_is_lost_behind_the_guard() -> None:  # R4, measured
    """A process with the host's network serves at the load balancer's own address and port, which source ranges guard."""
    guarded = service(loadBalancerSourceRanges=["203.0.113.0/25"], status={"loadBalancer": {"ingress": [{"ip": NODE}]}})
    open_to_all = service(status={"loadBalancer": {"ingress": [{"ip": NODE}]}})
    there = (number(NODE), 80)
    assert intent(guarded, BOTH).node.is_guarded("tcp", there)
    assert not intent(guarded, BOTH).node.is_guarded("udp", there)
    assert not intent(guarded, BOTH).node.is_guarded("tcp", (number(NODE), 8080))
    assert not intent(guarded, endpoints()).node.is_guarded("tcp", there)
    assert not intent(open_to_all, BOTH).node.is_guarded("tcp", there)


@pytest.mark.parametrize(
    ("labels", "kind", "protocol", "does"),
    [
        ({}, "IPv4", "UDP", True), ({}, "IPv4", "TCP", False), ({}, "IPv6", "UDP", False),
        ({"service.kubernetes.io/headless": ""}, "IPv4", "UDP", False),  # O-1.2: kube-proxy is never told of it
    ],
)  # fmt: skip
def test_slices_that_start_a_clean_up(labels: dict[str, str], kind: str, protocol: str, does: bool) -> None:
    """CT-1.1."""
    slice_ = {
        "kind": "EndpointSlice", "metadata": {"namespace": "shop", "name": "web-1", "labels": labels}, "addressType": kind,
        "ports": [{"name": "p", "protocol": protocol, "port": 53}], "endpoints": [{"addresses": [HERE]}],
    }  # fmt: skip
    assert serves_udp([slice_], V4) is does
