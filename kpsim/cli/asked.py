"""The packets that ``kpsim trace`` is asked for: one, several after one another, or those of a capture."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kpsim.cli.printing import note
from kpsim.errors import InputError, Problem
from kpsim.valueclass import dataclass

if TYPE_CHECKING:
    from kpsim.addresses import Family
    from kpsim.tracing.captured import CaptureTracer
    from kpsim.tracing.site import Sender, Site
    from kpsim.tracing.traces import Trace


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that say which packets to trace. Exactly one of ``dst``, ``expressions`` and ``capture`` is given."""

    dst: str
    src: str
    protocol: str
    expressions: list[str]
    capture: Path | None
    partial: bool
    uid: int | None
    gid: int | None
    dscp: int | None

    def refuse_sender(self, source: str) -> None:
        """Raise an InputError if a user, a group or a DSCP is given, which only one packet has."""
        if self.dscp is not None:
            raise InputError(f"--dscp goes with one packet, not with {source}; probes have the field dscp")
        if self.uid is not None or self.gid is not None:
            raise InputError(
                f"--uid and --gid go with one packet, not with {source}; probes have the fields uid and gid"
            )


@dataclass(frozen=True, slots=True)
class Start:
    """Where and when packets begin, and how far their ways are followed. ``families`` are those of the rules."""

    site: "Site"
    families: "tuple[Family, ...]"
    node: str
    sender: "Sender"
    now_ns: int
    seed: int
    expand: bool
    limit: int

    def capture_tracer(self) -> "CaptureTracer":
        """A tracer of packets that come after one another."""
        from kpsim.tracing.captured import Beginning, CaptureTracer

        beginning = Beginning(self.node, self.sender)
        return CaptureTracer(self.site, beginning, seed=self.seed, expand=self.expand, limit=self.limit)


def traces(asked: Asked, start: Start) -> "Iterator[Trace]":
    """Yield the trace of everything that was asked for. InputError for what cannot be sent or read."""
    if asked.capture is not None:
        asked.refuse_sender("--read-pcap")
        yield from _captured(asked.capture, start, partial=asked.partial)
    elif len(asked.expressions) > 1:
        asked.refuse_sender("several packets")
        yield from _sequence(asked.expressions, start)
    else:
        yield _single(asked, start)


def _single(asked: Asked, start: Start) -> "Trace":
    from kpsim.tracing.probes import check_family, first_packet, made_by, names_port, set_dscp
    from kpsim.tracing.traces import trace_packet
    from kpsim.wire import parse_packet

    if asked.expressions:
        packet = parse_packet(asked.expressions[0])
    else:
        packet = first_packet(asked.dst, src=asked.src, protocol=asked.protocol)
    check_family(packet.family, start.families)
    made_by(packet, start.sender, asked.uid, asked.gid)
    set_dscp(packet, asked.dscp)
    return trace_packet(
        start.site, packet, node=start.node, sender=start.sender, seed=start.seed, expand=start.expand, now_ns=start.now_ns,
        limit=start.limit, any_port=bool(asked.dst) and not names_port(asked.src),
    )  # fmt: skip


def _sequence(expressions: list[str], start: Start) -> "Iterator[Trace]":
    """Yield the trace of each packet. They come a millisecond apart."""
    from kpsim.tracing.probes import check_family
    from kpsim.units import MILLISECOND_NS
    from kpsim.wire import parse_packet

    packets = [parse_packet(expression) for expression in expressions]
    for packet in packets:
        check_family(packet.family, start.families)
    tracer = start.capture_tracer()
    for number, packet in enumerate(packets, 1):
        traced = tracer.trace(number, packet, start.now_ns + (number - 1) * MILLISECOND_NS)
        if traced is None:
            note(f"packet {number}: no node sees it: it goes from outside to outside")
        else:
            yield traced


def _captured(path: Path, start: Start, *, partial: bool) -> "Iterator[Trace]":
    """Yield the trace of each packet of a capture. Times that go back count as no time."""
    from kpsim.wire import read_capture

    capture = read_capture(path)
    if capture.damage:
        damage = f"damaged behind packet {len(capture.packets)}, {capture.damage}"
        if not partial:
            way_out = Problem(f"--partial traces the {len(capture.packets)} packets before the damage")
            raise InputError([Problem(damage, file=str(path)), way_out])
        note(f"{path}: {damage}; traced is what was read")
    tracer = start.capture_tracer()
    now_ns = start.now_ns
    for each in capture.packets:
        now_ns = max(now_ns, start.now_ns + each.time_ns - capture.packets[0].time_ns)
        traced, why = None, each.refusal
        if each.packet is not None and each.packet.family not in start.families:
            why = f"{each.packet.family.label} is not among the families here"
        elif each.packet is not None:
            traced = tracer.trace(each.number, each.packet, now_ns)
            why = "no node sees it: it goes from outside to outside"
        if traced is None:
            note(f"packet {each.number} of {path}: {why}")
        else:
            yield traced
