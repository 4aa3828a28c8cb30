"""Readers and writers of extensions: modules and targets whose options together are one expression or statement.

Counterpart: the libxt_* and libipt_* extensions of iptables 1.8.9 with several options. ``options`` lists the
extensions, and the table in which each is allowed.
"""

import re
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from kpsim.addresses import Family, format_ip
from kpsim.dialects.iptables.values import (
    ALL_BITS,
    Form,
    NotModelled,
    Read,
    Style,
    mark_reader,
    read_address,
    read_number,
    read_port,
    read_range,
    write_hex,
    write_mark,
    write_range,
)
from kpsim.ruleset import (
    NO_FLAGS,
    Assign,
    Chance,
    Compare,
    Dnat,
    Field,
    Interval,
    Masquerade,
    NatFlags,
    Recent,
    Redirect,
    Reject,
    RejectWith,
    Snat,
    Statement,
)

Arguments = Mapping[str, tuple[str, bool]]  #: option → (its value, negated)


class Done(NamedTuple):
    """What a target does, and the detail of its spelling."""

    part: Statement
    detail: Hashable = None


def value_of(arguments: Arguments, option: str) -> str | None:
    return arguments[option][0] if option in arguments else None


def required(arguments: Arguments, option: str) -> str:
    if option not in arguments:
        raise ValueError(f"{option} is missing")
    return arguments[option][0]


def flags_text(*flags: tuple[bool, str]) -> str:
    return "".join(f" {option}" for given, option in flags if given)


_MOST_HITS = 0xFFFF
_LONGEST_LIST_NAME = 199
RECENT_ACTIONS = ("set", "rcheck", "update", "remove")


def _all_ones(family: Family) -> str:
    return format_ip(family, (1 << family.bits) - 1)


def read_recent(arguments: Arguments, family: Family) -> Read:
    actions = [action for action in RECENT_ACTIONS if f"--{action}" in arguments]
    if len(actions) != 1:
        raise ValueError("-m recent needs one of --set, --rcheck, --update, --remove")
    if (mask := value_of(arguments, "--mask")) not in (None, _all_ones(family)):
        raise NotModelled(f"-m recent --mask {mask}")
    seconds, hitcount = value_of(arguments, "--seconds"), value_of(arguments, "--hitcount")
    reap = "--reap" in arguments
    if reap and seconds is None:
        raise ValueError("-m recent --reap needs --seconds")
    if actions[0] in ("set", "remove") and (seconds is not None or hitcount is not None or reap):
        raise ValueError(f"-m recent --{actions[0]} takes neither --seconds nor --hitcount")
    name = value_of(arguments, "--name") or "DEFAULT"
    if name in (".", "..") or "/" in name or len(name.encode()) > _LONGEST_LIST_NAME:
        raise ValueError(f"not a name of a list of -m recent: {name!r}")
    recent = Recent(
        name,
        actions[0],
        None if seconds is None else read_number(seconds, ALL_BITS),
        reap,
        None if hitcount is None else read_number(hitcount, _MOST_HITS),
        arguments[f"--{actions[0]}"][1],
    )
    return Read(recent)


def write_recent(recent: Recent, _detail: None, form: Form) -> str:
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


def read_statistic(arguments: Arguments, _family: Family) -> Read:
    """Reads ``-m statistic``. The detail is the probability as it was written."""
    if (mode := required(arguments, "--mode")) != "random":
        raise NotModelled(f"-m statistic --mode {mode}")
    text = required(arguments, "--probability")
    if not _PROBABILITY.fullmatch(text) or float(text) > 1:
        raise ValueError(f"not a probability from 0 to 1: {text!r}")
    return Read(Chance(int(float(text) * (1 << 31) + 0.5)), text)  # rounded half up (K-5)


def write_statistic(chance: Chance, detail: str | None, form: Form) -> str:
    return f"--mode random --probability {probability(chance, detail, form)}"


def probability(chance: Chance, detail: str | None, form: Form) -> str:
    """The probability as it was written.

    If that is not known, and for iptables-save, the kernel's value with 11 decimals.
    """
    if detail is not None and form.style is not Style.SAVE:
        return detail
    return f"{chance.threshold / (1 << 31):.11f}"


#: the answers of REJECT, by the names that iptables-save prints
_ANSWERS: Mapping[Family, Mapping[str, RejectWith]] = {
    Family.IPV4: {
        "icmp-net-unreachable": RejectWith.NO_ROUTE, "icmp-host-unreachable": RejectWith.HOST_UNREACHABLE,
        "icmp-proto-unreachable": RejectWith.PROTOCOL_UNREACHABLE, "icmp-port-unreachable": RejectWith.PORT_UNREACHABLE,
        "icmp-net-prohibited": RejectWith.NET_PROHIBITED, "icmp-host-prohibited": RejectWith.HOST_PROHIBITED,
        "icmp-admin-prohibited": RejectWith.ADMIN_PROHIBITED, "tcp-reset": RejectWith.TCP_RESET,
    },
    Family.IPV6: {
        "icmp6-no-route": RejectWith.NO_ROUTE, "icmp6-adm-prohibited": RejectWith.ADMIN_PROHIBITED,
        "icmp6-addr-unreachable": RejectWith.HOST_UNREACHABLE, "icmp6-port-unreachable": RejectWith.PORT_UNREACHABLE,
        "icmp6-policy-fail": RejectWith.POLICY_FAIL, "icmp6-reject-route": RejectWith.REJECT_ROUTE,
        "tcp-reset": RejectWith.TCP_RESET,
    },
}  # fmt: skip
_SHORT_ANSWERS: Mapping[Family, Mapping[str, str]] = {
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
ANSWER_NAMES: Mapping[Family, Mapping[RejectWith, str]] = {
    family: {answer: name for name, answer in answers.items()} for family, answers in _ANSWERS.items()
}
UNSAID = "unsaid"  #: the answer that REJECT gives without ``--reject-with``


def read_reject(arguments: Arguments, family: Family) -> Done:
    if (text := value_of(arguments, "--reject-with")) is None:
        return Done(Reject(), UNSAID)
    answer = _ANSWERS[family].get(_SHORT_ANSWERS[family].get(text, text))
    if answer is None:
        raise ValueError(f"not a way to reject {family.label}: {text!r}")
    return Done(Reject(answer))


def write_reject(reject: Reject, detail: str | None, form: Form) -> str:
    if detail == UNSAID and form.style is not Style.SAVE:
        return ""
    return f"--reject-with {ANSWER_NAMES[form.family][reject.with_]}"


# --- translation ------------------------------------------------------------------------------------------------------


def _read_nat_range(text: str, family: Family) -> tuple[Interval | None, Interval | None]:
    """Address and port range of ``ADDRESS[:PORT[-PORT]]`` or ``:PORT[-PORT]``. None: the packet's own is kept."""
    host, separator, ports = text, "", ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and rest[0] != ":"):
            raise ValueError(f"not an address and port: {text!r}")
        separator, ports = rest[:1], rest[1:]
    elif family is Family.IPV4 or (text.startswith(":") and not text.startswith("::")):
        host, separator, ports = text.partition(":")
    if not host and not ports:
        raise ValueError(f"neither address nor port: {text!r}")
    bounds, shifted, base = ports.partition("/")
    if shifted and base.isdigit() and 0 < int(base) <= 65535 and "-" in bounds:
        _read_ports(bounds)
        raise NotModelled(f"NAT to a shifted range of ports {text}")
    return (_read_addresses(host, family) if host else None), (_read_ports(ports) if separator else None)


def _read_addresses(text: str, family: Family) -> Interval:
    first, dash, last = text.partition("-")
    low = read_address(first, family)
    high = read_address(last, family) if dash else low
    if high < low:
        raise NotModelled(f"NAT to a range of addresses that ends before it begins {text}")
    return low, high


def _read_ports(text: str) -> Interval:
    """A port, or a range with both of its ends."""
    if text[:1] in ("", "-") or text.endswith("-"):
        raise ValueError(f"not a port or a range of ports: {text!r}")
    return read_range(text, "-")


def _ends(interval: Interval | None) -> tuple[int | None, int | None]:
    """The first number of a range, and the last one if it is another."""
    if interval is None:
        return None, None
    return interval[0], None if interval[0] == interval[1] else interval[1]


def _write_nat_range(family: Family, address: int | None, last: int | None, ports: Interval | None) -> str:
    host = "" if address is None else format_ip(family, address)
    if last is not None:
        host += f"-{format_ip(family, last)}"
    if ports is None:
        return host
    return f"[{host}]:{write_range(ports, '-')}" if ":" in host else f"{host}:{write_range(ports, '-')}"


_FLAGS = {
    "--random": NatFlags.RANDOM,
    "--random-fully": NatFlags.FULLY_RANDOM,
    "--persistent": NatFlags.PERSISTENT,
}


def _read_flags(arguments: Arguments) -> NatFlags:
    flags = NO_FLAGS
    for option, flag in _FLAGS.items():
        if option in arguments:
            flags |= flag
    return flags


def _write_flags(flags: NatFlags) -> str:
    return "".join(f" {option}" for option, flag in _FLAGS.items() if flag in flags) if flags else ""


def read_dnat(arguments: Arguments, family: Family) -> Done:
    text = required(arguments, "--to-destination")
    (address, last_address), (port, last_port) = map(_ends, _read_nat_range(text, family))
    return Done(Dnat(address, port, _read_flags(arguments), None, last_address, last_port))


def write_dnat(dnat: Dnat, _detail: None, form: Form) -> str:
    ports = None if dnat.port is None else (dnat.port, dnat.last_port or dnat.port)
    target = _write_nat_range(form.family, dnat.address, dnat.last_address, ports)
    return f"--to-destination {target}{_write_flags(dnat.flags)}"


def read_snat(arguments: Arguments, family: Family) -> Done:
    text = required(arguments, "--to-source")
    addresses, ports = _read_nat_range(text, family)
    address, last = _ends(addresses)
    return Done(Snat(address, ports, _read_flags(arguments), None, last))


def write_snat(snat: Snat, _detail: None, form: Form) -> str:
    return f"--to-source {_write_nat_range(form.family, snat.address, snat.last_address, snat.ports)}{_write_flags(snat.flags)}"


def read_masquerade(arguments: Arguments, _family: Family) -> Done:
    ports = value_of(arguments, "--to-ports")
    return Done(Masquerade(None if ports is None else _read_ports(ports), _read_flags(arguments)))


def write_masquerade(masquerade: Masquerade, _detail: None, _form: Form) -> str:
    ports = "" if masquerade.ports is None else f" --to-ports {write_range(masquerade.ports, '-')}"
    return (ports + _write_flags(masquerade.flags)).lstrip()


def read_redirect(arguments: Arguments, _family: Family) -> Done:
    text = value_of(arguments, "--to-ports")
    port, last = _ends(
        None if text is None else _read_ports(text) if "-" in text else (read_port(text), read_port(text))
    )
    return Done(Redirect(port, _read_flags(arguments), None, last))


def write_redirect(redirect: Redirect, _detail: None, _form: Form) -> str:
    last = redirect.last_port or redirect.port
    ports = "" if redirect.port is None else f" --to-ports {write_range((redirect.port, last or 0), '-')}"
    return (ports + _write_flags(redirect.flags)).lstrip()


# --- marks ------------------------------------------------------------------------------------------------------------


def read_set_mark(arguments: Arguments, _family: Family) -> Done:
    """Reads ``-j MARK``. The detail is the option that was used."""
    if len(arguments) != 1:
        raise ValueError("-j MARK needs exactly one option")
    ((option, (text, _negate)),) = arguments.items()
    spelling = option.removeprefix("--")
    return Done(_assignment(Field.MARK, spelling, text), spelling)


def _assignment(to: Field, spelling: str, text: str) -> Assign:
    """The assignment that an option of MARK or CONNMARK means."""
    value_text, slash, mask_text = text.partition("/")
    if slash and spelling not in ("set-mark", "set-xmark"):
        raise ValueError(f"--{spelling} takes no mask: {text!r}")
    value = read_number(value_text, ALL_BITS)
    match spelling:
        case "or-mark":
            return Assign(to, ALL_BITS ^ value, value)
        case "xor-mark":
            return Assign(to, ALL_BITS, value)
        case "and-mark":
            return Assign(to, value)
        case _:
            pass
    mask = read_number(mask_text, ALL_BITS) if slash else ALL_BITS
    # set-mark clears the bits of the mask, then *or*s the value: bits outside the mask are set, not flipped
    return Assign(to, ALL_BITS ^ (mask | value if spelling == "set-mark" else mask), value)


def write_set_mark(mark: Assign, detail: str | None, form: Form) -> str:
    spelling = "set-xmark" if detail is None or form.style is Style.SAVE else detail
    match spelling:
        case "or-mark" | "xor-mark":
            return f"--{spelling} {write_hex(mark.flip, form)}"
        case "and-mark":
            return f"--and-mark {write_hex(mark.keep, form)}"
        case "set-mark" if mark.keep == 0:
            return f"--set-mark {write_hex(mark.flip, form)}"
        case _:
            return f"--{spelling} {write_hex(mark.flip, form)}/{write_hex(mark.keep ^ ALL_BITS, form)}"


def read_set_connmark(arguments: Arguments, _family: Family) -> Done:
    masks = {option: arguments[option][0] for option in arguments if option in ("--mask", "--nfmask", "--ctmask")}
    actions = [option.removeprefix("--") for option in arguments if option not in masks]
    if len(actions) != 1 or ("--mask" in masks and len(masks) > 1):
        raise ValueError("-j CONNMARK needs one of --set-xmark, --save-mark, --restore-mark and the like")
    [action] = actions
    if action in ("save-mark", "restore-mark"):
        both = masks.get("--mask", "0xffffffff")
        packet, connection = (read_number(masks.get(option, both), ALL_BITS) for option in ("--nfmask", "--ctmask"))
        if action == "save-mark":
            return Done(Assign(Field.CT_MARK, ALL_BITS ^ connection, 0, Field.MARK, packet))
        return Done(Assign(Field.MARK, ALL_BITS ^ packet, 0, Field.CT_MARK, connection))
    if masks:
        raise ValueError(f"--{action} takes no mask option")
    return Done(_assignment(Field.CT_MARK, action, arguments[f"--{action}"][0]))


def connmark_action(statement: Assign) -> str:
    """What a CONNMARK statement does: ``set``, ``save`` or ``restore``."""
    if statement.source is None:
        return "set"
    return "save" if statement.to is Field.CT_MARK else "restore"


def write_set_connmark(statement: Assign, _detail: None, _form: Form) -> str:
    cleared = statement.keep ^ ALL_BITS
    match connmark_action(statement):
        case "set":
            return f"--set-xmark {statement.flip:#x}/{cleared:#x}"
        case "save":
            return f"--save-mark --nfmask {statement.take:#x} --ctmask {cleared:#x}"
        case _:
            return f"--restore-mark --nfmask {cleared:#x} --ctmask {statement.take:#x}"


def read_connmark(arguments: Arguments, family: Family) -> Read:
    required(arguments, "--mark")
    return _READ_CONNMARK(*arguments["--mark"], family)


_READ_CONNMARK = mark_reader(Field.CT_MARK)


def write_connmark(match: Compare, detail: None, form: Form) -> str:
    return ("! " if match.negate else "") + f"--mark {write_mark(match, detail, form)}"
