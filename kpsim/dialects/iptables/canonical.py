"""How iptables writes a rule that was not read from iptables text: the options that say the parts of its body."""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.dialects.iptables.options import PORT_MODULES, ROWS, Row
from kpsim.dialects.iptables.values import ALL_FLAGS
from kpsim.ruleset import (
    OF_CONNECTION,
    Adjust,
    Assign,
    BridgePort,
    Chance,
    Compare,
    Counter,
    Dnat,
    EitherPort,
    Expression,
    Field,
    Goto,
    Jump,
    Limit,
    LocalSocket,
    Log,
    Lookup,
    MapNetwork,
    Masquerade,
    NoTrack,
    Recent,
    Redirect,
    Reject,
    ReversePath,
    RoutingHeader,
    Rule,
    SetReference,
    SetTimeToLive,
    SetTrafficClass,
    Snat,
    Statement,
    Terminal,
    Unknown,
    Unmodelled,
)

_BY_TYPE: Mapping[type, str] = {
    EitherPort: "--ports", Recent: "-m recent", Limit: "-m limit", Chance: "-m statistic", ReversePath: "-m rpfilter",
    RoutingHeader: "-m rt", Counter: "--nfacct-name", Unknown: "unknown", Terminal: "-j", Jump: "-j", Goto: "-g",
    Reject: "-j REJECT", Dnat: "-j DNAT", Snat: "-j SNAT", Masquerade: "-j MASQUERADE", Redirect: "-j REDIRECT",
    NoTrack: "-j CT", MapNetwork: "-j NETMAP", Unmodelled: "unknown target", LocalSocket: "-m socket",
}  # fmt: skip
_BY_FIELD: Mapping[Field, str] = {
    Field.IIFNAME: "-i", Field.OIFNAME: "-o", Field.L4PROTO: "-p", Field.TCP_FLAGS: "--tcp-flags", Field.CT_STATE: "--ctstate",
    Field.CT_DIRECTION: "--ctdir", Field.CT_MARK: "-m connmark", Field.CT_ORIGINAL_DADDR: "--ctorigdst",
    Field.CT_ORIGINAL_DPORT: "--ctorigdstport", Field.MARK: "--mark", Field.SADDR_TYPE: "--src-type",
    Field.DADDR_TYPE: "--dst-type", Field.SADDR_TYPE_IN: "--src-type", Field.SADDR_TYPE_OUT: "--src-type",
    Field.DADDR_TYPE_IN: "--dst-type", Field.DADDR_TYPE_OUT: "--dst-type", Field.LENGTH: "--length",
    Field.DSCP: "--dscp", Field.TRAFFIC_CLASS: "--tos", Field.FRAME: "--pkt-type", Field.SOCKET: "--socket-exists", Field.IPVS: "--ipvs", Field.IPVS_PROTOCOL: "--vproto",
    Field.IPVS_VADDR: "--vaddr", Field.IPVS_VPORT: "--vport", Field.IPVS_DIRECTION: "--vdir", Field.IPVS_METHOD: "--vmethod", Field.UID: "--uid-owner", Field.GID: "--gid-owner",
}  # fmt: skip
_NETWORKS: Mapping[Field, tuple[str, str]] = {Field.SADDR: ("-s", "--src-range"), Field.DADDR: ("-d", "--dst-range")}
_PORTS: Mapping[Field, tuple[str, str]] = {Field.SPORT: ("--sport", "--sports"), Field.DPORT: ("--dport", "--dports")}


_LIMITS: Mapping[Field, str] = {
    Field.SADDR_TYPE_IN: "--limit-iface-in", Field.DADDR_TYPE_IN: "--limit-iface-in",
    Field.SADDR_TYPE_OUT: "--limit-iface-out", Field.DADDR_TYPE_OUT: "--limit-iface-out",
}  # fmt: skip


def canonical_rows(rule: Rule, family: Family) -> list[tuple[Row, int, bool]]:
    """The rows that write a rule, each with the place of its part in the body (-1: none) and whether it opens a ``-m``.

    ValueError for a part for which iptables has no option.
    """
    protocol = _port_module(rule)
    rows: list[tuple[Row, int, bool]] = []
    if rule.comment:
        rows.append((ROWS["--comment"], -1, True))
    opened = False
    for at, part in enumerate(rule.body):
        name = _name(part, family, protocol)
        if name in ("--sport", "--dport", "--tcp-flags") and not opened:
            rows.append((ROWS[f"-m {protocol}"], -1, True))
            opened = True
        rows.append((ROWS[name], at, not (isinstance(part, Compare) and part.absent and part.field in OF_CONNECTION)))
        if isinstance(part, Compare) and (limit := _LIMITS.get(part.field)):
            rows.append((ROWS[limit], -1, False))
    return rows


def _port_module(rule: Rule) -> str:
    """The module to which the rule's port options belong; empty if the rule can have none."""
    for part in rule.body:
        if isinstance(part, Compare) and part.field is Field.L4PROTO and part.name in PORT_MODULES and not part.negate:
            return part.name
    return ""


def _name(part: Expression | Statement, family: Family, protocol: str) -> str:
    """The name of the row that writes a part."""
    match part:
        case Compare():
            return _comparison(part, family, protocol)
        case Lookup((Field.ICMP_TYPE, Field.ICMP_CODE)):
            return _icmp(family)
        case Lookup(set=SetReference(of_namespace=True)):
            return "-m set"
        case Assign(to, source=source):
            return "-j MARK" if to is Field.MARK and source is None else "-j CONNMARK"
        case SetTrafficClass(keep):
            return "-j DSCP" if keep == 3 and not part.flip & 3 else "-j TOS"
        case SetTimeToLive():
            return "-j TTL" if family is Family.IPV4 else "-j HL"
        case Limit(bytes=True):
            raise ValueError("iptables has no -m limit of bytes")
        case BridgePort(side, name):
            return f"--physdev-is-{side}" if name is None else f"--physdev-{side}"
        case Log(_, target) | Adjust(target):
            return f"-j {target}" if f"-j {target}" in ROWS else "harmless target"
        case _:
            pass
    name = _BY_TYPE.get(type(part))
    if name is None:
        raise ValueError(f"iptables cannot say {part}")
    return name


def _comparison(part: Compare, family: Family, protocol: str) -> str:
    match part.field:
        case Field.SADDR | Field.DADDR:
            network, interval = _NETWORKS[part.field]
            return network if part.value is not None else interval
        case Field.SPORT | Field.DPORT:
            single, several = _PORTS[part.field]
            return single if protocol and isinstance(part.among, tuple) and len(part.among) == 1 else several
        case Field.TTL:
            return f"--{'ttl' if family is Family.IPV4 else 'hl'}-{_relation(part)}"
        case Field.ICMP_CODE:
            raise ValueError(f"iptables cannot say {part}")
        case Field.ICMP_TYPE:
            return _icmp(family)
        case Field.TCP_FLAGS if part.mask is None or part.mask & ~ALL_FLAGS:
            raise ValueError(f"iptables cannot say {part}")
        case Field.DSCP | Field.TRAFFIC_CLASS | Field.FRAME if part.value is None and part.name is None:
            raise ValueError(f"iptables cannot say {part}")
        case Field.DSCP if part.mask is not None:
            raise ValueError(f"iptables cannot say {part}")
        case Field.ECN:
            raise ValueError(f"iptables cannot say {part}")
        case field:
            return _BY_FIELD[field]


def _icmp(family: Family) -> str:
    return "--icmp-type" if family is Family.IPV4 else "--icmpv6-type"


def _relation(part: Compare) -> str:
    if part.value is not None:
        return "eq"
    return "lt" if not part.among or (isinstance(part.among, tuple) and part.among[0][0] == 0) else "gt"
