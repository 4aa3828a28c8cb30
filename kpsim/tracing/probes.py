"""Probes: first packets, and every outcome that each may have; one JSON line in, one JSON line out.

A probe is a question about kube-proxy's rules. It is answered exactly, without random draws. It ends at the node where
the packet meets kube-proxy's rules: the endpoint sees the packet that left that node.

``by`` of an answer is the rule that decided, as ``table/CHAIN`` and its text. For a rejected or dropped packet, it is
the rule with that verdict. For a delivered packet, it is the rule that dispatched the packet to its Service: that rule
names the dialled destination, so it tells more than the rule of one endpoint. If no rule dispatched, it is the rule
that translated.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from fractions import Fraction
from html import escape
from typing import Any

from kpsim.addresses import Family, join_host_port, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json, json_object
from kpsim.netfilter import Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.steps import Step
from kpsim.tracing.deciding import ProbeResult, decided_by, result_of, rule_name
from kpsim.tracing.outcomes import Seen, Sums, explored, seen_of
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.standing import Standing, State
from kpsim.valueclass import dataclass
from kpsim.wire import DEFAULT_SPORT

__all__ = [
    "PROTOCOLS", "Answer", "Outcome", "Probe", "ProbeResult", "Prober", "Seen", "Source", "answer", "check_family",
    "decided_by", "first_packet", "make_packet", "names_port", "outcome_of", "parse_probes", "probe_record", "result_of",
    "rule_name", "sender_of", "split_end", "summarise",
]  # fmt: skip

PROTOCOLS = ("TCP", "UDP", "SCTP", "ICMP")
_ECHO_REQUESTS = {Family.IPV4: ("icmp", 8), Family.IPV6: ("icmpv6", 128)}


@dataclass(frozen=True, slots=True)
class Probe:
    """A first packet and where it comes from. If ``packet`` has no source, one is chosen."""

    id: str | int
    node: str
    sender: Sender
    packet: Packet
    any_port: bool = False  #: its source port may be another, so that it begins a connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """An endpoint that a first packet may reach, with its probability."""

    weight: Fraction
    endpoint: str
    masquerade: bool
    seen: Seen

    def __str__(self) -> str:
        return f"{self.endpoint} {self.weight}{' masqueraded' if self.masquerade else ''}"

    def to_json(self) -> dict[str, Any]:
        return {
            "weight": str(self.weight), "endpoint": self.endpoint, "masquerade": self.masquerade,
            "seen": self.seen.to_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A packet for no Service whose source a rule changed, as cloud egress does: how it looks then, and by which rule."""

    seen: Seen
    by: str | None

    @classmethod
    def of(cls, step: Walk) -> "Source | None":
        """None: its source is as it was."""
        if not step.masqueraded:
            return None
        by = None if step.snat_rule is None else rule_name(step.snat_rule, step.packet.family)
        return cls(seen_of(step.packet, port_drawn=step.source_port_drawn), by)

    def to_json(self) -> dict[str, Any]:
        return {"masquerade": True, "seen": self.seen.to_json(), "masqueradeBy": self.by}


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a first packet. ``outcomes`` are in the order of the rules, each once; empty if not delivered.

    ``exchange`` says whether the client gets an answer: the probability of each verdict. It goes on where the rest ends.
    """

    result: ProbeResult
    outcomes: tuple[Outcome, ...] = ()
    with_: str | None = None  #: of REJECTED: the answer's name, or the local error
    by: str | None = None
    source: Source | None = None  #: of PASSED: what became of its source, if a rule changed it
    exchange: Sums = field(default_factory=Sums, hash=False)
    #: the connection entry that decided in place of the rules; None: the rules decided
    state: State | None = field(default=None, hash=False)

    def __str__(self) -> str:
        """The disposition and every outcome with its odds, on one line."""
        match self.result:
            case ProbeResult.PASSED if self.source is not None:
                return f"{self.result} masqueraded as {self.source.seen.src}"
            case ProbeResult.DELIVERED if self.outcomes:
                return f"{self.result} {', '.join(map(str, self.outcomes))}"
            case ProbeResult.REJECTED:
                return f"{self.result} {self.with_}"
            case result:
                return str(result)

    def _repr_html_(self) -> str:
        by = f"<p>by <code>{escape(self.by)}</code></p>" if self.by else ""
        if self.exchange:
            by += f"<p>exchange: {escape(str(self.exchange))}</p>"
        if self.state is not None and self.state.kind is not None:
            by += f"<p>state against rules: {escape(str(self.state))}</p>"
        if not self.outcomes:
            return f"<p>{escape(str(self))}</p>{by}"
        heads = "".join(f"<th>{name}</th>" for name in ("odds", "endpoint", "masqueraded", "source that it sees"))
        rows = "".join(
            f"<tr><td>{o.weight}</td><td>{escape(o.endpoint)}</td><td>{'yes' if o.masquerade else 'no'}</td>"
            f"<td>{escape(o.seen.src)}</td></tr>"
            for o in self.outcomes
        )
        return f"<p>{self.result}</p><table><tr>{heads}</tr>{rows}</table>{by}"

    def to_json(self) -> dict[str, Any]:
        """The keys of an output line, without its id."""
        line: dict[str, Any] = {
            "disposition": str(self.result),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
        }
        if self.result is ProbeResult.REJECTED:
            line["with"] = self.with_
        if self.source is not None:
            line |= self.source.to_json()
        line |= {"by": self.by, "exchange": self.exchange.to_json()}
        if self.exchange.assumed:
            line["assumed"] = str(self.exchange.assumed)
        return line if self.state is None else line | {"state": self.state.to_json()}


# --- answers ----------------------------------------------------------------------------------------------------------


def answer(site: Site, packet: Packet, node: str, *, local: bool, now_ns: int, limit: int | None = None) -> Answer:
    """Every outcome of a packet at one node, and whether its sender gets an answer over all nodes."""
    exchanges = list(explored(site, packet, node, local=local, now_ns=now_ns, trace=False, limit=limit))
    outcomes = [(weight, judged.request.hops[0].walk) for weight, judged in exchanges]
    steps: tuple[Step, ...] = ()
    # the steps are needed only for a delivered packet: its deciding rule is not in the walk's result
    if any(result_of(step) is ProbeResult.DELIVERED for _, step in outcomes):
        netns = site.netns(node, packet.family)
        steps = walk(netns, packet, now_ns=now_ns, chooser=ScriptedChooser(), local=local).trace
    state = Standing(site, limit=limit).of(exchanges[0][1].request, local=local, now_ns=now_ns)
    return replace(summarise(outcomes, steps), exchange=Sums(exchanges), state=state)


def summarise(outcomes: Sequence[tuple[Fraction, Walk]], steps: Iterable[Step]) -> Answer:
    """Combines weighted walks into one answer. ``steps`` are those of the first walk.

    Walks with another result than the likeliest are left out.
    """
    weights: dict[ProbeResult, Fraction] = {}
    for weight, step in outcomes:
        result = result_of(step)
        weights[result] = weights.get(result, Fraction(0)) + weight
    likeliest = max(weights, key=lambda result: weights[result])
    first = next(step for _, step in outcomes if result_of(step) is likeliest)
    return Answer(
        likeliest,
        tuple(_merged(outcomes)) if likeliest is ProbeResult.DELIVERED else (),
        (first.with_ or first.local_error) if likeliest is ProbeResult.REJECTED else None,
        decided_by(first, first.trace or steps),
        Source.of(first) if likeliest is ProbeResult.PASSED else None,
    )


def outcome_of(weight: Fraction, step: Walk) -> Outcome:
    """The outcome of a walk that delivered the packet."""
    packet = step.packet
    seen = seen_of(packet, port_drawn=step.source_port_drawn)
    return Outcome(weight, join_host_port(packet.destination, packet.dport), step.masqueraded, seen)


def _merged(outcomes: Iterable[tuple[Fraction, Walk]]) -> Iterator[Outcome]:
    """The outcomes of the delivered walks. Equal outcomes are merged, and their weights are added."""
    merged: dict[tuple[str, bool, Seen], Fraction] = {}
    for weight, step in outcomes:
        if result_of(step) is ProbeResult.DELIVERED:
            found = outcome_of(weight, step)
            key = (found.endpoint, found.masquerade, found.seen)
            merged[key] = merged.get(key, Fraction(0)) + weight
    return (Outcome(weight, *key) for key, weight in merged.items())


class Prober:
    """Answers probes at a site. Answers are kept, so an equal probe costs nothing."""

    def __init__(self, site: Site, now_ns: int, *, limit: int | None = None) -> None:
        self._site = site
        self._now_ns = now_ns
        self._limit = limit
        self._known: dict[tuple[object, ...], Answer] = {}

    def answer(self, probe: Probe) -> Answer:
        """The answer to a probe. InputError if no source can be chosen."""
        asked = probe.packet
        key = (
            probe.node, probe.sender, asked.family, asked.protocol, asked.saddr, asked.sport, asked.daddr, asked.dport,
            asked.icmp_type, asked.icmp_code, asked.tcp_flags, asked.uid, asked.gid, asked.traffic_class, probe.any_port,
        )  # fmt: skip
        if key not in self._known:
            packet = self._site.begin(asked, probe.node, probe.sender)
            if probe.any_port:
                self._site.use_free_port(packet, probe.node, self._now_ns)
            local = probe.sender is Sender.NODE
            self._known[key] = answer(
                self._site, packet, probe.node, local=local, now_ns=self._now_ns, limit=self._limit
            )
        return self._known[key]

    def lines(self, probes: Iterable[Probe]) -> Iterator[str]:
        """One JSON line per probe."""
        for probe in probes:
            line = {"id": probe.id} | self.answer(probe).to_json()
            yield json.dumps(line, separators=(",", ":"), ensure_ascii=False)


# --- questions --------------------------------------------------------------------------------------------------------


def make_packet(
    protocol: str, dst: str, dport: int | None = None, *, src: str = "", sport: int | None = None
) -> Packet:
    """Makes a first packet from what a person writes: a SYN, a datagram, an INIT or an echo request.

    For ICMP, ``sport`` is the id. InputError names what is wrong: protocol, addresses, families, ports.
    """
    if protocol.upper() not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    to = _address("dst", dst)
    family, source = to[0], 0
    if src:
        come = _address("src", src)
        if come[0] is not family:
            raise InputError(f"src {src} is {come[0].label}, dst {dst} is {family.label}")
        source = come[1]
    for name, port in (("sport", sport), ("dport", dport)):
        if port is not None and not 0 < port <= 65535:
            raise InputError(f"{name} {port} is no port (1 to 65535)")
    if protocol.upper() == "ICMP":
        name, kind = _ECHO_REQUESTS[family]
        return Packet(family, name, source, to[1], sport or 1, icmp_type=kind, sourced=bool(src))
    if dport is None:
        raise InputError(f"a {protocol.upper()} packet needs a destination port")
    return Packet(family, protocol.lower(), source, to[1], sport or DEFAULT_SPORT, dport, sourced=bool(src))


def first_packet(
    dst: str, *, src: str = "", protocol: str = "TCP", families: tuple[Family, ...] = tuple(Family)
) -> Packet:
    """As :func:`make_packet`, from ends like ``172.30.0.10:80`` and ``[fd00::10]:80``.

    InputError also if the packet is in none of ``families``.
    """
    to, dport = split_end(dst)
    come, sport = split_end(src) if src else ("", None)
    packet = make_packet(protocol, to, dport, src=come, sport=sport)
    check_family(packet.family, families)
    return packet


def names_port(src: str) -> bool:
    """Whether the text of a source, ``IP`` or ``IP:PORT``, names a port. Another port begins another connection."""
    return bool(src) and split_end(src)[1] is not None


def split_end(text: str) -> tuple[str, int | None]:
    """Address and port of ``IP``, ``IP:PORT``, ``[IPv6]`` or ``[IPv6]:PORT``.

    InputError if the port is not a number.
    """
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InputError(f"{text!r} is not [IPv6]:PORT")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise InputError(f"{text!r} has no port behind the colon")
    else:
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit()):
        raise InputError(f"{port!r} in {text!r} is no port (1 to 65535)")
    return host, int(port) if port else None


def _address(field: str, text: str) -> tuple[Family, int]:
    parsed = parse_ip(text)
    if parsed is None:
        raise InputError(f"{field} {text!r} is no IP address")
    return parsed


_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "id": (str, int), "node": str, "from": str, "src": str, "sport": int, "dst": str, "dport": int, "protocol": str,
    "uid": int, "gid": int, "dscp": int,
}  # fmt: skip
MOST_ID = 0xFFFFFFFE
MOST_DSCP = 63
_REQUIRED = ("id", "node", "from", "dst")


def parse_probes(
    lines: Iterable[str],
    site: Site,
    *,
    file: str,
    families: Iterable[Family] = tuple(Family),
    addressed: Callable[[Json], Json] = lambda record: record,
) -> list[Probe]:
    """The probes in JSON lines; blank lines are skipped. ``addressed`` puts addresses in place of names.

    InputError lists all problems, each with file and line; also a sender for which no source address can be chosen.
    """
    probes: list[Probe] = []
    problems: list[Problem] = []
    known = tuple(families)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            probes.append(_probe(line, site, known, addressed))
        except InputError as error:
            problems += [Problem(problem.message, file=file, line=number) for problem in error.problems]
    if problems:
        raise InputError(problems)
    return probes


def _probe(line: str, site: Site, families: tuple[Family, ...], addressed: Callable[[Json], Json]) -> Probe:
    try:
        obj = json_object(line)
    except ValueError as error:
        raise InputError(str(error)) from None
    values = addressed({name: value for name, value in obj.items() if value is not None})
    found = [f"a probe has no field {name!r} (it has {', '.join(_FIELDS)})" for name in values if name not in _FIELDS]
    found += [f"{name!r} is missing" for name in _REQUIRED if name not in values]
    found += [
        f"{name!r} is not {'a number' if kind is int else 'a string'}: {json.dumps(values[name])}"
        for name, kind in _FIELDS.items()
        if name in values and (not isinstance(values[name], kind) or isinstance(values[name], bool))
    ]
    if found:
        raise InputError([Problem(text) for text in found])
    packet = make_packet(
        values.get("protocol", "TCP"), values["dst"], values.get("dport"),
        src=values.get("src", ""), sport=values.get("sport"),
    )  # fmt: skip
    check_family(packet.family, families)
    site.check_node(values["node"])
    sender = sender_of(values["from"])
    made_by(packet, sender, values.get("uid"), values.get("gid"))
    set_dscp(packet, values.get("dscp"))
    site.begin(packet, values["node"], sender)  # where no source can be chosen, the line is wrong
    return Probe(values["id"], values["node"], sender, packet, any_port="sport" not in values)


def made_by(packet: Packet, sender: Sender, uid: int | None, gid: int | None) -> None:
    """Sets the user and group of the process that makes a packet; None is 0.

    InputError unless the sender is a process of the node: rules ask for no other's (K-20.1).
    """
    for name, number in (("uid", uid), ("gid", gid)):
        if number is not None and not 0 <= number <= MOST_ID:
            raise InputError(f"{name} {number} is no number of a user or group (0 to {MOST_ID})")
        if number is not None and sender is not Sender.NODE:
            raise InputError(f"{name} goes with a sender on the node itself (from node): no rule sees another's")
    packet.uid, packet.gid = uid or 0, gid or 0


def set_dscp(packet: Packet, dscp: int | None) -> None:
    """Sets the DSCP of a packet; None keeps what it has. InputError if it does not fit into six bits."""
    if dscp is None:
        return
    if not 0 <= dscp <= MOST_DSCP:
        raise InputError(f"dscp {dscp} is no DSCP (0 to {MOST_DSCP})")
    packet.traffic_class = dscp << 2 | packet.traffic_class & 3


def probe_record(probe: Probe) -> dict[str, Any]:
    """The line that :func:`parse_probes` reads as this probe."""
    packet = probe.packet
    icmp = packet.protocol in ICMP_PROTOCOLS
    record = {
        "id": probe.id, "node": probe.node, "from": str(probe.sender), "src": packet.source if packet.saddr else None,
        "sport": packet.sport, "dst": packet.destination, "dport": None if icmp else packet.dport,
        "protocol": "ICMP" if icmp else packet.protocol.upper(),
    }  # fmt: skip
    record |= {"uid": packet.uid or None, "gid": packet.gid or None, "dscp": packet.traffic_class >> 2 or None}
    return {name: value for name, value in record.items() if value is not None}


def check_family(family: Family, families: tuple[Family, ...]) -> None:
    """Raises InputError if the family is not among ``families``."""
    if family not in families:
        raise InputError(f"{family.label} is not among the families here ({', '.join(f.label for f in families)})")


def sender_of(text: str) -> Sender:
    """The sender with this name. InputError if there is none."""
    try:
        return Sender(text)
    except ValueError:
        raise InputError(f"from {text!r} is none of {', '.join(Sender)}") from None
