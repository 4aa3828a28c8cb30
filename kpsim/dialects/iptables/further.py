"""Readers and writers of the extensions that rules of other programs use: kube-proxy writes none of them.

Counterpart: the libxt_* and libipt_* extensions of iptables 1.8.9, as in ``extensions``.
"""

import re
from collections.abc import Callable, Mapping

from kpsim.addresses import Family, format_ip
from kpsim.dialects.iptables.extensions import Arguments, Done, flags_text, required, value_of
from kpsim.dialects.iptables.values import ALL_BITS, Form, Read, Style, quoted, read_network, read_number
from kpsim.ruleset import (
    Adjust,
    Limit,
    LocalSocket,
    Log,
    MapNetwork,
    NoTrack,
    ReversePath,
    RoutingHeader,
    SetTimeToLive,
)

# --- other targets ----------------------------------------------------------------------------------------------------


#: the connection helpers of Linux and the protocols for which each exists
_HELPERS: Mapping[str, tuple[str, ...]] = {
    "ftp": ("tcp",), "tftp": ("udp",), "sip": ("tcp", "udp"), "irc": ("tcp",), "RAS": ("udp",), "Q.931": ("tcp",),
    "amanda": ("udp",), "sane": ("tcp",), "snmp": ("udp",), "pptp": ("tcp",), "netbios-ns": ("udp",),
}  # fmt: skip
_CT_EVENTS = frozenset((
    "new", "related", "destroy", "reply", "assured", "protoinfo", "helper", "mark", "natseqinfo", "secmark",
))  # fmt: skip


def read_ct(arguments: Arguments, _family: Family) -> Done:
    """Reads ``-j CT``. A helper, a timeout policy or events change nothing that a rule or a route of the model reads."""
    if (helper := value_of(arguments, "--helper")) is not None and helper not in _HELPERS:
        raise ValueError(f"not a connection helper: {helper!r}")
    for event in (value_of(arguments, "--ctevents") or "new").split(","):
        if event not in _CT_EVENTS:
            raise ValueError(f"not a connection event: {event!r}")
    if (value_of(arguments, "--expevents") or "new") != "new":
        raise ValueError(f"not an expectation event: {value_of(arguments, '--expevents')!r}")
    if "--notrack" in arguments:
        return Done(NoTrack(), _ct_words(arguments))
    return Done(Adjust("CT", _ct_words(arguments)))


def _ct_words(arguments: Arguments) -> str:
    order = ("--notrack", "--helper", "--timeout", "--ctevents", "--expevents")
    return " ".join(f"{option} {arguments[option][0]}".rstrip() for option in order if option in arguments)


def write_ct(part: NoTrack | Adjust, detail: str | None, _form: Form) -> str:
    return part.arguments if isinstance(part, Adjust) else detail or "--notrack"


def helper_protocols(arguments: str) -> tuple[str, ...] | None:
    """The protocols that the helper in the words of ``-j CT`` is for; None if there is no helper."""
    _, found, rest = arguments.partition("--helper ")
    return _HELPERS.get(rest.partition(" ")[0], ()) if found else None


def read_map_network(arguments: Arguments, family: Family) -> Done:
    network = read_network(required(arguments, "--to"), family)
    return Done(MapNetwork(network.base, network.mask))


def write_map_network(part: MapNetwork, _detail: None, form: Form) -> str:
    bits = part.mask.bit_count()
    single = form.family is Family.IPV4 and bits == form.family.bits and form.style is not Style.SAVE
    return f"--to {format_ip(form.family, part.base)}" + ("" if single else f"/{bits}")


def read_local_socket(arguments: Arguments, _family: Family) -> Read:
    return Read(LocalSocket(" ".join(option for option in ("--transparent", "--nowildcard") if option in arguments)))


_LONGEST_LOG_PREFIX, _LONGEST_NFLOG_PREFIX = 29, 63
_LOG_LEVELS: Mapping[str, int] = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "error": 3, "err": 3, "warning": 4, "warn": 4, "notice": 5, "info": 6,
    "debug": 7,
}  # fmt: skip
LOG_FLAGS = ("--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-uid", "--log-macdecode")


def read_log(arguments: Arguments, _family: Family) -> Done:
    """Reads ``-j LOG``. The arguments are kept in iptables-save's order. Level 4 is the default and is left out."""
    words = []
    if (prefix := value_of(arguments, "--log-prefix")) is not None:
        if not 1 <= len(prefix.encode()) <= _LONGEST_LOG_PREFIX:
            raise ValueError(f"--log-prefix takes 1 to {_LONGEST_LOG_PREFIX} bytes: {prefix!r}")
        if "\n" in prefix:
            raise ValueError("--log-prefix takes no line break")
        words.append(f"--log-prefix {quoted(prefix)}")
    if (text := value_of(arguments, "--log-level")) is not None:
        level = _LOG_LEVELS.get(text)
        if level is None:
            level = read_number(text, 7)
        if level != 4:
            words.append(f"--log-level {level}")
    return Done(Log(" ".join(words + [option for option in LOG_FLAGS if option in arguments])))


# --- used by the rules of other programs ------------------------------------------------------------------------------


#: the units of -m limit by the names that iptables-save prints, in seconds, longest first as iptables tries them
_UNITS: Mapping[str, int] = {"day": 86400, "hour": 3600, "min": 60, "sec": 1}
_UNIT_NAMES = ("second", "minute", "hour", "day")
_LIMIT_SCALE = 10_000  #: the tool counts in ten-thousandths of a second


_DEFAULT_BURST, _MOST_TOKENS = 5, 10_000


def read_limit(arguments: Arguments, _family: Family) -> Read:
    text, burst = value_of(arguments, "--limit") or "3/hour", value_of(arguments, "--limit-burst")
    count_text, slash, unit_text = text.partition("/")
    if slash and not unit_text:
        raise ValueError(f"not a rate: {text!r}")
    unit = next((name for name in _UNIT_NAMES if name.startswith(unit_text.lower() or "s")), "")
    if not unit or not (count_text.isascii() and count_text.isdigit()) or not int(count_text):
        raise ValueError(f"not a rate: {text!r}")
    period = _LIMIT_SCALE * _UNITS[unit[:3] if unit in ("second", "minute") else unit] // int(count_text)
    if not period:
        raise ValueError(f"too fast for -m limit: {text!r}")
    tokens = _DEFAULT_BURST if burst is None else read_number(burst, _MOST_TOKENS)
    if not tokens:
        raise ValueError("-m limit --limit-burst 0 lets nothing pass: legacy iptables refuses it")
    return Read(Limit(*_rate(period), tokens))


def _rate(period: int) -> tuple[int, str]:
    """Count and unit, as iptables chooses them, of one token per ``period`` ten-thousandths of a second."""
    lengths = [(name, seconds * _LIMIT_SCALE) for name, seconds in _UNITS.items()]
    best = lengths[0]
    for name, length in lengths[1:]:
        if period > length or length // period < length % period:
            break
        best = name, length
    return best[1] // period, best[0]


def write_limit(limit: Limit, _detail: None, _form: Form) -> str:
    burst = f" --limit-burst {limit.burst}" if limit.burst != 5 else ""
    return f"--limit {limit.count}/{limit.unit}{burst}"


def read_set_time_to_live(arguments: Arguments, family: Family) -> Done:
    if len(arguments) != 1:
        raise ValueError("-j TTL and -j HL need exactly one option")
    ((option, (text, _negate)),) = arguments.items()
    action, value = option.rpartition("-")[2], read_number(text, 255)
    if value == 0 and action != "set":
        raise ValueError(f"{option} takes 1 to 255, not {text!r}")
    return Done(SetTimeToLive(action, value))


def time_to_live_writer(target: str) -> Callable[[SetTimeToLive, None, Form], str]:
    return lambda statement, _detail, _form: f"--{target.lower()}-{statement.action} {statement.value}"


def read_reverse_path(arguments: Arguments, _family: Family) -> Read:
    return Read(
        ReversePath(*(option in arguments for option in ("--loose", "--validmark", "--accept-local", "--invert")))
    )


def write_reverse_path(match: ReversePath, _detail: None, _form: Form) -> str:
    flags = (
        (match.loose, "--loose"), (match.valid_mark, "--validmark"), (match.accept_local, "--accept-local"),
        (match.invert, "--invert"),
    )  # fmt: skip
    return flags_text(*flags).lstrip()


def read_routing_header(arguments: Arguments, _family: Family) -> Read:
    """Reads ``-m rt``. The arguments are kept in iptables-save's order."""
    words = []
    for option in ("--rt-type", "--rt-segsleft", "--rt-len"):
        if option in arguments:
            text, negate = arguments[option]
            if option == "--rt-segsleft":
                low, colon, high = text.partition(":")
                first = read_number(low or "0", ALL_BITS)
                last = read_number(high or str(ALL_BITS), ALL_BITS) if colon else first
                if last < first or not (low or colon):
                    raise ValueError(f"not a range: {text!r}")
                text = str(first) if first == last else f"{first}:{last}"
            else:
                text = str(read_number(text, ALL_BITS))
            words.append(f"{'! ' if negate else ''}{option} {text}")
    return Read(RoutingHeader(" ".join(words)))


def read_nflog(arguments: Arguments, _family: Family) -> Done:
    words = []
    if "--nflog-range" in arguments and "--nflog-size" in arguments:
        raise ValueError("--nflog-range and --nflog-size exclude each other")
    if (prefix := value_of(arguments, "--nflog-prefix")) is not None:
        if not 1 <= len(prefix.encode()) <= _LONGEST_NFLOG_PREFIX:
            raise ValueError(f"--nflog-prefix takes 1 to {_LONGEST_NFLOG_PREFIX} bytes: {prefix!r}")
        words.append(f"--nflog-prefix {quoted(prefix)}")
    for option, limit, default in (
        ("--nflog-group", 0xFFFF, 0),
        ("--nflog-range", ALL_BITS, None),
        ("--nflog-size", ALL_BITS, None),
        ("--nflog-threshold", 0xFFFF, None),
    ):
        number = None if (text := value_of(arguments, option)) is None else read_number(text, limit)
        if (
            number not in (None, default) and option != "--nflog-range"
        ):  # it never worked, and iptables-nft leaves it out
            words.append(f"{option} {number}")
    return Done(Log(" ".join(words), "NFLOG"))


def read_tcp_mss(arguments: Arguments, _family: Family) -> Done:
    match tuple(arguments.items()):
        case [("--clamp-mss-to-pmtu", _)]:
            return Done(Adjust("TCPMSS", "--clamp-mss-to-pmtu"))
        case [("--set-mss", (text, _))]:
            return Done(Adjust("TCPMSS", f"--set-mss {read_number(text, 0xFFFF)}"))
        case _:
            raise ValueError("-j TCPMSS needs exactly one option")


_CLASS = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")


def read_class(arguments: Arguments, _family: Family) -> Done:
    if (found := _CLASS.fullmatch(text := required(arguments, "--set-class"))) is None:
        raise ValueError(f"not a class MAJOR:MINOR: {text!r}")
    return Done(Adjust("CLASSIFY", f"--set-class {int(found[1], 16):04x}:{int(found[2], 16):04x}"))


def read_checksum(arguments: Arguments, _family: Family) -> Done:
    required(arguments, "--checksum-fill")
    return Done(Adjust("CHECKSUM", "--checksum-fill"))
