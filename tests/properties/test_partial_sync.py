"""Partial syncs lead where full syncs lead, and every maintained count equals a recount (I-13.3, I-15, O-12, O-13)."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

from histories import IPS, KEYS, NODE_PORTS, Step, Sync, fresh, happen, histories, make_rig
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import node_netns, packet_between
from proxiers import NODE, NODE_IP, Rig, document, endpoint_slice, rules_last, rules_total, slice_port

from kpsim.kubeproxy.plan import Refusal, make_plan
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Netns, expand
from kpsim.packet import Packet

EXAMPLES = settings(max_examples=40, deadline=None)


def rule_lines(text: str) -> dict[str, int]:
    filter_part, nat_part = text.split("*nat\n")
    return {"filter": filter_part.count("\n-A "), "nat": nat_part.count("\n-A ")}


@EXAMPLES
@given(histories)
def test_partial_syncs_lead_where_full_ones_lead(history: list[Step]) -> None:
    rig, forced = make_rig(1000), make_rig(1000)
    for step in [*history, Sync(1, refuse=False)]:
        if not isinstance(step, Sync):
            happen(rig, step)
            happen(forced, step)
            continue
        forced.proxier.force_full_sync()
        result, full = (each.sync(step.after_s, refuse=step.refuse) for each in (rig, forced))
        assert result.success is full.success is not step.refuse
        # what is owned is counted as if it were all written; what was written, as it stands there
        assert rules_total(full) == rules_last(full) == rule_lines(document(full))
        assert rules_total(result) == rules_total(full)
        assert rules_last(result) == rule_lines(document(result))
        assert result.transaction.no_local_endpoints == full.transaction.no_local_endpoints
        if not step.refuse:
            assert rig.tables_text() == forced.tables_text()
    started, result = fresh(rig)
    assert rig.tables_text() == started.tables_text()
    assert rig.chains() == started.chains()


@EXAMPLES
@given(histories, st.integers(0, 6))
def test_large_clusters_are_like_any_other_after_a_late_full_sync(history: list[Step], threshold: int) -> None:
    rig = make_rig(threshold)
    for step in history:
        if not isinstance(step, Sync):
            happen(rig, step)
            continue
        result = rig.sync(step.after_s, refuse=step.refuse)
        assert result.success is not step.refuse
        assert rules_last(result) == rule_lines(document(result))
        if result.success:
            started, _ = fresh(rig)
            assert started.chains() <= rig.chains()  # some may be stale (I-12.3 b), none is missing
    rig.proxier.force_full_sync()
    rig.sync(31)
    started, _ = fresh(rig)
    assert rig.tables_text() == started.tables_text()


def naive_refusals(rig: Rig) -> tuple[int, int]:
    """I-6 over all service ports."""
    maps = rig.proxier.maps
    plans = [
        make_plan(name, each, maps.endpoints.get(name, ()), NODE, rig.proxier.zone) for name, each in maps.ports.items()
    ]
    return (
        sum(plan.internal_refusal is Refusal.DROP for plan in plans),
        sum(plan.external_refusal is Refusal.DROP for plan in plans),
    )


def naive_stale(rig: Rig, flows: list[UdpFlow]) -> list[UdpFlow]:
    """O-12.3 and O-12.4 as they are written, where no two service ports claim one destination."""
    maps = rig.proxier.maps
    allowed: dict[tuple[str, int], set[str]] = {}
    for name, each in maps.ports.items():
        serving = {e.address for e in maps.endpoints.get(name, ()) if e.serving}
        if name.protocol == "UDP" and serving:
            allowed[each.cluster_ip, each.port] = serving
            if each.node_port:
                allowed["", each.node_port] = serving
    found = []
    for flow in flows:
        claims = [allowed[key] for key in ((flow.dst, flow.dport), ("", flow.dport)) if key in allowed]
        if any(f"{flow.reply_src}:{flow.reply_sport}" not in serving for serving in claims):
            found.append(flow)
    return found


def udp_flows() -> list[UdpFlow]:
    """UDP flows to every cluster IP and node port, from every endpoint address."""
    targets = [(f"172.30.{n}.{k}", number) for n in (0, 1) for k in range(len(KEYS)) for number in (53, 54)]
    node_ports = [number for (_, protocol), number in NODE_PORTS.items() if protocol == "UDP"]
    targets += [("192.168.0.2", number + k * 100) for number in node_ports for k in range(len(KEYS))]
    replies = [(ip, number) for ip in (*IPS, "10.180.9.9") for number in (5353, 5354)]
    return [UdpFlow("udp", "203.0.113.99", 1, *to, *reply, "203.0.113.99", 1) for to in targets for reply in replies]


@EXAMPLES
@given(histories)
def test_what_is_kept_up_to_date_equals_a_recount(history: list[Step]) -> None:
    rig = make_rig(1000)
    maps = rig.proxier.maps
    for number, step in enumerate([*history, Sync(1, refuse=False)]):
        if not isinstance(step, Sync):
            happen(rig, step)
            continue
        # a change of any UDP slice lets the sync look at all flows
        rig.apply(endpoint_slice("z/watched", ports=[slice_port(53, "dns", "UDP")], version=number))
        rig.flows = flows = udp_flows()
        result = rig.sync(step.after_s, refuse=step.refuse)
        assert maps.endpoint_total == sum(len(maps.endpoints.get(name, ())) for name in maps.ports)
        by_service = {
            name.service: {n: p for n, p in maps.ports.items() if n.service == name.service} for name in maps.ports
        }
        assert maps.ports_of == by_service
        health = {n.service: p.health_check_node_port for n, p in maps.ports.items() if p.health_check_node_port}
        assert dict(maps.health_check_ports) == health
        for key in {name.service for name in maps.endpoints} | by_service.keys():
            mine = [e for name, each in maps.endpoints.items() if name.service == key for e in each]
            assert maps.local_ready_endpoints.get(key, 0) == len(
                {e.ip for e in mine if e.node_name == NODE and e.ready}
            )
        assert result.transaction.no_local_endpoints == naive_refusals(rig)
        assert list(result.conntrack_deleted) == ([] if step.refuse else naive_stale(rig, flows))


# --- what packets experience -------------------------------------------------------------------------------------------

#: a source and whether it is a process of the node; the first endpoint dials too
SENDERS = (("10.180.0.9", False), ("10.180.1.9", False), ("203.0.113.99", False), (IPS[0], False), ("", True))


def first_packets(rig: Rig) -> Iterator[tuple[Packet, bool]]:
    """First packets from every sender to every frontend, and to another port of its address that no Service has."""
    for name, each in rig.proxier.maps.ports.items():
        addresses = [each.cluster_ip, *each.external_ips, *each.load_balancer_ips]
        targets = [(address, number) for address in addresses for number in (each.port, each.port + 1)]
        targets += [(NODE_IP, each.node_port)] if each.node_port else []
        for (source, local), (address, number) in product(SENDERS, targets):
            yield packet_between(name.protocol.lower(), source, address, sport=40000, dport=number), local


def node_with(rig: Rig) -> Netns:
    """NODE as its kernel is after the syncs so far."""
    netns = node_netns(NODE, [NODE_IP], ["10.180.0.0/24"], peers={"192.168.0.3": ["10.180.1.0/24"]})
    netns.load_rules(rig.proxier.held.ruleset)
    return netns


def fate(netns: Netns, packet: Packet, *, local: bool) -> dict[tuple[object, ...], Fraction]:
    """Everything that may become of a first packet, with its probability: not by which rules, only what can be seen."""
    found: dict[tuple[object, ...], Fraction] = {}
    for weight, outcome in expand(netns, packet, now_ns=0, local=local):
        seen = outcome.packet
        sport = None if outcome.source_port_drawn else seen.sport
        end = (
            outcome.disposition, outcome.cause, outcome.with_, outcome.local_error, outcome.next_hop, outcome.masqueraded,
            seen.saddr, sport, seen.daddr, seen.dport, seen.mark, seen.out_interface, outcome.effects.created,
            len(outcome.effects.touched.recent),
        )  # fmt: skip
        found[end] = found.get(end, Fraction(0)) + weight
    return found


@settings(max_examples=40, deadline=None)
@given(histories, st.sampled_from([1000, 1000, 3]))
def test_packets_fare_as_if_there_had_been_one_full_sync(history: list[Step], large_cluster_endpoints: int) -> None:
    """Also where the texts differ: a large cluster keeps chains that nothing leads to (I-12.3 b)."""
    rig = make_rig(large_cluster_endpoints)
    for step in [*history, Sync(1, refuse=False)]:
        if isinstance(step, Sync):
            rig.sync(step.after_s, refuse=step.refuse)
        else:
            happen(rig, step)
    started, _ = fresh(rig)
    by_steps, at_once = node_with(rig), node_with(started)
    for packet, local in first_packets(rig):
        assert fate(by_steps, packet, local=local) == fate(at_once, packet, local=local)


def test_the_packets_meet_services() -> None:
    """Histories are such that many first packets come to one of several endpoints, some to one, and some are refused."""
    seen: Counter[str] = Counter()

    @settings(max_examples=30, deadline=None, database=None, derandomize=True)
    @given(histories)
    def look(history: list[Step]) -> None:
        rig = make_rig(1000)
        for step in history:
            if not isinstance(step, Sync):
                happen(rig, step)
        rig.sync()
        netns = node_with(rig)
        for packet, local in first_packets(rig):
            outcomes = expand(netns, packet, now_ns=0, local=local)
            seen["lots"] += len(outcomes) > 1
            seen["translated"] += outcomes[0][1].dnat_rule is not None
            seen["refused"] += outcomes[0][1].rule is not None

    look()
    assert seen["translated"] > 100 and seen["lots"] > 20 and seen["refused"] > 100, seen
