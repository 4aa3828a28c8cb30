"""The two complete examples of the specification, IPVS-18 and IPVS-19: what kube-proxy makes of them, line by line.

Every expectation is read from the document itself, from its code blocks.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from proxiers import Rig, endpoint, endpoint_slice, make_settings, port, service, slice_port

from kpsim.addresses import Family
from kpsim.config import Host, HostInterface, LocalMode, Mode
from kpsim.dialects import dialect_reading, read_ipsets, read_servers
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import RealServer, VirtualServerKey

DOCUMENT = Path(__file__).parent.parent / "docs" / "specification" / "05-ipvs.md"
NAMES = {"IPv4": "KUBE-LOOP-BACK", "IPv6": "KUBE-6-LOOP-BACK"}


@cache
def blocks(section: str) -> list[str]:
    """The code blocks of a section."""
    text = DOCUMENT.read_text().partition(f'<a id="ipvs-{section}"></a>')[2].partition("\n## ")[0]
    return [block.strip("\n") for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)]


def shown(rig: Rig) -> Any:
    return rig.proxier.backend.describe(rig.proxier.no_sync().transaction, rig.proxier.machine)()["ipvs"]


def servers_text(rig: Rig) -> str:
    """The virtual servers as the specification lists them."""
    lines = []
    for each in shown(rig)["virtualServers"]:
        host = f"[{each['address']}]" if ":" in each["address"] else each["address"]
        lines.append(
            f"{host}:{each['port']}/{each['protocol']} {each['scheduler']} flags={each['flags']:#x} timeout={each['timeout']}"
        )
        for server in each["realServers"]:
            assert server["weight"] == 1
            lines.append(
                "   -> "
                + (f"[{server['address']}]" if ":" in server["address"] else server["address"])
                + f":{server['port']}"
            )
    return "\n".join(lines)


def ipsets_text(rig: Rig) -> set[str]:
    return {
        f"{each['name']} ({each['type']}): {' '.join(sorted(each['entries'])) or '-'}" for each in shown(rig)["ipsets"]
    }


def ipset_lines(block: str) -> set[str]:
    """The lines of a list of ipsets, the entries of each sorted as texts."""
    found = set()
    for line in block.split("\n"):
        head, _, entries = line.partition(": ")
        found.add(f"{head}: {' '.join(sorted(entries.split(' ')))}")
    return found


def document_of(rig: Rig) -> str:
    (render,) = rig.sync().transaction.documents
    return render().strip("\n")


# --- IPVS-18 ----------------------------------------------------------------------------------------------------------


def shop(**config: Any) -> Rig:
    interfaces = (HostInterface("lo", ("127.0.0.1/8",)), HostInterface("eth0", ("192.168.0.2/24", "192.168.1.2/24")))
    host = Host(("192.168.0.2",), interfaces, random_fully=config.pop("random_fully", True))
    fields: dict[str, Any] = {"cluster_cidr": "10.244.0.0/16", "node_port_addresses": ("192.168.0.2/32",)} | config
    rig = Rig(make_settings(host=host, mode=Mode.IPVS, **fields))
    http, https = port(80, "http"), port(443, "https", node_port=30443)
    rig.apply(
        service("shop/web", [http], cluster_ip="10.96.0.10"),
        endpoint_slice("shop/web", ["10.244.1.5", endpoint("10.244.2.7", "node2")], [slice_port(8080, "http")]),
        service(
            "shop/api",
            [https],
            cluster_ip="10.96.0.20",
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            externalIPs=["192.0.2.20"],
            ingress=["203.0.113.20"],
            loadBalancerSourceRanges=["198.51.100.0/24", "192.168.0.0/16"],
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}},
            healthCheckNodePort=32000,
        ),
        endpoint_slice("shop/api", ["10.244.1.6", endpoint("10.244.2.8", "node2")], [slice_port(8443, "https")]),
        service("shop/dns", [port(53, "dns", "UDP", 30053)], cluster_ip="10.96.0.30", type="NodePort"),
        service("shop/agent", [port(9100, "")], cluster_ip="10.96.0.40", internalTrafficPolicy="Local"),
        endpoint_slice("shop/agent", [endpoint("10.244.2.9", "node2")], [slice_port(9100, "")]),
        service(
            "shop/edge",
            [port(8080, "p", node_port=30080)],
            cluster_ip="10.96.0.50",
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            ingress=["203.0.113.50"],
            loadBalancerSourceRanges=["198.51.100.0/24"],
            healthCheckNodePort=32001,
        ),
        endpoint_slice("shop/edge", [endpoint("10.244.2.10", "node2")], [slice_port(8080, "p")]),
        service(
            "shop/ext",
            [port(5060, "s", "SCTP", 30060)],
            cluster_ip="10.96.0.60",
            type="NodePort",
            externalIPs=["192.0.2.60", "192.168.1.2"],
        ),
        endpoint_slice("shop/ext", ["10.244.1.12"], [slice_port(5060, "s", "SCTP")]),
    )
    return rig


def test_example_1_in_full() -> None:
    rig = shop()
    rules, jumps, servers, ipsets = blocks("18")
    assert document_of(rig) == rules
    assert servers_text(rig) == servers
    assert ipsets_text(rig) == ipset_lines(ipsets)
    saved = shown(rig)["iptables"]["save"]
    held = [line for line in saved.split("\n") if line.startswith(("-A INPUT", "-A FORWARD", "-A OUTPUT", "-A P"))]
    assert sorted(held) == sorted(line.partition(": ")[2] for line in jumps.split("\n"))
    for chain in ("INPUT", "FORWARD"):  # in this order on a clean node (IPVS-8.3)
        wanted = [line.partition(": ")[2] for line in jumps.split("\n") if f"-A {chain} " in line]
        assert [line for line in held if f"-A {chain} " in line] == wanted
    assert shown(rig)["boundAddresses"] == [
        "10.96.0.10", "10.96.0.20", "10.96.0.30", "10.96.0.40", "10.96.0.50", "10.96.0.60", "192.0.2.20", "192.0.2.60",
        "203.0.113.20", "203.0.113.50",
    ]  # fmt: skip


def test_example_1_without_detection_and_with_all_addresses() -> None:  # IPVS-18.1
    rig = shop(cluster_cidr="", node_port_addresses=(), random_fully=False)
    rules, _, servers, ipsets = blocks("18")
    rules = rules.replace(
        "KUBE-CLUSTER-IP dst,dst ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ", "KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ"
    )
    assert document_of(rig) == rules.replace(" --random-fully", "")
    more = [block for block in re.split(r"\n(?=\S)", servers) if block.startswith("192.168.0.2:")]
    moved = {block.replace("192.168.0.2:", "192.168.1.2:") for block in more}
    assert set(re.split(r"\n(?=\S)", servers_text(rig))) == {*re.split(r"\n(?=\S)", servers), *moved}
    wanted = ipset_lines(ipsets.replace("192.168.0.2,sctp:30060", "192.168.0.2,sctp:30060 192.168.1.2,sctp:30060"))
    assert ipsets_text(rig) == wanted


# --- IPVS-19 ----------------------------------------------------------------------------------------------------------

E5, E7 = "fd00:10:244:1::5", "fd00:10:244:2::7"
VS80 = "[fd00:10:96::10]:80/TCP"
SERVICE = service(
    "ns1/svc1",
    [port(80, "http", node_port=30080), port(53, "dns", "UDP")],
    cluster_ip="fd00:10:96::10",
    type="NodePort",
    externalTrafficPolicy="Local",
    ipFamilies=["IPv6"],
    clusterIPs=["fd00:10:96::10"],
)


def slice_of(*ips: str, version: int) -> Any:
    nodes = {E5: "node-1", E7: "node2"}
    ports = [slice_port(8080, "http"), slice_port(53, "dns", "UDP")]
    found = [endpoint(ip, nodes[ip]) for ip in ips]
    return endpoint_slice("ns1/svc1", found, ports, family="IPv6", version=version)


def six() -> Rig:
    interfaces = (HostInterface("lo", ("::1/128",)), HostInterface("eth0", ("2001:db8::1/64", "fe80::1/64")))
    settings = make_settings(
        Family.IPV6,
        Host(("2001:db8::1",), interfaces),
        mode=Mode.IPVS,
        detect_local_mode=LocalMode.INTERFACE_NAME_PREFIX,
        interface_name_prefix="cali",
    )
    rig = Rig(settings)
    rig.apply(SERVICE, slice_of(E5, E7, version=1))
    return rig


def test_example_2_in_full() -> None:
    rig = six()
    rules, servers, ipsets = blocks("19")[:3]
    assert document_of(rig) == rules
    assert servers_text(rig) == servers
    assert ipsets_text(rig) == ipset_lines(ipsets)
    assert shown(rig)["boundAddresses"] == ["fd00:10:96::10"]


def real_servers(rig: Rig) -> dict[str, int]:
    """The real servers by ``virtual server → address``, with their weights."""
    found = {}
    for each in shown(rig)["virtualServers"]:
        name = f"[{each['address']}]:{each['port']}/{each['protocol']}"
        found |= {f"{name} → {server['address']}": server["weight"] for server in each["realServers"]}
    return found


def counted(**counts: int) -> Any:
    """Connections of VS80 to E7."""

    def count(key: VirtualServerKey, server: RealServer) -> Counters:
        is_e7 = server.address & 0xFFFF == 7 and (key.port, key.protocol) == (80, "tcp")
        return Counters(**counts) if is_e7 else Counters()

    return count


def test_the_steps_of_example_2() -> None:  # IPVS-19.1
    rig = six()
    rig.sync()
    vs53, vsn = "[fd00:10:96::10]:53/UDP", "[2001:db8::1]:30080/TCP"
    drained = f"{VS80}/[{E7}]:8080"
    with_e5 = {f"{VS80} → {E5}": 1, f"{vs53} → {E5}": 1, f"{vsn} → {E5}": 1}

    rig.proxier.use_ipvs_connections(counted(active=2, inactive=3))  # step 2
    rig.apply(slice_of(E5, version=2))
    rig.sync()
    assert real_servers(rig) == with_e5 | {f"{VS80} → {E7}": 0}
    assert shown(rig)["gracefulTerminating"] == [drained]

    rig.proxier.tick(rig.now_ns)  # step 3
    assert shown(rig)["gracefulTerminating"] == [drained]

    rig.apply(slice_of(E5, E7, version=3))  # step 4
    rig.sync()
    assert real_servers(rig) == with_e5 | {f"{VS80} → {E7}": 1, f"{vs53} → {E7}": 1}
    assert shown(rig)["gracefulTerminating"] == []

    rig.proxier.use_ipvs_connections(counted(inactive=1))  # step 5: an inactive connection counts
    rig.apply(slice_of(E5, version=4))
    rig.sync()
    assert real_servers(rig)[f"{VS80} → {E7}"] == 0
    assert f"{vs53} → {E7}" not in real_servers(rig)

    rig.proxier.use_ipvs_connections(counted())  # step 6
    rig.proxier.tick(rig.now_ns)
    assert real_servers(rig) == with_e5
    assert shown(rig)["gracefulTerminating"] == []

    rules = document_of(rig)
    rig.delete(slice_of(E5, version=4))  # step 7: the rule of KUBE-LOOP-BACK goes with its entries
    loop_back = next(line for line in rules.split("\n") if NAMES["IPv6"] in line)
    assert document_of(rig) == rules.replace(f"{loop_back}\n", "")
    assert servers_text(rig).split("\n") == [f"{name} rr flags=0x0 timeout=0" for name in (vsn, vs53, VS80)]

    rig.delete(SERVICE)  # step 8
    assert document_of(rig) == blocks("19")[3]
    assert (shown(rig)["virtualServers"], shown(rig)["boundAddresses"]) == ([], [])
    assert all(each["entries"] == [] for each in shown(rig)["ipsets"])


@pytest.mark.parametrize("section", ["18", "19"])
def test_the_document_has_the_blocks_that_are_compared(section: str) -> None:
    assert len(blocks(section)) == 4


# --- what is saved ----------------------------------------------------------------------------------------------------


def test_what_is_saved_says_what_the_kernel_holds() -> None:
    """Each part, under the command that prints it, is read back as what the kernel holds."""
    rig = shop()
    held = rig.sync().held
    parts = dict(re.findall(r"# (\S[^\n]*)\n(.*?)(?=# |\Z)", rig.proxier.backend.save(held), re.DOTALL))
    assert list(parts) == ["ipset save", "iptables-save", "ipvsadm -S -n", "ip address show kube-ipvs0"]
    ipsets = read_ipsets(parts["ipset save"])
    assert ipsets == held.ipsets
    (ruleset,) = dialect_reading(parts["iptables-save"]).parse(parts["iptables-save"], Family.IPV4, ipsets=ipsets)
    assert ruleset == held.ruleset
    assert read_servers(parts["ipvsadm -S -n"]) == {Family.IPV4: held.virtual_servers}
    shown_addresses = [line.split(" ")[0] for line in parts["ip address show kube-ipvs0"].splitlines()]
    assert shown_addresses == [f"{each}/32" for each in shown(rig)["boundAddresses"]]


# --- the rules that the examples do not have ----------------------------------------------------------------------------


def rules_with(word: str, rig: Rig) -> list[str]:
    return [line for line in document_of(rig).split("\n") if word in line]


def test_masquerade_all_marks_every_packet_to_a_cluster_ip() -> None:  # IPVS-8.4
    rig = shop(masquerade_all=True)
    (rule,) = rules_with("cluster ip + port for masquerade", rig)
    assert rule.endswith("-m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ")


def test_local_node_ports_of_other_protocols_are_not_masqueraded() -> None:  # IPVS-8.4
    rig = shop()
    ports = [port(53, "d", "UDP", 30153), port(5060, "s", "SCTP", 30160)]
    rig.apply(service("shop/local", ports, cluster_ip="10.96.0.70", type="NodePort", externalTrafficPolicy="Local"))
    comment = "with externalTrafficPolicy=local"
    assert rules_with("KUBE-NODE-PORT-LOCAL-", rig) == [
        f'-A KUBE-NODE-PORT -p {protocol} -m comment --comment "Kubernetes nodeport {protocol.upper()} port {comment}{more}" '
        f"-m set --match-set KUBE-NODE-PORT-LOCAL-{name} {directions} -j RETURN"
        for protocol, more, name, directions in (
            ("tcp", "", "TCP", "dst"),
            ("udp", "", "UDP", "dst"),
            ("sctp", " with type 'hash ip:port'", "SCTP-HASH", "dst,dst"),
        )
    ]


def test_without_cluster_external_ips_the_local_ones_have_their_rules() -> None:  # IPVS-8.4
    rig = shop()
    rig.delete(*(each for each in rig.cluster.objects.values() if each.key.name.startswith("ext")))
    assert [line.split("-m ", 3)[3] for line in rules_with("KUBE-EXTERNAL-IP-LOCAL dst,dst -m", rig)] == [
        "physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT",
        "addrtype --dst-type LOCAL -j ACCEPT",
    ]
