"""Extensions whose options together are one match or statement: words of the options → a value, and back.

Counterpart: the libxt_*/libipt_* extensions of iptables 1.8.9 with several options each. Which extensions there are, and in which
table, is told by ``options``; this module never knows about the rule around them.
"""

import re
from collections.abc import Mapping

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.dialects.iptables.values import (
    Form,
    NotModelled,
    Style,
    quoted,
    read_address,
    read_mark,
    read_number,
    read_port,
    read_range,
    write_hex,
    write_mark,
    write_range,
)
from kpsim.ruleset import (
    Adjust,
    ConnMark,
    Dnat,
    Limit,
    Log,
    Masquerade,
    NoTrack,
    Recent,
    Redirect,
    Reject,
    ReversePath,
    RoutingHeader,
    SetConnMark,
    SetMark,
    SetTimeToLive,
    Snat,
    Statistic,
)

Arguments = Mapping[str, tuple[str, bool]]  #: option → (its value, negated)


def _value(arguments: Arguments, option: str) -> str | None:
    return arguments[option][0] if option in arguments else None


def _required(arguments: Arguments, option: str) -> str:
    if option not in arguments:
        raise ValueError(f"{option} is missing")
    return arguments[option][0]


def _flags(*flags: tuple[bool, str]) -> str:
    return "".join(f" {option}" for given, option in flags if given)


RECENT_ACTIONS = ("set", "rcheck", "update", "remove")


def _all_ones(family: Family) -> str:
    return format_ip(family, (1 << family.bits) - 1)


def read_recent(arguments: Arguments, family: Family) -> Recent:
    actions = [action for action in RECENT_ACTIONS if f"--{action}" in arguments]
    if len(actions) != 1:
        raise ValueError("-m recent needs one of --set, --rcheck, --update, --remove")
    if (mask := _value(arguments, "--mask")) not in (None, _all_ones(family)):
        raise NotModelled(f"-m recent --mask {mask}")
    seconds, hitcount = _value(arguments, "--seconds"), _value(arguments, "--hitcount")
    reap = "--reap" in arguments
    if reap and seconds is None:
        raise ValueError("-m recent --reap needs --seconds")
    return Recent(
        _value(arguments, "--name") or "DEFAULT",
        actions[0],
        None if seconds is None else read_number(seconds, 0xFFFFFFFF),
        reap,
        None if hitcount is None else read_number(hitcount, 0xFFFFFFFF),
        arguments[f"--{actions[0]}"][1],
    )


def write_recent(recent: Recent, form: Form) -> str:
    text = f"! --{recent.action}" if recent.negate else f"--{recent.action}"
    if recent.seconds is not None:
        text += f" --seconds {recent.seconds}"
    if recent.reap:
        text += " --reap"
    if recent.hitcount is not None:
        text += f" --hitcount {recent.hitcount}"
    if form.style is Style.KUBE_PROXY:
        return f"--name {recent.name} {text}"
    return f"{text} --name {recent.name} --mask {_all_ones(form.family)} --rsource"


_PROBABILITY = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")


def read_statistic(arguments: Arguments, _family: Family) -> Statistic:
    if (mode := _required(arguments, "--mode")) != "random":
        raise NotModelled(f"-m statistic --mode {mode}")
    text = _required(arguments, "--probability")
    if not _PROBABILITY.fullmatch(text) or float(text) > 1:
        raise ValueError(f"not a probability from 0 to 1: {text!r}")
    return Statistic(int(float(text) * (1 << 31) + 0.5), text)  # rounded half up (K-5)


_REJECT_NAMES: Mapping[Family, Mapping[str, str]] = {
    Family.IPV4: {
        "net-unreach": "icmp-net-unreachable", "host-unreach": "icmp-host-unreachable",
        "proto-unreach": "icmp-proto-unreachable", "port-unreach": "icmp-port-unreachable",
        "net-prohib": "icmp-net-prohibited", "host-prohib": "icmp-host-prohibited",
        "admin-prohib": "icmp-admin-prohibited", "tcp-rst": "tcp-reset",
    },
    Family.IPV6: {
        "no-route": "icmp6-no-route", "adm-prohibited": "icmp6-adm-prohibited", "addr-unreach": "icmp6-addr-unreachable",
        "port-unreach": "icmp6-port-unreachable", "policy-fail": "icmp6-policy-fail", "reject-route": "icmp6-reject-route",
        "tcp-rst": "tcp-reset",
    },
}  # fmt: skip


def read_reject(arguments: Arguments, family: Family) -> Reject:
    if (text := _value(arguments, "--reject-with")) is None:
        return Reject()
    names = _REJECT_NAMES[family]
    name = names.get(text, text)
    if name not in names.values():
        raise ValueError(f"not a way to reject {family.label}: {text!r}")
    return Reject(name)


def read_nat_range(text: str, family: Family) -> tuple[int | None, int | None, int | None]:
    """Address (None: kept) and port range of ``ADDRESS[:PORT[-PORT]]`` or ``:PORT[-PORT]``."""
    host, separator, ports = text, "", ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and rest[0] != ":"):
            raise ValueError(f"not an address and port: {text!r}")
        separator, ports = rest[:1], rest[1:]
    elif family is Family.IPV4 or (text.startswith(":") and not text.startswith("::")):
        host, separator, ports = text.partition(":")
    if "-" in host:
        raise NotModelled(f"NAT to a range of addresses {text}")
    if not host and not ports:
        raise ValueError(f"neither address nor port: {text!r}")
    low, high = read_range(ports, "-") if separator else (None, None)
    return (read_address(host, family) if host else None), low, high


def write_nat_range(family: Family, address: int | None, low: int | None, high: int | None) -> str:
    if low is None:
        return "" if address is None else format_ip(family, address)
    ports = write_range(low, high, "-")
    if address is None:
        return f":{ports}"
    host = format_ip(family, address)
    return f"[{host}]:{ports}" if family is Family.IPV6 else f"{host}:{ports}"


def read_dnat(arguments: Arguments, family: Family) -> Dnat:
    text = _required(arguments, "--to-destination")
    address, low, high = read_nat_range(text, family)
    if low != high:
        raise NotModelled(f"-j DNAT to a range of ports {text}")
    return Dnat(family, address, low, "--random" in arguments, "--persistent" in arguments)


def write_dnat(dnat: Dnat, _form: Form) -> str:
    if dnat.address is not None and dnat.port is not None:
        target = join_host_port(format_ip(dnat.family, dnat.address), dnat.port)
    else:
        target = write_nat_range(dnat.family, dnat.address, dnat.port, dnat.port)
    if not (dnat.random or dnat.persistent):
        return f"--to-destination {target}"
    return f"--to-destination {target}" + _flags((dnat.random, "--random"), (dnat.persistent, "--persistent"))


def read_snat(arguments: Arguments, family: Family) -> Snat:
    text = _required(arguments, "--to-source")
    address, low, high = read_nat_range(text, family)
    if address is None:
        raise NotModelled(f"-j SNAT without an address {text}")
    return Snat(family, address, low, high, "--random" in arguments, "--random-fully" in arguments)


def write_snat(snat: Snat, _form: Form) -> str:
    target = write_nat_range(snat.family, snat.address, snat.port_low, snat.port_high)
    return f"--to-source {target}" + _flags((snat.random, "--random"), (snat.random_fully, "--random-fully"))


def read_masquerade(arguments: Arguments, _family: Family) -> Masquerade:
    ports = _value(arguments, "--to-ports")
    low, high = read_range(ports, "-") if ports is not None else (None, None)
    return Masquerade("--random" in arguments, "--random-fully" in arguments, low, high)


def write_masquerade(masquerade: Masquerade, _form: Form) -> str:
    low, high = masquerade.port_low, masquerade.port_high
    ports = f" --to-ports {write_range(low, high, '-')}" if low is not None else ""
    return (ports + _flags((masquerade.random, "--random"), (masquerade.random_fully, "--random-fully"))).lstrip()


def read_redirect(arguments: Arguments, _family: Family) -> Redirect:
    text = _value(arguments, "--to-ports")
    if text is not None and "-" in text:
        raise NotModelled(f"-j REDIRECT --to-ports {text}")
    return Redirect(None if text is None else read_port(text))


def read_set_mark(arguments: Arguments, _family: Family) -> SetMark:
    if len(arguments) != 1:
        raise ValueError("-j MARK needs exactly one option")
    ((option, (text, _negate)),) = arguments.items()
    spelling = option.removeprefix("--")
    return SetMark(*_mark_and_mask(spelling, text), spelling)


def _mark_and_mask(spelling: str, text: str) -> tuple[int, int]:
    """What an option of MARK or CONNMARK makes of a mark: XORed with the first after the bits of the second are cleared."""
    value_text, slash, mask_text = text.partition("/")
    if slash and spelling not in ("set-mark", "set-xmark"):
        raise ValueError(f"--{spelling} takes no mask: {text!r}")
    value = read_number(value_text, 0xFFFFFFFF)
    match spelling:
        case "or-mark":
            return value, value
        case "xor-mark":
            return value, 0
        case "and-mark":
            return 0, value ^ 0xFFFFFFFF
        case _:
            pass
    mask = read_number(mask_text, 0xFFFFFFFF) if slash else 0xFFFFFFFF
    # set-mark clears the bits of the mask, then *or*s the value: bits outside the mask are set, not flipped
    return value, mask | value if spelling == "set-mark" else mask


def write_set_mark(mark: SetMark, form: Form) -> str:
    match mark.spelling:
        case "or-mark" | "xor-mark":
            return f"--{mark.spelling} {write_hex(mark.value, form)}"
        case "and-mark":
            return f"--and-mark {write_hex(mark.mask ^ 0xFFFFFFFF, form)}"
        case "set-mark" if mark.mask == 0xFFFFFFFF:
            return f"--set-mark {write_hex(mark.value, form)}"
        case _:
            pass
    return f"--{mark.spelling} {write_hex(mark.value, form)}/{write_hex(mark.mask, form)}"


def read_notrack(target: str, arguments: Arguments) -> NoTrack:
    if target == "CT" and "--notrack" not in arguments:
        raise NotModelled("-j CT without --notrack")
    return NoTrack(target)


_LOG_LEVELS: Mapping[str, int] = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "error": 3, "err": 3, "warning": 4, "warn": 4, "notice": 5, "info": 6,
    "debug": 7,
}  # fmt: skip
LOG_FLAGS = ("--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-uid", "--log-macdecode")


def read_log(arguments: Arguments, _family: Family) -> Log:
    """Arguments in iptables-save's order; level 4 is the default and left out."""
    words = []
    if (prefix := _value(arguments, "--log-prefix")) is not None:
        words.append(f"--log-prefix {quoted(prefix)}")
    if (text := _value(arguments, "--log-level")) is not None:
        level = _LOG_LEVELS.get(text.lower())
        if level is None:
            level = read_number(text, 7)
        if level != 4:
            words.append(f"--log-level {level}")
    return Log(" ".join(words + [option for option in LOG_FLAGS if option in arguments]))


# --- what other programs' rules use --------------------------------------------------------------------------------------


#: seconds of the units of -m limit, longest first as iptables tries them, with the name that iptables-save prints
_UNITS: Mapping[str, int] = {"day": 86400, "hour": 3600, "min": 60, "sec": 1}
_UNIT_NAMES = ("second", "minute", "hour", "day")
_LIMIT_SCALE = 10_000  #: the tool counts in ten-thousandths of a second


def read_limit(arguments: Arguments, _family: Family) -> Limit:
    text, burst = _value(arguments, "--limit") or "3/hour", _value(arguments, "--limit-burst")
    count_text, _, unit_text = text.partition("/")
    unit = next((name for name in _UNIT_NAMES if name.startswith(unit_text.lower() or "s")), "")
    if not unit or not (count_text.isascii() and count_text.isdigit()) or not int(count_text):
        raise ValueError(f"not a rate: {text!r}")
    period = _LIMIT_SCALE * _UNITS[unit[:3] if unit in ("second", "minute") else unit] // int(count_text)
    if not period:
        raise ValueError(f"too fast for -m limit: {text!r}")
    return Limit(*_rate(period), read_number(burst or "0", 10_000) or 5)  # a burst of 0 counts as none given


def _rate(period: int) -> tuple[int, str]:
    """One token each ``period`` ten-thousandths of a second, in the shortest unit that tells it well."""
    lengths = [(name, seconds * _LIMIT_SCALE) for name, seconds in _UNITS.items()]
    best = lengths[0]
    for name, length in lengths[1:]:
        if period > length or length // period < length % period:
            break
        best = name, length
    return best[1] // period, best[0]


def write_limit(limit: Limit, _form: Form) -> str:
    burst = f" --limit-burst {limit.burst}" if limit.burst != 5 else ""
    return f"--limit {limit.count}/{limit.unit}{burst}"


def read_connmark(arguments: Arguments, family: Family) -> ConnMark:
    _required(arguments, "--mark")
    mark = read_mark(*arguments["--mark"], family)
    return ConnMark(mark.value, mark.mask, mark.negate)


def write_connmark(match: ConnMark, form: Form) -> str:
    return ("! " if match.negate else "") + f"--mark {write_mark(match, form)}"


def read_set_connmark(arguments: Arguments, _family: Family) -> SetConnMark:
    masks = {option: arguments[option][0] for option in arguments if option in ("--mask", "--nfmask", "--ctmask")}
    actions = [option.removeprefix("--") for option in arguments if option not in masks]
    if len(actions) != 1 or ("--mask" in masks and len(masks) > 1):
        raise ValueError("-j CONNMARK needs one of --set-xmark, --save-mark, --restore-mark and the like")
    [action] = actions
    if action in ("save-mark", "restore-mark"):
        both = masks.get("--mask", "0xffffffff")
        bits = (read_number(masks.get(option, both), 0xFFFFFFFF) for option in ("--nfmask", "--ctmask"))
        return SetConnMark(action.removesuffix("-mark"), *bits)
    if masks:
        raise ValueError(f"--{action} takes no mask option")
    return SetConnMark("set", *_mark_and_mask(action, arguments[f"--{action}"][0]))


def write_set_connmark(statement: SetConnMark, _form: Form) -> str:
    value, mask = statement.value, statement.mask
    if statement.action == "set":
        return f"--set-xmark {value:#x}/{mask:#x}"
    return f"--{statement.action}-mark --nfmask {value:#x} --ctmask {mask:#x}"


def read_set_time_to_live(target: str, arguments: Arguments, _family: Family) -> SetTimeToLive:
    if len(arguments) != 1:
        raise ValueError(f"-j {target} needs exactly one option")
    ((option, (text, _negate)),) = arguments.items()
    return SetTimeToLive(target, option.rpartition("-")[2], read_number(text, 255))


def write_set_time_to_live(statement: SetTimeToLive, _form: Form) -> str:
    return f"--{statement.target.lower()}-{statement.action} {statement.value}"


def read_reverse_path(arguments: Arguments, _family: Family) -> ReversePath:
    return ReversePath(*(option in arguments for option in ("--loose", "--validmark", "--accept-local", "--invert")))


def write_reverse_path(match: ReversePath, _form: Form) -> str:
    flags = (
        (match.loose, "--loose"), (match.valid_mark, "--validmark"), (match.accept_local, "--accept-local"),
        (match.invert, "--invert"),
    )  # fmt: skip
    return _flags(*flags).lstrip()


def read_routing_header(arguments: Arguments, _family: Family) -> RoutingHeader:
    """Arguments in iptables-save's order."""
    words = []
    for option in ("--rt-type", "--rt-segsleft", "--rt-len"):
        if option in arguments:
            text, negate = arguments[option]
            words.append(f"{'! ' if negate else ''}{option} {text}")
    return RoutingHeader(" ".join(words))


def read_nflog(arguments: Arguments, _family: Family) -> Log:
    words = []
    if prefix := _value(arguments, "--nflog-prefix"):
        words.append(f"--nflog-prefix {quoted(prefix)}")
    for option, default in (
        ("--nflog-group", "0"),
        ("--nflog-range", "0"),
        ("--nflog-size", ""),
        ("--nflog-threshold", ""),
    ):
        if (text := _value(arguments, option)) is not None and text != default:
            words.append(f"{option} {read_number(text, 0xFFFFFFFF)}")
    return Log(" ".join(words), "NFLOG")


def read_tcp_mss(arguments: Arguments, _family: Family) -> Adjust:
    match tuple(arguments.items()):
        case [("--clamp-mss-to-pmtu", _)]:
            return Adjust("TCPMSS", "--clamp-mss-to-pmtu")
        case [("--set-mss", (text, _))]:
            return Adjust("TCPMSS", f"--set-mss {read_number(text, 0xFFFF)}")
        case _:
            raise ValueError("-j TCPMSS needs exactly one option")


def read_dscp(arguments: Arguments, _family: Family) -> Adjust:
    return Adjust("DSCP", f"--set-dscp 0x{read_number(_required(arguments, '--set-dscp'), 63):02x}")


def read_tos(arguments: Arguments, _family: Family) -> Adjust:
    value, slash, mask = _required(arguments, "--set-tos").partition("/")
    if not value[:1].isdigit():
        raise NotModelled(f"-j TOS --set-tos {value}")
    bits = read_number(mask, 255) if slash else 255
    return Adjust("TOS", f"--set-tos 0x{read_number(value, 255):02x}/0x{bits:02x}")


_CLASS = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")


def read_class(arguments: Arguments, _family: Family) -> Adjust:
    if (found := _CLASS.fullmatch(text := _required(arguments, "--set-class"))) is None:
        raise ValueError(f"not a class MAJOR:MINOR: {text!r}")
    return Adjust("CLASSIFY", f"--set-class {int(found[1], 16):04x}:{int(found[2], 16):04x}")


def read_checksum(arguments: Arguments, _family: Family) -> Adjust:
    _required(arguments, "--checksum-fill")
    return Adjust("CHECKSUM", "--checksum-fill")
