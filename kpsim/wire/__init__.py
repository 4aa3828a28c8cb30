"""Converts packets between :class:`~kpsim.packet.Packet` and Scapy layers, Scapy expressions and capture files.

Counterpart: Scapy and libpcap. Scapy is imported when it is first needed, because importing it takes long. Payloads
and link headers are ignored. ``headers`` reads bytes, ``captures`` reads files.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.packet import Packet
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.units import SECOND_NS
from kpsim.wire.captures import Capture, Captured, read_capture
from kpsim.wire.headers import read_packet

__all__ = [
    "DEFAULT_SPORT", "Capture", "Captured", "from_scapy", "parse_packet", "read_capture", "read_packet", "to_scapy",
    "write_pcap",
]  # fmt: skip

DEFAULT_SPORT = 40000  #: source port of packets that do not name one

_FLAGS = {"FIN": "F", "SYN": "S", "RST": "R", "PSH": "P", "ACK": "A", "URG": "U"}
_CHUNKS = {
    "INIT": "SCTPChunkInit", "INIT_ACK": "SCTPChunkInitAck", "COOKIE_ECHO": "SCTPChunkCookieEcho",
    "COOKIE_ACK": "SCTPChunkCookieAck", "ABORT": "SCTPChunkAbort", "SHUTDOWN": "SCTPChunkShutdown",
    "SHUTDOWN_ACK": "SCTPChunkShutdownAck", "SHUTDOWN_COMPLETE": "SCTPChunkShutdownComplete",
    "HEARTBEAT": "SCTPChunkHeartbeatReq", "HEARTBEAT_ACK": "SCTPChunkHeartbeatAck", "DATA": "SCTPChunkData",
    "SACK": "SCTPChunkSACK", "ERROR": "SCTPChunkError",
}  # fmt: skip
#: layers that an expression may use
_EXPRESSION_LAYERS = (
    "IP", "IPv6", "TCP", "UDP", "SCTP", "ICMP", "ICMPv6EchoRequest", "ICMPv6EchoReply", "Raw", *_CHUNKS.values(),
)  # fmt: skip
_WRITTEN = ("tcp", "udp", "sctp", "icmp", "icmpv6")
_PORT_LAYERS = ("TCP", "UDP", "SCTP")
_PCAP_END_NS = 2**32 * SECOND_NS  #: seconds have 32 bits in a pcap file
_RAW_LINK_TYPE = 101  # LINKTYPE_RAW: packets begin with their IP header


@cache
def _layers() -> Mapping[str, Any]:
    """Scapy's layer classes by name."""
    from scapy.layers import inet, inet6, sctp
    from scapy.packet import Raw

    found: dict[str, Any] = {"Raw": Raw}
    for module, names in (
        (inet, ("IP", "TCP", "UDP", "ICMP", "IPerror")),
        (inet6, (
            "IPv6", "IPerror6", "ICMPv6EchoRequest", "ICMPv6EchoReply", "ICMPv6Unknown", "IPv6ExtHdrHopByHop",
            "IPv6ExtHdrDestOpt", "IPv6ExtHdrRouting", "IPv6ExtHdrFragment",
        )),
        (sctp, ("SCTP", *_CHUNKS.values())),
    ):  # fmt: skip
        found |= {name: getattr(module, name) for name in names}
    return found


# --- to Scapy ---------------------------------------------------------------------------------------------------------


def to_scapy(packet: Packet) -> Any:
    """The packet as a Scapy layer, from its IP header on. A TCP packet that carries data carries one byte."""
    layers = _layers()
    source, destination = packet.source, packet.destination
    if packet.family is Family.IPV4:
        ip = layers["IP"](
            src=source,
            dst=destination,
            ttl=packet.ttl,
            tos=packet.traffic_class,
            flags="DF" if packet.dont_fragment else 0,
        )
    else:
        ip = layers["IPv6"](src=source, dst=destination, hlim=packet.ttl, tc=packet.traffic_class)
    if packet.protocol not in _WRITTEN and packet.protocol in PROTOCOL_NUMBERS:
        ip.fields["proto" if packet.family is Family.IPV4 else "nh"] = PROTOCOL_NUMBERS[packet.protocol]
    return ip / _transport(packet, layers)


def _transport(packet: Packet, layers: Mapping[str, Any]) -> Any:
    match packet.protocol:
        case "tcp":
            flags = "".join(letter for name, letter in _FLAGS.items() if name in packet.tcp_flags)
            tcp = layers["TCP"](sport=packet.sport, dport=packet.dport, flags=flags)
            if packet.numbers is not None:
                tcp.seq, tcp.ack, tcp.window = packet.numbers.seq, packet.numbers.ack, packet.numbers.window
            else:  # both ends begin at 0
                tcp.seq, tcp.ack = int("SYN" not in packet.tcp_flags), int("ACK" in packet.tcp_flags)
            return tcp / layers["Raw"](b"\0") if "PSH" in packet.tcp_flags else tcp
        case "udp":
            return layers["UDP"](sport=packet.sport, dport=packet.dport)
        case "sctp":
            chunk = layers[_CHUNKS.get(packet.sctp_chunk, "SCTPChunkData")]()
            return layers["SCTP"](sport=packet.sport, dport=packet.dport) / chunk
        case "icmp":
            icmp = layers["ICMP"](type=packet.icmp_type, code=packet.icmp_code)
            if packet.related is None:
                icmp.id = packet.sport
                return icmp
            return icmp / layers["Raw"](bytes(to_scapy(packet.related))[:28])
        case "icmpv6":
            if packet.related is None:
                body = packet.sport.to_bytes(2) + b"\0\0"
            else:
                body = b"\0\0\0\0" + bytes(to_scapy(packet.related))
            return layers["ICMPv6Unknown"](type=packet.icmp_type, code=packet.icmp_code, msgbody=body)
        case other if other in PROTOCOL_NUMBERS:
            return layers["Raw"](bytes(8))
        case other:
            raise InputError(f"protocol {other} has no form on the wire here")


# --- from Scapy -------------------------------------------------------------------------------------------------------


def from_scapy(layer: Any) -> Packet:
    """The packet in a Scapy layer; link headers are skipped. InputError names what is not modelled: ARP, fragments."""
    layers = _layers()
    current = layer
    while not isinstance(current, (layers["IP"], layers["IPv6"])):
        below = current.payload
        if not _is_link_header(current) or not _exists(below):
            raise InputError(f"not modelled: {current.name}")
        current = below
    return read_packet(bytes(current))


def _exists(layer: Any) -> bool:
    return type(layer).__name__ != "NoPayload"


def _is_link_header(layer: Any) -> bool:
    return type(layer).__name__ in ("Ether", "Dot1Q", "Dot1AD", "Dot3", "LLC", "SNAP", "CookedLinux", "CookedLinuxV2", "Loopback")  # fmt: skip


# --- expressions ------------------------------------------------------------------------------------------------------


def parse_packet(expression: str) -> Packet:
    """The packet of a Scapy expression like ``IP(dst="172.30.0.1")/TCP(dport=80)``. A source that is not given is 0.

    The expression is not executed. It may hold only known layers with literal keyword arguments, joined by ``/``.
    InputError names anything else, fields that a layer does not have, and values that do not fit.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"packet {_shown(expression)}: {error.args[0]}") from None
    except (MemoryError, RecursionError):
        raise InputError(f"packet {_shown(expression)}: nested too deep") from None
    try:
        calls = list(_calls(tree, expression))
    except RecursionError:
        raise InputError(f"packet {_shown(expression)}: nested too deep") from None
    names = [name for name, _ in calls]
    if names[0] not in ("IP", "IPv6"):
        raise InputError(f"packet {_shown(expression)}: begins with IP(…) or IPv6(…), not with {names[0]}")
    layers = _layers()
    built: Any = None
    for name, values in calls:
        layer = _build_layer(name, dict(values), layers)
        built = layer if built is None else built / layer
    try:
        packet = read_packet(bytes(built), strict=True)
        packet.sourced = "src" in dict(calls)[names[0]]
        if "seq" not in dict(dict(calls).get("TCP", {})):
            packet.numbers = None  # without a number that it was given, a segment follows its sender's last one
        return packet
    except InputError as error:
        raise InputError(f"packet {_shown(expression)}: {error}") from None
    except Exception as error:  # Scapy raises many kinds of errors for a value that it refuses
        raise InputError(f"packet {_shown(expression)}: a value does not fit: {_first_line(error)}") from None


_LONGEST_SHOWN = 200


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= _LONGEST_SHOWN else f"{expression[:_LONGEST_SHOWN]}…")


def _first_line(error: Exception) -> str:
    """The first line of Scapy's message. The lines after it are advice for programmers."""
    return str(error).partition("\n")[0].removesuffix(":")


def _calls(tree: ast.expr, expression: str) -> Iterable[tuple[str, Mapping[str, int | str | bytes]]]:
    """The layers of an expression in order, each with its literal arguments."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Div):
        yield from _calls(tree.left, expression)
        yield from _calls(tree.right, expression)
        return
    text = ast.get_source_segment(expression.strip(), tree) or type(tree).__name__
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise InputError(f"packet {_shown(expression)}: only layers joined by / are understood, not {text}")
    name = tree.func.id
    if name not in _EXPRESSION_LAYERS:
        raise InputError(
            f"packet {_shown(expression)}: {name} is no layer known here ({', '.join(_EXPRESSION_LAYERS[:9])}, …)"
        )
    if tree.args or any(keyword.arg is None for keyword in tree.keywords):
        raise InputError(f"packet {_shown(expression)}: {name} takes keyword arguments only")
    yield name, {str(keyword.arg): _literal(keyword, name, expression) for keyword in tree.keywords}


def _literal(keyword: ast.keyword, layer: str, expression: str) -> int | str | bytes:
    try:
        value = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, (int, str, bytes)):
        raise InputError(f"packet {_shown(expression)}: {layer}.{keyword.arg} must be a number or a string")
    return value


def _build_layer(name: str, values: dict[str, int | str | bytes], layers: Mapping[str, Any]) -> Any:
    kind = layers[name]
    fields = [field.name for field in kind.fields_desc]
    for field in values:
        if field not in fields:
            raise InputError(f"{name} has no field {field} (it has {', '.join(fields)})")
    if name in ("IP", "IPv6"):
        _check_addresses(name, values)
    elif name in _PORT_LAYERS:
        if "dport" not in values:
            raise InputError(f"{name} needs dport")
        values.setdefault("sport", DEFAULT_SPORT)
    try:
        return kind(**values)
    except Exception as error:
        raise InputError(f"{name}: a value does not fit: {_first_line(error)}") from None


def _check_addresses(name: str, values: dict[str, int | str | bytes]) -> None:
    """Accepts only literal addresses, and sets the source to 0 if it is missing.

    Otherwise Scapy would resolve names, and choose a source by the routes of the machine that it runs on.
    """
    family = Family.IPV4 if name == "IP" else Family.IPV6
    values.setdefault("src", format_ip(family, 0))
    for field in ("src", "dst"):
        parsed = parse_ip(str(values.get(field, "")))
        if field not in values:
            raise InputError(f"{name} needs {field}")
        if parsed is None or parsed[0] is not family:
            raise InputError(f"{name}.{field}: not an {family.label} address: {values[field]!r}")
        values[field] = format_ip(*parsed)


# --- capture files ----------------------------------------------------------------------------------------------------


def write_pcap(path: Path | str, packets: Iterable[tuple[int, Packet]]) -> None:
    """Writes a pcap file of (nanoseconds since 1970, packet). InputError if it cannot be written.

    Each packet begins with its IP header. Times are written in microseconds.
    """
    from io import BytesIO

    from scapy.utils import RawPcapWriter

    from kpsim.outputs import write_file

    packets = list(packets)
    if late := next((t for t, _ in packets if not 0 <= t < _PCAP_END_NS), None):
        raise InputError(Problem(f"a time that pcap cannot hold: {late / SECOND_NS:.0f} s since 1970", file=str(path)))
    out = BytesIO()
    writer = RawPcapWriter(out, linktype=_RAW_LINK_TYPE)
    writer.write_header(None)
    for time_ns, packet in packets:
        seconds, rest_ns = divmod(time_ns, SECOND_NS)
        writer.write_packet(bytes(to_scapy(packet)), sec=seconds, usec=rest_ns // 1000)
    write_file(path, out.getvalue())
