"""Sequences of packets in the model and in Linux while kube-proxy works (K-1, K-2, K-4, K-6, O-12, CT-2 … CT-6).

After every packet both must agree on what came out of the node and on every connection: tuples, state, flags, mark,
timer. At the end they must agree on the affinity lists. Linux draws endpoints and ports, and the model follows.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from drawings import Hypothetical, cluster, manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sequence_shop import CLIENT, ENDS, NODE, OTHER_CLIENT, POD, Both, endpoints, flow, shop

from fuzz import fuzzing
from fuzz.cases import play, read_case, with_sysctls
from fuzz.fuzzing import draw_case
from kpsim.addresses import Family
from kpsim.explore import load
from kpsim.lab.tools.variants import Variant
from kpsim.netfilter import Netns
from kpsim.packetpath.routing import Routing
from kpsim.sysctls import Sysctls
from kpsim.tracing.site import Sender
from kpsim.units import MILLISECOND_NS, SECOND_NS
from kpsim.verify import twin as twin_module
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.sequences.playing import Player, Playing
from kpsim.verify.sequences.steps import (
    ClientSegment,
    DeleteFlow,
    FirstPacket,
    MidStream,
    Opening,
    SequenceStep,
    ServerSegment,
    Wait,
)
from kpsim.verify.subjects import cluster_subjects
from kpsim.verify.twin import Twin
from kpsim.verify.verification import Verifier

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
_WAITS_NS = (10 * MILLISECOND_NS, 1300 * MILLISECOND_NS)
_SILENCE = Wait(1300 * MILLISECOND_NS)  #: outlasts timers of a second

Maker = Callable[..., Both]


@pytest.fixture
def make(kernel: None) -> Iterator[Maker]:
    made: list[Both] = []

    def one(*arguments: Any, **options: Any) -> Both:
        made.append(Both(*arguments, **options))
        return made[-1]

    try:
        yield one
    finally:
        for each in made:
            each.twin.close()


VARIANTS = pytest.mark.parametrize(
    ("family", "random_fully"), [(V4, True), (V6, True), (V4, False)], ids=["IPv4", "IPv6", "IPv4, ports kept"]
)
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])

# --- TCP ---------------------------------------------------------------------------------------------------------------------

_FLAGS = {"S": "SYN", "A": "ACK", "P": "PSH ACK", "F": "FIN ACK", "R": "RST", "SA": "SYN ACK"}
#: K-1.8, K-6: a letter a segment, SA a SYN-ACK, P data; small letters are the server's
LIVES = (
    "S sa A P a p A F a f A S sa A", "S sa A r S S sa A P", "S sa A R S sa", "S sa A R a S", "S sa A F f S a a A",
    "S sa r S sa", "S r S", "A a A P p A R S", "P p A f A F a S", "S sa A S sa A P", "S sa A f R S", "A r", "S sa P a",
)  # fmt: skip


def life(number: int, opening: Opening, text: str) -> Iterator[SequenceStep]:
    for place, word in enumerate(text.split()):
        flags = _FLAGS[word.upper()]
        if word.islower():
            yield ServerSegment(number, flags)
        elif place:
            yield ClientSegment(number, flags)
        else:
            yield FirstPacket(number, opening) if word == "S" else MidStream(number, opening, flags)


@VARIANTS
def test_lives_of_connections(make: Maker, family: Family, random_fully: bool) -> None:
    steps: list[SequenceStep] = []
    for number, text in enumerate(LIVES):
        steps += life(number, flow(family, "twin", sport=40000 + number), text)
    playing = make(family, random_fully=random_fully).play(*steps)
    entries = [each.exchange.walk.entry for each in playing.played if each.exchange]
    states = {entry.state for entry in entries if entry}
    assert {"SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"} <= states


@FAMILIES
def test_connections_outlive_their_rules(make: Maker, family: Family) -> None:  # O-12.4: TCP is never cleaned up
    both = make(family)
    playing = both.play(
        endpoints(family, "twin", "a1"), *life(0, flow(family, "twin"), "S sa A"), endpoints(family, "twin", "b1"),
        *life(1, flow(family, "twin", sport=40001), "S sa A"), ClientSegment(0, "PSH ACK"), ServerSegment(0, "ACK"),
        endpoints(family, "twin", ""), ClientSegment(0, "PSH ACK"), ClientSegment(1, "PSH ACK"),
        FirstPacket(2, flow(family, "twin", sport=40002)),
    )  # fmt: skip
    seen = [each.exchange.walk for each in playing.played if each.exchange]
    first, second = (ENDS[end][family is V6] for end in ("a1", "b1"))
    assert seen[6].packet.destination == seen[8].packet.destination == first
    assert seen[9].packet.destination == second
    assert seen[10].disposition == "rejected"


# --- UDP ---------------------------------------------------------------------------------------------------------------------


@FAMILIES
def test_stale_flows_are_deleted_and_flows_of_nobody_survive(make: Maker, family: Family) -> None:  # O-12.4, CT-2
    both = make(family)
    dns, other = flow(family, "dns", by="cluster IP"), flow(family, "dnstwin", by="cluster IP", sport=40001)
    playing = both.play(
        endpoints(family, "dns", "a1"), endpoints(family, "dnstwin", "a1"),
        FirstPacket(0, dns), ServerSegment(0), FirstPacket(1, other), ServerSegment(1),
        endpoints(family, "dns", "a2"), ClientSegment(0), endpoints(family, "dns", ""), ClientSegment(0),
        endpoints(family, "dns", "b1"), ClientSegment(0), ServerSegment(0), ClientSegment(1),
    )  # fmt: skip
    seen = [each.exchange.walk for each in playing.played if each.exchange]
    reached = [walk.packet.destination for walk in (seen[0], seen[4], seen[5], seen[6])]
    assert reached == [ENDS[end][family is V6] for end in ("a1", "a2", "a2", "b1")]
    assert [bool(seen[place].effects.created) for place in (4, 5, 6, 8)] == [True, False, True, False]


@VARIANTS
def test_a_client_port_towards_many_services_that_share_an_endpoint(
    make: Maker, family: Family, random_fully: bool
) -> None:  # K-2.3, K-2.4
    both, services, numbers = make(family, random_fully=random_fully), ("dns", "dnstwin", "dnssticky"), count()
    clients = (
        (OTHER_CLIENT, Sender.EXTERNAL), (CLIENT, Sender.EXTERNAL), (POD, Sender.POD), (NODE, Sender.NODE),
    )  # fmt: skip
    steps: list[SequenceStep] = []
    for end, by in (("a1", "node port"), ("a2", "cluster IP")):
        steps += [endpoints(family, service, end) for service in services]
        for client, sender in clients:
            openings = [flow(family, service, by=by, client=client, sender=sender) for service in services]
            steps += [FirstPacket(next(numbers), opening) for opening in openings]
    playing = both.play(*steps)
    made = [each.exchange.walk.effects.created for each in playing.played if each.exchange]
    assert len(made) == 24 and all(made)
    kept_source = [each for each in made if each and each.reply.daddr == each.original.saddr]
    assert any(each.reply.dport != each.original.sport for each in kept_source)
    assert len(both.twin.model.conntrack) == 12  # those of the first endpoint are stale


@FAMILIES
def test_a_port_that_was_found_is_tried_first(make: Maker, family: Family) -> None:  # K-2.3, measured
    both = make(family, random_fully=False)
    playing = both.play(
        endpoints(family, "dns", "a1"), endpoints(family, "dnstwin", "a1"), endpoints(family, "dnssticky", "a2"),
        *(FirstPacket(n, flow(family, name)) for n, name in enumerate(("dns", "dnstwin", "dnssticky"))),
    )  # fmt: skip
    made = [each.exchange.walk.effects.created for each in playing.played if each.exchange]
    first, second, third = (entry.reply.dport for entry in made if entry)
    assert first == 40000 != second == third


@FAMILIES
def test_affinity_lists_hold_a_hundred_sources(make: Maker, family: Family) -> None:  # K-4.1
    both = make(family)
    steps: list[SequenceStep] = [endpoints(family, "dnssticky", ""), endpoints(family, "dnssticky", "a1")]  # K-4.2
    for number in range(120):
        client = (f"203.0.113.{number + 1}", f"2001:db8:71::{number + 1:x}")
        steps += [FirstPacket(number, flow(family, "dnssticky", by="cluster IP", client=client)), DeleteFlow(number)]
    both.play(*steps)
    lists = both.twin.linux.tool.lists()
    assert max(len(both.twin.model.memory.recent[name]) for name in lists) == 100


@FAMILIES
def test_what_times_out_is_forgotten(make: Maker, family: Family) -> None:  # K-1.7, CT-5
    both = make(family, udp_timeout=1, tcp_timeout_close=1)
    dns, other, tcp = flow(family, "dns"), flow(family, "dns", by="cluster IP"), flow(family, "twin")
    playing = both.play(
        FirstPacket(0, dns), FirstPacket(1, other), ServerSegment(1), *life(2, tcp, "S sa A r"), FirstPacket(3, flow(family, "web")),
        _SILENCE, ServerSegment(1), FirstPacket(0, dns), ClientSegment(1), FirstPacket(2, tcp), _SILENCE,
    )  # fmt: skip
    made = [bool(each.exchange.walk.effects.created) for each in playing.played if each.exchange]
    assert made == [True, True, False, True, False, False, False, True, True, True, True, True]
    assert [entry.state for entry in both.twin.model.conntrack] == ["SYN_SENT", "SYN_SENT"]


def test_a_udp_flow_becomes_a_stream(make: Maker) -> None:  # CT-5.1
    both = make(V4)
    packets = (FirstPacket(0, flow(V4, "dns")), ServerSegment(0), ClientSegment(0), ServerSegment(0))
    both.play(*packets)
    [entry] = both.twin.model.conntrack
    assert not entry.assured
    both.play(*packets, Wait(2100 * MILLISECOND_NS), ServerSegment(0))
    [entry] = both.twin.model.conntrack
    assert entry.assured and entry.expires_ns - entry.created_ns > 120 * SECOND_NS


# --- drawn -------------------------------------------------------------------------------------------------------------------


@VARIANTS
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_in_the_shop(make: Maker, family: Family, random_fully: bool, seed: int) -> None:
    both = make(family, random_fully=random_fully)
    site, state = both.cluster.site, both.cluster.state
    choices = SeededChoices(seed, "shop", family, random_fully)
    both.play(*draw_sequence(choices, site, "node-1", family, 60, state, waits_ns=_WAITS_NS[:1]))


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_in_a_drawn_cluster(seed: int, variant: Variant) -> None:
    of = cluster(seed)
    subjects = list(cluster_subjects(of))
    subject = subjects[seed % len(subjects)]
    case = draw_case(SeededChoices(seed, "both", str(variant)), of, subject, manifest(seed), 50, _WAITS_NS)
    assert not play(case, variant).finding


_FEW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


@_FEW
@given(st.data())
@pytest.mark.parametrize("variant", list(Variant))
def test_any_probes_of_any_cluster(variant: Variant, data: st.DataObject) -> None:
    choices = Hypothetical(data)
    of = load(text=draw_manifest(choices))
    subject = data.draw(st.sampled_from(list(cluster_subjects(of))))
    probes = draw_probes(choices, subject.site, subject.node, subject.family, 20, of.state.services)
    with Verifier(variant) as verifier:
        assert not verifier.verify(subject, probes).disagreements


@_FEW
@given(st.data())
@pytest.mark.parametrize("variant", list(Variant))
def test_any_sequence_in_any_cluster(variant: Variant, data: st.DataObject) -> None:
    choices = Hypothetical(data)
    text = draw_manifest(choices)
    of = load(text=text)
    subject = data.draw(st.sampled_from(list(cluster_subjects(of))))
    case = draw_case(choices, of, subject, text, 15, _WAITS_NS[:1])
    assert not play(case, variant).finding


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("file", CASES, ids=[file.stem for file in CASES])
def test_cases_that_once_differed(file: Path, variant: Variant) -> None:
    assert not play(read_case(file), variant).finding


# --- they would be caught ------------------------------------------------------------------------------------------------------


def _play(twin: Twin, *steps: SequenceStep) -> Playing:
    return Player(twin, shop(), "node-1").play(steps)


def test_a_wrong_timer_is_a_difference(make: Maker) -> None:
    twin = make(V4).twin
    twin.machine = with_sysctls(twin.machine, {"udp_timeout": 93})  # of the model alone
    differences = _play(twin, FirstPacket(0, flow(V4, "dns"))).differences
    assert differences
    assert all(difference.what.startswith("timer of") for difference in differences)


def test_a_wrong_machine_is_a_difference(make: Maker) -> None:
    twin = make(V4).twin
    twin.machine = replace(twin.machine, sysctls=replace(twin.machine.sysctls, tcp_loose=False))
    playing = _play(twin, MidStream(0, flow(V4, "twin"), "ACK"))
    assert "what is seen" in {difference.what for difference in playing.differences}


class Meddler(Player):
    """Another program changes what Linux remembers."""

    def __init__(self, *arguments: Any, meddle: Callable[[], object]) -> None:
        super().__init__(*arguments)
        self._meddle = meddle

    def step(self, step: SequenceStep) -> Any:
        if isinstance(step, Wait):
            self._meddle()
        return super().step(step)


def test_a_connection_that_only_one_has_is_a_difference(make: Maker) -> None:
    twin, dns = make(V4).twin, flow(V4, "dns")
    meddler = Meddler(twin, shop(), "node-1", meddle=lambda: twin.linux.conntrack.delete(dns.tuple))
    playing = meddler.play([FirstPacket(0, dns), Wait(0)])
    assert [difference.what for difference in playing.differences] == ["connection", "number of connections"]


def test_a_forgotten_client_is_a_difference(make: Maker) -> None:
    twin = make(V4).twin
    meddler = Meddler(twin, shop(), "node-1", meddle=twin.linux.forget)
    dial = flow(V4, "dnssticky")
    [difference] = meddler.play([FirstPacket(0, dial), DeleteFlow(0), Wait(0)]).in_the_end
    assert difference.what.startswith("affinity list KUBE-SEP-") and difference.linux == "nothing"


def test_fuzzing_finds_a_fault_makes_it_small_and_writes_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(name: str, routing: Routing, sysctls: Sysctls) -> Netns:
        return Netns(
            name, routing, replace(sysctls, tcp_timeout_syn_sent_ns=sysctls.tcp_timeout_syn_sent_ns + 10 * SECOND_NS)
        )

    monkeypatch.setattr(fuzzing, "_SHRINK_S", 60)
    for name, few in (("_PROBES", 8), ("_STEPS", 8), ("_SEQUENCES", 1)):
        monkeypatch.setattr(fuzzing, name, few)
    monkeypatch.setattr(twin_module, "Netns", faulty)
    assert fuzzing.main(["--minutes", "0.001", "--seed", "3", "--out", str(tmp_path), "--backend", "nft"]) == 1
    cases = [read_case(file) for file in sorted(tmp_path.iterdir())]
    assert cases and all(play(case).finding for case in cases)
    assert min(len(case.steps) + len(case.probes) for case in cases) == 1
    assert "timer of SYN_SENT" in cases[0].about
    monkeypatch.undo()
    assert not any(play(case).finding for case in cases)
