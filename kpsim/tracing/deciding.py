"""What one node's rules did with a first packet, and which rule decided."""

import enum
from collections.abc import Iterable

from kpsim.addresses import Family
from kpsim.dialects import Form, dialect_of
from kpsim.netfilter import Cause, Disposition, Walk
from kpsim.packetpath.steps import RuleMatched, Step
from kpsim.ruleset import Role, RuleReference

_DISPATCH = (Role.CLUSTER_IP, Role.EXTERNAL_IP, Role.LOAD_BALANCER, Role.NODE_PORT)


class ProbeResult(enum.StrEnum):
    """What kube-proxy's rules do with a first packet."""

    DELIVERED = "delivered"  #: to an endpoint
    REJECTED = "rejected"
    DROPPED = "dropped"
    PASSED = "passed"  #: the rules leave it alone, or accept it
    UNKNOWN = "unknown"  #: it met a rule that is not modelled


def result_of(step: Walk) -> ProbeResult:
    """What one node's rules did with a packet."""
    match step.disposition:
        case Disposition.REJECTED:
            return ProbeResult.REJECTED
        case Disposition.DROPPED:
            return ProbeResult.DROPPED
        case Disposition.UNKNOWN | Disposition.STOLEN:
            return ProbeResult.UNKNOWN
        case Disposition.DELIVERED | Disposition.FORWARDED:
            return ProbeResult.DELIVERED if translated(step) else ProbeResult.PASSED


def translated(step: Walk) -> bool:
    """Whether a rule or ip_vs changed the packet's destination, for this packet or an earlier one of its connection."""
    return step.redirected


def rule_name(at: RuleReference, family: Family) -> str:
    """A rule as ``table/CHAIN`` and its text as kube-proxy writes it, without ``-A CHAIN``."""
    if at.rule is None:
        return f"{at.table}/{at.chain} policy"
    text = dialect_of(at.table, at.rule).words(at, family, Form.SENT)
    return f"{at.table}/{at.chain} {text}".rstrip()


def deciding_rule(step: Walk, steps: Iterable[Step]) -> RuleReference | None:
    """The rule that decided; None: no rule did.

    For a rejected or dropped packet it is the rule with the verdict. For a delivered packet it is the rule that
    dispatched to a Service, else the rule that translated.
    """
    if step.rule is not None or result_of(step) is not ProbeResult.DELIVERED:
        return step.rule
    dispatched = [s.at for s in steps if isinstance(s, RuleMatched) and s.at.origin.role in _DISPATCH]
    return dispatched[-1] if dispatched and step.dnat_rule else step.dnat_rule


def decided_by(step: Walk, steps: Iterable[Step]) -> str | None:
    """What decided about a packet, in words; None if it passed."""
    match result_of(step):
        case ProbeResult.PASSED:
            return None
        case ProbeResult.UNKNOWN:
            return f"not modelled: {step.unknown}"
        case ProbeResult.DELIVERED | ProbeResult.REJECTED | ProbeResult.DROPPED:
            at = deciding_rule(step, steps)
            if at is not None:
                return rule_name(at, step.packet.family)
            if step.server is not None:
                return f"ip_vs {step.server} {step.server.virtual.scheduler}"
            return f"kernel: {step.cause}" if step.cause not in (None, Cause.RULE) else None
