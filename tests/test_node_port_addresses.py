"""Which addresses take node ports: nodePortAddresses, ``primary``, loopback (I-9)."""

from typing import Any

import pytest
from proxiers import (
    Rig,
    make_settings,
)
from shop import cluster_text

import kpsim
from kpsim.addresses import Family, format_ip, parse_network
from kpsim.config import Host, HostInterface, NodePortAddresses

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("cidrs", "contains"),
    [
        ((), True),  # none of the family: the zero CIDR
        (("0.0.0.0/0",), True),
        (("127.0.0.1/32",), True),
        (("127.1.0.0/16",), True),
        (("126.0.0.0/7",), True),
        (("10.0.0.0/8",), False),
        (("10.0.0.0/8", "0.0.0.0/0", "127.0.0.1/32"), True),
    ],
)
def test_addresses_that_contain_loopback(cidrs: tuple[str, ...], contains: bool) -> None:  # I-9.1
    settings = make_settings(node_port_addresses=cidrs)
    assert settings.node_ports.contains_loopback is contains
    assert settings.localhost_node_ports is contains


def test_other_family_alone_restricts_nothing() -> None:
    assert make_settings(node_port_addresses=("fd00::/64",)).node_ports.match_all
    assert make_settings(Family.IPV6, node_port_addresses=("192.168.0.0/24",)).node_ports.match_all


def test_ipv6_never_contains_the_ipv4_loopback() -> None:
    networks = tuple(filter(None, map(parse_network, ("::1/128", "::/0"))))
    assert not NodePortAddresses(networks).contains_loopback


@pytest.mark.parametrize(
    ("host", "config", "v4", "v6"),
    [
        (Host(node_ips=("192.168.0.2", "2001:db8::2")), {}, "192.168.0.2/32", "2001:db8::2/128"),
        (Host(node_ips=("192.168.0.2",)), {}, "192.168.0.2/32", "::/0"),  # the other family has loopback only
        (Host(), {}, "0.0.0.0/0", "::/0"),
        (Host(node_ips=("192.168.0.2",)), {"bind_address": "192.168.7.7"}, "192.168.7.7/32", "::/0"),
        (Host(node_ips=("192.168.0.2",)), {"bind_address": "127.0.0.5"}, "0.0.0.0/0", "::/0"),
    ],
)
def test_primary(host: Host, config: Json, v4: str, v6: str) -> None:
    found = [make_settings(f, host, node_port_addresses=("primary",), **config).node_ports.networks for f in Family]
    texts = [f"{format_ip(n.family, n.base)}/{n.prefix}" for networks in found for n in networks]
    assert texts == [v4, v6]


@pytest.mark.parametrize(
    ("family", "config", "dispatched"),
    [
        (Family.IPV4, {"node_port_addresses": ("127.0.0.0/8", "192.168.0.0/24")}, ["127.0.0.1", "192.168.0.2"]),
        (
            Family.IPV4,
            {"node_port_addresses": ("127.0.0.0/8", "192.168.0.0/24"), "localhost_node_ports": False},
            ["192.168.0.2"],
        ),
        (Family.IPV4, {"node_port_addresses": ("10.99.0.0/16",)}, []),
        (Family.IPV6, {"node_port_addresses": ("::1/128", "2001:db8::/64")}, ["2001:db8::2"]),
        (Family.IPV6, {"node_port_addresses": ("fe80::/10",)}, ["fe80::1"]),
    ],
)
def test_node_port_dispatch_by_address(family: Family, config: Json, dispatched: list[str]) -> None:  # I-9.3
    interfaces = (
        HostInterface("lo", ("127.0.0.1/8", "::1/128")),
        HostInterface("eth0", ("192.168.0.2/24", "2001:db8::2/64", "fe80::1/64", "192.168.0.2/32")),
    )
    rig = Rig(make_settings(family, Host(node_ips=("192.168.0.2",), interfaces=interfaces), **config))
    rig.sync()
    found = [rule.split("-d ")[1].split()[0] for rule in rig.rules("nat", "KUBE-SERVICES")]
    assert found == dispatched


def test_addresses_are_read_again_at_every_sync() -> None:
    rig = Rig(node_port_addresses=("192.168.0.0/16",))
    rig.sync()
    rig.proxier.use_interfaces([HostInterface("eth9", ("192.168.94.7/24",))])
    rig.sync()
    assert [rule.split("-d ")[1].split()[0] for rule in rig.rules("nat", "KUBE-SERVICES")] == ["192.168.94.7"]


ANSWERED, REFUSED = "the client gets: a SYN-ACK", "the client gets: connection refused"


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@pytest.mark.parametrize(
    ("cidrs", "said"),
    [("10.180.0.0/16", ANSWERED), ("192.168.0.0/24", REFUSED), ("0.0.0.0/0", ANSWERED), ("fd00::/16", ANSWERED)],
)
def test_the_bridge_of_the_pods_is_an_interface_like_others(mode: str, cidrs: str, said: str) -> None:
    """A pod dials the bridge's address: I-9.3, IPVS-4.2. A CIDR of the other family alone restricts nothing."""
    text = cluster_text().replace("mode: iptables", f'mode: {mode}\nnodePortAddresses: ["{cidrs}"]')
    assert said in str(kpsim.load(text=text).trace("node-1", dst="10.180.0.1:30080", sender="pod"))


@pytest.mark.parametrize("name", ["node-1", "host-of-another-name"])
def test_a_virtual_server_for_each_address_of_the_machine(name: str) -> None:  # IPVS-4.2
    text = cluster_text().replace("mode: iptables", f"mode: ipvs\nhostnameOverride: {name}")
    held = kpsim.load(text=text).told("node-1", Family.IPV4)
    at = {format_ip(Family.IPV4, key.address) for key in held.virtual_servers if key.port == 30080}
    assert at == {"192.168.0.1", "10.180.0.1"}
