"""What became of a packet on its whole way: in a sentence, and in a line for regression tests.

Counterpart: ovn-trace's last line and its ``--minimal``. ``text`` describes the way itself.
"""

from dataclasses import dataclass

from kpsim.addresses import join_host_port
from kpsim.dialects import Form, dialect_of
from kpsim.fabric import Hop, Journey, Whose
from kpsim.netfilter import Walk
from kpsim.packet import Packet
from kpsim.ruleset import FOREIGN, Rule, RuleReference
from kpsim.tracing.directory import Directory
from kpsim.tracing.explain.owners import program_of
from kpsim.tracing.probes import Answer, ProbeResult, decided_by, result_of
from kpsim.tracing.site import show


@dataclass(frozen=True, slots=True)
class Verdict:
    """The hop that decided, what it decided, and by which rule."""

    result: ProbeResult
    hop: Hop
    by: str | None

    @classmethod
    def of(cls, journey: Journey) -> "Verdict":
        deciding = next((hop for hop in reversed(journey.hops) if result_of(hop.walk) is not ProbeResult.PASSED), None)
        if deciding is None:
            return cls(ProbeResult.PASSED, journey.hops[-1], None)
        return cls(result_of(deciding.walk), deciding, decided_by(deciding.walk, deciding.walk.trace))


def ends(packet: Packet) -> str:
    """The packet's destination, with its port if it has one."""
    return join_host_port(packet.destination, packet.dport) if packet.dport else packet.destination


def why(chain: str, rule: Rule) -> str:
    """Says why a rule of a chain exists. If the rule is not kube-proxy's, says whose it probably is."""
    origin = rule.origin
    if origin == FOREIGN:
        program = program_of(chain, rule)
        return f"not kube-proxy's but {program}'s" if program else "not kube-proxy's"
    service = f" of {origin.service}" if origin.service else ""
    return f"{origin.role}{service}" + (f", {origin.endpoint}" if origin.endpoint else "")


def minimal(journey: Journey, answer: Answer | None = None) -> str:
    """One line with what became of the packet, and one with the rule that decided, if any.

    With ``answer`` the first line lists all outcomes with their odds.
    """
    verdict = Verdict.of(journey)
    by = [f"by {verdict.by}"] if verdict.by else []
    step = verdict.hop.walk
    match verdict.result:
        case ProbeResult.DELIVERED if answer is not None and answer.outcomes:
            head = str(answer)
        case ProbeResult.DELIVERED:
            head = f"delivered {ends(step.packet)}{' masqueraded' if step.masqueraded else ''}"
        case ProbeResult.REJECTED:
            head = f"rejected {step.with_ or step.local_error}"
        case result:
            head = str(result)
    return "\n".join([head, *by])


def sentence(journey: Journey, directory: Directory) -> str:
    """What became of the packet, in a sentence."""
    verdict = Verdict.of(journey)
    node, step = verdict.hop
    match verdict.result:
        case ProbeResult.REJECTED:
            return f"rejected with {step.with_ or step.local_error} {_by(step.rule, node, step)}{_told(step)}"
        case ProbeResult.DROPPED:
            return f"dropped {_by(step.rule, node, step)}{_told(step)}"
        case ProbeResult.UNKNOWN:
            return f"unknown: {node} met a rule that is not modelled: {step.unknown}"
        case ProbeResult.DELIVERED:
            others = step.dnat_rule if step.dnat_rule and _is_foreign(step.dnat_rule) else None
            translated = f", translated {_by(others, node, step)}" if others else ""
            return f"delivered to {_where(journey, directory)} {_as(journey)}{translated}"
        case ProbeResult.PASSED:
            changed = next((hop for hop in journey.hops if hop.walk.snat_rule is not None), None)
            if changed is None:
                return f"passed: kube-proxy leaves it alone; {_left_alone(journey, directory)}"
            source = f"{_as(journey)}; that is {_by(changed.walk.snat_rule, changed.node, changed.walk)}"
            return f"passed: it is for no Service; {_left_alone(journey, directory)} {source}"


def _by(rule: RuleReference | None, node: str, step: Walk) -> str:
    if rule is None:
        return f"by the kernel of {node}: {step.cause}"
    if rule.rule is None:
        return f"by {rule} on {node} (not kube-proxy's)"
    reason = why(rule.chain, rule.rule)
    if _is_foreign(rule):  # kpsim does not know its purpose, so the text of the rule is added
        reason += f": {dialect_of(rule.table).words(rule, step.packet.family, Form.LISTED)}"
    return f"by {rule.table}/{rule.chain} rule {rule.number} on {node} ({reason})"


def _is_foreign(at: RuleReference) -> bool:
    return at.rule is not None and at.rule.origin == FOREIGN


def _told(step: Walk) -> str:
    return f"; the sender's system call fails with {step.local_error}" if step.local_error else ""


def _where(journey: Journey, directory: Directory) -> str:
    packet = journey.packet
    end = journey.end
    if end is not None and end.whose is Whose.PROCESS:
        whose = f"node {end.node}"
    else:
        whose = directory.name((packet.family, packet.daddr))
        if not whose and end is not None and end.whose is Whose.OUTSIDE:
            whose = f"no pod that is known; it left {journey.hops[-1].node} by {packet.out_interface}"
        elif not whose and end is not None:
            whose = f"a pod of {end.node}"
    return ends(packet) + (f" ({whose})" if whose else "")


def _as(journey: Journey) -> str:
    source, changed = journey.sent.source, [hop.walk for hop in journey.hops if hop.walk.masqueraded]
    if not changed:
        return f"as {source}, source kept"
    port = ", source port drawn at random" if any(step.source_port_drawn for step in changed) else ""
    return f"as {source} → masqueraded as {journey.packet.source}{port}"


def _left_alone(journey: Journey, directory: Directory) -> str:
    packet, end = journey.packet, journey.end
    if end is None:
        return f"it got nowhere on {journey.hops[-1].node}"
    match end.whose:
        case Whose.PROCESS:
            return f"delivered to {end.node} itself at {ends(packet)}, whether or not something listens there"
        case Whose.POD:
            return f"delivered to {_where(journey, directory)}"
        case Whose.OUTSIDE:
            to = show((packet.family, packet.daddr), directory)
            return f"it left {journey.hops[-1].node} by {packet.out_interface} towards {to}"
