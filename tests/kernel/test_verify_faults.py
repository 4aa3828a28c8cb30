"""A model that is wrong on purpose: the comparison finds exactly the planted difference, and shows both sides of it.

Linux gets the right rules, the model gets rules with a mistake. What Linux does is known beforehand.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from labs import shot
from shop import cluster_text, endpoints, port, service

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.explore import load
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot
from kpsim.netfilter import Netns
from kpsim.programmed import Programmed
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Sender
from kpsim.units import SECOND_NS
from kpsim.verify.frequencies import FALSE_ALARM
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.twin import Difference, Twin
from kpsim.verify.verification import Verification, Verifier

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6


def objects() -> list[str]:
    """In both families: a Service with a pod here (one), with three pods elsewhere (trio), with none (none), with
    affinity (sticky).
    """
    found = []
    for family, ip, pod, other in (
        (V4, "172.30.0.{}", "10.180.0.{}", "10.180.1.{}"),
        (V6, '"fd00:172:30::{}"', "fd00:180::{}", "fd00:180:0:1::{}"),
    ):
        places = {
            "one": {pod.format(5): "node-1"}, "none": {}, "sticky": {other.format(n): "node-2" for n in (7, 8)},
            "trio": {other.format(n): "node-2" for n in (1, 2, 3)},
        }  # fmt: skip
        for number, (name, endpoint_places) in enumerate(places.items(), 60):
            each = f"{name}{family.value}"
            affinity = ", sessionAffinity: ClientIP" if name == "sticky" else ""
            spec = f"clusterIP: {ip.format(number)}, ipFamilies: [{family.label}], type: NodePort{affinity}"
            found.append(service(each, f"{spec}, {port(80, 30000 + 10 * number + family.value)}"))
            found.append(endpoints(each, 8080, endpoint_places, family=family.label))
    return found


@pytest.fixture(scope="module", params=list(Family), ids=lambda family: family.label)
def subject(request: pytest.FixtureRequest) -> Subject:
    subjects = cluster_subjects(load(text=cluster_text(objects())), ["node-1"])
    return next(each for each in subjects if each.family is request.param)


@pytest.fixture(scope="module", params=list(Variant))
def verifier(request: pytest.FixtureRequest, kernel: None) -> Iterator[Verifier]:
    with Verifier(request.param) as made:
        yield made


class WrongModel:
    """Loads other rules into the model than into Linux. ``of_linux``: it is Linux that gets the changed ones."""

    def __init__(self, twin: Twin, change: "Change", *, of_linux: bool) -> None:
        self._twin, self._change, self._of_linux = twin, change, of_linux
        self._load = twin.load

    def load(self, told: Programmed) -> Difference | None:
        rules = told.ruleset
        changed = self._change.rules(render_ruleset(rules, Style.SAVE))
        wrong = parse(changed, self._twin.family)
        ours, theirs = (rules, wrong) if self._of_linux else (wrong, rules)
        assert self._load(theirs) is None
        self._twin.model.load_rules(ours)
        return None


class Change(NamedTuple):
    """An edit of the rules' text, or of the machine. It must change something."""

    pattern: str = ""
    replacement: str = ""
    machine: Callable[[Netns], Netns] | None = None

    def rules(self, text: str) -> str:
        changed = re.sub(self.pattern, self.replacement, text, flags=re.MULTILINE) if self.pattern else text
        assert changed != text or self.machine
        return changed


def verify(
    verifier: Verifier, subject: Subject, change: Change, shots: list[Shot], monkeypatch: pytest.MonkeyPatch, *, of_linux: bool = False
) -> Verification:  # fmt: skip
    twin = verifier.twin(subject)
    monkeypatch.setattr(twin, "load", WrongModel(twin, change, of_linux=of_linux).load)
    if change.machine:
        right = twin.forget

        def forget() -> None:
            right()
            twin.model = change.machine(twin.model)

        monkeypatch.setattr(twin, "forget", forget)
    return verifier.verify(subject, [_probe(each, n) for n, each in enumerate(shots)])


def _probe(shot: Shot, number: int) -> Probe:
    by = {"": Sender.NODE, "cni0": Sender.POD, "eth0": Sender.EXTERNAL}[shot.packet.in_interface]
    return Probe(f"probe {number}", "node-1", by, shot.packet)


class Fault(NamedTuple):
    """What is planted, who sends what where, and what must be told: of what, and a pattern for each side."""

    name: str
    change: Change
    source: str
    destination: dict[Family, str]
    dport: int
    what: str
    model: str
    linux: str
    again: tuple[str, str] = ("", "")  #: patterns of what stands in the two columns


def _slower(netns: Netns) -> Netns:
    made = Netns("node", netns.routing, replace(netns.sysctls, tcp_timeout_syn_sent_ns=100 * SECOND_NS))
    made.load(next(iter(netns.programmed.values())))
    return made


def _without_hairpin(netns: Netns) -> Netns:
    interfaces = [replace(each, hairpin=False) for each in netns.routing.interfaces.values()]
    made = Netns("node", type(netns.routing)(interfaces, netns.routing.routes), netns.sysctls)
    made.load(next(iter(netns.programmed.values())))
    return made


ONE, NONE = ({V4: f"172.30.0.{n}", V6: f"fd00:172:30::{n}"} for n in (60, 61))
POD = {V4: "10.180.0.5", V6: "fd00:180::5"}
_POD = r"(10\.180\.0\.5|\[fd00:180::5\])"
_OUTSIDE = r"(203\.0\.113\.9|\[2001:db8:cb00:71::9\])"
FAULTS = [
    Fault("a rule is missing", Change(r"^-A KUBE-SERVICES .*has no endpoints.*\n"), "pod", NONE, 80,
          "what is seen", r"tcp .*:80 .* at a link", r"icmp(v6)? .* (3/3|1/4) about .* at a pod", ("→|sent|forward", "-j REJECT")),
    Fault("another endpoint", Change(rf"--to-destination {_POD}:8080", r"--to-destination \1:8081"), "client", ONE, 80,
          "what is seen", rf"→ {_POD}:8081 .* at a pod", rf"→ {_POD}:8080 .* at a pod", (":8081", rf"--to-destination {_POD}:8080")),
    Fault("no masquerade", Change(r"^-A KUBE-POSTROUTING .*MASQUERADE.*\n"), "client", ONE, 80,
          "what is seen", rf"tcp {_OUTSIDE}:40000 →", r"tcp (10\.180\.0\.1|\[fd00:180::1\]):\d+ →", ("", "-j MASQUERADE")),
    Fault("another policy", Change(r"^:FORWARD ACCEPT", ":FORWARD DROP"), "client", POD, 8080,
          "what is seen", "^nothing$", rf"→ {_POD}:8080 .* at a pod", ("seen nowhere: dropped, chain policy", "seen: tcp")),
    Fault("another timeout", Change(machine=_slower), "client", POD, 8080, "timer", "^100 s$", r"^1(19|20|18) s$"),
    Fault("no hairpin", Change(machine=_without_hairpin), "pod", ONE, 80, "what is seen", "^nothing$", rf"→ {_POD}:8080 .* at a pod"),
    Fault("another mark", Change(r"(-A KUBE-MARK-MASQ -j MARK --set-xmark) 0x4000/0x4000", r"\1 0x8000/0x8000"), "client", ONE, 80,
          "what is seen", rf"tcp {_OUTSIDE}:40000 →", r"tcp (10\.180\.0\.1|\[fd00:180::1\]):\d+ →"),
    Fault("rejected otherwise", Change(r"--reject-with icmp6?-port-unreachable", "--reject-with tcp-reset"), "pod", NONE, 80,
          "what is seen", r"tcp .* ACK\+RST at a pod", r"icmp(v6)? .* (3/3|1/4) about .* at a pod"),
    Fault("the sender is told nothing", Change(r"^-A KUBE-SERVICES .*has no endpoints.*\n"), "", NONE, 80,
          "what the sender is told", "^nothing$", "^EPERM$", ("", "the sender is told EPERM")),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_was_planted_is_found(
    verifier: Verifier, subject: Subject, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrance = {"pod": "cni0", "client": "eth0", "": ""}[fault.source]
    family = subject.family
    sent = shot(family, fault.source, fault.destination[family], fault.dport, by=entrance)
    beside = shot(family, "client", "node", 4444, sport=40001, protocol="udp")  # fares as the model says
    found = verify(verifier, subject, fault.change, [sent, beside], monkeypatch)
    [disagreement] = found.disagreements
    assert disagreement.probe == "probe 0"
    difference = next(each for each in disagreement.differences if each.what.startswith(fault.what))
    assert re.search(fault.model, difference.model), difference
    assert re.search(fault.linux, difference.linux), difference
    sides = disagreement.sides
    assert sides is not None
    assert sides.again
    ours, theirs = fault.again
    assert re.search(ours, "\n".join(sides.model))
    assert re.search(theirs, "\n".join(sides.linux))


def test_nothing_planted_nothing_found(verifier: Verifier, subject: Subject) -> None:
    family = subject.family
    shots = [
        shot(family, fault.source, fault.destination[family], fault.dport, by={"pod": "cni0", "client": "eth0", "": ""}[fault.source])
        for fault in FAULTS
    ]  # fmt: skip
    found = verifier.verify(subject, [_probe(each, n) for n, each in enumerate(shots)])
    assert found.disagreements == ()
    assert found.probes == len(FAULTS)


def test_affinity_that_linux_does_not_have(
    verifier: Verifier, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model remembers, Linux draws anew: of 30 connections of one client not all go to the first one's endpoint."""
    address = {V4: "172.30.0.62", V6: "fd00:172:30::62"}[subject.family]
    change = Change(r"^-A KUBE-SVC-.*--rcheck.*\n")
    shots = [shot(subject.family, "client", address, sport=number) for number in range(41000, 41030)]
    found = verify(verifier, subject, change, shots, monkeypatch, of_linux=True)
    differences = [each for d in found.disagreements if not d.answer for each in d.differences]
    seen = [each for each in differences if each.what == "what is seen"]  # a slow machine may be late with a timer, too
    assert 1 <= len(seen) < 30
    endpoint = r"(10\.180\.1\.[78]|\[fd00:180:0:1::[78]\]):8080"
    for each in seen:
        assert re.search(endpoint, each.model)[0] != re.search(endpoint, each.linux)[0], each


# --- draws -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "is_fair"),
    [(Change("0.50000000000", "0.49999999999"), True), (Change("0.33333333349", "0.60000000000"), False),
     (Change("0.50000000000", "0.20000000000"), False)],
    ids=["fair", "the first too often", "the second too seldom"],
)  # fmt: skip
def test_unfair_draws_are_found(
    verifier: Verifier, subject: Subject, change: Change, is_fair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frequencies of 400 draws. Linux does not tell the chance of an endpoint; only its draws show it."""
    address = {V4: "172.30.0.63", V6: "fd00:172:30::63"}[subject.family]
    shots = [shot(subject.family, "client", address, sport=number) for number in range(41000, 41400)]
    found = verify(verifier, subject, change, shots, monkeypatch, of_linux=True)
    assert found.disagreements == ()
    [frequencies] = found.frequencies
    assert frequencies.samples == 400
    assert len(frequencies.weights) == 3
    assert (frequencies.p_value > FALSE_ALARM) is is_fair, str(frequencies)
