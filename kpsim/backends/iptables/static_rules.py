"""The rules that belong to no Service: jumps from built-in chains (I-3), static rules (I-5), last rules (I-9, I-11)."""

from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, host_network
from kpsim.backends.iptables import names
from kpsim.backends.iptables.jumps import BuiltInJump, built_in_jump
from kpsim.backends.iptables.service_rules import LOOPBACK, Placed
from kpsim.config import ProxierSettings
from kpsim.dialects.iptables import Shape
from kpsim.ruleset import (
    ACCEPT,
    ALL_BITS,
    DROP,
    NO_FLAGS,
    RETURN,
    Assign,
    Compare,
    Counter,
    Expression,
    Field,
    Jump,
    Masquerade,
    NatFlags,
    Origin,
    Role,
    Statement,
    equal,
    named,
    within,
)

INVALID_DROPPED_COUNTER = "ct_state_invalid_dropped_pkts"
_LAST_RULE = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"


_EXTERNAL = "kubernetes externally-visible service portals"
_PORTALS = "kubernetes service portals"
_LB_FIREWALL = "kubernetes load balancer firewall"

#: in the order in which they are ensured; each goes to position 1, so on a clean node they stand in reverse (I-3.1)
BUILT_IN_JUMPS: tuple[BuiltInJump, ...] = (
    built_in_jump("filter", "INPUT", names.EXTERNAL_SERVICES, _EXTERNAL, new_only=True),
    built_in_jump("filter", "FORWARD", names.EXTERNAL_SERVICES, _EXTERNAL, new_only=True),
    built_in_jump("filter", "INPUT", names.NODE_PORTS, "kubernetes health check service ports"),
    built_in_jump("filter", "FORWARD", names.SERVICES, _PORTALS, new_only=True),
    built_in_jump("filter", "OUTPUT", names.SERVICES, _PORTALS, new_only=True),
    built_in_jump("filter", "FORWARD", names.FORWARD, "kubernetes forwarding rules"),
    built_in_jump("filter", "INPUT", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    built_in_jump("filter", "OUTPUT", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    built_in_jump("filter", "FORWARD", names.PROXY_FIREWALL, _LB_FIREWALL, new_only=True),
    built_in_jump("nat", "OUTPUT", names.SERVICES, _PORTALS),
    built_in_jump("nat", "PREROUTING", names.SERVICES, _PORTALS),
    built_in_jump("nat", "POSTROUTING", names.POSTROUTING, "kubernetes postrouting rules"),
    built_in_jump("filter", "INPUT", names.FIREWALL),
    built_in_jump("filter", "OUTPUT", names.FIREWALL),
)


def _static(chain: str, role: Role, words: str, *parts: Expression | Statement, comment: str = "") -> Placed:
    """A rule that belongs to no Service. ``words`` are the options that it has, separated by commas."""
    return chain, Shape(*words.split(",")).rule(Origin(role), comment, *parts)


class StaticRules(NamedTuple):
    """For each table, the rules before and the rules after those of the service ports."""

    first_filter: tuple[Placed, ...]
    last_filter: tuple[Placed, ...]
    first_nat: tuple[Placed, ...]
    last_nat: tuple[Placed, ...]


def static_rules(settings: ProxierSettings, interface_addresses: tuple[int, ...]) -> StaticRules:
    """All static rules. ``interface_addresses`` are the machine's addresses at this sync (I-9.3)."""
    return StaticRules(
        first_filter=_first_filter_rules(settings),
        last_filter=_last_filter_rules(settings),
        first_nat=masquerade_rules(settings),
        last_nat=_last_nat_rules(settings, interface_addresses),
    )


def _first_filter_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """KUBE-FIREWALL (I-5): from outside, only known connections and those DNATed to a node port reach 127/8."""
    if not settings.localhost_node_ports:
        return ()
    return (
        _static(
            names.FIREWALL,
            Role.LOCALNET_FIREWALL,
            "--comment,-d,-s,--ctstate,-j",
            within(Field.DADDR, LOOPBACK),
            within(Field.SADDR, LOOPBACK, negate=True),
            named(Field.CT_STATE, "RELATED", "ESTABLISHED", "DNAT", negate=True),
            DROP,
            comment="block incoming localnet connections",
        ),
    )


def masquerade_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """The masquerade rules (I-5). KUBE-MARK-MASQ sets the mark; KUBE-POSTROUTING tests and clears it.

    It clears the mark by XOR, because the mark is known to be set there.
    """
    mark = settings.masquerade_mark
    flags = NatFlags.FULLY_RANDOM if settings.random_fully else NO_FLAGS
    return (
        _static(names.POSTROUTING, Role.POSTROUTING, "--mark,-j", _marked(mark, negate=True), RETURN),
        _static(names.POSTROUTING, Role.POSTROUTING, "-j MARK=xor-mark", Assign(Field.MARK, ALL_BITS, mark)),
        _static(
            names.POSTROUTING,
            Role.POSTROUTING,
            "--comment,-j MASQUERADE",
            Masquerade(flags=flags),
            comment="kubernetes service traffic requiring SNAT",
        ),
        _static(names.MARK_MASQ, Role.MARK_MASQ, "-j MARK=or-mark", Assign(Field.MARK, ALL_BITS ^ mark, mark)),
    )


def _marked(mark: int, *, negate: bool = False) -> Compare:
    """The expression of ``--mark MARK/MARK``."""
    return equal(Field.MARK, mark, negate=negate, mask=mark)


def _last_filter_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """The rules of KUBE-FORWARD (I-11)."""
    rules: list[Placed] = []
    invalid = named(Field.CT_STATE, "INVALID")
    if not settings.liberal and settings.nfacct:
        counter = Counter(INVALID_DROPPED_COUNTER)
        words = "--ctstate,--nfacct-name,-j"
        rules.append(_static(names.FORWARD, Role.INVALID_DROP, words, invalid, counter, DROP))
    elif not settings.liberal:
        rules.append(_static(names.FORWARD, Role.INVALID_DROP, "--ctstate,-j", invalid, DROP))
    return *rules, *forward_rules(settings)


def forward_rules(settings: ProxierSettings) -> tuple[Placed, ...]:
    """The rules that accept what kube-proxy masquerades, and packets of known connections (I-11, IPVS-8.4)."""
    marked, known = _marked(settings.masquerade_mark), named(Field.CT_STATE, "RELATED", "ESTABLISHED")
    comment, known_comment = "kubernetes forwarding rules", "kubernetes forwarding conntrack rule"
    return (
        _static(names.FORWARD, Role.FORWARD_ACCEPT, "--comment,--mark,-j", marked, ACCEPT, comment=comment),
        _static(names.FORWARD, Role.FORWARD_CONNTRACK, "--comment,--ctstate,-j", known, ACCEPT, comment=known_comment),
    )


def _last_nat_rules(settings: ProxierSettings, interface_addresses: tuple[int, ...]) -> tuple[Placed, ...]:
    """The jumps to KUBE-NODEPORTS (I-9). ``interface_addresses`` are read anew at every sync."""
    family, node_ports = settings.family, settings.node_ports
    jump = Jump(names.NODE_PORTS)
    role = Role.NODE_PORTS
    if node_ports.match_all:
        words, parts = "--comment,--dst-type", [named(Field.DADDR_TYPE, "LOCAL")]
        if family is Family.IPV6 or not settings.localhost_node_ports:
            words, parts = f"{words},-d", [*parts, within(Field.DADDR, _loopback(family), negate=True)]
        return (_static(names.SERVICES, role, f"{words},-j", *parts, jump, comment=_LAST_RULE),)
    matching = node_ports.matching(interface_addresses)
    loopback = _loopback(family)
    usable = [address for address in matching if settings.localhost_node_ports or address not in loopback]
    # upstream's order is arbitrary here; kpsim sorts by text (I-12.2)
    return tuple(
        _static(
            names.SERVICES,
            role,
            "--comment,-d=bare,-j",
            within(Field.DADDR, host_network(ip)),
            jump,
            comment=_LAST_RULE,
        )
        for ip in sorted(format_ip(family, address) for address in usable)
    )


def _loopback(family: Family) -> Network:
    return Network(family, 1, 128) if family is Family.IPV6 else LOOPBACK
