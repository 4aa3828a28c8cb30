"""Every outcome of a packet that draws an endpoint: following one endpoint of each kind gives what following each of them gives."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
from mixed_clusters import NODES, mixed
from nft_tables import base, named_map, nft_table
from packets import dnat, ip, net, node, packet, rule, service_rules
from rule_parts import from_net, of_protocol

from kpsim.addresses import Family
from kpsim.config import Mode
from kpsim.dialects.iptables import parse
from kpsim.explore import load
from kpsim.explore.cluster import Cluster
from kpsim.netfilter import Netns, Walk, expand, walk
from kpsim.nodes import Link, make_machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import MOST_WAYS, SeededChooser
from kpsim.ruleset import ACCEPT, DROP, Chain, Dispatch, Field, Hook, Jump, Rule, Ruleset, SetReference
from kpsim.ruleset.joining import joined
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick, several

SEEDS = range(int(os.environ.get("KPSIM_KINDS", "6")))

#: what administrators and network plugins write behind kube-proxy's translation; {a} is an endpoint, {n} a network of some
FILTERS = (
    "-d {a} -j DROP", "-d {a} -j REJECT", "! -d {n} -j ACCEPT", "-d {n} -j ACCEPT", "-d {n} -p tcp -m tcp --dport 8081 -j DROP",
    "-m mark --mark 0x4000/0x4000 -d {a} -j DROP", "-d {a} -j SPECIAL", "-d {n} -g SPECIAL", "-d {n} -m limit --limit 5/sec -j ACCEPT",
    "-d {n} -m statistic --mode random --probability 0.5 -j DROP", "-d {n} -m recent --name seen --set",
    "-p tcp -m tcp --dport 8080:8090 -j ACCEPT", "-m conntrack --ctorigdst 172.30.0.1 -j ACCEPT", "-s {a} -j DROP",
    "-m conntrack --ctstate DNAT -d {n} -j LOG", "-m addrtype --dst-type LOCAL -j ACCEPT", "-d {n} -m time --timestart 08:00:00 -j ACCEPT",
)  # fmt: skip
SOURCES = (
    "-d {a} -j MASQUERADE", "-d {n} -j MASQUERADE", "-d {n} -j SNAT --to-source 192.168.0.77", "-d {a} -j ACCEPT",
    "-s {n} ! -d {n} -j MASQUERADE", "-d {n} -p tcp -j SNAT --to-source 192.168.0.70-192.168.0.79",
)  # fmt: skip
MARKS = (
    "-d {a} -j MARK --set-xmark 0x4000/0x4000",
    "-d {n} -j TTL --ttl-dec 60",
    "-d {n} -j CONNMARK --set-xmark 0x1/0x1",
)


def beside(choices: Choices, addresses: list[str]) -> str:
    """Rules of somebody else."""

    def lines(chains: tuple[str, ...], forms: tuple[str, ...]) -> list[str]:
        return [
            f"-A {pick(choices, chains)} " + form.format(a=(a := pick(choices, addresses)), n=f"{a}/{20 + choices.below(12)}")
            for form in several(choices, forms, 2)
        ]  # fmt: skip

    return "\n".join([
        "*mangle", ":POSTROUTING ACCEPT [0:0]", *lines(("POSTROUTING",), MARKS), "COMMIT",
        "*nat", ":POSTROUTING ACCEPT [0:0]", *lines(("POSTROUTING",), SOURCES), "COMMIT",
        "*filter", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":SPECIAL - [0:0]", "-A SPECIAL -m mark --mark 0x1 -j DROP",
        *lines(("FORWARD", "OUTPUT"), FILTERS), "COMMIT", "",
    ])  # fmt: skip


@contextmanager
def counting() -> Iterator[list[Walk]]:
    """The walks that were composed meanwhile."""
    composed: list[Walk] = []
    towards = Walk.towards

    def noted(self: Walk, *given: object) -> Walk:
        composed.append(made := towards(self, *given))  # type: ignore[arg-type]
        return made

    with patch.object(Walk, "towards", noted):
        yield composed


def same(netns: Netns, sent: Packet, *, local: bool, as_written: bool) -> None:
    """Compare the outcomes with those of following each endpoint."""
    found = expand(netns, sent, now_ns=0, local=local, as_written=as_written)
    merged = expand(netns, sent, now_ns=0, local=local, as_written=as_written, limit=MOST_WAYS)
    assert found == merged
    assert repr(found) == repr(merged)
    apart = expand(netns, sent, now_ns=0, local=local, as_written=as_written, merge=False)
    if len(apart) == len(found):
        assert found == apart


def clients(family: Family, at: int, endpoint: str) -> list[tuple[int, bool]]:
    """Sources, and whether a process of the node sends, for which the kernel then chooses."""
    own, outside = (
        (f"10.180.{at}.250", "203.0.113.7") if family is Family.IPV4 else (f"fd00:180:0:{at}::ff", "2001:db8::7")
    )
    return [(ip(own), False), (ip(outside), False), (ip(endpoint), False), (0, True)]


def told(cluster: Cluster, choices: Choices, name: str, family: Family, endpoints: list[str]) -> Netns:
    """A node with kube-proxy's rules, and mostly some beside."""
    netns = cluster.site.netns(name, family).fork()
    if family is Family.IPV4 and chance(choices, 75):
        netns.load_rules(
            joined(netns.programmed[family].ruleset, parse(beside(choices, endpoints), family, unknown="keep"))
        )
    netns.sysctls = replace(netns.sysctls, rp_filter=pick(choices, (0, 0, 1, 2)))
    return netns


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", Mode)
def test_clusters_with_rules_beside(mode: Mode, seed: int) -> None:
    choices = SeededChoices(seed, "kinds", str(mode))
    cluster = load(text=mixed(seed, 5, dual=seed % 3 == 0, endpoints=13), mode=mode)
    for family in cluster.families:
        slices = [each for each in cluster.state.endpoint_slices if each.address_type == family.label]
        endpoints = sorted({address for each in slices for end in each.endpoints for address in end.addresses})
        if not endpoints:
            continue
        four = family is Family.IPV4
        for at, name in enumerate(NODES, 1):
            netns = told(cluster, choices, name, family, endpoints)
            for number in range(5):
                at_port = 80 + choices.below(2)
                dialled = [
                    (f"172.30.0.{number + 1}" if four else f"fd00:30::{number + 1}", at_port),
                    (f"192.168.0.{at}" if four else f"fd00:168::{at}", 30000 + 10 * number),
                    (f"198.51.100.{number + 1}", at_port),
                ]
                for address, dport in dialled if four else dialled[:2]:
                    source, local = pick(choices, clients(family, at, pick(choices, endpoints)))
                    sent = Packet(family, "tcp", source, ip(address), 40000, dport)
                    same(netns, sent, local=local, as_written=chance(choices, 50))


ENDPOINTS = tuple(f"10.180.{number % 2}.{number + 10}" for number in range(20))
SENT = packet("10.180.0.200", "172.30.0.10")


def walks_of(netns: Netns, sent: Packet, *, local: bool = False) -> int:
    """How many of the outcomes were composed. They are those that walks have."""
    with counting() as composed:
        found = expand(netns, sent, now_ns=0, local=local)
    assert found == expand(netns, sent, now_ns=0, local=local, merge=False)
    return len(composed)


def test_one_endpoint_of_each_kind_is_followed() -> None:
    """Here and behind the other node: of 20 endpoints all but two are composed."""
    assert walks_of(node(service_rules(ENDPOINTS)), SENT) == 18


@pytest.mark.parametrize("mode", [Mode.IPTABLES, Mode.NFTABLES])
def test_endpoints_of_a_cluster_are_composed(mode: Mode) -> None:
    cluster = load(text=mixed(3, 6, endpoints=40), mode=mode)
    netns = cluster.site.netns("node-1", Family.IPV4)
    with counting() as composed:
        for number in range(6):
            expand(netns, packet("10.180.1.250", f"172.30.0.{number + 1}"), now_ns=0)
    assert len(composed) > 20


@pytest.mark.parametrize(
    ("line", "composed"),
    [
        ("-A FORWARD -d 10.180.0.12 -j DROP", 17),  # one of its own
        ("-A FORWARD -d 10.180.0.16/29 -j DROP", 14),  # 10.180.0.16, .18, .20 and .22 go nowhere, and are followed
        ("-A FORWARD -d 10.180.0.10 -j REJECT", 17),  # the first
        ("-A FORWARD -m limit --limit 1/s -j ACCEPT", 0),  # a bucket remembers
        ("-A FORWARD -m statistic --mode random --probability 0.5 -j ACCEPT", 0),
        ("-A FORWARD -m conntrack --ctorigdst 172.30.0.10 -j ACCEPT", 18),
        ("-A FORWARD -m mark --mark 1 -j ACCEPT", 18),
        (
            "-A FORWARD -d 10.180.0.12 -m statistic --mode random --probability 0.5 -j DROP",
            0,
        ),  # two draws for one endpoint
        ("-A FORWARD -d 10.180.0.12 -m recent --name seen --set", 0),
        ("-A FORWARD -m nfacct --nfacct-name forwarded", 0),  # it counts
        ("-A FORWARD -d 10.180.0.12 -m time --timestart 08:00:00", 0),  # not modelled
    ],
)
def test_what_tells_endpoints_apart(line: str, composed: int) -> None:
    beside_it = parse(f"*filter\n:FORWARD ACCEPT [0:0]\n{line}\nCOMMIT\n", Family.IPV4, unknown="keep")
    netns = node(service_rules(ENDPOINTS))
    netns.load_rules(joined(netns.programmed[Family.IPV4].ruleset, beside_it))
    assert walks_of(netns, SENT) == composed


def test_a_client_that_is_an_endpoint_is_followed() -> None:
    """It is masqueraded (I-7), or comes back by the port that it went out by."""
    assert walks_of(node(service_rules(ENDPOINTS)), packet(ENDPOINTS[6], "172.30.0.10")) == 17


def test_connections_that_are_known_have_every_endpoint_followed() -> None:
    """K-2.3: a masqueraded source keeps a port only if the tuple is free."""
    netns = node(service_rules(ENDPOINTS))
    first = walk(netns, packet("203.0.113.9", "192.168.0.1", dport=30080), now_ns=0, chooser=SeededChooser(1, 1))
    netns.commit(first.effects, 0)
    assert walks_of(netns, packet("203.0.113.9", "192.168.0.1", dport=30080, sport=40007)) == 0


def test_affinity_has_every_endpoint_followed() -> None:
    """Each endpoint has a list of its own (I-8.3)."""
    assert walks_of(node(service_rules(ENDPOINTS, affinity_seconds=60)), SENT) == 0


def test_ports_of_endpoints() -> None:
    """Three endpoints have another port, which a rule asks for."""
    rules = service_rules(ENDPOINTS)
    chains = {
        f"KUBE-SEP-{number}": (
            rule(from_net(net(ENDPOINTS[number])), Jump("KUBE-MARK-MASQ")),
            rule(of_protocol("tcp"), dnat(ENDPOINTS[number], 9090)),
        )
        for number in (4, 6, 8)
    }
    asking = parse(
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 9090 -j DROP\nCOMMIT\n", Family.IPV4
    )
    assert walks_of(node(joined(with_chains(rules, chains), asking)), SENT) == 15


def test_rules_between_the_draw_and_the_translation() -> None:
    """Whoever drew these two endpoints is masqueraded."""
    rules = service_rules(ENDPOINTS)
    chains = {
        f"KUBE-SEP-{number}": (rule(Jump("KUBE-MARK-MASQ")), rule(of_protocol("tcp"), dnat(ENDPOINTS[number])))
        for number in (4, 6)
    }
    assert walks_of(node(with_chains(rules, chains)), SENT) == 17


def test_an_endpoint_with_the_address_of_its_service() -> None:
    """Nothing is translated but the port, so answers come from where the request went (CT-3.1)."""
    endpoints = (*ENDPOINTS[:6], "172.30.0.10", *ENDPOINTS[7:])
    assert walks_of(node(service_rules(endpoints)), SENT) == 17


def test_addresses_of_a_masquerade() -> None:
    """K-2.2: the address of the outgoing interface whose subnet holds the next hop."""
    links = [Link("eth0", ("192.168.0.1/24", "192.168.1.1/24"))]
    endpoints = tuple(f"192.168.{number % 2}.{number + 10}" for number in range(20))
    netns = Netns("n1", make_machine(["192.168.0.1"], ["10.180.0.0/24"], links=links).routing)
    netns.load_rules(service_rules(endpoints))
    assert walks_of(netns, packet("203.0.113.9", "192.168.0.1", dport=30080)) == 18
    seen = {way.packet.source for _, way in expand(netns, packet("203.0.113.9", "192.168.0.1", dport=30080), now_ns=0)}
    assert seen == {"192.168.0.1", "192.168.1.1"}


def test_sets_of_endpoints() -> None:
    """A set tells its elements from all others; with a source beside the address, only for packets from there."""
    for source, composed in (("10.180.0.201", 18), ("10.180.0.200", 16)):
        denied = named_map("denied", {(ip(source), ip(ENDPOINTS[number])): DROP for number in (4, 6)})
        ask = rule(Dispatch((Field.SADDR, Field.DADDR), SetReference("denied")))
        beside_it = Ruleset.of(Family.IPV4, nft_table(base(Hook.FORWARD, ask), sets=(denied,)))
        assert walks_of(node(joined(service_rules(ENDPOINTS), beside_it)), SENT) == composed


def test_the_first_endpoint_is_the_only_one_in_a_set() -> None:
    allowed = named_map("allowed", {(ip(ENDPOINTS[0]),): ACCEPT})
    ask = rule(Dispatch((Field.DADDR,), SetReference("allowed")))
    beside_it = Ruleset.of(Family.IPV4, nft_table(base(Hook.FORWARD, ask, rule(DROP)), sets=(allowed,)))
    assert walks_of(node(joined(service_rules(ENDPOINTS), beside_it)), SENT) == 0


def test_a_set_that_is_asked_after_the_masquerade() -> None:
    """Behind priority 100 the packet has its new source."""
    denied = named_map("denied", {(ip("192.168.0.1"), ip(ENDPOINTS[5])): DROP})
    ask = rule(Dispatch((Field.SADDR, Field.DADDR), SetReference("denied")))
    beside_it = Ruleset.of(Family.IPV4, nft_table(base(Hook.POSTROUTING, ask, priority=200), sets=(denied,)))
    sent = packet("203.0.113.9", "192.168.0.1", dport=30080)
    assert walks_of(node(joined(service_rules(ENDPOINTS), beside_it)), sent) == 17


def test_an_endpoint_that_is_a_broadcast_address() -> None:
    """K-7.7: what is sent there ends at the node."""
    endpoints = (*ENDPOINTS[:6], "10.180.0.255", *ENDPOINTS[7:])
    assert walks_of(node(service_rules(endpoints)), packet("203.0.113.9", "192.168.0.1", dport=30080)) == 17


def with_chains(rules: Ruleset, chains: dict[str, tuple[Rule, ...]]) -> Ruleset:
    """The rules with other rules in some chains of the nat table."""
    [key] = [key for key in rules.tables if key.name == "nat"]
    nat = rules.tables[key]
    changed = {name: Chain(name, each, nat.chains[name].base) for name, each in chains.items()}
    return Ruleset(rules.family, rules.tables.set(key, replace(nat, chains=nat.chains.update(changed))), rules.made)


def test_chains_that_change_are_read_again() -> None:
    """An endpoint's chain is another, while the chain that draws is the same one."""
    netns = node(service_rules(ENDPOINTS))
    assert walks_of(netns, SENT) == 18
    rules = netns.programmed[Family.IPV4].ruleset
    netns.load_rules(with_chains(rules, {"KUBE-SEP-3": (rule(of_protocol("tcp"), dnat(ENDPOINTS[4])),)}))
    found = expand(netns, SENT, now_ns=0)
    assert found == expand(netns, SENT, now_ns=0, merge=False)
    assert [way.packet.destination for _, way in found][3:5] == [ENDPOINTS[4]] * 2
