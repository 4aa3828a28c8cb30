"""All iptables options that kpsim models, one row each: how the words are read, and how they are written.

Counterpart: the option tables of iptables 1.8.9. An :class:`Option` alone is one expression. An :class:`Extension` is a
module or a target whose options together are one expression or statement. To add a match or a target, add a row.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kpsim.addresses import Family
from kpsim.dialects.iptables.balancing import (
    read_balanced,
    read_method,
    read_virtual_address,
    read_virtual_direction,
    read_virtual_port,
    read_virtual_protocol,
    write_virtual_address,
    write_virtual_protocol,
)
from kpsim.dialects.iptables.extensions import (
    RECENT_ACTIONS,
    Arguments,
    Done,
    read_connmark,
    read_dnat,
    read_masquerade,
    read_recent,
    read_redirect,
    read_reject,
    read_set_connmark,
    read_set_mark,
    read_snat,
    read_statistic,
    write_connmark,
    write_dnat,
    write_masquerade,
    write_recent,
    write_redirect,
    write_reject,
    write_set_connmark,
    write_set_mark,
    write_snat,
    write_statistic,
)
from kpsim.dialects.iptables.further import (
    LOG_FLAGS,
    read_checksum,
    read_class,
    read_ct,
    read_limit,
    read_local_socket,
    read_log,
    read_map_network,
    read_nflog,
    read_reverse_path,
    read_routing_header,
    read_set_time_to_live,
    read_tcp_mss,
    time_to_live_writer,
    write_ct,
    write_limit,
    write_map_network,
    write_reverse_path,
)
from kpsim.dialects.iptables.headers import (
    read_dscp,
    read_dscp_class,
    read_frame,
    read_set_dscp,
    read_set_tos,
    read_tos,
    write_dscp,
    write_frame,
    write_set_dscp,
    write_set_tos,
    write_tos,
)
from kpsim.dialects.iptables.senders import (
    address_type_reader,
    bridge_port_reader,
    bridge_side_reader,
    number_range_reader,
    number_range_writer,
    owner_reader,
    read_interface_limit,
    read_socket,
    write_address_types,
    write_bridge_port,
    write_nothing,
)
from kpsim.dialects.iptables.sets import Ipsets, read_match_set, write_match_set
from kpsim.dialects.iptables.values import (
    CT_STATES,
    Form,
    Read,
    Style,
    Writer,
    address_range_reader,
    icmp_reader,
    interface_reader,
    mark_reader,
    names_reader,
    names_writer,
    network_reader,
    original_destination_reader,
    port_reader,
    ports_reader,
    read_direction,
    read_protocol,
    read_syn,
    read_tcp_flags,
    time_to_live_match_writer,
    time_to_live_reader,
    write_address_range,
    write_comment,
    write_icmp_type,
    write_interface,
    write_mark,
    write_name,
    write_network,
    write_original_destination,
    write_port,
    write_ports,
    write_protocol,
    write_tcp_flags,
)
from kpsim.ruleset import (
    Adjust,
    Counter,
    Field,
    Goto,
    Hook,
    Jump,
    LocalSocket,
    Log,
    NoTrack,
    RoutingHeader,
    Terminal,
    Unknown,
    Unmodelled,
)


class Place(enum.Enum):
    """Where iptables-save prints an option."""

    HEADER = "header"  #: before every ``-m``
    MATCH = "match"
    PORT = "port"  #: directly after ``-m tcp`` and the like
    TARGET = "target"


ALL_HOOKS = frozenset(Hook)
#: rows that iptables-save prints although they have no part
_WITHOUT_PART = frozenset(("--comment", "--limit-iface-in", "--limit-iface-out"))


def _hooks(*names: str) -> frozenset[Hook]:
    return frozenset(map(Hook, names))


_MADE_HERE = _hooks("OUTPUT", "POSTROUTING")
_DESTINATION_HOOKS = _hooks("PREROUTING", "OUTPUT")
_SOURCE_HOOKS = _hooks("INPUT", "POSTROUTING")
_LEAVING = _hooks("FORWARD", "OUTPUT", "POSTROUTING")
_COMING = _hooks("PREROUTING", "INPUT", "FORWARD")
_NOT_OUTPUT = ALL_HOOKS - _hooks("OUTPUT")

#: writes a piece: the part (the rule if it has none), the detail of its spelling, the form, whether it opens its ``-m``
PieceWriter = Callable[[Any, Any, Form, bool], str]


class Row:
    """A row of the table: it writes one piece of a rule's spelling."""

    name: str  #: unique
    place = Place.MATCH
    order = 0  #: among the pieces of its place, or of its ``-m``
    module = ""
    always = False  #: iptables-save prints it although it has no part
    tables: frozenset[str] = frozenset()  #: the only tables that the kernel takes it in; empty: any
    hooks: frozenset[Hook] = ALL_HOOKS  #: the only hooks from which the kernel lets a packet reach it
    opens_ports = False
    write: PieceWriter


@dataclass(frozen=True, eq=False)
class Option(Row):
    """One option that is one expression.

    ``modules`` are the modules that have the option; a header option needs no ``-m``. A row without ``value`` is
    another way to write something that the row ``written_as`` writes. ``read`` returns None for an option that is
    always true and is not kept.
    """

    names: tuple[str, ...]  #: the first is the one written
    modules: tuple[str, ...]
    read: Callable[[str, bool, Family], Read | None]
    value: Writer | None
    place: Place = Place.MATCH
    order: int = 0
    arguments: int = 1
    written_as: str = ""  #: the row that writes it, if it has no ``value``
    tables: frozenset[str] = frozenset()
    hooks: frozenset[Hook] = ALL_HOOKS

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.names[0]

    @property
    def module(self) -> str:  # type: ignore[override]
        return self.modules[0] if self.modules else ""

    @property
    def always(self) -> bool:  # type: ignore[override]
        return self.name in _WITHOUT_PART

    @cached_property
    def write(self) -> PieceWriter:  # type: ignore[override]
        """Writes the option with its value.

        ``-m`` comes before it if the piece opens one; port options have no ``-m``.
        """
        assert self.value is not None
        value, name = self.value, self.name
        module = f"-m {self.module} " if self.place is Place.MATCH else ""
        space = " " if self.arguments else ""
        plain = f"{name}{space}", f"{module}{name}{space}"
        negated = f"! {name}{space}", f"{module}! {name}{space}"

        def write(part: Any, detail: Any, form: Form, opens: bool) -> str:
            words = negated if getattr(part, "negate", False) else plain
            return words[opens] + value(part, detail, form)

        return write


@dataclass(frozen=True, eq=False)
class Extension(Row):
    """A module or a target whose options together are one expression or statement."""

    flag: str  #: ``-m`` or ``-j``
    target: str  #: its name
    options: Mapping[str, int]  #: option → number of values it takes
    read: Callable[[Arguments, Family], Read | Done]
    value: Writer  #: the options as text
    tables: frozenset[str] = frozenset()
    hooks: frozenset[Hook] = ALL_HOOKS
    negatable: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()  #: options that iptables has and kpsim does not model
    #: reads options that name an ipset, with the ipsets that are known
    among: Callable[[Arguments, Family, Ipsets], Read] | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.flag} {self.target}"

    @property
    def place(self) -> Place:  # type: ignore[override]
        return Place.MATCH if self.flag == "-m" else Place.TARGET

    @property
    def module(self) -> str:  # type: ignore[override]
        return self.target

    @cached_property
    def write(self) -> PieceWriter:  # type: ignore[override]
        name, value = self.name, self.value

        def write(part: Any, detail: Any, form: Form, _opens: bool) -> str:
            options = value(part, detail, form)
            return f"{name} {options}" if options else name

        return write


@dataclass(frozen=True, eq=False)
class Plain(Row):
    """A piece that is not an option: a verdict, a jump, ``-m tcp``, words that are not modelled."""

    name: str
    write: PieceWriter
    place: Place = Place.MATCH
    module: str = ""
    always: bool = False
    opens_ports: bool = False


#: modules whose port options are expressions of their own. The module itself has no meaning, because ``-p`` must come
#: before it.
PORT_MODULES = ("tcp", "udp", "sctp")
#: module that an option brings along if the rule names only the protocol: ``-p tcp --dport 80``
IMPLIED_MODULE: Mapping[str, str] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", "icmp": "icmp", "icmpv6": "icmp6"}
#: protocols that the kernel demands of a rule with the module
MODULE_PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "tcp": ("tcp",), "udp": ("udp",), "sctp": ("sctp",), "icmp": ("icmp",), "icmp6": ("icmpv6",),
    "multiport": ("tcp", "udp", "udplite", "sctp", "dccp"),
}  # fmt: skip


# --- single options ---------------------------------------------------------------------------------------------------


def _header(
    names: tuple[str, ...], read: Callable[[str, bool, Family], Read | None], value: Writer, order: int
) -> Option:
    return Option(names, (), read, value, Place.HEADER, order)


_LONGEST_COMMENT = 255


def _read_comment(text: str, negate: bool, _family: Family) -> Read:
    if negate:
        raise ValueError("! makes no sense before --comment")
    if len(text.encode()) > _LONGEST_COMMENT:
        raise ValueError(f"a comment has at most {_LONGEST_COMMENT} bytes: {text[:40]!r}…")
    return Read(None, text)


def _read_counter(text: str, _negate: bool, _family: Family) -> Read:
    return Read(Counter(text))


def _write_counter(counter: Counter, _detail: None, form: Form) -> str:
    return f" {counter.name}" if form.style is Style.SAVE else counter.name  # two blanks (I-17)


def _states(module: str, option: str) -> Option:
    states = CT_STATES[module]
    return Option(
        (option,), (module,), names_reader(Field.CT_STATE, states, f"a state of -m {module}"), names_writer(states)
    )


def _address_type(side: str, field: Field, order: int) -> Option:
    return Option((f"--{side}-type",), ("addrtype",), address_type_reader(field), write_address_types, order=order)


def _times_to_live(module: str) -> tuple[Option, ...]:
    return tuple(
        Option(
            (f"--{module}-{relation}",), (module,), time_to_live_reader(relation), time_to_live_match_writer(relation)
        )
        for relation in ("eq", "lt", "gt")
    )


OPTIONS: tuple[Option, ...] = (
    # header, in the order in which iptables-save prints it
    _header(("-s", "--source", "--src"), network_reader(Field.SADDR), write_network, 0),
    _header(("-d", "--destination", "--dst"), network_reader(Field.DADDR), write_network, 1),
    _header(("-i", "--in-interface"), interface_reader(Field.IIFNAME), write_interface, 2),
    _header(("-o", "--out-interface"), interface_reader(Field.OIFNAME), write_interface, 3),
    _header(("-p", "--protocol", "--proto"), read_protocol, write_protocol, 4),
    # port options, in the order in which iptables-save prints them after their module
    Option(("--sport", "--source-port"), PORT_MODULES, port_reader(Field.SPORT), write_port, Place.PORT, 0),
    Option(("--dport", "--destination-port"), PORT_MODULES, port_reader(Field.DPORT), write_port, Place.PORT, 1),
    Option(("--tcp-flags",), ("tcp",), read_tcp_flags, write_tcp_flags, Place.PORT, 2, arguments=2),
    Option(("--syn",), ("tcp",), read_syn, None, Place.PORT, 2, arguments=0, written_as="--tcp-flags"),
    # modules of single options; those of one module in the order in which iptables-save prints them
    Option(("--comment",), ("comment",), _read_comment, write_comment),
    _states("conntrack", "--ctstate"),
    Option(("--ctorigdst",), ("conntrack",), original_destination_reader, write_original_destination, order=1),
    Option(("--ctorigdstport",), ("conntrack",), port_reader(Field.CT_ORIGINAL_DPORT), write_port, order=2),
    Option(("--ctdir",), ("conntrack",), read_direction, write_name, order=3),
    _states("state", "--state"),
    Option(("--mark",), ("mark",), mark_reader(Field.MARK), write_mark),
    _address_type("src", Field.SADDR_TYPE, 0),
    _address_type("dst", Field.DADDR_TYPE, 1),
    Option(("--src-range",), ("iprange",), address_range_reader(Field.SADDR), write_address_range),
    Option(("--dst-range",), ("iprange",), address_range_reader(Field.DADDR), write_address_range, order=1),
    Option(
        ("--limit-iface-in",), ("addrtype",), read_interface_limit, write_nothing, order=2, arguments=0, hooks=_COMING
    ),
    Option(
        ("--limit-iface-out",), ("addrtype",), read_interface_limit, write_nothing, order=2, arguments=0, hooks=_LEAVING
    ),
    Option(("--socket-exists",), ("owner",), read_socket, write_nothing, arguments=0, hooks=_MADE_HERE),
    Option(("--uid-owner",), ("owner",), owner_reader(Field.UID), number_range_writer("-"), order=1, hooks=_MADE_HERE),
    Option(("--gid-owner",), ("owner",), owner_reader(Field.GID), number_range_writer("-"), order=2, hooks=_MADE_HERE),
    Option(("--physdev-is-in",), ("physdev",), bridge_side_reader("in"), write_nothing, arguments=0),
    Option(("--physdev-in",), ("physdev",), bridge_port_reader("in"), write_bridge_port, order=1),
    Option(
        ("--physdev-is-out",),
        ("physdev",),
        bridge_side_reader("out"),
        write_nothing,
        order=2,
        arguments=0,
        hooks=_NOT_OUTPUT,
    ),
    Option(("--physdev-out",), ("physdev",), bridge_port_reader("out"), write_bridge_port, order=3, hooks=_NOT_OUTPUT),
    Option(("--physdev-is-bridged",), ("physdev",), bridge_side_reader("bridged"), write_nothing, order=4, arguments=0),
    Option(
        ("--length",),
        ("length",),
        number_range_reader(Field.LENGTH, ":", 0xFFFF, open_ended=True, absent=False),
        number_range_writer(":"),
    ),
    Option(("--dscp",), ("dscp",), read_dscp, write_dscp),
    Option(("--dscp-class",), ("dscp",), read_dscp_class, None, written_as="--dscp"),
    Option(("--tos",), ("tos",), read_tos, write_tos),
    Option(("--pkt-type",), ("pkttype",), read_frame, write_frame),
    *_times_to_live("ttl"),
    *_times_to_live("hl"),
    Option(("--sports", "--source-ports"), ("multiport",), ports_reader(Field.SPORT), write_ports),
    Option(("--dports", "--destination-ports"), ("multiport",), ports_reader(Field.DPORT), write_ports),
    Option(("--ports",), ("multiport",), ports_reader(None), write_ports),
    Option(("--icmp-type",), ("icmp",), icmp_reader("icmp"), write_icmp_type),
    Option(("--icmpv6-type", "--icmp6-type"), ("icmp6",), icmp_reader("icmp6"), write_icmp_type),
    Option(("--ipvs",), ("ipvs",), read_balanced, write_nothing, arguments=0),
    Option(("--vproto",), ("ipvs",), read_virtual_protocol, write_virtual_protocol, order=1),
    Option(("--vaddr",), ("ipvs",), read_virtual_address, write_virtual_address, order=2),
    Option(("--vport",), ("ipvs",), read_virtual_port, write_port, order=3),
    Option(("--vdir",), ("ipvs",), read_virtual_direction, write_name, order=4),
    Option(("--vmethod",), ("ipvs",), read_method, write_name, order=5),
    Option(("--nfacct-name",), ("nfacct",), _read_counter, _write_counter),
)


# --- modules and targets with several options -------------------------------------------------------------------------


def _write_arguments(part: Log | Adjust | RoutingHeader | LocalSocket, _detail: None, _form: Form) -> str:
    return part.arguments


def _read_old_notrack(_arguments: Arguments, _family: Family) -> Done:
    return Done(NoTrack())


def _read_trace(_arguments: Arguments, _family: Family) -> Done:
    return Done(Log("", "TRACE"))


def _words(*words: str) -> Writer:
    return lambda _part, _detail, _form: " ".join(words)


_RANDOM = {"--random": 0, "--random-fully": 0}
_RT = frozenset(("--rt-type", "--rt-segsleft", "--rt-len"))
_MARK_OPTIONS = {"--set-xmark": 1, "--set-mark": 1, "--or-mark": 1, "--xor-mark": 1, "--and-mark": 1}


#: options of ``-m set`` that ask or change what elements count, or invert exceptions
_OF_COUNTERS = frozenset((
    "--return-nomatch", "--update-counters", "! --update-counters", "--update-subcounters", "! --update-subcounters", "--packets-eq",
    "! --packets-eq", "--packets-lt", "--packets-gt", "--bytes-eq", "! --bytes-eq", "--bytes-lt", "--bytes-gt", "--set",
))  # fmt: skip
_MANGLE, _NAT, _RAW = frozenset(("mangle",)), frozenset(("nat",)), frozenset(("raw",))


def _set_time_to_live(target: str) -> Extension:
    options = {f"--{target.lower()}-{action}": 1 for action in ("set", "inc", "dec")}
    return Extension("-j", target, options, read_set_time_to_live, time_to_live_writer(target), _MANGLE)


EXTENSIONS: tuple[Extension, ...] = (
    Extension("-m", "recent",
              {"--set": 0, "--rcheck": 0, "--update": 0, "--remove": 0, "--seconds": 1, "--reap": 0, "--hitcount": 1,
               "--name": 1, "--mask": 1, "--rsource": 0},
              read_recent, write_recent, negatable=frozenset(f"--{action}" for action in RECENT_ACTIONS), refused=frozenset(("--rdest", "--rttl",))),
    Extension("-m", "statistic", {"--mode": 1, "--probability": 1}, read_statistic, write_statistic, refused=frozenset(("--every", "--packet", "! --probability", "! --every",))),
    Extension("-m", "limit", {"--limit": 1, "--limit-burst": 1}, read_limit, write_limit),
    Extension("-m", "connmark", {"--mark": 1}, read_connmark, write_connmark, negatable=frozenset(("--mark",))),
    Extension("-m", "rpfilter", dict.fromkeys(("--loose", "--validmark", "--accept-local", "--invert"), 0),
              read_reverse_path, write_reverse_path, frozenset(("raw", "mangle")), _hooks("PREROUTING")),
    Extension("-m", "socket", {"--transparent": 0, "--nowildcard": 0}, read_local_socket, _write_arguments,
              hooks=_hooks("PREROUTING", "INPUT"), refused=frozenset(("--restore-skmark",))),
    Extension("-m", "rt", dict.fromkeys(_RT, 1), read_routing_header, _write_arguments, negatable=_RT, refused=frozenset(("--rt-0-res", "--rt-0-addrs", "--rt-0-not-strict",))),
    Extension("-m", "set", {"--match-set": 2}, read_match_set, write_match_set, negatable=frozenset(("--match-set",)),
              refused=_OF_COUNTERS, among=read_match_set),
    Extension("-j", "REJECT", {"--reject-with": 1}, read_reject, write_reject, frozenset(("filter",)),
              _hooks("INPUT", "FORWARD", "OUTPUT")),
    Extension("-j", "DNAT", {"--to-destination": 1, "--random": 0, "--persistent": 0}, read_dnat, write_dnat,
              _NAT, _DESTINATION_HOOKS),
    Extension("-j", "SNAT", {"--to-source": 1, **_RANDOM, "--persistent": 0}, read_snat, write_snat, _NAT, _SOURCE_HOOKS),
    Extension("-j", "MASQUERADE", {"--to-ports": 1, **_RANDOM}, read_masquerade, write_masquerade, _NAT,
              _hooks("POSTROUTING")),
    Extension("-j", "REDIRECT", {"--to-ports": 1, "--random": 0}, read_redirect, write_redirect, _NAT, _DESTINATION_HOOKS),
    Extension("-j", "NETMAP", {"--to": 1}, read_map_network, write_map_network, _NAT),
    Extension("-j", "MARK", _MARK_OPTIONS, read_set_mark, write_set_mark),
    Extension("-j", "CT", {"--notrack": 0, "--helper": 1, "--timeout": 1, "--ctevents": 1, "--expevents": 1}, read_ct, write_ct, _RAW,
              refused=frozenset(("--zone", "--zone-orig", "--zone-reply"))),
    Extension("-j", "NOTRACK", {}, _read_old_notrack, _words(), _RAW),
    Extension("-j", "CONNMARK",
              {**_MARK_OPTIONS, "--save-mark": 0, "--restore-mark": 0, "--mask": 1, "--nfmask": 1, "--ctmask": 1},
              read_set_connmark, write_set_connmark),
    _set_time_to_live("TTL"),
    _set_time_to_live("HL"),
    Extension("-j", "LOG", {"--log-prefix": 1, "--log-level": 1, **dict.fromkeys(LOG_FLAGS, 0)}, read_log, _write_arguments),
    Extension("-j", "NFLOG",
              {"--nflog-prefix": 1, "--nflog-group": 1, "--nflog-range": 1, "--nflog-size": 1, "--nflog-threshold": 1},
              read_nflog, _write_arguments),
    Extension("-j", "TRACE", {}, _read_trace, _write_arguments, _RAW),
    Extension("-j", "TCPMSS", {"--clamp-mss-to-pmtu": 0, "--set-mss": 1}, read_tcp_mss, _write_arguments),
    Extension("-j", "DSCP", {"--set-dscp": 1, "--set-dscp-class": 1}, read_set_dscp, write_set_dscp, _MANGLE),
    Extension("-j", "TOS", dict.fromkeys(("--set-tos", "--and-tos", "--or-tos", "--xor-tos"), 1), read_set_tos, write_set_tos, _MANGLE),
    Extension("-j", "CLASSIFY", {"--set-class": 1}, read_class, _write_arguments, hooks=_LEAVING),
    Extension("-j", "CHECKSUM", {"--checksum-fill": 0}, read_checksum, _write_arguments, _MANGLE),
)  # fmt: skip


# --- pieces that are not options --------------------------------------------------------------------------------------


def _write_verdict(part: Terminal | Jump, _detail: None, _form: Form, _opens: bool) -> str:
    return f"-j {part.verdict.value if isinstance(part, Terminal) else part.chain}"


def _write_goto(part: Goto, _detail: None, _form: Form, _opens: bool) -> str:
    return f"-g {part.chain}"


def _write_unknown(part: Unknown | Unmodelled, _detail: None, _form: Form, _opens: bool) -> str:
    return part.words


def _port_module(name: str) -> Plain:
    return Plain(f"-m {name}", lambda *_: f"-m {name}", module=name, always=True, opens_ports=True)


VERDICT = Plain("-j", _write_verdict, Place.TARGET)
GOTO = Plain("-g", _write_goto, Place.TARGET)
UNKNOWN = Plain("unknown", _write_unknown)
UNKNOWN_TARGET = Plain("unknown target", _write_unknown, Place.TARGET)


def _write_harmless(part: Adjust, _detail: None, _form: Form, _opens: bool) -> str:
    return f"-j {part.target} {part.arguments}".rstrip()


HARMLESS_TARGET = Plain("harmless target", _write_harmless, Place.TARGET)
PORT_MODULE_ROWS: Mapping[str, Plain] = {name: _port_module(name) for name in PORT_MODULES}

#: shorter spellings that iptables accepts
ALIASES: Mapping[str, str] = {
    "--to-port": "--to-ports",
    "--match": "-m",
    "--jump": "-j",
    "--goto": "-g",
    "--fragment": "-f",
}

#: targets of iptables 1.8.9 that are not modelled, listed so that they are not taken for chain names
FOREIGN_TARGETS = frozenset((
    "AUDIT", "CLUSTERIP", "CONNSECMARK", "DNPT", "ECN", "HMARK", "IDLETIMER", "LED", "NFQUEUE", "QUEUE", "RATEEST",
    "SECMARK", "SET", "SNPT", "SYNPROXY", "TCPOPTSTRIP", "TEE", "TPROXY", "ULOG",
))  # fmt: skip
#: those after which the packet goes on, with everything that the model reads unchanged
HARMLESS_TARGETS = frozenset((
    "AUDIT", "CONNSECMARK", "ECN", "IDLETIMER", "LED", "RATEEST", "SECMARK", "SET", "TCPOPTSTRIP", "TEE", "ULOG",
))  # fmt: skip
TARGET_NAMES = FOREIGN_TARGETS | {row.target for row in EXTENSIONS if row.flag == "-j"}
#: matches of iptables 1.8.9 that are not modelled
FOREIGN_MATCHES = frozenset((
    "ah", "bpf", "cgroup", "cluster", "connbytes", "connlabel", "connlimit", "cpu", "dccp", "devgroup", "dst", "ecn",
    "esp", "eui64", "frag", "hashlimit", "hbh", "helper", "ipcomp", "ipv6header", "mac", "mh", "osf",
    "policy", "quota", "rateest", "realm", "srh", "string", "tcpmss", "time", "u32", "unclean",
))  # fmt: skip

OPTION_BY_NAME: Mapping[str, Option] = {name: option for option in OPTIONS for name in option.names}
EXTENSION_BY_NAME: Mapping[tuple[str, str], Extension] = {(row.flag, row.target): row for row in EXTENSIONS}
#: modules whose options are expressions of their own
OPTION_MODULES = frozenset(module for option in OPTIONS for module in option.modules)
#: modules that may have several options in one ``-m``
#: modules of single options of which one ``-m`` takes only one
SINGLE = frozenset(("multiport", "ttl", "hl", "dscp", "tos", "pkttype"))
JOINING = frozenset(("conntrack", "state", "addrtype", "iprange", "owner", "physdev", "ipvs"))
#: options of modules of single options that iptables has and kpsim does not model
REFUSED_OPTIONS: Mapping[str, frozenset[str]] = {
    "owner": frozenset(("--suppl-groups",)),
    "conntrack": frozenset((
        "--ctproto", "--ctorigsrc", "--ctreplsrc", "--ctrepldst", "--ctorigsrcport", "--ctreplsrcport", "--ctrepldstport", "--ctstatus",
        "--ctexpire",
    )),
    "ipvs": frozenset(("--vportctl",)),
    "tcp": frozenset(("--tcp-option",)),
    "sctp": frozenset(("--chunk-types",)),
}  # fmt: skip
#: every row that writes something, by its name
ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        *(option for option in OPTIONS if option.value), *EXTENSIONS, VERDICT, GOTO, UNKNOWN, UNKNOWN_TARGET, HARMLESS_TARGET,
        *PORT_MODULE_ROWS.values(),
    )
}  # fmt: skip
