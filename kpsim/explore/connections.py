"""Connections of a node: as ``conntrack -L`` or ``/proc/net/nf_conntrack`` lists them, and as a recording tells of them.

Of a listed connection the tuples, the state, the timer, the mark and the status bits are known. What its ends have sent
is not, so nothing that they send is out of window.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import Entry, FlowTuple
from kpsim.errors import InputError, Problem
from kpsim.flowstate import FlowState, sctp_timeout_ns, tcp_timeout_ns, unseen
from kpsim.inputs import read_text, shown_name
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.packet import ICMP_PROTOCOLS, PORT_PROTOCOLS
from kpsim.protocols import PROTOCOL_NAMES
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

_PASSED_OVER = re.compile(r"\s*|\s*[#$]\s.*|conntrack v[\d.]+ \(conntrack-tools\):.*")
_OTHER_FORMS = {
    "<": "the XML form of conntrack", "-A ": "the form of `conntrack -o save`", "[NEW]": "events of `conntrack -E`",
    "[UPDATE]": "events of `conntrack -E`", "[DESTROY]": "events of `conntrack -E`",
}  # fmt: skip
_LAYER3 = ("ipv4", "ipv6")
_FLAG = re.compile(r"\[[^\]]*\]")
_MOST_SECONDS = 2**31
_OFFLOADED_SECONDS = 86_400
_STATES = {
    "tcp": frozenset({
        FlowState.SYN_SENT, FlowState.SYN_RECV, FlowState.ESTABLISHED, FlowState.FIN_WAIT, FlowState.CLOSE_WAIT,
        FlowState.LAST_ACK, FlowState.TIME_WAIT, FlowState.CLOSE, FlowState.SYN_SENT2,
    }),
    "sctp": frozenset({
        FlowState.CLOSED, FlowState.COOKIE_WAIT, FlowState.COOKIE_ECHOED, FlowState.ESTABLISHED, FlowState.SHUTDOWN_SENT,
        FlowState.SHUTDOWN_RECD, FlowState.SHUTDOWN_ACK_SENT, FlowState.HEARTBEAT_SENT,
    }),
}  # fmt: skip


class Listed(NamedTuple):
    """The connections in a file, and what was passed over, in words."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def read_connections(path: Path | str, now_ns: int) -> Listed:
    """Reads the output of ``conntrack -L`` in any of its text forms. It is taken as listed at ``now_ns``.

    InputError names each line that is no connection.
    """
    return parse_connections(read_text(path), now_ns, file=shown_name(path))


def parse_connections(text: str, now_ns: int, *, file: str = "") -> Listed:
    """As :func:`read_connections`, from the text."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    zoned = 0
    for number, line in enumerate(text.splitlines(), 1):
        if _PASSED_OVER.fullmatch(line):
            continue
        try:
            entry = _entry(line.strip(), now_ns)
        except InputError as error:
            problems += [Problem(problem.message, file=file, line=number) for problem in error.problems]
            if any(line.lstrip().startswith(sign) for sign in _OTHER_FORMS):
                break  # every other line is as wrong
            continue
        if entry is None:
            zoned += 1
        else:
            entries.append(entry)
    if problems:
        raise InputError(problems)
    notes = [f"{file or 'the list'}: connections of other conntrack zones are passed over: {zoned}"] if zoned else []
    return Listed(tuple(entries), tuple(notes))


def _entry(line: str, now_ns: int) -> Entry | None:
    """The connection of a line; None: it is of another zone, where packets without a zone do not find it."""
    for sign, what in _OTHER_FORMS.items():
        if line.startswith(sign):
            raise InputError(f"this is {what}: give the output of `conntrack -L`")
    flags = frozenset(_FLAG.findall(line))
    words = _FLAG.sub(" ", line).split()
    if words and words[0] in _LAYER3:
        words = words[2:]
    begin = next((at for at, word in enumerate(words) if word.startswith("src=")), 0)
    head, pairs = words[:begin], [word.partition("=")[::2] for word in words[begin:]]
    if len(head) < 2 or not head[1].isdecimal():
        raise InputError("no connection as `conntrack -L` lists it: PROTOCOL NUMBER SECONDS [STATE] src=… dst=… …")
    protocol = PROTOCOL_NAMES.get(int(head[1]), head[0])
    original, rest = _tuple(protocol, pairs)
    reply, rest = _tuple(protocol, [*dropwhile(lambda pair: pair[0] != "src", rest)])  # behind the counters
    if original.family is not reply.family:
        raise InputError("its two directions are of different families")
    others = dict(rest)
    if any(others.get(name, "0") != "0" for name in ("zone", "zone-orig", "zone-reply")):
        return None
    offloaded = bool(flags & {"[OFFLOAD]", "[HW_OFFLOAD]"})  # Linux shows no state and no timer of these
    timers = [_number(word, "its timer", _MOST_SECONDS) for word in head[2:3] if word.isdecimal()]
    seconds = timers[0] if timers else _OFFLOADED_SECONDS * offloaded
    age = others.get("delta-time")
    state = _state(protocol, head[2:], str(FlowState.ESTABLISHED) if offloaded else "")
    return Entry(
        original, reply, state, "[UNREPLIED]" not in flags, "[ASSURED]" in flags or offloaded,
        created_ns=0 if age is None else max(now_ns - _number(age, "delta-time", _MOST_SECONDS) * SECOND_NS, 1),
        expires_ns=now_ns + (SECOND_NS * seconds or 1),
        history=unseen(state),
        mark=_number(others.get("mark", "0"), "mark", 2**32 - 1),
    )  # fmt: skip


def _tuple(protocol: str, pairs: Sequence[tuple[str, str]]) -> tuple[FlowTuple, Sequence[tuple[str, str]]]:
    """The tuple with which the pairs begin, and the pairs behind it."""
    wanted = ("type", "code", "id") if protocol in ICMP_PROTOCOLS else ("sport", "dport", "srckey", "dstkey")
    values = dict(pairs[:2])
    if tuple(values) != ("src", "dst"):
        raise InputError("expected src=… dst=… of both directions")
    length = 2
    while length < len(pairs) and pairs[length][0] in wanted and pairs[length][0] not in values:
        values[pairs[length][0]] = pairs[length][1]
        length += 1
    (family, saddr), (other, daddr) = _address(values["src"]), _address(values["dst"])
    if family is not other:
        raise InputError(f"src {values['src']} and dst {values['dst']} are of different families")
    sport = dport = 0
    if protocol in ICMP_PROTOCOLS:
        sport = _field(values, "id", 65535)
        dport = _field(values, "type", 255) * 256 + _field(values, "code", 255)
    elif protocol in PORT_PROTOCOLS:
        sport, dport = _field(values, "sport", 65535), _field(values, "dport", 65535)
    return FlowTuple(family, protocol, saddr, sport, daddr, dport), pairs[length:]


def _address(text: str) -> tuple[Family, int]:
    parsed = parse_ip(text)
    if parsed is None:
        raise InputError(f"{text!r} is no address")
    return parsed


def _field(values: Mapping[str, str], name: str, most: int) -> int:
    if name not in values:
        raise InputError(f"{name}=… is missing")
    return _number(values[name], name, most)


def _number(text: str, name: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > most:
        raise InputError(f"{name} {text!r} is no number up to {most}")
    return int(text)


def _state(protocol: str, words: Iterable[str], unsaid: str) -> FlowState:
    known = _STATES.get(protocol)
    if known is None:
        return FlowState.NONE
    text = next((word for word in words if not word.isdecimal()), unsaid)
    if text not in known:
        raise InputError(f"{text!r} is no state of {protocol}")
    return FlowState(text)


def recorded_connections(flows: Mapping[UdpFlow, int], now_ns: int, sysctls: Sysctls) -> Iterator[Entry]:
    """The connections that a recording tells of, each with the time when it appeared.

    It does not tell their state: they are taken for replied and established, and for as young as they may be.
    """
    for flow, at_ns in flows.items():
        state = FlowState.NONE if flow.protocol == "udp" else FlowState.ESTABLISHED
        lives_ns = {
            "udp": sysctls.udp_timeout_stream_ns, "tcp": tcp_timeout_ns(FlowState.ESTABLISHED, sysctls),
            "sctp": sctp_timeout_ns(FlowState.ESTABLISHED, sysctls),
        }[flow.protocol]  # fmt: skip
        ends = [_address(text) for text in (flow.src, flow.dst, flow.reply_src, flow.reply_dst)]
        if len({family for family, _ in ends}) > 1:
            continue  # no kernel has such a connection
        family, (saddr, daddr, reply_saddr, reply_daddr) = ends[0][0], (address for _, address in ends)
        yield Entry(
            FlowTuple(family, flow.protocol, saddr, flow.sport, daddr, flow.dport),
            FlowTuple(family, flow.protocol, reply_saddr, flow.reply_sport, reply_daddr, flow.reply_dport),
            state, seen_reply=True, assured=True, created_ns=at_ns, expires_ns=now_ns + lives_ns, history=unseen(state),
        )  # fmt: skip
