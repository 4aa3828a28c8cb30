"""Verifies a subject: sends its probes through a twin, in batches, and then the answers to those that arrived.

What it finds is a value; ``report`` prints it.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple, Self

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.conntrack import FlowTuple, tuple_of
from kpsim.explore import Cluster
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot
from kpsim.netfilter import Netns, Walk, expand
from kpsim.packet import Packet
from kpsim.tracing.probes import Probe, ProbeResult, result_of
from kpsim.verify.balanced import taken_by, without_ipvs
from kpsim.verify.frequencies import Frequencies, Spread
from kpsim.verify.intent.judging import Unmeant
from kpsim.verify.intent.watching import Onlooker
from kpsim.verify.prediction import told
from kpsim.verify.sequences.playing import Player, Playing
from kpsim.verify.sequences.steps import SequenceStep, describe
from kpsim.verify.sides import Sides, both_sides
from kpsim.verify.subjects import Subject
from kpsim.verify.twin import Difference, Exchange, Twin

_BATCH = 500
_LEAST_SAMPLES = 20  # draws of a packet, before its frequencies are judged
_MOST_SIDES = 3  # disagreements of one subject that are sent once more and explained


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A packet on which the model and Linux do not agree. ``sides`` explains both, if the packet was sent once more."""

    subject: str
    probe: str
    packet: str
    differences: tuple[Difference | Unmeant, ...]
    first: Shot | None = None  #: the probe itself
    answer: bool = False  #: whether the disagreement is about the answer to the probe
    sides: Sides | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What the verification of one subject found."""

    subject: str
    results: Counter[ProbeResult] = field(default_factory=Counter)  #: numbers of probes by their result
    answers: int = 0  #: number of answers to probes that were sent
    disagreements: tuple[Disagreement, ...] = ()
    frequencies: tuple[Frequencies, ...] = ()
    spreads: tuple[Spread, ...] = ()  #: of the source ports that Linux drew, one for each range
    tool: str = ""  #: the program that loaded the rules
    left_out: Counter[str] = field(
        default_factory=Counter
    )  #: probes that were not sent, by the virtual server that takes them
    rules_left_out: int = 0  #: rules that were not loaded because they ask of ip_vs

    @property
    def probes(self) -> int:
        return self.results.total()


class Verifier:
    """Verifies subjects one after another. It keeps a twin for as long as subjects have the same machine. ``close`` it."""

    def __init__(self, variant: Variant = Variant.NFT) -> None:
        self._variant = variant
        self._twin: Twin | None = None
        self._key: Hashable = None

    def close(self) -> None:
        if self._twin is not None:
            self._twin.close()
            self._twin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def twin(self, subject: Subject, *, silent: bool = False) -> Twin:
        """A twin of the subject's machine. It may still hold the rules of an earlier subject. ``silent`` as for
        :class:`Twin`.
        """
        machine = subject.site.machine(subject.node)
        key = (
            silent,
            subject.family,
            tuple(machine.routing.interfaces.values()),
            machine.routing.routes,
            machine.sysctls,
            machine.uplink,
        )
        if self._twin is None or self._key != key:
            self.close()
            self._twin, self._key = Twin(machine, subject.family, self._variant, silent=silent), key
        return self._twin

    def verify(
        self,
        subject: Subject,
        probes: Sequence[Probe],
        *,
        repeat: int = 1,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Verification:
        """Sends every probe once, and ``repeat`` times if its endpoint is drawn.

        ``progress`` is called with the number of probes that were sent since the last call. LabError, or its kind
        BlindLab, if nothing could be measured; InputError for a probe whose source cannot be chosen.
        """
        twin = self.twin(subject)
        full = subject.site.netns(subject.node, subject.family)
        loaded = without_ipvs(full.programmed[subject.family])
        difference = twin.load(loaded.told)
        twin.linux.add_pods(address for family, address in subject.site.directory.pods if family is subject.family)
        found = _Found(subject, twin, loaded.rules)
        if difference is not None:
            found.disagreements.append(Disagreement(subject.name, "", "the rules themselves", (difference,)))
        asked = found.sendable(full, [(p, subject.site.begin(p.packet, subject.node, p.sender)) for p in probes])
        for batch in _batches(asked):
            _send(twin, batch, found)
            progress(len(batch))
        drawn = found.drawn_among(asked) if repeat > 1 else []
        for batch in _batches(drawn * (repeat - 1)):
            _send(twin, batch, found)
            progress(len(batch))
        twin.check_rules()
        found.weigh()
        return found.verification()

    def play(
        self,
        subject: Subject,
        cluster: Cluster,
        steps: Sequence[SequenceStep],
        onlooker: Onlooker | None = None,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Verification:
        """Plays a sequence at the subject's node, up to the first disagreement. Every packet counts as a probe.

        LabError as for ``verify``.
        """
        twin = self.twin(subject, silent=True)
        player = Player(twin, cluster, subject.node, onlooker)
        playing = player.play(steps)
        twin.check_rules()
        results = Counter(result_of(each.exchange.walk) for each in playing.played if each.exchange)
        progress(results.total())
        spreads = tuple(spreads_of(each.exchange for each in playing.played if each.exchange))
        return Verification(
            subject.name,
            results,
            disagreements=tuple(_disagreements(subject.name, playing)),
            spreads=spreads,
            rules_left_out=player.rules_left_out,
            tool=twin.linux.tool.name,
        )


def spreads_of(exchanges: Iterable[Exchange]) -> Iterator[Spread]:
    """The spread of drawn source ports, for each range that the model draws from."""
    drawn: dict[tuple[int, int], list[int]] = {}
    for each in exchanges:
        created, ports = each.walk.effects.created, each.walk.source_ports
        if not each.differences and created is not None and ports is not None:
            drawn.setdefault(ports, []).append(created.reply.inverse().sport)
    return (Spread.of(*ports, found) for ports, found in sorted(drawn.items()))


def _disagreements(subject: str, playing: Playing) -> Iterator[Disagreement]:
    for number, each in enumerate(playing.played, 1):
        if each.differences:
            packet = told(each.exchange.shot.packet) if each.exchange else "no packet"
            yield Disagreement(subject, f"step {number}: {describe(each.step)}", packet, each.differences)
    if playing.in_the_end:
        yield Disagreement(subject, "behind the last step", "no packet", playing.in_the_end)
    elif playing.differences and not any(each.differences for each in playing.played):
        yield Disagreement(subject, "before the first step", "no packet", playing.differences)


Asked = tuple[Probe, Packet]


def _batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Shares probes out among batches. No flow begins twice in one batch."""
    batch: list[Asked] = []
    flows: set[FlowTuple] = set()
    for probe, packet in asked:
        flow = tuple_of(packet)
        if len(batch) == _BATCH or flow in flows:
            yield batch
            batch, flows = [], set()
        batch.append((probe, packet))
        flows.add(flow)
    if batch:
        yield batch


def _send(twin: Twin, batch: Sequence[Asked], found: "_Found") -> None:
    """Sends first packets, then the answers to those that arrived."""
    twin.forget()
    exchanges = twin.exchange([Shot(packet) for _, packet in batch])
    found.add([probe for probe, _ in batch], exchanges)
    answered = [(probe, e, a) for (probe, _), e in zip(batch, exchanges, strict=True) if (a := e.answer())]
    if answered:
        back = twin.exchange([Shot(answer) for _, _, answer in answered])
        found.add_answers([(probe, exchange) for probe, exchange, _ in answered], back)


class _Found:
    """Collects what a verification finds."""

    def __init__(self, subject: Subject, twin: Twin, rules_left_out: int) -> None:
        self.disagreements: list[Disagreement] = []
        self._left_out: Counter[str] = Counter()
        self._rules_left_out = rules_left_out
        self._subject, self._twin = subject, twin
        self._results: Counter[ProbeResult] = Counter()
        self._answers = 0
        self._drawn: dict[PacketKind, Counter[str]] = {}
        self._weights: dict[PacketKind, dict[str, Fraction]] = {}
        self._firsts: list[tuple[Probe, Exchange]] = []  # those whose endpoint may be one of several

    def sendable(self, full: Netns, asked: Sequence[Asked]) -> Sequence[Asked]:
        """The probes that Linux can be asked about. ``full`` has the virtual servers, which Linux lacks."""
        if not full.programmed[self._subject.family].virtual_servers:
            return asked
        taken = [taken_by(full, packet) for _, packet in asked]
        self._left_out.update(str(server) for server in taken if server is not None)
        return [each for each, server in zip(asked, taken, strict=True) if server is None]

    def add(self, probes: Sequence[Probe], exchanges: Sequence[Exchange]) -> None:
        for probe, exchange in zip(probes, exchanges, strict=True):
            self._results[result_of(exchange.walk)] += 1
            unmeant = self._unmeant(exchange)
            if exchange.differences or unmeant:
                self._disagree(probe, exchange, exchange.shot, unmeant)
                continue
            self._firsts.append((probe, exchange))
            touched = exchange.walk.effects.touched
            if result_of(exchange.walk) is ProbeResult.DELIVERED and not (touched.recent or touched.sets):
                drawn = self._drawn.setdefault(_kind_of(exchange.shot.packet), Counter())
                drawn[_endpoint(exchange.walk)] += 1

    def _unmeant(self, exchange: Exchange) -> list[Unmeant]:
        intent = self._subject.intent
        if intent is None or exchange.differences:
            return []
        return intent.judge(exchange.shot.packet, exchange.walk)

    def add_answers(self, asked: Sequence[tuple[Probe, Exchange]], exchanges: Sequence[Exchange]) -> None:
        self._answers += len(exchanges)
        for (probe, request), exchange in zip(asked, exchanges, strict=True):
            if exchange.differences:
                self._disagree(probe, exchange, request.shot, answer=True)

    def _disagree(
        self, probe: Probe, exchange: Exchange, first: Shot, unmeant: Sequence[Unmeant] = (), *, answer: bool = False
    ) -> None:
        packet = told(exchange.shot.packet)
        entrance = exchange.shot.packet.in_interface or "a process of the node"
        shown = f"{packet}, {'in by ' if exchange.shot.packet.in_interface else 'from '}{entrance}"
        self.disagreements.append(
            Disagreement(self._subject.name, str(probe.id), shown, (*exchange.differences, *unmeant), first, answer)
        )

    def weigh(self) -> None:
        """Compares the odds of the endpoints with those that are due."""
        intent = self._subject.intent
        if intent is None:
            return
        self._twin.forget()
        for probe, exchange in self._firsts:
            if unmeant := intent.weigh(self._twin.model, exchange.shot.packet):
                self._disagree(probe, replace(exchange, differences=()), exchange.shot, unmeant)

    def verification(self) -> Verification:
        shown = [self._with_sides(d) for d in self.disagreements[:_MOST_SIDES]]
        return Verification(
            self._subject.name, self._results, self._answers, (*shown, *self.disagreements[_MOST_SIDES:]),
            tuple(self._frequencies()), tuple(spreads_of(exchange for _, exchange in self._firsts)),
            self._twin.linux.tool.name, self._left_out, self._rules_left_out,
        )  # fmt: skip

    def _with_sides(self, disagreement: Disagreement) -> Disagreement:
        if disagreement.first is None:
            return disagreement
        return replace(disagreement, sides=both_sides(self._twin, disagreement.first, answer=disagreement.answer))

    def drawn_among(self, asked: Sequence[Asked]) -> list[Asked]:
        """The probes among ``asked`` whose endpoint is drawn."""
        self._twin.forget()
        kinds = [(each, _kind_of(each[1])) for each in asked]
        return [each for each, q in kinds if q in self._drawn and len(self._weights_of(q)) > 1]

    def _frequencies(self) -> Iterator[Frequencies]:
        """Frequencies for each kind of packet that was sent often enough to be judged."""
        self._twin.forget()
        for kind, drawn in self._drawn.items():
            if drawn.total() >= _LEAST_SAMPLES:
                found = Frequencies(str(kind), drawn, self._weights_of(kind))
                if found.tells:
                    yield found

    def _weights_of(self, kind: "PacketKind") -> dict[str, Fraction]:
        """The probability of each endpoint, from a model without connections and affinities."""
        weights = self._weights.get(kind)
        if weights is None:
            weights = self._weights[kind] = {}
            local = not kind.in_interface
            for weight, way in expand(self._twin.model, kind.packet(), now_ns=0, local=local):
                weights[_endpoint(way)] = weights.get(_endpoint(way), Fraction(0)) + weight
        return weights


class PacketKind(NamedTuple):
    """What decides how an endpoint is drawn: first packets that are equal in it have the same probabilities."""

    family: Family
    protocol: str
    saddr: int
    daddr: int
    dport: int
    in_interface: str

    def packet(self) -> Packet:
        return Packet(
            self.family, self.protocol, self.saddr, self.daddr, 40000, self.dport, in_interface=self.in_interface
        )

    def __str__(self) -> str:
        source, destination = format_ip(self.family, self.saddr), format_ip(self.family, self.daddr)
        return f"{self.protocol} {source} → {join_host_port(destination, self.dport)}"


def _kind_of(packet: Packet) -> PacketKind:
    return PacketKind(
        packet.family, packet.protocol, packet.saddr, packet.daddr, packet.dport, packet.in_interface
    )  # fmt: skip


def _endpoint(way: Walk) -> str:
    entry = way.entry
    if entry is None or result_of(way) is not ProbeResult.DELIVERED:
        return str(way.disposition)
    return join_host_port(format_ip(entry.reply.family, entry.reply.saddr), entry.reply.sport)
