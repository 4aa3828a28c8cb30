"""What one Service wants in the table in nftables mode: names, elements, chains, rules (NFT-2, 5 to 7), and why it is there."""

from typing import Any

import pytest
from nftables_tables import HOST, elements, nft_rig, rules, sent, table, unhashed
from proxiers import NODE, Rig, endpoint, endpoint_slice, make_settings, port, service, slice_port

from kpsim.addresses import Family
from kpsim.backends.nftables.names import endpoint_base, service_base
from kpsim.config import Host, LocalMode, Mode
from kpsim.kubeproxy.trackers import Endpoint, ServicePortName
from kpsim.ruleset import Compare, Expression, Field, Origin, Role, Statement, UpdateSet

Json = dict[str, Any]

LOCAL, REMOTE = "10.180.0.3", endpoint("10.180.1.4", "node-2")
NODE_PORT = [port(node_port=30080)]
LOAD_BALANCER: Json = {
    "type": "LoadBalancer",
    "ports": NODE_PORT,
    "externalIPs": ["192.0.2.20"],
    "ingress": ["203.0.113.20"],
}
CLIENT_IP: Json = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}
MARK = "mark set mark or 0x00004000"


def synced(*endpoints: Json | str, family: Family = Family.IPV4, config: Json | None = None, **spec: Any) -> Rig:
    """A rig with Service shop/web and these endpoints, after its first sync."""
    rig = nft_rig(family, **(config or {}))
    rig.apply(service(**spec), endpoint_slice(endpoints=endpoints, family=family.label))
    assert rig.sync().success
    return rig


def owned(rig: Rig, kind: str) -> list[str]:
    """The names of a service port's chains or sets, without the hash."""
    lines = (line.split(" ")[2] for line in table(rig) if line.startswith(f"add {kind} "))
    return unhashed(name for name in lines if "/" in name)


def web(rig: Rig, prefix: str) -> list[str]:
    """The rules of one of shop/web's chains, without hashes."""
    return unhashed(rules(rig, f"{prefix}-KHN6ECMT-"))


def of_endpoint(rig: Rig, ip: str) -> list[str]:
    (chain,) = [
        line.split(" ")[2] for line in table(rig) if line.startswith("add chain endpoint-") and f"__{ip}/" in line
    ]
    return unhashed(rules(rig, chain))


# ---------------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "base"),
    [
        (ServicePortName("ns1", "svc1", "p80", "TCP"), "ULMVA6XW-ns1/svc1/tcp/p80"),
        (ServicePortName("ns1", "svc2", "", "UDP"), "FZBRUHDI-ns1/svc2/udp/"),
        (ServicePortName("ns1", "svc1", "sig", "SCTP"), "IRZ7C4BT-ns1/svc1/sctp/sig"),
    ],
)
def test_names_of_service_ports(name: ServicePortName, base: str) -> None:  # NFT-2.3, 14
    assert service_base(name) == base


def at(address: str, ip: str, number: int) -> Endpoint:
    return Endpoint(address, ip, number, "", ready=True, serving=True, terminating=False)


def test_names_of_endpoints() -> None:  # NFT-2.3
    name = ServicePortName("ns1", "svc1", "p80", "TCP")
    assert endpoint_base(name, at("10.180.0.1:80", "10.180.0.1", 80)) == "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    name = name._replace(port="http")
    v6 = at("[fd00:10:244:1::5]:8080", "fd00:10:244:1::5", 8080)
    assert endpoint_base(name, v6) == "SKLCD6XU-ns1/svc1/tcp/http__fd00.10.244.1..5/8080"


def test_long_names_are_cut() -> None:  # NFT-2.2
    name = ServicePortName("n" * 63, "s" * 63, "p" * 63, "SCTP")
    assert len(service_base(name)) == 9 + 63 + 1 + 63 + 1 + 4 + 1 + 63
    whole = at("[fd00::1]:1", "fd00::1", 1)
    assert len(endpoint_base(name, whole)) == 205 + len("__fd00..1/1")
    exact = at("", "1" * 32, 1)  # 205 + 2 + 31 + 2
    assert not endpoint_base(name, exact._replace(ip="1" * 31)).endswith("...")
    assert len(endpoint_base(name, exact._replace(ip="1" * 31))) == 240
    cut = endpoint_base(name, exact)
    assert len(cut) == 240
    assert cut.endswith("__" + "1" * 30 + "...")


# ---------------------------------------------------------------------------------------------------- which chains and sets exist


@pytest.mark.parametrize(
    ("endpoints", "spec", "chains"),
    [
        ([LOCAL, REMOTE], {}, ["service"]),
        ([], {}, []),
        ([LOCAL], {"internalTrafficPolicy": "Local"}, ["local"]),
        ([REMOTE], {"internalTrafficPolicy": "Local"}, []),
        ([LOCAL], {"internalTrafficPolicy": "Local", **LOAD_BALANCER}, ["external", "local", "service"]),
        ([REMOTE], {**LOAD_BALANCER, "externalTrafficPolicy": "Local"}, ["external", "service"]),
        ([LOCAL], {**LOAD_BALANCER, "externalTrafficPolicy": "Local"}, ["external", "local", "service"]),
        ([LOCAL], {"externalTrafficPolicy": "Local"}, ["service"]),
        ([], {**LOAD_BALANCER, "loadBalancerSourceRanges": ["198.51.100.0/24"]}, ["firewall"]),
        ([LOCAL], {"externalIPs": ["192.0.2.20"], "loadBalancerSourceRanges": ["198.51.100.0/24"]}, ["external", "service"]),
        ([LOCAL], {**LOAD_BALANCER, "loadBalancerSourceRanges": ["0.0.0.0/0", "10.0.0.0/8"]}, ["external", "service"]),
        ([LOCAL], {**LOAD_BALANCER, "loadBalancerSourceRanges": ["fd00::/8"]}, ["external", "service"]),
    ],
)  # fmt: skip
def test_chains_of_a_service_port(endpoints: list[Any], spec: Json, chains: list[str]) -> None:  # NFT-2.4
    assert owned(synced(*endpoints, **spec), "chain") == [f"{each}-shop/web/tcp/http" for each in chains]


def test_affinity_adds_a_chain_and_a_set_for_each_endpoint_that_may_be_reached() -> None:  # NFT-2.4, 6.1
    terminating = endpoint("10.180.0.9", NODE, "serving-terminating")
    gone = endpoint("10.180.0.8", NODE, "terminating")
    rig = synced(REMOTE, terminating, gone, **LOAD_BALANCER, externalTrafficPolicy="Local", **CLIENT_IP)
    of = ["shop/web/tcp/http__10.180.0.9/8080", "shop/web/tcp/http__10.180.1.4/8080"]
    assert sorted(owned(rig, "set")) == [f"affinity-{each}" for each in of]
    assert sorted(each for each in owned(rig, "chain") if "__" in each) == [f"endpoint-{each}" for each in of]


# ----------------------------------------------------------------------------------------------------------------------- elements


def everything(rig: Rig) -> dict[str, list[str]]:
    containers = ("service-ips", "no-endpoint-services", "firewall-ips", "service-nodeports", "no-endpoint-nodeports")
    found = {name: unhashed(elements(rig, name)) for name in containers}
    return {name: each for name, each in found.items() if each}


CLUSTER, EXTERNAL, VIP = "172.30.10.1 . tcp . 80", "192.0.2.20 . tcp . 80", "203.0.113.20 . tcp . 80"
SAID = 'comment "shop/web:http"'
TO_EXTERNAL, REFUSED, DROPPED = "goto external-shop/web/tcp/http", "goto reject-chain", "drop"


@pytest.mark.parametrize(
    ("endpoints", "spec", "wanted"),
    [
        ([LOCAL], {}, {"service-ips": [f"{CLUSTER} : goto service-shop/web/tcp/http"]}),
        ([], {}, {"no-endpoint-services": [f"{CLUSTER} {SAID} : {REFUSED}"]}),
        ([LOCAL], {"internalTrafficPolicy": "Local"}, {"service-ips": [f"{CLUSTER} : goto local-shop/web/tcp/http"]}),
        ([REMOTE], {"internalTrafficPolicy": "Local"}, {"no-endpoint-services": [f"{CLUSTER} {SAID} : {DROPPED}"]}),
        (
            [LOCAL],
            LOAD_BALANCER,
            {
                "service-ips": [
                    f"{CLUSTER} : goto service-shop/web/tcp/http", f"{EXTERNAL} : {TO_EXTERNAL}", f"{VIP} : {TO_EXTERNAL}"
                ],
                "service-nodeports": [f"tcp . 30080 : {TO_EXTERNAL}"],
            },
        ),
        (
            [],
            LOAD_BALANCER,
            {
                "no-endpoint-services": [f"{each} {SAID} : {REFUSED}" for each in (CLUSTER, EXTERNAL, VIP)],
                "no-endpoint-nodeports": [f"tcp . 30080 {SAID} : {REFUSED}"],
            },
        ),
        (  # a VIP is in both maps: pods and the node are short-circuited, all others are dropped (NFT-6.5)
            [REMOTE],
            {**LOAD_BALANCER, "externalTrafficPolicy": "Local"},
            {
                "service-ips": [
                    f"{CLUSTER} : goto service-shop/web/tcp/http", f"{EXTERNAL} : {TO_EXTERNAL}", f"{VIP} : {TO_EXTERNAL}"
                ],
                "no-endpoint-services": [f"{each} {SAID} : {DROPPED}" for each in (EXTERNAL, VIP)],
                "service-nodeports": [f"tcp . 30080 : {TO_EXTERNAL}"],
                "no-endpoint-nodeports": [f"tcp . 30080 {SAID} : {DROPPED}"],
            },
        ),
        (
            [],
            {"type": "LoadBalancer", "ingress": ["203.0.113.20"], "loadBalancerSourceRanges": ["10.1.2.3/8"]},
            {
                "no-endpoint-services": [f"{each} {SAID} : {REFUSED}" for each in (CLUSTER, VIP)],
                "firewall-ips": [f"{VIP} : goto firewall-shop/web/tcp/http"],
            },
        ),
    ],
)  # fmt: skip
def test_elements_of_a_service_port(endpoints: list[Any], spec: Json, wanted: dict[str, list[str]]) -> None:  # NFT-6.5
    assert everything(synced(*endpoints, **spec)) == wanted


def test_without_the_gate_external_ips_have_no_elements_but_count_as_access() -> None:  # NFT-2.4
    rig = synced(LOCAL, externalIPs=["192.0.2.20"], config={"allow_service_external_ips": False})
    assert everything(rig) == {"service-ips": [f"{CLUSTER} : goto service-shop/web/tcp/http"]}
    assert owned(rig, "chain") == ["external-shop/web/tcp/http", "service-shop/web/tcp/http"]


def test_hairpin_elements_are_of_endpoints_on_this_node() -> None:  # NFT-6.5
    rig = synced(LOCAL, REMOTE, endpoint("10.180.0.5", None), endpoint("10.180.0.6", NODE, "unready"))
    assert elements(rig, "hairpin-connections") == ["10.180.0.3 . 10.180.0.3 . tcp . 8080"]
    nameless = nft_rig(hostname_override="")
    nameless.apply(service(), endpoint_slice(endpoints=[endpoint("10.180.0.5", None), endpoint("10.180.0.6", "")]))
    nameless.sync()
    assert elements(nameless, "hairpin-connections") == []


# -------------------------------------------------------------------------------------------------------------------------- rules


def test_traffic_to_external_addresses_under_the_cluster_policy_is_masqueraded() -> None:  # NFT-6.7
    rig = synced(LOCAL, **LOAD_BALANCER)
    assert web(rig, "external") == [f'{MARK} comment "masquerade"', "goto service-shop/web/tcp/http"]


POD = 'ip saddr 10.180.0.0/16 goto service-shop/web/tcp/http comment "short-circuit pod traffic"'
NODE_TRAFFIC = [
    f'fib saddr type local {MARK} comment "masquerade local traffic"',
    'fib saddr type local goto service-shop/web/tcp/http comment "short-circuit local traffic"',
]


def test_the_local_policy_short_circuits_pods_and_the_node() -> None:  # NFT-6.7
    spec = {**LOAD_BALANCER, "externalTrafficPolicy": "Local"}
    assert web(synced(LOCAL, **spec), "external") == [POD, *NODE_TRAFFIC, "goto local-shop/web/tcp/http"]
    assert web(synced(REMOTE, **spec), "external") == [POD, *NODE_TRAFFIC]
    assert web(synced(REMOTE, **spec, config={"cluster_cidr": ""}), "external") == NODE_TRAFFIC


@pytest.mark.parametrize(
    ("config", "is_local"),
    [
        ({}, "ip saddr{} 10.180.0.0/16"),
        ({"detect_local_mode": LocalMode.BRIDGE_INTERFACE, "bridge_interface": "cni0"}, "iifname{} cni0"),
        ({"detect_local_mode": LocalMode.INTERFACE_NAME_PREFIX, "interface_name_prefix": "cali"}, "iifname{} cali*"),
    ],
)
def test_how_local_pods_are_recognised(config: Json, is_local: str) -> None:  # NFT-1.11, 5.6
    rig = synced(LOCAL, **LOAD_BALANCER, externalTrafficPolicy="Local", config=config)
    assert web(rig, "external")[0].startswith(is_local.format("") + " goto service-")
    comment = "masquerade clusterIP traffic from outside cluster"
    assert rules(rig, "services ")[0] == f'ip daddr @cluster-ips {is_local.format(" !=")} {MARK} comment "{comment}"'


def test_without_detection_cluster_ips_are_not_masqueraded() -> None:  # NFT-5.6
    assert rules(synced(LOCAL, config={"cluster_cidr": ""}), "services ") == [
        "ip daddr . meta l4proto . th dport vmap @service-ips",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ]


@pytest.mark.parametrize("cidr", ["10.180.0.0/16", ""])
def test_masquerade_all_marks_everything_to_cluster_ips(cidr: str) -> None:  # NFT-5.6
    rig = synced(LOCAL, config={"masquerade_all": True, "cluster_cidr": cidr, "masquerade_bit": 0})
    assert rules(rig, "services ")[0] == (
        'ip daddr @cluster-ips mark set mark or 0x00000001 comment "masquerade all clusterIP traffic"'
    )
    assert rules(rig, "masquerading")[0] == (
        "mark and 0x00000001 != 0 mark set mark xor 0x00000001 masquerade fully-random"
    )


def test_source_ranges_are_compared_as_the_kernel_holds_them() -> None:  # NFT-10.4
    def compared(*ranges: str) -> Expression | Statement:
        rig = synced(type="LoadBalancer", ingress=["203.0.113.20"], loadBalancerSourceRanges=[*ranges])
        chains = rig.proxier.held.ruleset.table("kube-proxy").chains
        return next(chain.rules[0].body[0] for name, chain in chains.items() if name.startswith("firewall-K"))

    ten = 10 << 24
    assert compared("10.0.0.0/8") == Compare(Field.SADDR, ((ten, ten),), negate=True, mask=0xFF000000)
    assert compared("10.128.0.0/9", "10.0.0.0/9") == compared("10.0.0.0/8")  # adjacent
    assert compared("10.0.0.0/8", "10.1.0.0/16") == compared("10.0.0.0/8")  # overlapping
    assert compared("10.0.0.7/32") == Compare(Field.SADDR, ((ten + 7, ten + 7),), negate=True)
    assert compared("10.0.0.1/32", "10.0.0.2/32") == Compare(Field.SADDR, ((ten + 1, ten + 2),), negate=True)
    assert compared("10.0.0.4/30", "10.0.0.8/30") == Compare(Field.SADDR, ((ten + 4, ten + 11),), negate=True)
    three = ((ten + 2, ten + 4),)  # 10.0.0.2 is a multiple of three
    assert compared("10.0.0.2/31", "10.0.0.4/32") == Compare(Field.SADDR, three, negate=True)
    apart = ((ten, ten), (ten + 2, ten + 2))
    assert compared("10.0.0.2/32", "10.0.0.0/32") == Compare(Field.SADDR, apart, negate=True)


@pytest.mark.parametrize(
    ("ranges", "node_ip", "said"),
    [
        (["198.51.100.0/24", " 10.1.2.3/8 "], "192.168.0.2", "198.51.100.0/24 , 10.0.0.0/8"),
        (["198.51.100.7/32"], "192.168.0.2", "198.51.100.7/32"),
        # the node is among them, so it may also come from the VIPs themselves
        (["192.168.0.0/24", "10.0.0.0/8"], "192.168.0.2", "192.168.0.0/24 , 10.0.0.0/8 , 203.0.113.20 , 203.0.113.21"),
        (["127.0.0.0/8"], "", "127.0.0.0/8 , 203.0.113.20 , 203.0.113.21"),
    ],
)
def test_the_firewall_drops_all_but_the_source_ranges(ranges: list[str], node_ip: str, said: str) -> None:  # NFT-6.8
    rig = nft_rig(host=Host(node_ips=(node_ip,) if node_ip else ()))
    rig.apply(service(type="LoadBalancer", ingress=["203.0.113.20", "203.0.113.21"], loadBalancerSourceRanges=ranges))
    rig.sync()
    assert web(rig, "firewall") == [f"ip saddr != {{ {said} }} drop"]


def test_without_affinity_one_rule_draws_the_endpoint() -> None:  # NFT-6.9
    draw = "meta l4proto tcp dnat ip addr . port to numgen random mod {} map {{ {} }}"
    assert web(synced(LOCAL), "service") == [draw.format(1, "0 : 10.180.0.3 . 8080")]
    # in the order of the texts
    rig = synced("10.180.0.5", "10.180.0.11")
    assert web(rig, "service") == [draw.format(2, "0 : 10.180.0.11 . 8080 , 1 : 10.180.0.5 . 8080")]


def test_affinity_asks_the_sets_in_order_before_it_draws() -> None:  # NFT-6.10
    rig = synced(LOCAL, REMOTE, **CLIENT_IP)
    first, second = "shop/web/tcp/http__10.180.0.3/8080", "shop/web/tcp/http__10.180.1.4/8080"
    assert web(rig, "service") == [
        f"ip saddr @affinity-{first} goto endpoint-{first}",
        f"ip saddr @affinity-{second} goto endpoint-{second}",
        f"numgen random mod 2 vmap {{ 0 : goto endpoint-{first} , 1 : goto endpoint-{second} }}",
    ]
    assert of_endpoint(rig, "10.180.1.4") == [
        f"update @affinity-{second} {{ ip saddr }}",
        "meta l4proto tcp dnat to 10.180.1.4:8080",
    ]


def test_ipv6() -> None:  # NFT-11, 14
    spec = {
        "cluster_ip": "fd00:172:30::10",
        "ports": [port(5060, "sig", "SCTP", 30060)],
        "type": "NodePort",
        **CLIENT_IP,
    }
    rig = nft_rig(Family.IPV6, node_port_addresses=("::/0",))
    at_v6 = endpoint("fd00:180::5", NODE)
    rig.apply(
        service(**spec), endpoint_slice(endpoints=[at_v6], ports=[slice_port(5060, "sig", "SCTP")], family="IPv6")
    )
    rig.sync()
    name = "shop/web/sctp/sig__fd00.180..5/5060"
    assert of_endpoint(rig, "fd00.180..5") == [
        f"update @affinity-{name} {{ ip6 saddr }}",
        "meta l4proto sctp dnat to [fd00:180::5]:5060",
    ]
    assert elements(rig, "hairpin-connections") == ["fd00:180::5 . fd00:180::5 . sctp . 5060"]
    assert rules(rig, "services ")[2] == (
        "fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @service-nodeports"
    )
    assert rules(rig, "cluster-ips-check")[1] == (
        'ip6 daddr { fd00:172:30::/112 } drop comment "Drop traffic to unallocated ClusterIPs"'
    )


def test_the_order_of_one_port_in_a_transaction() -> None:  # NFT-8.9
    rig = nft_rig()
    rig.sync()
    spec = {**LOAD_BALANCER, "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"], **CLIENT_IP}
    rig.apply(service(**spec), endpoint_slice(endpoints=[REMOTE]))
    kinds = [
        " ".join([*line.split(" ")[:2], line.split(" ")[2].split("-shop")[0]]) for line in unhashed(sent(rig.sync()))
    ]
    assert kinds == [
        *("add chain endpoint", "flush chain endpoint"),
        *("add chain service", "flush chain service", "add chain external", "flush chain external"),
        *("add element cluster-ips", "add element service-ips"),
        *("add element service-ips", "add element no-endpoint-services"),
        *("add chain firewall", "flush chain firewall"),
        *("add element service-ips", "add element firewall-ips", "add element no-endpoint-services"),
        *("add element service-nodeports", "add element no-endpoint-nodeports"),
        *["add rule external"] * 3,
        "add rule firewall",
        "add set affinity",
        *["add rule service"] * 2,
        *["add rule endpoint"] * 2,
    ]


# ------------------------------------------------------------------------------------------------------- which addresses take node ports


@pytest.mark.parametrize(
    ("node_ips", "v4", "v6"),
    [
        (("192.168.0.2", "2001:db8::2"), ["192.168.0.2"], ["2001:db8::2"]),
        (("192.168.0.2",), ["192.168.0.2"], None),  # no node address of that family: every address (NFT-1.9)
        (("2001:db8::2",), None, ["2001:db8::2"]),
        ((), None, None),
    ],
)
def test_by_default_only_the_node_ips_take_node_ports(
    node_ips: tuple[str, ...], v4: list[str] | None, v6: list[str] | None
) -> None:  # NFT-1.8
    found = []
    for family in Family:
        rig = nft_rig(family, Host(node_ips=node_ips))
        rig.sync()
        has_set = any(line.startswith("add set nodeport-ips") for line in table(rig))
        found.append(elements(rig, "nodeport-ips") if has_set else None)
    assert found == [v4, v6]


def test_other_modes_keep_their_default() -> None:
    assert make_settings(host=HOST, mode=Mode.IPTABLES).node_ports.match_all
    assert not make_settings(host=HOST, mode=Mode.NFTABLES).node_ports.match_all
    assert make_settings(host=HOST, mode=Mode.NFTABLES, node_port_addresses=("0.0.0.0/0",)).node_ports.match_all


# ------------------------------------------------------------------------------------------------------------------------- origins


def origins(rig: Rig, container: str) -> list[Origin]:
    found = rig.proxier.held.ruleset.table("kube-proxy").sets[container]
    return [each.origin for each in found.elements.values()]


def chain_origins(rig: Rig, start: str) -> list[Origin]:
    chains = rig.proxier.held.ruleset.table("kube-proxy").chains
    (name,) = [each for each in chains if each.startswith(start)]
    return [rule.origin for rule in chains[name].rules]


def of_web(role: Role, address: str = "") -> Origin:
    return Origin(role, "shop/web:http", "TCP", address)


def test_elements_say_why_they_are_there() -> None:
    rig = synced(REMOTE, LOCAL, **LOAD_BALANCER, loadBalancerSourceRanges=["10.0.0.0/8"])
    assert origins(rig, "service-ips") == [
        of_web(each) for each in (Role.CLUSTER_IP, Role.EXTERNAL_IP, Role.LOAD_BALANCER)
    ]
    assert origins(rig, "service-nodeports") == [of_web(Role.NODE_PORT)]
    assert origins(rig, "firewall-ips") == [of_web(Role.SOURCE_RANGE)]
    assert origins(rig, "hairpin-connections") == [Origin(Role.HAIRPIN)]
    assert origins(rig, "cluster-ips") == [Origin(Role.CLUSTER_IP)]
    assert chain_origins(rig, "firewall-KHN6ECMT") == [of_web(Role.SOURCE_RANGE_DROP)]
    assert chain_origins(rig, "external-") == [of_web(Role.MASQUERADE_EXTERNAL), of_web(Role.EXTERNAL_POLICY)]


def test_refusals_say_why() -> None:
    rig = synced(**LOAD_BALANCER)
    assert origins(rig, "no-endpoint-services") == [of_web(Role.NO_ENDPOINTS)] * 3
    rig = synced(REMOTE, **LOAD_BALANCER, externalTrafficPolicy="Local")
    assert origins(rig, "no-endpoint-services") == [of_web(Role.NO_LOCAL_ENDPOINTS)] * 2
    assert origins(rig, "no-endpoint-nodeports") == [of_web(Role.NO_LOCAL_ENDPOINTS)]


def test_draws_are_keyed_by_the_service_port() -> None:
    first, second = "10.180.0.3:8080", "10.180.1.4:8080"
    assert chain_origins(synced(LOCAL, REMOTE), "service-KHN6ECMT") == [of_web(Role.BALANCE)]
    rig = synced(LOCAL, REMOTE, **CLIENT_IP)
    assert chain_origins(rig, "service-KHN6ECMT") == [
        of_web(Role.AFFINITY, first), of_web(Role.AFFINITY, second), of_web(Role.BALANCE)
    ]  # fmt: skip


def test_endpoints_are_found_by_their_origin() -> None:
    found = synced(LOCAL, REMOTE, **LOAD_BALANCER).proxier.held
    drawn = of_web(Role.ENDPOINT, "10.180.1.4:8080")
    assert [rule.origin.role for rule in found.rules_of(drawn)] == [Role.BALANCE]
    assert found.has(drawn)
    assert not found.has(of_web(Role.ENDPOINT, "10.180.1.5:8080"))
    assert found.has(of_web(Role.LOAD_BALANCER))
    assert found.rules_of(of_web(Role.LOAD_BALANCER)) == ()
    assert not found.has(Role.NO_LOCAL_ENDPOINTS)
    found = synced(LOCAL, REMOTE, **CLIENT_IP).proxier.held
    assert [type(rule.body[0]) for rule in found.rules_of(drawn)] == [UpdateSet, Compare]


def test_fixed_rules_say_why() -> None:
    rig = synced()

    def roles(chain: str) -> list[Role]:
        return [rule.origin.role for rule in rig.proxier.held.ruleset.chain("kube-proxy", chain).rules]

    assert roles("cluster-ips-check") == [Role.UNDEFINED_PORT, Role.UNALLOCATED_CLUSTER_IP]
    assert roles("masquerading") == [Role.POSTROUTING, Role.HAIRPIN]
    assert roles("services") == [Role.MASQUERADE_CLUSTER_IP, Role.SERVICES, Role.NODE_PORTS]
    assert roles("reject-chain") == roles("service-endpoints-check") == [Role.NO_ENDPOINTS]
    assert roles("filter-forward") == [Role.JUMP] * 2
