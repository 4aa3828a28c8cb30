"""What iptables and the kernel refuse although each word of the rule is right: rules at the wrong place (K-20.5).

Counterpart: the checks of iptables after it has read a rule, and the ``checkentry`` functions of the kernel's matches and
targets, which know from which hooks a chain is called.
"""

from collections.abc import Iterable, Mapping, Sequence

from kpsim.dialects.iptables.further import helper_protocols
from kpsim.dialects.iptables.layout import BUILT_IN_CHAINS
from kpsim.dialects.iptables.options import ALL_HOOKS
from kpsim.dialects.iptables.spelling import Spelling
from kpsim.ruleset import (
    TCP_FLAG_BITS,
    Adjust,
    Compare,
    Dnat,
    Field,
    Goto,
    Hook,
    Jump,
    Masquerade,
    Redirect,
    Reject,
    RejectWith,
    Rule,
    Snat,
    Statement,
    Terminal,
    Verdict,
)

#: protocols with ports; iptables also takes ICMP, whose id a port range may bound
_WITH_PORTS = frozenset(("tcp", "udp", "udplite", "sctp", "dccp", "icmp"))
_CLAMPED = frozenset((Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING))
#: built-in chains in which iptables refuses an option, whatever its value
_NOT_IN: Mapping[str, frozenset[str]] = {
    "-i": frozenset(("OUTPUT", "POSTROUTING")), "-o": frozenset(("PREROUTING", "INPUT")),
}  # fmt: skip


def refused_in(rule: Rule, table: str, chain: str) -> str | None:
    """Why iptables refuses a rule in a chain, whatever jumps to the chain; None: it takes the rule."""
    spelling = rule.spelling
    assert isinstance(spelling, Spelling)
    for piece in spelling.written:
        if chain in _NOT_IN.get(piece.row.name, ()):
            return f"{piece.row.name} cannot be used in {chain}"
        if piece.row.tables and table not in piece.row.tables:
            return f"{piece.row.name} is valid in table {' and '.join(sorted(piece.row.tables))} only"
    target, protocol = rule.target, _protocol(rule)
    if isinstance(target, Reject) and target.with_ is RejectWith.TCP_RESET and protocol != "tcp":
        return "-j REJECT --reject-with tcp-reset needs -p tcp"
    if _translates_ports(target) and protocol not in _WITH_PORTS:
        return "a translation of ports needs -p tcp, udp, sctp or dccp"
    if table == "nat" and target == Terminal(Verdict.DROP):
        return "the table nat is not for filtering: iptables refuses -j DROP in it"
    if isinstance(target, Adjust) and target.target == "TCPMSS" and not _only_syn(rule):
        return "-j TCPMSS needs -p tcp with --syn, or other --tcp-flags that only a SYN has"
    if isinstance(target, Adjust) and target.target == "CT":
        return _helper_without_protocol(rule, target.arguments)
    return None


def _translates_ports(target: Statement | None) -> bool:
    match target:
        case Dnat(_, port) | Redirect(port):
            return port is not None
        case Snat(_, ports) | Masquerade(ports):
            return ports is not None
        case _:
            return False


def _only_syn(rule: Rule) -> bool:
    """Whether a rule matches only TCP segments with SYN."""
    for part in rule.body:
        if isinstance(part, Compare) and part.field is Field.TCP_FLAGS and not part.negate:
            syn = TCP_FLAG_BITS["SYN"]
            if (part.mask or 0) & (part.value or 0) & syn:
                return True
    return False


def _helper_without_protocol(rule: Rule, arguments: str) -> str | None:
    protocols = helper_protocols(arguments)
    named = _protocol(rule)
    if protocols is not None and named not in protocols:
        return f"the helper of -j CT needs -p {' or '.join(protocols)}"
    if "--timeout" in arguments and not named:
        return "-j CT --timeout needs -p"
    return None


def _protocol(rule: Rule) -> str:
    for part in rule.body:
        if isinstance(part, Compare) and part.field is Field.L4PROTO and not part.negate:
            return str(part.name)
    return ""


def hooks_of(rule: Rule) -> frozenset[Hook]:
    """The hooks from which the kernel lets a packet reach a rule."""
    spelling = rule.spelling
    assert isinstance(spelling, Spelling)
    hooks = ALL_HOOKS.intersection(*(piece.row.hooks for piece in spelling.written))
    if isinstance(rule.target, Adjust) and rule.target.arguments == "--clamp-mss-to-pmtu":
        hooks &= _CLAMPED
    return hooks


def callers(table: str, rules: Mapping[str, Sequence[Rule]]) -> dict[str, frozenset[Hook]]:
    """The hooks from which each chain of a table is reached. Chains that no hook reaches are missing.

    ``rules`` holds the rules by chain; every chain that a rule jumps to is in it.
    """
    found: dict[str, set[Hook]] = {}
    for name, base in BUILT_IN_CHAINS[table].items():
        waiting = [name]
        while waiting:
            chain = waiting.pop()
            hooks = found.setdefault(chain, set())
            if base.hook not in hooks:
                hooks.add(base.hook)
                waiting += jumps(rules[chain])
    return {chain: frozenset(hooks) for chain, hooks in found.items()}


def jumps(rules: Iterable[Rule]) -> list[str]:
    """The chains to which rules jump, each once."""
    return list(dict.fromkeys(rule.target.chain for rule in rules if isinstance(rule.target, Jump | Goto)))


def loop(rules: Mapping[str, Sequence[Rule]]) -> list[str]:
    """Chains that jump to each other in a circle, the first also as the last; empty if there is none."""
    done: set[str] = set()
    for start in rules:
        path: list[str] = []
        waiting = [(start, 0)]
        while waiting:
            chain, depth = waiting.pop()
            done.update(path[depth:])
            del path[depth:]
            if chain in path:
                return [*path[path.index(chain) :], chain]
            if chain not in done:
                path.append(chain)
                waiting += [(target, depth + 1) for target in jumps(rules[chain])]
        done.update(path)
    return []
