"""The rules that do not depend on any service: jumps from built-in chains (I-3), static rules (I-5), the last ones (I-9, I-11)."""

from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, host_network
from kpsim.backends.iptables import names
from kpsim.backends.iptables.service_rules import LOOPBACK, Placed
from kpsim.config import ProxierSettings
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    AddrType,
    Comment,
    CtState,
    Destination,
    Jump,
    MarkMatch,
    Masquerade,
    Match,
    NfAcct,
    Origin,
    Role,
    Rule,
    SetMark,
    Source,
    Statement,
)

INVALID_DROPPED_COUNTER = "ct_state_invalid_dropped_pkts"
_LAST_RULE = Comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")


class BuiltInJump(NamedTuple):
    """A jump that kube-proxy inserts at position 1 of ``source`` if it is missing; ``chain`` is created first."""

    table: str
    source: str
    rule: Rule
    chain: str


def _jump(table: str, source: str, chain: str, comment: str = "", *, new_only: bool = False) -> BuiltInJump:
    matches: tuple[Match, ...] = (CtState(("NEW",)),) if new_only else ()
    if comment:
        matches = (*matches, Comment(comment))
    return BuiltInJump(table, source, Rule((*matches, Jump(chain)), Origin(Role.JUMP)), chain)


_EXTERNAL = "kubernetes externally-visible service portals"
_PORTALS = "kubernetes service portals"
_LB_FIREWALL = "kubernetes load balancer firewall"

#: in the order they are ensured; each goes to position 1, so on a clean node they stand in reverse (I-3.1)
BUILT_IN_JUMPS: tuple[BuiltInJump, ...] = (
    _jump("filter", "INPUT", names.EXTERNAL_SERVICES, _EXTERNAL, new_only=True),
    _jump("filter", "FORWARD", names.EXTERNAL_SERVICES, _EXTERNAL, new_only=True),
    _jump("filter", "INPUT", names.NODE_PORTS, "kubernetes health check service ports"),
    _jump("filter", "FORWARD", names.SERVICES, _PORTALS, new_only=True),
    _jump("filter", "OUTPUT", names.SERVICES, _PORTALS, new_only=True),
    _jump("filter", "FORWARD", names.FORWARD, "kubernetes forwarding rules"),
    _jump("filter", "INPUT", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    _jump("filter", "OUTPUT", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    _jump("filter", "FORWARD", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    _jump("nat", "OUTPUT", names.SERVICES, _PORTALS),
    _jump("nat", "PREROUTING", names.SERVICES, _PORTALS),
    _jump("nat", "POSTROUTING", names.POSTROUTING, "kubernetes postrouting rules"),
    _jump("filter", "INPUT", names.FIREWALL),
    _jump("filter", "OUTPUT", names.FIREWALL),
)


def _static(chain: str, role: Role, *body: Match | Statement) -> Placed:
    return chain, Rule(body, Origin(role))


class StaticRules(NamedTuple):
    """The rules around those of the service ports, in each table those before and those after them."""

    first_filter: tuple[Placed, ...]
    last_filter: tuple[Placed, ...]
    first_nat: tuple[Placed, ...]
    last_nat: tuple[Placed, ...]


def static_rules(settings: ProxierSettings, interface_addresses: tuple[int, ...]) -> StaticRules:
    """``interface_addresses`` are the machine's at this sync (I-9.3)."""
    return StaticRules(
        first_filter=_first_filter_rules(settings),
        last_filter=_last_filter_rules(settings),
        first_nat=_first_nat_rules(settings),
        last_nat=_last_nat_rules(settings, interface_addresses),
    )


def _first_filter_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """I-5: only known connections, and those DNATed to a node port, reach 127/8 from outside."""
    if not settings.localhost_node_ports:
        return ()
    return (
        _static(
            names.FIREWALL,
            Role.LOCALNET_FIREWALL,
            Comment("block incoming localnet connections"),
            Destination(LOOPBACK),
            Source(LOOPBACK, negate=True),
            CtState(("RELATED", "ESTABLISHED", "DNAT"), negate=True),
            DROP,
        ),
    )


def _first_nat_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """I-5: the mark is set by KUBE-MARK-MASQ, tested and cleared (by XOR, it is known to be set) in POSTROUTING."""
    mark = settings.masquerade_mark
    return (
        _static(names.POSTROUTING, Role.POSTROUTING, MarkMatch(mark, mark, negate=True), RETURN),
        _static(names.POSTROUTING, Role.POSTROUTING, SetMark(mark, 0, "xor-mark")),
        _static(
            names.POSTROUTING,
            Role.POSTROUTING,
            Comment("kubernetes service traffic requiring SNAT"),
            Masquerade(random_fully=settings.random_fully),
        ),
        _static(names.MARK_MASQ, Role.MARK_MASQ, SetMark(mark, mark, "or-mark")),
    )


def _last_filter_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """KUBE-FORWARD, I-11."""
    rules = []
    if not settings.liberal:
        counter = (NfAcct(INVALID_DROPPED_COUNTER),) if settings.nfacct else ()
        rules.append(_static(names.FORWARD, Role.INVALID_DROP, CtState(("INVALID",)), *counter, DROP))
    mark = settings.masquerade_mark
    comment = Comment("kubernetes forwarding rules")
    known = Comment("kubernetes forwarding conntrack rule")
    return (
        *rules,
        _static(names.FORWARD, Role.FORWARD_ACCEPT, comment, MarkMatch(mark, mark), ACCEPT),
        _static(names.FORWARD, Role.FORWARD_CONNTRACK, known, CtState(("RELATED", "ESTABLISHED")), ACCEPT),
    )


def _last_nat_rules(settings: ProxierSettings, interface_addresses: tuple[int, ...]) -> tuple[Placed, ...]:
    """Node port dispatch, I-9. ``interface_addresses`` are read anew at every sync."""
    family, node_ports = settings.family, settings.node_ports
    to_node_ports = Jump(names.NODE_PORTS)
    if node_ports.match_all:
        local: tuple[Match, ...] = (_LAST_RULE, AddrType("dst", "LOCAL"))
        if family is Family.IPV6:
            local = (*local, Destination(Network(family, 1, 128), negate=True))
        elif not settings.localhost_node_ports:
            local = (*local, Destination(LOOPBACK, negate=True))
        return (_static(names.SERVICES, Role.NODE_PORTS, *local, to_node_ports),)
    loopback = Network(family, 1, 128) if family is Family.IPV6 else LOOPBACK
    matching = node_ports.matching(interface_addresses)
    usable = [address for address in matching if settings.localhost_node_ports or address not in loopback]
    # upstream's order is arbitrary here: by name (I-12.2)
    return tuple(
        _static(names.SERVICES, Role.NODE_PORTS, _LAST_RULE, Destination(host_network(ip)), to_node_ports)
        for ip in sorted(format_ip(family, address) for address in usable)
    )
