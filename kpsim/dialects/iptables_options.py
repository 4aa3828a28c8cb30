"""The iptables options kpsim models: one table in which every option stands with its reader *and* its writer.

Counterpart: the libxt_*/libipt_* extensions of iptables 1.8.9. Forms were checked against the real tools (I-17). This module
never knows about chains, tables, files or Kubernetes: it turns words of one rule into parts of a rule's body and back.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.dialects.iptables_values import (
    SYN_MASK,
    Form,
    NotModelled,
    Style,
    quoted,
    read_address,
    read_address_type,
    read_ct_state,
    read_icmp_type,
    read_interface,
    read_mark,
    read_network,
    read_number,
    read_port,
    read_protocol,
    read_range,
    read_ranges,
    read_tcp_flags,
    write_comment,
    write_flags,
    write_hex,
    write_icmp_type,
    write_mark,
    write_port,
    write_range,
    write_ranges,
)
from kpsim.ruleset import (
    AddrType,
    Comment,
    CtState,
    Destination,
    DestinationPort,
    Dnat,
    IcmpType,
    InInterface,
    Log,
    MarkMatch,
    Masquerade,
    Match,
    MultiPort,
    NfAcct,
    NoTrack,
    OutInterface,
    Protocol,
    Recent,
    Redirect,
    Reject,
    SetMark,
    Snat,
    Source,
    SourcePort,
    Statement,
    Statistic,
    TcpFlags,
)

Arguments = Mapping[str, tuple[str, bool]]  #: option → (its value, negated)


@dataclass(frozen=True, slots=True)
class Option:
    """One option that is one match.

    ``modules`` are those that know the option; empty for the header options, which need no ``-m``. ``variant`` tells apart the
    options that share a class of rules.py, see ``VARIANT_FIELD``. A row without ``write`` is another way to spell a match.
    """

    element: type
    modules: tuple[str, ...]
    names: tuple[str, ...]  #: the first is the one written
    read: Callable[[str, bool, Family], Match | None]  #: None: always true, not worth a match
    write: Callable[[Any, Form], str] | None
    variant: str = ""
    arguments: int = 1


@dataclass(frozen=True, slots=True)
class Extension:
    """A module or a target whose options together are one match or statement."""

    element: type
    flag: str  #: ``-m`` or ``-j``
    name: str
    options: Mapping[str, int]  #: option → number of values it takes
    read: Callable[[Arguments, Family], Any]
    write: Callable[[Any, Form], str]  #: the options as text
    table: str = ""  #: the only table the kernel takes the target in; empty: any
    variant: str = ""
    negatable: frozenset[str] = frozenset()


#: the field that tells apart options which share a class
VARIANT_FIELD: Mapping[type, str] = {
    CtState: "module", MultiPort: "side", IcmpType: "module", AddrType: "side", NoTrack: "target",
}  # fmt: skip
#: modules whose port options follow as matches of their own; the module alone is a match already (``L4Module``)
PORT_MODULES = ("tcp", "udp", "sctp")
#: module that an option brings along if the rule names only the protocol: ``-p tcp --dport 80``
IMPLIED_MODULE: Mapping[str, str] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", "icmp": "icmp", "icmpv6": "icmp6"}
#: protocols that the kernel demands of a rule with the module
MODULE_PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "tcp": ("tcp",), "udp": ("udp",), "sctp": ("sctp",), "icmp": ("icmp",), "icmp6": ("icmpv6",),
    "multiport": ("tcp", "udp", "udplite", "sctp", "dccp"),
}  # fmt: skip


# --- several options, one match or statement ---------------------------------------------------------------------------


def _value(arguments: Arguments, option: str) -> str | None:
    return arguments[option][0] if option in arguments else None


def _required(arguments: Arguments, option: str) -> str:
    if option not in arguments:
        raise ValueError(f"{option} is missing")
    return arguments[option][0]


def _flags(*flags: tuple[bool, str]) -> str:
    return "".join(f" {option}" for given, option in flags if given)


_RECENT_ACTIONS = ("set", "rcheck", "update", "remove")


def _all_ones(family: Family) -> str:
    return format_ip(family, (1 << family.bits) - 1)


def _read_recent(arguments: Arguments, family: Family) -> Recent:
    actions = [action for action in _RECENT_ACTIONS if f"--{action}" in arguments]
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


def _write_recent(recent: Recent, form: Form) -> str:
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


def _read_statistic(arguments: Arguments, _family: Family) -> Statistic:
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


def _read_reject(arguments: Arguments, family: Family) -> Reject:
    if (text := _value(arguments, "--reject-with")) is None:
        return Reject()
    names = _REJECT_NAMES[family]
    name = names.get(text, text)
    if name not in names.values():
        raise ValueError(f"not a way to reject {family.label}: {text!r}")
    return Reject(name)


def _read_nat_range(text: str, family: Family) -> tuple[int | None, int | None, int | None]:
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


def _write_nat_range(family: Family, address: int | None, low: int | None, high: int | None) -> str:
    if low is None:
        return "" if address is None else format_ip(family, address)
    ports = write_range(low, high, "-")
    if address is None:
        return f":{ports}"
    host = format_ip(family, address)
    return f"[{host}]:{ports}" if family is Family.IPV6 else f"{host}:{ports}"


def _read_dnat(arguments: Arguments, family: Family) -> Dnat:
    text = _required(arguments, "--to-destination")
    address, low, high = _read_nat_range(text, family)
    if low != high:
        raise NotModelled(f"-j DNAT to a range of ports {text}")
    return Dnat(family, address, low, "--random" in arguments, "--persistent" in arguments)


def _write_dnat(dnat: Dnat, _form: Form) -> str:
    if dnat.address is not None and dnat.port is not None:
        target = join_host_port(format_ip(dnat.family, dnat.address), dnat.port)
    else:
        target = _write_nat_range(dnat.family, dnat.address, dnat.port, dnat.port)
    if not (dnat.random or dnat.persistent):
        return f"--to-destination {target}"
    return f"--to-destination {target}" + _flags((dnat.random, "--random"), (dnat.persistent, "--persistent"))


def _read_snat(arguments: Arguments, family: Family) -> Snat:
    text = _required(arguments, "--to-source")
    address, low, high = _read_nat_range(text, family)
    if address is None:
        raise NotModelled(f"-j SNAT without an address {text}")
    return Snat(family, address, low, high, "--random" in arguments, "--random-fully" in arguments)


def _write_snat(snat: Snat, _form: Form) -> str:
    target = _write_nat_range(snat.family, snat.address, snat.port_low, snat.port_high)
    return f"--to-source {target}" + _flags((snat.random, "--random"), (snat.random_fully, "--random-fully"))


def _read_masquerade(arguments: Arguments, _family: Family) -> Masquerade:
    ports = _value(arguments, "--to-ports")
    low, high = read_range(ports, "-") if ports is not None else (None, None)
    return Masquerade("--random" in arguments, "--random-fully" in arguments, low, high)


def _write_masquerade(masquerade: Masquerade, _form: Form) -> str:
    low, high = masquerade.port_low, masquerade.port_high
    ports = f" --to-ports {write_range(low, high, '-')}" if low is not None else ""
    return (ports + _flags((masquerade.random, "--random"), (masquerade.random_fully, "--random-fully"))).lstrip()


def _read_redirect(arguments: Arguments, _family: Family) -> Redirect:
    text = _value(arguments, "--to-ports")
    if text is not None and "-" in text:
        raise NotModelled(f"-j REDIRECT --to-ports {text}")
    return Redirect(None if text is None else read_port(text))


def _read_set_mark(arguments: Arguments, _family: Family) -> SetMark:
    if len(arguments) != 1:
        raise ValueError("-j MARK needs exactly one option")
    ((option, (text, _negate)),) = arguments.items()
    spelling = option.removeprefix("--")
    value_text, slash, mask_text = text.partition("/")
    if slash and spelling not in ("set-mark", "set-xmark"):
        raise ValueError(f"{option} takes no mask: {text!r}")
    value = read_number(value_text, 0xFFFFFFFF)
    match spelling:
        case "or-mark":
            return SetMark(value, value, spelling)
        case "xor-mark":
            return SetMark(value, 0, spelling)
        case "and-mark":
            return SetMark(0, value ^ 0xFFFFFFFF, spelling)
        case _:
            pass
    mask = read_number(mask_text, 0xFFFFFFFF) if slash else 0xFFFFFFFF
    if (
        spelling == "set-mark"
    ):  # clears the bits of the mask, then *or*s the value: bits outside the mask are set, not flipped
        mask |= value
    return SetMark(value, mask, spelling)


def _write_set_mark(mark: SetMark, form: Form) -> str:
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


def _read_notrack(target: str, arguments: Arguments) -> NoTrack:
    if target == "CT" and "--notrack" not in arguments:
        raise NotModelled("-j CT without --notrack")
    return NoTrack(target)


_LOG_LEVELS: Mapping[str, int] = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "error": 3, "err": 3, "warning": 4, "warn": 4, "notice": 5, "info": 6,
    "debug": 7,
}  # fmt: skip
_LOG_FLAGS = ("--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-uid", "--log-macdecode")


def _read_log(arguments: Arguments, _family: Family) -> Log:
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
    return Log(" ".join(words + [option for option in _LOG_FLAGS if option in arguments]))


# --- the table ---------------------------------------------------------------------------------------------------------

OPTIONS: tuple[Option, ...] = (
    # header, in the order iptables-save prints it
    Option(Source, (), ("-s", "--source", "--src"),
           lambda text, negate, family: Source(read_network(text, family), negate), lambda m, _: str(m.network)),
    Option(Destination, (), ("-d", "--destination", "--dst"),
           lambda text, negate, family: Destination(read_network(text, family), negate), lambda m, _: str(m.network)),
    Option(InInterface, (), ("-i", "--in-interface"),
           lambda text, negate, _: InInterface(read_interface(text), negate), lambda m, _: m.name),
    Option(OutInterface, (), ("-o", "--out-interface"),
           lambda text, negate, _: OutInterface(read_interface(text), negate), lambda m, _: m.name),
    Option(Protocol, (), ("-p", "--protocol", "--proto"), read_protocol,
           lambda m, _: "ipv6-icmp" if m.name == "icmpv6" else m.name),
    # port options, in the order iptables-save prints them behind their module
    Option(SourcePort, PORT_MODULES, ("--sport", "--source-port"),
           lambda text, negate, _: SourcePort(*read_range(text), negate), write_port),
    Option(DestinationPort, PORT_MODULES, ("--dport", "--destination-port"),
           lambda text, negate, _: DestinationPort(*read_range(text), negate), write_port),
    Option(TcpFlags, ("tcp",), ("--tcp-flags",), read_tcp_flags,
           lambda m, _: f"{write_flags(m.mask)} {write_flags(m.value)}", arguments=2),
    Option(TcpFlags, ("tcp",), ("--syn",),
           lambda _text, negate, _: TcpFlags(SYN_MASK, frozenset(("SYN",)), negate), None, arguments=0),
    # modules of one option
    Option(Comment, ("comment",), ("--comment",), lambda text, _negate, _: Comment(text), write_comment),
    Option(CtState, ("conntrack",), ("--ctstate",), lambda text, negate, _: read_ct_state("conntrack", text, negate),
           lambda m, _: ",".join(m.states), variant="conntrack"),
    Option(CtState, ("state",), ("--state",), lambda text, negate, _: read_ct_state("state", text, negate),
           lambda m, _: ",".join(m.states), variant="state"),
    Option(MarkMatch, ("mark",), ("--mark",), read_mark, write_mark),
    Option(AddrType, ("addrtype",), ("--src-type",), lambda text, negate, _: read_address_type("src", text, negate),
           lambda m, _: m.type, variant="src"),
    Option(AddrType, ("addrtype",), ("--dst-type",), lambda text, negate, _: read_address_type("dst", text, negate),
           lambda m, _: m.type, variant="dst"),
    Option(MultiPort, ("multiport",), ("--sports", "--source-ports"),
           lambda text, negate, _: MultiPort("sports", read_ranges(text), negate), write_ranges, variant="sports"),
    Option(MultiPort, ("multiport",), ("--dports", "--destination-ports"),
           lambda text, negate, _: MultiPort("dports", read_ranges(text), negate), write_ranges, variant="dports"),
    Option(MultiPort, ("multiport",), ("--ports",),
           lambda text, negate, _: MultiPort("ports", read_ranges(text), negate), write_ranges, variant="ports"),
    Option(IcmpType, ("icmp",), ("--icmp-type",), lambda text, negate, _: read_icmp_type("icmp", text, negate),
           write_icmp_type, variant="icmp"),
    Option(IcmpType, ("icmp6",), ("--icmpv6-type", "--icmp6-type"),
           lambda text, negate, _: read_icmp_type("icmp6", text, negate), write_icmp_type, variant="icmp6"),
    Option(NfAcct, ("nfacct",), ("--nfacct-name",), lambda text, _negate, _: NfAcct(text),
           lambda m, form: f" {m.name}" if form.style is Style.SAVE else m.name),  # two blanks (I-17)
)  # fmt: skip

_RANDOM = {"--random": 0, "--random-fully": 0}

EXTENSIONS: tuple[Extension, ...] = (
    Extension(Recent, "-m", "recent",
              {"--set": 0, "--rcheck": 0, "--update": 0, "--remove": 0, "--seconds": 1, "--reap": 0, "--hitcount": 1,
               "--name": 1, "--mask": 1, "--rsource": 0},
              _read_recent, _write_recent, negatable=frozenset(f"--{action}" for action in _RECENT_ACTIONS)),
    Extension(Statistic, "-m", "statistic", {"--mode": 1, "--probability": 1}, _read_statistic,
              lambda m, _: f"--mode random --probability {m.text}"),
    Extension(Reject, "-j", "REJECT", {"--reject-with": 1}, _read_reject,
              lambda s, _: f"--reject-with {s.with_}" if s.with_ else "", table="filter"),
    Extension(Dnat, "-j", "DNAT", {"--to-destination": 1, "--random": 0, "--persistent": 0}, _read_dnat, _write_dnat,
              table="nat"),
    Extension(Snat, "-j", "SNAT", {"--to-source": 1, **_RANDOM}, _read_snat, _write_snat, table="nat"),
    Extension(Masquerade, "-j", "MASQUERADE", {"--to-ports": 1, **_RANDOM}, _read_masquerade, _write_masquerade,
              table="nat"),
    Extension(Redirect, "-j", "REDIRECT", {"--to-ports": 1}, _read_redirect,
              lambda s, _: f"--to-ports {s.port}" if s.port is not None else "", table="nat"),
    Extension(SetMark, "-j", "MARK",
              {"--set-xmark": 1, "--set-mark": 1, "--or-mark": 1, "--xor-mark": 1, "--and-mark": 1},
              _read_set_mark, _write_set_mark),
    Extension(NoTrack, "-j", "CT", {"--notrack": 0}, lambda arguments, _: _read_notrack("CT", arguments),
              lambda _s, _: "--notrack", table="raw", variant="CT"),
    Extension(NoTrack, "-j", "NOTRACK", {}, lambda arguments, _: _read_notrack("NOTRACK", arguments), lambda _s, _: "",
              table="raw", variant="NOTRACK"),
    Extension(Log, "-j", "LOG", {"--log-prefix": 1, "--log-level": 1, **dict.fromkeys(_LOG_FLAGS, 0)}, _read_log,
              lambda s, _: s.arguments),
)  # fmt: skip

#: shorter spellings that iptables accepts
ALIASES: Mapping[str, str] = {
    "--to-port": "--to-ports",
    "--match": "-m",
    "--jump": "-j",
    "--goto": "-g",
    "--fragment": "-f",
}

#: targets of iptables 1.8.9 that are not modelled: not chain names by mistake
FOREIGN_TARGETS = frozenset((
    "AUDIT", "CHECKSUM", "CLASSIFY", "CLUSTERIP", "CONNMARK", "CONNSECMARK", "DNPT", "DSCP", "ECN", "HL", "HMARK", "IDLETIMER",
    "LED", "NETMAP", "NFLOG", "NFQUEUE", "QUEUE", "RATEEST", "SECMARK", "SET", "SNPT", "SYNPROXY", "TCPMSS", "TCPOPTSTRIP",
    "TEE", "TOS", "TPROXY", "TRACE", "TTL", "ULOG",
))  # fmt: skip

OPTION_BY_NAME: Mapping[str, Option] = {name: option for option in OPTIONS for name in option.names}
EXTENSION_BY_NAME: Mapping[tuple[str, str], Extension] = {(row.flag, row.name): row for row in EXTENSIONS}
#: modules whose options are matches of their own
OPTION_MODULES = frozenset(module for option in OPTIONS for module in option.modules)
#: position of a class among the header options and among the port options, as iptables-save prints them
HEADER_ORDER: Mapping[type, int] = {row.element: i for i, row in enumerate(o for o in OPTIONS if not o.modules)}
PORT_ORDER: Mapping[type, int] = {
    row.element: i for i, row in enumerate(o for o in OPTIONS if o.modules and o.modules[0] == "tcp" and o.write)
}


def read_extension(extension: Extension, arguments: Arguments, family: Family) -> Match | Statement:
    """ValueError if an option is missing or its value malformed; NotModelled by name."""
    result: Match | Statement = extension.read(arguments, family)
    return result
