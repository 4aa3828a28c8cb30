"""Nodes in nftables mode, in the model and in Linux: packets, members of affinity sets, syncs, rules that are removed
(NFT-5, NFT-6, NFT-8, K-9).
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from drawings import cluster, manifest
from sequence_shop import CLIENT, ENDS, OTHER_CLIENT, Both, endpoints, flow

from fuzz.cases import play
from fuzz.fuzzing import draw_case
from kpsim.addresses import Family
from kpsim.config import Mode
from kpsim.lab.tools.iptables import rules_from
from kpsim.lab.tools.variants import Variant
from kpsim.netfilter import Disposition
from kpsim.packetpath.memory.dynamic_sets import DEFAULT_SIZE, Member
from kpsim.units import MILLISECOND_NS, SECOND_NS
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.remembered import dynamic_sets, list_name, members_of
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.sequences.playing import Player
from kpsim.verify.sequences.steps import (
    ChangeService,
    ClientSegment,
    FirstPacket,
    Flush,
    Restart,
    SequenceStep,
    ServerSegment,
    Wait,
)
from kpsim.verify.subjects import cluster_subjects

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
THIRD = ("198.51.100.10", "2001:db8:72::10")


@pytest.fixture
def both(kernel: None, request: pytest.FixtureRequest) -> Iterator[Both]:
    made = Both(getattr(request, "param", V4), mode=Mode.NFTABLES)
    try:
        yield made
    finally:
        made.twin.close()


EACH_FAMILY = pytest.mark.parametrize("both", [V4, V6], ids=["IPv4", "IPv6"], indirect=True)


def members(both: Both) -> dict[str, frozenset[str]]:
    """The members of the model's sets that have some, by endpoint."""
    netns, family, now_ns = both.twin.model, both.family, both.twin.clock.now_ns()
    found = {
        list_name(at): members_of(netns, family, list_name(at), now_ns)
        for at, _ in dynamic_sets(netns.rulesets[family])
    }
    return {name.rpartition("__")[2]: frozenset(each) for name, each in found.items() if each}


def begun(both: Both) -> Player:
    """A player that has loaded the rules and met no packet yet, for steps one by one."""
    player = Player(both.twin, both.cluster, "node-1")
    assert not player.play(()).differences
    both.twin.forget()
    return player


def begin(both: Both, number: int, client: tuple[str, str], sport: int = 40000) -> FirstPacket:
    return FirstPacket(number, flow(both.family, "dnssticky", by="cluster IP", client=client, sport=sport))


def sticky_for(both: Both, seconds: int) -> ChangeService:
    """The sticky Service with another timeout."""
    [service] = [each.json for each in both.cluster.state.services if each.metadata.name == "dnssticky"]
    spec = {**service["spec"], "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    return ChangeService("shop/dnssticky", json.dumps({**service, "spec": spec}))


# --- affinity sets ---------------------------------------------------------------------------------------------------------


@EACH_FAMILY
def test_new_connections_renew_a_member_and_packets_do_not(both: Both) -> None:  # NFT-6.11
    both.play(
        sticky_for(both, 2), begin(both, 0, CLIENT), begin(both, 1, OTHER_CLIENT), ServerSegment(0),
        Wait(1300 * MILLISECOND_NS), ClientSegment(0), begin(both, 2, OTHER_CLIENT, 40001), Wait(1000 * MILLISECOND_NS),
    )  # fmt: skip
    [left] = members(both).values()
    assert left == {OTHER_CLIENT[both.family is V6]}


def test_members_outlive_syncs_and_restarts_but_not_their_endpoint(both: Both) -> None:  # NFT-6.11, NFT-8.4
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "clusterCIDR": "10.180.0.0/16,fd00:180::/48", "nftables": {"masqueradeAll": True},
    }  # fmt: skip
    clients = [begin(both, number, client) for number, client in enumerate((CLIENT, OTHER_CLIENT, THIRD))]
    everywhere: list[SequenceStep] = [endpoints(V4, "dnssticky", "a1"), *clients]
    both.play(
        *everywhere, endpoints(V4, "dns", "a1"), endpoints(V4, "dnssticky", "a1 b1"), Restart(json.dumps(configuration))
    )
    assert members(both) == {f"{ENDS['a1'][0]}/8080": {CLIENT[0], OTHER_CLIENT[0], THIRD[0]}}
    both.play(*everywhere, endpoints(V4, "dnssticky", "b1"), endpoints(V4, "dnssticky", "a1 b1"))
    assert members(both) == {}


def test_a_client_that_finds_a_full_set_is_sent_and_not_remembered(both: Both) -> None:  # NFT-6.11, K-9.2
    player = begun(both)
    for step in (endpoints(V4, "dnssticky", "a1"), begin(both, 0, CLIENT)):
        assert not player.step(step).differences
    model, tool = both.twin.model, both.twin.linux
    [(at, declared)] = [
        each for each in dynamic_sets(model.rulesets[V4]) if members_of(model, V4, list_name(each[0]), 0)
    ]
    first = 11 << 24
    addresses = range(first, first + DEFAULT_SIZE - 1)
    text = ", ".join(f"11.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in addresses)
    tool.namespace.run(["nft", "-f", "-"], stdin=f"add element ip kube-proxy {at.name} {{ {text} }}\n")
    for number in addresses:
        model.memory.sets.put(at, declared.generation, (number,), Member(both.twin.clock.now_ns() + 600 * SECOND_NS))
    for number, client in enumerate((OTHER_CLIENT, CLIENT, OTHER_CLIENT), 1):
        played = player.step(begin(both, number, client, 41000 + number))
        assert not played.differences
        assert played.exchange is not None and played.exchange.walk.packet.destination == ENDS["a1"][0]
    remembered = tool.tool.remembered(list_name(at))
    assert len(remembered) == DEFAULT_SIZE
    assert CLIENT[0] in remembered and OTHER_CLIENT[0] not in remembered


# --- rules -----------------------------------------------------------------------------------------------------------------


@EACH_FAMILY
def test_connections_outlive_rules_that_somebody_removed(both: Both) -> None:  # NFT-8.7
    family = both.family
    playing = both.play(
        endpoints(family, "web", "a1"), FirstPacket(0, flow(family, "web")), ServerSegment(0, "SYN ACK"), Flush(),
        ClientSegment(0, "ACK"), FirstPacket(1, flow(family, "web", sport=40001)), endpoints(family, "web", "b1"),
        FirstPacket(2, flow(family, "web", sport=40002)), ClientSegment(0, "PSH ACK"),
    )  # fmt: skip
    walks = [each.exchange.walk for each in playing.played if each.exchange]
    kept, gone = ENDS["a1"][family is V6], ENDS["b1"][family is V6]
    assert [walk.packet.destination for walk in (walks[0], walks[2], walks[4], walks[5])] == [kept, kept, gone, kept]
    assert walks[3].disposition is Disposition.DELIVERED  # to the node itself, which has no such port


def test_a_chain_waits_for_its_deletion_in_linux_too(both: Both) -> None:  # NFT-8.8
    player = begun(both)

    def chains() -> set[str]:
        listed = json.loads(both.twin.linux.namespace.run(["nft", "-j", "list", "chains"]))["nftables"]
        found = {each["chain"]["name"] for each in listed if each.get("chain", {}).get("table") == "kube-proxy"}
        assert found == set(next(iter(both.twin.model.rulesets[V4].tables.values())).chains)
        return {name for name in found if "dnstwin" in name}

    steps: tuple[tuple[SequenceStep, bool], ...] = (
        (endpoints(V4, "dnstwin", ""), True), (endpoints(V4, "dns", "a1"), True), (Wait(1100 * MILLISECOND_NS), True),
        (endpoints(V4, "dns", "a2"), False),
    )  # fmt: skip
    for step, waits in steps:
        assert not player.step(step).differences
        assert bool(chains()) is waits


# --- drawn -----------------------------------------------------------------------------------------------------------------


@EACH_FAMILY
def test_whatever_happens_in_the_shop(both: Both) -> None:
    choices = SeededChoices(1, "shop in sets", both.family)
    configuration: dict[str, Any] = {
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": "10.180.0.0/16,fd00:180::/48",
    }
    site, state = both.cluster.site, both.cluster.state
    waits_ns = (10 * MILLISECOND_NS,)
    both.play(
        *draw_sequence(choices, site, "node-1", both.family, 60, state, waits_ns=waits_ns, configuration=configuration)
    )


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_in_a_drawn_cluster(kernel: None, seed: int) -> None:
    text = manifest(seed, Mode.NFTABLES)
    of = cluster(seed, Mode.NFTABLES)
    subjects = list(cluster_subjects(of))
    subject = subjects[seed % len(subjects)]
    case = draw_case(SeededChoices(seed, "in sets"), of, subject, text, 50, (10 * MILLISECOND_NS,))
    assert not play(case, Variant.NFT).finding


def test_kube_proxys_chains_stay_in_front_of_those_of_iptables(both: Both) -> None:
    """Of equal priorities the chain registered later runs first (K-9.1), and iptables-restore registers its chains anew.

    The lab must not do so at each sync: then a policy of DROP would come before kube-proxy's rejection.
    """
    closed = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    both.cluster = both.cluster.with_rules_beside(rules_from(closed, V4))
    playing = both.play(
        FirstPacket(0, flow(V4, "dnsnone")), endpoints(V4, "dns", "a1"), FirstPacket(1, flow(V4, "dnsnone", sport=40001))
    )  # fmt: skip
    fates = [each.exchange.walk.disposition for each in playing.played if each.exchange]
    assert fates == [Disposition.REJECTED, Disposition.REJECTED]
