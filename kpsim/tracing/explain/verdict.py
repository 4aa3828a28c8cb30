"""What became of a packet on its whole way: in a sentence, and in a line for regression tests.

Counterpart: ovn-trace's last line and its ``--minimal``. ``text`` describes the way itself.
"""

from dataclasses import dataclass, replace

from kpsim.addresses import join_host_port
from kpsim.dialects import Form, dialect_of, what_would_tell
from kpsim.exchange import was_admitted
from kpsim.fabric import Hop, Journey, Whose
from kpsim.netfilter import Walk
from kpsim.packet import Packet
from kpsim.packetpath.steps import RuleMatched
from kpsim.ruleset import FOREIGN, Role, RuleReference
from kpsim.tracing.deciding import ProbeResult, decided_by, result_of
from kpsim.tracing.directory import Directory
from kpsim.tracing.explain.owners import program_of
from kpsim.tracing.outcomes import Sums, seen_of
from kpsim.tracing.probes import Answer, Source
from kpsim.tracing.site import show
from kpsim.tracing.standing import State


@dataclass(frozen=True, slots=True)
class Decision:
    """The hop that decided, what it decided, and by which rule."""

    result: ProbeResult
    hop: Hop
    by: str | None

    @classmethod
    def of(cls, journey: Journey) -> "Decision":
        deciding = next((hop for hop in reversed(journey.hops) if result_of(hop.walk) is not ProbeResult.PASSED), None)
        if deciding is None:
            return cls(ProbeResult.PASSED, journey.hops[-1], None)
        return cls(result_of(deciding.walk), deciding, decided_by(deciding.walk, deciding.walk.trace))


def ends(packet: Packet) -> str:
    """The packet's destination, with its port if it has one."""
    return join_host_port(packet.destination, packet.dport) if packet.dport else packet.destination


def why(at: RuleReference) -> str:
    """Says why a rule exists, or the element that said what it did. If it is not kube-proxy's, says whose it probably is."""
    origin = at.origin
    if origin == FOREIGN:
        program = program_of(at)
        return f"not kube-proxy's but {program}'s" if program else "not kube-proxy's"
    service = f" of {origin.service}" if origin.service else ""
    return f"{origin.role}{service}" + (f", {origin.endpoint}" if origin.endpoint else "")


def why_there(rule: RuleReference, step: Walk) -> str:
    """As :func:`why`, with what the way of the packet tells besides."""
    return why(rule) + ("; they let it in, but the node has no endpoint for it" if was_admitted(step) else "")


def changed_source(journey: Journey) -> Source | None:
    """What became of the source of a packet, and by which rule; None: it is as the sender sent it."""
    found = next((made for hop in reversed(journey.hops) if (made := Source.of(hop.walk)) is not None), None)
    if found is None:
        return None
    return replace(found, seen=seen_of(journey.packet, port_drawn=found.seen.sport is None))


def minimal(
    journey: Journey, answer: Answer | None = None, verdicts: Sums | None = None, state: State | None = None
) -> str:
    """One line with what became of the packet, one with the rule that decided, if any, and one with ``verdicts``.

    An entry that overrode the rules (``state``) has a line between. With ``answer`` the first two lines are about the
    likeliest outcomes, with their odds, in place of the one that was drawn.
    """
    if answer is None:
        lines = _drawn(journey)
    else:
        by = answer.by if answer.source is None else answer.source.by
        lines = [str(answer), *([f"by {by}"] if by else [])]
    if state is not None and state.kind is not None:
        lines.append(f"state {state.kind}: {state}")
    lines += [f"exchange {verdicts}"] if verdicts else []
    return "\n".join(lines)


def _drawn(journey: Journey) -> list[str]:
    """What became of a packet, and by which rule."""
    decision = Decision.of(journey)
    lines = []
    step = decision.hop.walk
    match decision.result:
        case ProbeResult.DELIVERED:
            masqueraded = any(hop.walk.masqueraded for hop in journey.hops)
            lines.append(f"delivered {ends(journey.packet)}{' masqueraded' if masqueraded else ''}")
        case ProbeResult.REJECTED:
            lines.append(f"rejected {step.with_ or step.local_error}")
        case ProbeResult.PASSED if (source := changed_source(journey)) is not None:
            lines.append(f"passed masqueraded as {source.seen.src}")
            lines += [f"by {source.by}"] if source.by else []
        case result:
            lines.append(str(result))
    return [*lines, f"by {decision.by}"] if decision.by else lines


def sentence(journey: Journey, directory: Directory) -> str:
    """What became of the packet, in a sentence."""
    decision = Decision.of(journey)
    node, step = decision.hop
    match decision.result:
        case ProbeResult.REJECTED:
            return f"rejected with {step.with_ or step.local_error} {_by(step.rule, node, step)}{_told(step)}"
        case ProbeResult.DROPPED:
            return f"dropped {_by(step.rule, node, step)}{_told(step)}"
        case ProbeResult.UNKNOWN:
            command = what_would_tell(step.unknown)
            told = f" (the output of {command} beside the rules would tell)" if command else ""
            return f"unknown: {node} met a rule that is not modelled: {step.unknown}{told}"
        case ProbeResult.DELIVERED:
            others = step.dnat_rule if step.dnat_rule and _is_foreign(step.dnat_rule) else None
            translated = f", translated {_by(others, node, step)}" if others else ""
            return f"delivered to {_where(journey, directory)} {_as(journey)}{translated}"
        case ProbeResult.PASSED:
            changed = next((hop for hop in journey.hops if hop.walk.snat_rule is not None), None)
            if changed is None:
                by_kube_proxy = (
                    "kube-proxy accepts it for itself" if _for_kube_proxy(step) else "kube-proxy leaves it alone"
                )
                return f"passed: {by_kube_proxy}; {_left_alone(journey, directory)}"
            source = f"{_as(journey)}; that is {_by(changed.walk.snat_rule, changed.node, changed.walk)}"
            return f"passed: it is for no Service; {_left_alone(journey, directory)} {source}"


def _for_kube_proxy(step: Walk) -> bool:
    """Whether kube-proxy's own rule lets the packet in to its health check (CP-15.4)."""
    matched = (s.at.rule for s in step.trace if isinstance(s, RuleMatched) and s.at.rule is not None)
    return any(rule.origin.role is Role.HEALTH_CHECK for rule in matched)


def _by(rule: RuleReference | None, node: str, step: Walk) -> str:
    if rule is None and step.server is not None and step.server.server is None:
        of = f" of {step.server.origin.service}" if step.server.origin.service else ""
        return f"by ip_vs on {node} ({step.server}{of}: {step.cause})"
    if rule is None:
        return f"by the kernel of {node}: {step.cause}"
    if rule.rule is None:
        return f"by {rule} on {node} (not kube-proxy's)"
    reason = why_there(rule, step)
    if _is_foreign(rule):  # kpsim does not know its purpose, so the text of the rule is added
        reason += f": {dialect_of(rule.table, rule.rule).words(rule, step.packet.family, Form.LISTED)}"
    return f"by {rule.table}/{rule.chain} rule {rule.number} on {node} ({reason})"


def _is_foreign(at: RuleReference) -> bool:
    return at.rule is not None and at.origin == FOREIGN


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
            return f"delivered to {end.node} itself at {ends(packet)}"
        case Whose.POD:
            return f"delivered to {_where(journey, directory)}"
        case Whose.OUTSIDE:
            to = show((packet.family, packet.daddr), directory)
            return f"it left {journey.hops[-1].node} by {packet.out_interface} towards {to}"
