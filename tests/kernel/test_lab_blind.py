"""A lab that cannot see says so, whatever blinds it. It never reports agreement about what it did not measure.

Each blinding is undone afterwards, and then the same lab sees again. So the blinding was what the lab complained of.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import pytest
from labs import rules_of, shop_subject, shot

from kpsim.addresses import Family
from kpsim.lab import wires
from kpsim.lab.calls import LabError
from kpsim.lab.canaries import BlindLab
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot, Where
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Sender
from kpsim.verify.twin import Exchange, Twin
from kpsim.verify.verification import Verifier

pytestmark = pytest.mark.kernel

_SO_RCVBUFFORCE, _BUFFER = 33, 64 << 20
_ENDPOINT = {Family.IPV4: "198.18.255.129", Family.IPV6: "2001:2:0:ff::81"}


@pytest.fixture(autouse=True)
def _less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the lab give up sooner when it waits for packets that never come."""
    monkeypatch.setattr(wires, "_PATIENCE_MS", 200)


@pytest.fixture(scope="module", params=[(f, b) for f in Family for b in Variant], ids=lambda p: f"{p[0].label}-{p[1]}")
def twin(request: pytest.FixtureRequest, kernel: None) -> Iterator[Twin]:
    family, variant = request.param
    subject = shop_subject(family)
    made = Twin(subject.site.machine(subject.node), family, variant)
    try:
        made.load(rules_of(subject))
        yield made
    finally:
        made.close()


def exchange(twin: Twin, shots: list[Shot] | None = None) -> list[Exchange]:
    twin.forget()
    return twin.exchange(shots or _shots(twin.family))


def _shots(family: Family) -> list[Shot]:
    return [
        shot(family, "client", "pod", 8080), shot(family, "pod", "service", by="cni0"), shot(family, "", "service", by=""),
        shot(family, "client", "node", 4444, protocol="udp"), shot(family, "pod", "client", by="cni0"),
    ]  # fmt: skip


def _many(twin: Twin, destination: str) -> list[Shot]:
    numbers = range(20000, 20300)
    return [shot(twin.family, "client", destination, 4444, sport=number, protocol="udp") for number in numbers]


def run(twin: Twin, *arguments: str) -> None:
    twin.linux.namespace.run([twin.linux.variant.command(twin.family), "--wait", *arguments])


def ip(twin: Twin, line: str) -> None:
    twin.linux.namespace.ip([line])


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def rule(twin: Twin, table: str, *rule: str) -> Iterator[None]:
    """A rule in front of all others."""
    run(twin, "-t", table, "-I", *rule)
    try:
        yield
    finally:
        run(twin, "-t", table, "-D", *rule)


# --- capture -----------------------------------------------------------------------------------------------------------------


class Deaf:
    """A socket that sends, but of which nothing is heard."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def recvfrom(self, _: int) -> None:
        raise BlockingIOError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def closed() -> socket.socket:
    made = socket.socket()
    made.close()
    return made


def deaf(twin: Twin) -> AbstractContextManager[None]:
    return replaced(twin.linux._wires, "_world", Deaf(twin.linux._wires._world))


def capture_closed(twin: Twin) -> AbstractContextManager[None]:
    return replaced(twin.linux._wires, "_world", closed())


def no_port_known(twin: Twin) -> AbstractContextManager[None]:
    return replaced(twin.linux._wires, "_ports", {})


def no_pod_watched(twin: Twin) -> AbstractContextManager[None]:
    ports = twin.linux._wires._ports
    return replaced(
        twin.linux._wires, "_ports", {wire: port for wire, port in ports.items() if port.where is Where.LINK}
    )


@contextmanager
def no_process_listens(twin: Twin) -> Iterator[None]:
    with replaced(twin.linux._wires, "_raw", []):
        yield
    twin.linux._wires._is_interrupted = True  # what the sockets got meanwhile belongs to no batch


def table_not_read(twin: Twin) -> AbstractContextManager[None]:
    return replaced(twin.linux.conntrack, "get", lambda _: None)


# --- the way in and out ------------------------------------------------------------------------------------------------------


@contextmanager
def pod_unplugged(twin: Twin) -> Iterator[None]:
    """The port of the pod that sends, and of no canary."""
    wire = twin.linux._pods[shot(twin.family, "pod", "client").packet.saddr][0].replace("q", "p")
    ip(twin, f"link set {wire} down")
    try:
        yield
    finally:
        ip(twin, f"link set {wire} up")
        twin.linux._settle()


# --- rules -------------------------------------------------------------------------------------------------------------------


@contextmanager
def flushed(twin: Twin, *tables: str) -> Iterator[None]:
    for table in tables:
        run(twin, "-t", table, "-F")
    try:
        yield
    finally:
        twin.load(twin.model.rulesets[twin.family])


def all_flushed(twin: Twin) -> AbstractContextManager[None]:
    return flushed(twin, "nat", "filter")


def nat_flushed(twin: Twin) -> AbstractContextManager[None]:
    return flushed(twin, "nat")


def filter_flushed(twin: Twin) -> AbstractContextManager[None]:
    return flushed(twin, "filter")


@contextmanager
def rejection_removed(twin: Twin) -> Iterator[None]:
    run(twin, "-D", "FORWARD", "1")
    try:
        yield
    finally:
        twin.load(twin.model.rulesets[twin.family])


@contextmanager
def drop_removed(twin: Twin) -> Iterator[None]:
    run(twin, "-D", "FORWARD", "2")
    try:
        yield
    finally:
        twin.load(twin.model.rulesets[twin.family])


@contextmanager
def translation_removed(twin: Twin) -> Iterator[None]:
    run(twin, "-t", "nat", "-D", "PREROUTING", "1")
    try:
        yield
    finally:
        twin.load(twin.model.rulesets[twin.family])


def answers_swallowed(twin: Twin) -> AbstractContextManager[None]:
    return rule(twin, "filter", "FORWARD", "-s", _ENDPOINT[twin.family], "-j", "DROP")


def nothing_tracked(twin: Twin) -> AbstractContextManager[None]:
    return rule(twin, "raw", "PREROUTING", "-j", "CT", "--notrack")


BLINDINGS = [
    deaf, capture_closed, no_port_known, no_pod_watched, no_process_listens, table_not_read, pod_unplugged,
    all_flushed, nat_flushed, filter_flushed, rejection_removed, drop_removed, translation_removed, answers_swallowed, nothing_tracked,
]  # fmt: skip


@pytest.mark.parametrize("blinding", BLINDINGS, ids=lambda blinding: blinding.__name__)
def test_a_blinded_lab_refuses(twin: Twin, blinding: Any) -> None:
    exchange(twin)
    with blinding(twin), pytest.raises(LabError):
        exchange(twin)
    assert not list(chain.from_iterable(each.differences for each in exchange(twin)))


@pytest.mark.parametrize("destination", ["pod", "node"])
def test_a_socket_whose_buffer_is_too_small_is_noticed(twin: Twin, destination: str) -> None:
    sockets = [twin.linux._wires._world] if destination == "pod" else twin.linux._wires._raw
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # as little as there can be
    try:
        with pytest.raises(LabError, match=r"were not seen|nobody could look at"):
            exchange(twin, _many(twin, destination))
    finally:
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        twin.linux._wires._is_interrupted = True
    exchange(twin, _many(twin, destination))


def test_rules_that_were_never_loaded_are_missed(twin: Twin) -> None:
    rules = twin.model.rulesets[twin.family]
    with flushed(twin, "nat", "filter"):
        with replaced(twin.linux, "load", lambda *_: None):
            difference = twin.load(rules)
        assert difference is not None
        assert difference.what == "rules"
        with pytest.raises(BlindLab):
            exchange(twin)


@pytest.mark.parametrize("when", ["before the batch", "behind it"])
def test_canaries_fly_on_both_sides_of_a_batch(twin: Twin, when: str) -> None:
    """A chain that loses packets for a while is noticed whichever flock meets it."""
    number = 1 if when == "before the batch" else 2  # of the flocks
    port = str(1024 + twin.canaries._port + number)
    with rule(twin, "filter", "FORWARD", "-p", "udp", "--sport", port, "-j", "DROP"):
        with pytest.raises(BlindLab, match="nowhere"):
            exchange(twin)
        exchange(twin)  # with other ports


@pytest.fixture(scope="module", params=list(Family), ids=lambda family: family.label)
def verifier(request: pytest.FixtureRequest, kernel: None) -> Iterator[tuple[Verifier, Family]]:
    with Verifier() as made:
        yield made, request.param


def test_rules_that_change_meanwhile_are_no_rules(verifier: tuple[Verifier, Family]) -> None:
    made, family = verifier
    subject = shop_subject(family)
    probe = Probe("p", "node-1", Sender.EXTERNAL, shot(family, "client", "service").packet)

    def somebody_flushes(_: int) -> None:
        run(made.twin(subject), "-t", "mangle", "-A", "FORWARD", "-j", "ACCEPT")

    assert made.verify(subject, [probe]).disagreements == ()
    with pytest.raises(LabError, match="changed the rules meanwhile"):
        made.verify(subject, [probe], progress=somebody_flushes)


def test_answers_that_get_lost_are_noticed(verifier: tuple[Verifier, Family]) -> None:
    """The canaries of the second half of a verification: requests came through, and then nothing does."""
    made, family = verifier
    subject = shop_subject(family)
    probe = Probe("p", "node-1", Sender.EXTERNAL, shot(family, "client", "pod", 8080).packet)
    twin = made.twin(subject)
    whole, sent = twin.exchange, []

    def lossy(shots: Sequence[Shot]) -> list[Exchange]:
        sent.append(shots)
        if len(sent) == 1:
            return whole(shots)
        with rule(twin, "raw", "PREROUTING", "-j", "DROP"):
            return whole(shots)

    with replaced(twin, "exchange", lossy), pytest.raises(BlindLab):
        made.verify(subject, [probe])
    assert len(sent) == 2


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
def test_a_link_that_is_down_lets_nothing_in(family: Family) -> None:
    subject = shop_subject(family)
    twin = Twin(subject.site.machine(subject.node), family)
    try:
        twin.load(rules_of(subject))
        ip(twin, "link set eth0 down")
        with pytest.raises(LabError, match=r"did not get into the node|sending into eth0"):
            exchange(twin)
    finally:
        twin.close()
