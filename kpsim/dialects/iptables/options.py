"""The iptables options kpsim models: one table in which every option stands with its reader *and* its writer.

Counterpart: the libxt_*/libipt_* extensions of iptables 1.8.9. Forms were checked against the real tools (I-17). This module
never knows about chains, tables, files or Kubernetes: it turns words of one rule into parts of a rule's body and back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from kpsim.addresses import Family
from kpsim.dialects.iptables.extensions import (
    LOG_FLAGS,
    RECENT_ACTIONS,
    Arguments,
    read_checksum,
    read_class,
    read_connmark,
    read_dnat,
    read_dscp,
    read_limit,
    read_log,
    read_masquerade,
    read_nflog,
    read_notrack,
    read_recent,
    read_redirect,
    read_reject,
    read_reverse_path,
    read_routing_header,
    read_set_connmark,
    read_set_mark,
    read_set_time_to_live,
    read_snat,
    read_statistic,
    read_tcp_mss,
    read_tos,
    write_connmark,
    write_dnat,
    write_limit,
    write_masquerade,
    write_recent,
    write_reverse_path,
    write_set_connmark,
    write_set_mark,
    write_set_time_to_live,
    write_snat,
)
from kpsim.dialects.iptables.values import (
    SYN_MASK,
    Form,
    Style,
    read_address_range,
    read_address_type,
    read_ct_state,
    read_direction,
    read_icmp_type,
    read_interface,
    read_mark,
    read_network,
    read_protocol,
    read_range,
    read_ranges,
    read_tcp_flags,
    read_time_to_live,
    write_address_range,
    write_comment,
    write_flags,
    write_icmp_type,
    write_mark,
    write_port,
    write_ranges,
)
from kpsim.ruleset import (
    AddressRange,
    AddrType,
    Adjust,
    Comment,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    Dnat,
    IcmpType,
    InInterface,
    Limit,
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
    ReversePath,
    RoutingHeader,
    SetConnMark,
    SetMark,
    SetTimeToLive,
    Snat,
    Source,
    SourcePort,
    Statement,
    Statistic,
    TcpFlags,
    TimeToLive,
)


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
    CtState: "module", MultiPort: "side", IcmpType: "module", AddrType: "side", AddressRange: "side", TimeToLive: "option",
    NoTrack: "target", Log: "target", SetTimeToLive: "target", Adjust: "target",
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
    Option(CtOriginalDestination, ("conntrack",), ("--ctorigdst",),
           lambda text, negate, family: CtOriginalDestination(read_network(text, family), negate), lambda m, _: str(m.network)),
    Option(CtOriginalPort, ("conntrack",), ("--ctorigdstport",),
           lambda text, negate, _: CtOriginalPort(*read_range(text), negate), write_port),
    Option(CtDirection, ("conntrack",), ("--ctdir",), read_direction, lambda m, _: m.direction),
    Option(MarkMatch, ("mark",), ("--mark",), read_mark, write_mark),
    Option(AddrType, ("addrtype",), ("--src-type",), lambda text, negate, _: read_address_type("src", text, negate),
           lambda m, _: m.type, variant="src"),
    Option(AddrType, ("addrtype",), ("--dst-type",), lambda text, negate, _: read_address_type("dst", text, negate),
           lambda m, _: m.type, variant="dst"),
    Option(AddressRange, ("iprange",), ("--src-range",),
           lambda text, negate, family: read_address_range("src", text, negate, family), write_address_range, variant="src"),
    Option(AddressRange, ("iprange",), ("--dst-range",),
           lambda text, negate, family: read_address_range("dst", text, negate, family), write_address_range, variant="dst"),
    *(Option(TimeToLive, (module,), (f"--{module}-{relation}",), read_time_to_live(f"{module}-{relation}"),
             lambda m, _: str(m.value), variant=f"{module}-{relation}")
      for module in ("ttl", "hl") for relation in ("eq", "lt", "gt")),
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
_RT = frozenset(("--rt-type", "--rt-segsleft", "--rt-len"))


def _arguments(statement: Log | Adjust, _form: Form) -> str:
    return statement.arguments


EXTENSIONS: tuple[Extension, ...] = (
    Extension(Recent, "-m", "recent",
              {"--set": 0, "--rcheck": 0, "--update": 0, "--remove": 0, "--seconds": 1, "--reap": 0, "--hitcount": 1,
               "--name": 1, "--mask": 1, "--rsource": 0},
              read_recent, write_recent, negatable=frozenset(f"--{action}" for action in RECENT_ACTIONS)),
    Extension(Statistic, "-m", "statistic", {"--mode": 1, "--probability": 1}, read_statistic,
              lambda m, _: f"--mode random --probability {m.text}"),
    Extension(Limit, "-m", "limit", {"--limit": 1, "--limit-burst": 1}, read_limit, write_limit),
    Extension(ConnMark, "-m", "connmark", {"--mark": 1}, read_connmark, write_connmark, negatable=frozenset(("--mark",))),
    Extension(ReversePath, "-m", "rpfilter", dict.fromkeys(("--loose", "--validmark", "--accept-local", "--invert"), 0),
              read_reverse_path, write_reverse_path),
    Extension(RoutingHeader, "-m", "rt", dict.fromkeys(_RT, 1), read_routing_header, lambda m, _: m.arguments,
              negatable=_RT),
    Extension(Reject, "-j", "REJECT", {"--reject-with": 1}, read_reject,
              lambda s, _: f"--reject-with {s.with_}" if s.with_ else "", table="filter"),
    Extension(Dnat, "-j", "DNAT", {"--to-destination": 1, "--random": 0, "--persistent": 0}, read_dnat, write_dnat,
              table="nat"),
    Extension(Snat, "-j", "SNAT", {"--to-source": 1, **_RANDOM}, read_snat, write_snat, table="nat"),
    Extension(Masquerade, "-j", "MASQUERADE", {"--to-ports": 1, **_RANDOM}, read_masquerade, write_masquerade,
              table="nat"),
    Extension(Redirect, "-j", "REDIRECT", {"--to-ports": 1}, read_redirect,
              lambda s, _: f"--to-ports {s.port}" if s.port is not None else "", table="nat"),
    Extension(SetMark, "-j", "MARK",
              {"--set-xmark": 1, "--set-mark": 1, "--or-mark": 1, "--xor-mark": 1, "--and-mark": 1},
              read_set_mark, write_set_mark),
    Extension(NoTrack, "-j", "CT", {"--notrack": 0}, lambda arguments, _: read_notrack("CT", arguments),
              lambda _s, _: "--notrack", table="raw", variant="CT"),
    Extension(NoTrack, "-j", "NOTRACK", {}, lambda arguments, _: read_notrack("NOTRACK", arguments), lambda _s, _: "",
              table="raw", variant="NOTRACK"),
    Extension(SetConnMark, "-j", "CONNMARK",
              {"--set-xmark": 1, "--set-mark": 1, "--or-mark": 1, "--xor-mark": 1, "--and-mark": 1, "--save-mark": 0,
               "--restore-mark": 0, "--mask": 1, "--nfmask": 1, "--ctmask": 1},
              read_set_connmark, write_set_connmark),
    *(Extension(SetTimeToLive, "-j", target, {f"--{target.lower()}-{action}": 1 for action in ("set", "inc", "dec")},
                partial(read_set_time_to_live, target), write_set_time_to_live, table="mangle", variant=target)
      for target in ("TTL", "HL")),
    Extension(Log, "-j", "LOG", {"--log-prefix": 1, "--log-level": 1, **dict.fromkeys(LOG_FLAGS, 0)}, read_log,
              _arguments, variant="LOG"),
    Extension(Log, "-j", "NFLOG",
              {"--nflog-prefix": 1, "--nflog-group": 1, "--nflog-range": 1, "--nflog-size": 1, "--nflog-threshold": 1},
              read_nflog, _arguments, variant="NFLOG"),
    Extension(Log, "-j", "TRACE", {}, lambda _arguments, _: Log("", "TRACE"), _arguments, variant="TRACE"),
    Extension(Adjust, "-j", "TCPMSS", {"--clamp-mss-to-pmtu": 0, "--set-mss": 1}, read_tcp_mss, _arguments,
              variant="TCPMSS"),
    Extension(Adjust, "-j", "DSCP", {"--set-dscp": 1}, read_dscp, _arguments, table="mangle", variant="DSCP"),
    Extension(Adjust, "-j", "TOS", {"--set-tos": 1}, read_tos, _arguments, table="mangle", variant="TOS"),
    Extension(Adjust, "-j", "CLASSIFY", {"--set-class": 1}, read_class, _arguments, variant="CLASSIFY"),
    Extension(Adjust, "-j", "CHECKSUM", {"--checksum-fill": 0}, read_checksum, _arguments, table="mangle",
              variant="CHECKSUM"),
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
    "AUDIT", "CLUSTERIP", "CONNSECMARK", "DNPT", "ECN", "HMARK", "IDLETIMER", "LED", "NETMAP", "NFQUEUE", "QUEUE", "RATEEST",
    "SECMARK", "SET", "SNPT", "SYNPROXY", "TCPOPTSTRIP", "TEE", "TPROXY", "ULOG",
))  # fmt: skip

OPTION_BY_NAME: Mapping[str, Option] = {name: option for option in OPTIONS for name in option.names}
EXTENSION_BY_NAME: Mapping[tuple[str, str], Extension] = {(row.flag, row.name): row for row in EXTENSIONS}
#: modules whose options are matches of their own
OPTION_MODULES = frozenset(module for option in OPTIONS for module in option.modules)
#: options of one module that stand in one ``-m`` if they were written so, with their order there
JOINING: Mapping[tuple[type, str], tuple[str, int]] = {
    (row.element, row.variant): (row.modules[0], i)
    for i, row in enumerate(OPTIONS)
    if any(each.name == "joined" for each in fields(row.element))
}
#: position of a class among the header options and among the port options, as iptables-save prints them
HEADER_ORDER: Mapping[type, int] = {row.element: i for i, row in enumerate(o for o in OPTIONS if not o.modules)}
PORT_ORDER: Mapping[type, int] = {
    row.element: i for i, row in enumerate(o for o in OPTIONS if o.modules and o.modules[0] == "tcp" and o.write)
}


def read_extension(extension: Extension, arguments: Arguments, family: Family) -> Match | Statement:
    """ValueError if an option is missing or its value malformed; NotModelled by name."""
    result: Match | Statement = extension.read(arguments, family)
    return result
