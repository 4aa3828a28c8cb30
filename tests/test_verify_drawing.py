"""Drawn clusters load and reach every case (O-1 … O-6, T-1, T-3, CFG-2, PP-1 … PP-8); drawn probes and sequences are
what they promise.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from drawings import Hypothetical, Scripted, cluster, manifest, parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import cluster_text

from kpsim.addresses import Family, parse_network, split_host_port
from kpsim.explore import Cluster, load
from kpsim.netfilter import walk
from kpsim.objects import EndpointSlice, Service
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.steps import RuleMatched
from kpsim.replay import START_NS
from kpsim.ruleset import Role, Rule
from kpsim.tracing.probes import Probe, Prober, ProbeResult
from kpsim.tracing.site import Sender
from kpsim.verify.drawing.choices import SeededChoices, chance, pick, several, weighted
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import PORT_CLASSES, Aim, draw_probes, every_probe
from kpsim.verify.drawing.surroundings import Kind

V4, V6 = Family.IPV4, Family.IPV6
_CLUSTERS = 250


# --- choices ----------------------------------------------------------------------------------------------------------------


def test_seeded_choices_follow_from_seed_and_scope() -> None:
    def twenty(*of: int | str) -> list[int]:
        choices = SeededChoices(*of)  # type: ignore[arg-type]
        return [choices.below(1000) for _ in range(20)]

    assert twenty(7, "a") == twenty(7, "a")
    assert len({tuple(twenty(*of)) for of in ((7, "a"), (7, "b"), (8, "a"), (7,), (7, "a", 0))}) == 5


def test_zero_is_the_simplest_of_every_choice() -> None:
    assert pick(Scripted(), ("first", "second")) == "first"
    assert weighted(Scripted(), (0, "never"), (1, "first"), (5, "second")) == "first"
    assert chance(Scripted(), 99) is False
    assert several(Scripted(), "abc", 3) == []


def test_choices_have_their_weights() -> None:
    assert [weighted(Scripted(n), (2, "a"), (0, "b"), (1, "c")) for n in range(3)] == ["a", "a", "c"]
    assert sum(chance(Scripted(n), 15) for n in range(100)) == 15
    assert several(Scripted(2, 2, 0), "abc", 2) == ["c", "a"]
    assert several(Scripted(1), "a", 5) == ["a"]


def test_where_there_is_one_option_nothing_is_drawn() -> None:
    choices = Scripted()
    assert pick(choices, ("only",)) == "only"
    assert choices.limits == []


# --- clusters ---------------------------------------------------------------------------------------------------------------


def test_drawn_clusters_load() -> None:
    assert all(cluster(seed).node_names for seed in range(_CLUSTERS))


def test_nodes_of_drawn_clusters_have_rules() -> None:
    for seed in range(0, _CLUSTERS, 5):
        loaded = cluster(seed)
        families = {family for node in loaded.state.nodes for family, _ in map(parsed, node.ips)}
        for family in families:
            assert ":KUBE-SERVICES" in loaded.rules(loaded.node_names[-1], family=family)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_chosen_the_cluster_loads(data: st.DataObject) -> None:
    load(text=draw_manifest(Hypothetical(data)))


def test_the_simplest_cluster_is_a_node_and_a_service_without_endpoints() -> None:
    simplest = load(text=draw_manifest(Scripted()))
    assert str(simplest) == "cluster of 1 nodes in iptables mode: Node 1, Service 1"


def test_what_is_drawn_depends_on_nothing_but_the_seed() -> None:
    code = (
        "from kpsim.verify.drawing.choices import SeededChoices\nfrom kpsim.verify.drawing.clusters import draw_manifest\n"
        "print(draw_manifest(SeededChoices(11, 'cluster')), end='')"
    )
    texts = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in ("1", "2")
    ]  # fmt: skip
    assert {text.stdout for text in texts} == {manifest(11)}


def frontends(service: Service) -> Iterator[tuple[str, int, str]]:
    for port in service.ports:
        addresses = [*service.cluster_ips, *service.external_ips, *(i.ip for i in service.ingress if i.ip)]
        yield from {(address, port.port, port.protocol) for address in addresses if address != "None"}
        if port.node_port:
            yield "", port.node_port, port.protocol


def test_no_two_services_dispute_a_frontend() -> None:  # O-5.8 leaves open whose rules come first
    for seed in range(_CLUSTERS):
        services = list(cluster(seed).state.services)
        owners = Counter(frontend for service in services for frontend in frontends(service))
        assert {frontend: count for frontend, count in owners.items() if count > 1} == {}


def test_of_two_pods_with_one_address_one_terminates() -> None:  # of several, map order decides (O-6.4)
    twice = 0
    for seed in range(_CLUSTERS):
        found = Counter(
            (
                endpoint_slice.metadata.namespace,
                endpoint_slice.service_name,
                endpoint.addresses[0],
                bool(endpoint.terminating),
            )
            for endpoint_slice in cluster(seed).state.endpoint_slices
            for endpoint in endpoint_slice.endpoints
        )
        assert set(found.values()) <= {1}
        twice += len(found) - len({key[:3] for key in found})
    assert twice


def services(test: Callable[[Service], object]) -> Callable[[Cluster], bool]:
    return lambda cluster: any(map(test, cluster.state.services))


def slices(test: Callable[[EndpointSlice], object]) -> Callable[[Cluster], bool]:
    return lambda cluster: any(map(test, cluster.state.endpoint_slices))


def endpoints(*wanted: str) -> Callable[[Cluster], bool]:
    """Some endpoint whose conditions are these: ``serving terminating`` are true, and said to be."""
    return slices(
        lambda s: any(
            {name for name in ("ready", "serving", "terminating") if getattr(e, name) is True} == set(wanted) for e in s.endpoints
        )
    )  # fmt: skip


def config(test: Callable[[Cluster], object]) -> Callable[[Cluster], bool]:
    return lambda cluster: bool(test(cluster))


def shares_endpoints(cluster: Cluster) -> bool:
    users: dict[str, set[str]] = {}
    for each in cluster.state.endpoint_slices:
        for endpoint in each.endpoints:
            users.setdefault(endpoint.addresses[0], set()).add(each.service_name)
    return any(len(names) > 1 for names in users.values())


def node_ips(cluster: Cluster) -> set[str]:
    return {ip for node in cluster.state.nodes for ip in node.ips}


def host_network(cluster: Cluster) -> bool:
    return any(e.addresses[0] in node_ips(cluster) for s in cluster.state.endpoint_slices for e in s.endpoints)


def strangers(cluster: Cluster) -> bool:
    return any(
        e.node_name not in (*cluster.node_names, None) for s in cluster.state.endpoint_slices for e in s.endpoints
    )


#: what must occur among the drawn clusters, at least in so many of them
CASES: list[tuple[str, Callable[[Cluster], bool], int]] = [
    ("one node", lambda c: len(c.node_names) == 1, 20), ("three nodes", lambda c: len(c.node_names) == 3, 40),
    ("IPv6 alone", lambda c: all(":" in ip for ip in node_ips(c)), 30),
    ("dual stack", lambda c: len({":" in ip for ip in node_ips(c)}) == 2, 60),
    ("another link", lambda c: any(ip.startswith(("192.168.1.", "2001:db8:1::")) for ip in node_ips(c)), 60),
    ("no pod network", lambda c: not any(node.pod_cidrs for node in c.state.nodes), 10),
    ("ClusterIP", services(lambda s: s.type == "ClusterIP"), 100), ("NodePort", services(lambda s: s.type == "NodePort"), 100),
    ("LoadBalancer", services(lambda s: s.type == "LoadBalancer"), 150),
    ("headless", services(lambda s: s.cluster_ip == "None"), 20), ("ExternalName", services(lambda s: s.type == "ExternalName"), 20),
    ("one family of two", lambda c: len({":" in ip for ip in node_ips(c)}) == 2 and services(lambda s: len(s.cluster_ips) == 1)(c), 20),
    ("the other family first", services(lambda s: s.ip_families == ("IPv6", "IPv4")), 20),
    ("ipMode Proxy", services(lambda s: any(i.ip_mode == "Proxy" for i in s.ingress)), 15),
    ("two balancer addresses", services(lambda s: len(s.ingress) > len(s.cluster_ips)), 20),
    ("external IPs", services(lambda s: s.external_ips), 100),
    ("a node's address as external IP", lambda c: any(ip in node_ips(c) for s in c.state.services for ip in s.external_ips), 20),
    ("a node's address as balancer's", lambda c: any(i.ip in node_ips(c) for s in c.state.services for i in s.ingress), 8),
    ("source ranges", services(lambda s: s.load_balancer_source_ranges), 60),
    ("everybody's ranges", services(lambda s: {"0.0.0.0/0", "::/0"} & set(s.load_balancer_source_ranges)), 8),
    ("a balancer without node ports", services(lambda s: s.json["spec"].get("allocateLoadBalancerNodePorts") is False), 10),
    ("eTP Local", services(lambda s: s.external_traffic_policy == "Local"), 100),
    ("iTP Local", services(lambda s: s.internal_traffic_policy == "Local"), 60),
    ("both Local", services(lambda s: s.internal_traffic_policy == s.external_traffic_policy == "Local"), 25),
    ("health check", services(lambda s: s.health_check_node_port), 60),
    ("affinity", services(lambda s: s.session_affinity == "ClientIP"), 60),
    ("affinity of seconds", services(lambda s: s.affinity_timeout_seconds == 2), 15),
    ("UDP", services(lambda s: any(p.protocol == "UDP" for p in s.ports)), 80),
    ("SCTP", services(lambda s: any(p.protocol == "SCTP" for p in s.ports)), 60),
    ("a port without name", services(lambda s: any(not p.name for p in s.ports)), 60),
    ("a number for two protocols", services(lambda s: len({p.port for p in s.ports}) < len(s.ports)), 15),
    ("a node port for two protocols", services(lambda s: len({p.node_port for p in s.ports if p.node_port}) < len([p for p in s.ports if p.node_port])), 8),
    ("another's service-proxy-name", services(lambda s: s.metadata.labels), 10),
    ("several slices", slices(lambda s: s.metadata.name.endswith("-2")), 80), ("many endpoints", slices(lambda s: len(s.endpoints) > 20), 10),
    ("no endpoints", slices(lambda s: not s.endpoints), 15), ("another port number", slices(lambda s: any((p.port or 0) in (9080, 6353, 10999) for p in s.ports)), 30),
    ("a port without number", slices(lambda s: any(p.port is None for p in s.ports)), 15),
    ("ready by default", endpoints(), 60), ("serving while terminating", endpoints("serving", "terminating"), 80),
    ("terminating", endpoints("terminating"), 80), ("ready and terminating", endpoints("ready", "serving", "terminating"), 60),
    ("zone hints", slices(lambda s: any(e.zone_hints for e in s.endpoints)), 60), ("node hints", slices(lambda s: any(e.node_hints for e in s.endpoints)), 40),
    ("shared endpoints", shares_endpoints, 120), ("host network", host_network, 60), ("an unknown node's", strangers, 30),
    ("nobody's", slices(lambda s: any(e.node_name is None for e in s.endpoints)), 30),
    *((f"detect-local {mode}", config(lambda c, mode=mode: c.config.detect_local_mode == mode), 10) for mode in ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")),
    ("no detector", config(lambda c: c.config.detect_local_mode == "ClusterCIDR" and not c.config.cluster_cidr), 25),
    ("masqueradeAll", config(lambda c: c.config.masquerade_all), 20), ("another mark", config(lambda c: c.config.masquerade_bit == 31), 8),
    ("no localhost node ports", config(lambda c: not c.config.localhost_node_ports), 30),
    ("liberal", config(lambda c: c.config.conntrack_tcp_be_liberal), 20),
    ("external IPs off", config(lambda c: not c.config.allow_service_external_ips), 5),
    ("primary", config(lambda c: c.config.node_port_addresses == ("primary",)), 15),
    ("networks of node ports", config(lambda c: len(c.config.node_port_addresses) > 1), 20),
    ("timeouts", config(lambda c: c.config.conntrack_udp_timeout_ns), 5),
]  # fmt: skip


@pytest.mark.parametrize(("test", "least"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_case_is_drawn(test: Callable[[Cluster], bool], least: int) -> None:
    assert sum(test(cluster(seed)) for seed in range(_CLUSTERS)) >= least


# --- probes -----------------------------------------------------------------------------------------------------------------


def places(seeds: int) -> Iterator[tuple[Cluster, str, Family]]:
    """Every node of many clusters, in the families that it has."""
    for seed in range(seeds):
        for node in cluster(seed).state.nodes:
            for family in sorted({parsed(ip)[0] for ip in node.ips}):
                yield cluster(seed), node.metadata.name, family


@cache
def drawn(seeds: int = 40, count: int = 60) -> list[tuple[Cluster, str, Family, list[Probe]]]:
    return [
        (of, node, family, draw_probes(SeededChoices(1, node, family), of.site, node, family, count, of.state.services))
        for of, node, family in places(seeds)
    ]


def told(probe: Probe) -> tuple[str, str]:
    """Aim and kind."""
    aim, _, kind = str(probe.id).partition(" ")[2].partition(" from ")
    return aim, kind


def test_no_two_probes_of_a_list_can_meet() -> None:
    for _, _, _, probes in drawn():
        assert len(probes) == len({probe.packet.sport for probe in probes}) == len({probe.id for probe in probes}) == 60


def test_a_class_of_ports_that_is_used_up_is_followed_by_the_next() -> None:
    of = cluster(0)
    probes = draw_probes(SeededChoices(1), of.site, "node-1", parsed(next(iter(of.state.nodes)).ips[0])[0], 6000)
    ports = Counter(next(c for c in PORT_CLASSES if probe.packet.sport in c) for probe in probes)
    assert len({probe.packet.sport for probe in probes}) == 6000
    assert [ports[each] for each in PORT_CLASSES] == [6000 - 424 - 88 - 511, 424, 88, 511]


def test_seven_of_ten_probes_dial_a_frontend() -> None:
    dialled = Counter[bool]()
    for of, node, family, probes in drawn():
        own = {address for f, address in of.site.directory.nodes if f is family}
        own |= set(of.site.machine(node).routing.addresses(family))
        known = {frontend for service in of.state.services for frontend in frontends(service)}
        for probe in probes:
            end = (probe.packet.destination, probe.packet.dport, probe.packet.protocol.upper())
            at_node_port = probe.packet.daddr in own and ("", *end[1:]) in known
            dialled[end in known or at_node_port] += bool(known)
    assert 0.66 < dialled[True] / dialled.total() < 0.76


def test_all_aims_kinds_and_results_occur() -> None:
    aims, kinds, results, classes = Counter[str](), Counter[str](), Counter[str](), Counter[int]()
    for of, _, _, probes in drawn(15):
        prober = Prober(of.site, START_NS)
        for number, probe in enumerate(probes):
            aim, kind = told(probe)
            aims[aim] += 1
            kinds[kind] += 1
            if not number % 5:  # an answer takes some milliseconds
                results[prober.answer(probe).result] += 1
            classes[next(c.start for c in PORT_CLASSES if probe.packet.sport in c)] += 1
    total = aims.total()
    assert set(aims) == set(Aim) and min(aims.values()) > total // 200
    assert set(kinds) == set(Kind) and min(kinds.values()) > total // 50
    assert set(results) == {ProbeResult.DELIVERED, ProbeResult.DROPPED, ProbeResult.REJECTED, ProbeResult.PASSED}
    assert min(results.values()) > results.total() // 20
    assert set(classes) == {1, 512, 600, 1024} and min(classes.values()) > total // 20


def test_sources_are_those_of_their_kind() -> None:
    for of, node, family, probes in drawn():
        directory, machine = of.site.directory, of.site.machine(node)
        own = {*machine.routing.addresses(family), 1 if family is V6 else 127 << 24 | 1}
        here = {a for f, a in directory.pods if f is family and directory.node_of((f, a)) == node}
        networks = [network for network in machine.pod_networks if network.family is family]
        for probe in probes:
            source, sender = probe.packet.saddr, probe.sender
            match told(probe)[1]:
                case "pod":
                    assert sender is Sender.POD and (source in here or source in networks[0])
                case "hairpin":
                    assert (sender is Sender.POD) == (source in here) and (sender is Sender.NODE) == (source in own)
                    assert (family, source) in {*directory.pods, *directory.nodes}
                case "process":
                    assert sender is Sender.NODE and source == 0
                case "bound process":
                    assert sender is Sender.NODE and source in own
                case "client":
                    assert sender is Sender.EXTERNAL and source not in own and not directory.knows((family, source))
                case "peer":
                    assert sender is Sender.PEER and directory.nodes[family, source] != node
                case "remote pod":
                    assert sender is Sender.PEER and directory.pods[family, source].node != node
                case "impostor":
                    assert sender is Sender.EXTERNAL and source in {*own, probe.packet.daddr}
                case other:
                    raise AssertionError(other)


def test_hairpins_are_masqueraded_to_themselves() -> None:  # PP-1.6
    seen = 0
    for of, _, _, probes in drawn(15):
        prober = Prober(of.site, START_NS)
        for probe in probes:
            if told(probe) == ("frontend", "hairpin"):
                source = probe.packet.source
                home = [o for o in prober.answer(probe).outcomes if split_host_port(o.endpoint)[0] == source]
                seen += len(home)
                assert all(outcome.masquerade for outcome in home)
    assert seen > 10


def test_clients_come_from_inside_and_from_beyond_source_ranges() -> None:  # PP-8
    results = Counter[tuple[bool, ProbeResult]]()
    for of, _, family, probes in drawn():
        prober = Prober(of.site, START_NS)
        guarded = {
            (ingress.ip, port.port, port.protocol.lower()): [parse_network(text.strip()) for text in service.load_balancer_source_ranges]
            for service in of.state.services
            for ingress in service.ingress
            for port in service.ports
            if ingress.ip and ingress.ip_mode != "Proxy" and parsed(ingress.ip)[0] is family
            if ingress.ip not in service.external_ips  # external IPs are open to every client
        }  # fmt: skip
        for probe in probes:
            ranges = guarded.get((probe.packet.destination, probe.packet.dport, probe.packet.protocol))
            mine = [network for network in ranges or [] if network and network.family is family]
            if mine and not any(network.is_zero for network in mine) and told(probe)[1] == "client":
                inside = any(probe.packet.saddr in network for network in mine)
                results[inside, prober.answer(probe).result] += 1
    assert results[True, ProbeResult.DELIVERED] >= 5
    assert results[False, ProbeResult.DROPPED] >= 4
    assert results[False, ProbeResult.DELIVERED] == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_chosen_probes_can_be_answered(data: st.DataObject) -> None:
    of, node, family, _ = drawn()[data.draw(st.integers(0, 20))]
    [probe] = draw_probes(Hypothetical(data), of.site, node, family, 1, of.state.services)
    assert Prober(of.site, START_NS).answer(probe).result is not ProbeResult.UNKNOWN


def test_the_simplest_probe_is_a_pods_at_the_first_frontend() -> None:
    of = load(text=draw_manifest(Scripted()))
    [probe] = draw_probes(Scripted(), of.site, "node-1", V4, 1)
    assert (probe.sender, str(probe.packet)) == (Sender.POD, "tcp 10.180.1.9:1024 → 172.30.0.1:80")


def test_every_probe_dials_every_frontend_as_everybody() -> None:
    text = cluster_text()
    of = load(text=text)
    probes = list(every_probe(of.site, "node-1", V4, of.state.services))
    ends = {(p.packet.destination, p.packet.dport, p.packet.protocol.upper()): set[str]() for p in probes}
    for probe in probes:
        if told(probe)[0] == Aim.FRONTEND:
            ends[probe.packet.destination, probe.packet.dport, probe.packet.protocol.upper()].add(told(probe)[1])
    kinds = set(map(str, Kind))
    for service in of.state.services:
        for address, port, protocol in frontends(service):
            if ":" in address:
                continue
            for at in [address] if address else ["192.168.0.1", "10.180.0.1", "127.0.0.1", "192.168.0.2"]:
                assert kinds - ends[at, port, protocol] <= {Kind.HAIRPIN}
    assert {told(probe)[0] for probe in probes} == set(Aim)
    assert len({probe.packet.sport for probe in probes}) == len(probes)
    hairpins = {p.packet.source for p in probes if p.packet.destination == "172.30.0.10" and told(p)[1] == "hairpin"}
    assert hairpins == {"10.180.0.5", "10.180.1.5", "10.180.2.5"}


def test_every_probe_meets_nearly_all_rules_that_a_first_packet_can_meet() -> None:
    rules, met = Counter[Role](), Counter[Role]()
    for of, node, family in places(4):
        netns = of.site.netns(node, family)
        hit = set[tuple[str, Rule]]()
        for probe in every_probe(of.site, node, family, of.state.services):
            packet, scripts = of.site.begin(probe.packet, node, probe.sender), [()]
            while scripts:
                chooser = ScriptedChooser(scripts.pop())
                step = walk(netns, packet, now_ns=START_NS, chooser=chooser, local=probe.sender is Sender.NODE)
                hit.update((s.at.chain, s.at.rule) for s in step.trace if isinstance(s, RuleMatched) and s.at.rule)
                scripts += chooser.alternatives()
        for table in netns.rulesets[family].tables.values():
            for chain in table.chains.values():
                rules.update(rule.origin.role for rule in chain.rules)
                met.update(rule.origin.role for rule in chain.rules if (chain.name, rule) in hit)
    # these wait for flows that are known, or clients that are
    later = {Role.AFFINITY, Role.INVALID_DROP, Role.FORWARD_CONNTRACK}
    assert {role for role in rules if not met[role]} <= later
    often = dict.fromkeys((Role.CLUSTER_IP, Role.EXTERNAL_IP, Role.ENDPOINT, Role.BALANCE, Role.NO_ENDPOINTS), 0.95)
    often[Role.HAIRPIN] = 0.85  # an endpoint on another node may dial only what policies of Local refuse it
    assert {role: met[role] / rules[role] for role, share in often.items() if met[role] < share * rules[role]} == {}
    assert sum(met.values()) > 0.9 * sum(count for role, count in rules.items() if role not in later)
