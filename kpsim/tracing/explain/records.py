"""Traces as JSON values: all typed steps, one by one.

Steps and fields have the names that they have in ``packetpath.steps``. Packets and connections are written out in full.
"""

from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.conntrack import Entry
from kpsim.dialects import Form, dialect_of
from kpsim.exchange import Exchange
from kpsim.fabric import Hop, Journey
from kpsim.inputs import JsonObject
from kpsim.packet import Packet
from kpsim.packetpath.steps import (
    ChainLeft,
    Chosen,
    ConntrackChanged,
    Drawn,
    FieldChanged,
    RuleMatched,
    Scheduled,
    SetAsked,
    SetTold,
    Step,
    shown,
    shown_key,
)
from kpsim.ruleset import RuleReference
from kpsim.tracing.deciding import ProbeResult
from kpsim.tracing.directory import Directory
from kpsim.tracing.explain.verdict import Decision, changed_source, sentence
from kpsim.tracing.outcomes import ExchangeOutcome, Sums, exchange_outcome
from kpsim.tracing.site import Sender
from kpsim.tracing.standing import State


def trace_record(
    journey: Journey,
    sender: Sender,
    directory: Directory,
    *,
    exchange: Exchange | None,
    outcomes: Sequence[tuple[Fraction, ExchangeOutcome]] | None,
    verdict: Sums,
    state: State | None,
) -> JsonObject:
    """A whole trace.

    ``disposition`` and ``by`` are as in answers to probes. ``exchange`` is the one that was drawn; None: the packet asks
    for no answer. ``outcomes`` None: they were not asked for, and the record has none.
    """
    decision = Decision.of(journey)
    record: JsonObject = {
        "node": journey.hops[0].node,
        "from": str(sender),
        "packet": packet_record(journey.sent),
        "hops": [_hop_record(hop) for hop in journey.hops],
        "disposition": str(decision.result),
    }
    if decision.result is ProbeResult.REJECTED:
        record["with"] = decision.hop.walk.with_ or decision.hop.walk.local_error
    if decision.result is ProbeResult.PASSED and (source := changed_source(journey)) is not None:
        record |= source.to_json()
    end = journey.end
    record["by"] = decision.by
    record["end"] = None if end is None else {
        "whose": str(end.whose), "node": end.node or None,
        "name": directory.name((journey.packet.family, journey.packet.daddr)) or None,
    }  # fmt: skip
    record["words"] = sentence(journey, directory)
    record["state"] = None if state is None else state.to_json()
    record["verdict"] = verdict.to_json()
    if verdict.assumed:
        record["assumed"] = str(verdict.assumed)
    record["exchange"] = None if exchange is None else _exchange_record(exchange, directory)
    if outcomes is not None:
        record["outcomes"] = [{"weight": str(weight)} | outcome.to_json() for weight, outcome in outcomes]
    return record


def _exchange_record(judged: Exchange, directory: Directory) -> JsonObject:
    """The exchange that was drawn: its outcome, the way of the answer, and a load balancer's own request."""
    record = exchange_outcome(judged).to_json()
    if judged.answer is not None:
        record["answer"] = {
            "packet": packet_record(judged.answer.sent), "nodes": [hop.node for hop in judged.answer.hops],
            "arrived": None if judged.answer.end is None else packet_record(judged.answer.packet),
        }  # fmt: skip
        if (detour := judged.detour) is not None:
            record["answer"]["detour"] = {
                "node": detour.node, "cameInBy": detour.came_by, "leavesBy": detour.leaves_by,
            }  # fmt: skip
    if judged.relay is not None:
        request = judged.relay.request
        record["relay"] = {
            "node": request.hops[0].node, "packet": packet_record(request.sent), "words": sentence(request, directory),
        }  # fmt: skip
    return record


def packet_record(packet: Packet) -> JsonObject:
    """A packet's addresses, ports, and the fields of its protocol."""
    record: JsonObject = {
        "family": packet.family.label, "protocol": packet.protocol, "src": packet.source, "sport": packet.sport,
        "dst": packet.destination, "dport": packet.dport, "ttl": packet.ttl, "mark": packet.mark,
        "inInterface": packet.in_interface or None, "outInterface": packet.out_interface or None,
    }  # fmt: skip
    if packet.traffic_class:
        record["trafficClass"] = packet.traffic_class
    if packet.protocol == "tcp":
        record["tcpFlags"] = sorted(packet.tcp_flags)
    elif packet.protocol in ("icmp", "icmpv6"):
        record |= {"icmpType": packet.icmp_type, "icmpCode": packet.icmp_code}
    elif packet.protocol == "sctp":
        record["sctpChunk"] = packet.sctp_chunk
    return record


def _hop_record(hop: Hop) -> JsonObject:
    node, walk = hop
    return {
        "node": node,
        "steps": [step_record(step, walk.packet.family) for step in walk.trace],
        "disposition": str(walk.disposition),
        "cause": None if walk.cause is None else str(walk.cause),
        "packet": packet_record(walk.packet),
        "masquerade": walk.masqueraded,
        "sportDrawn": walk.source_port_drawn,
        "answer": None if walk.answer is None else packet_record(walk.answer),
        "localError": walk.local_error or None,
    }


def step_record(step: Step, family: Family) -> JsonObject:
    """One step: its kind under ``step``, then its fields."""
    record: JsonObject = {"step": type(step).__name__}
    match step:
        case RuleMatched(at, _, _):
            assert at.rule is not None
            return record | _rule_record(at, family) | {"does": dialect_of(at.table, at.rule).does(at.rule, family)}
        case Chosen(table, rule, chance, true):
            written = dialect_of(table, rule).probability(rule, chance, family)
            return record | {"probability": written, "true": true}
        case Drawn(_, _, source, number):
            return record | {"number": number, "of": source.modulus}
        case SetAsked(name, of, key, found):
            return record | {"set": name, "key": shown_key(key, of), "found": found}
        case SetTold(name, of, key, verb, kept):
            return record | {"set": name, "key": shown_key(key, of), "does": verb.value, "kept": kept}
        case ConntrackChanged(tracking, entry):
            return record | {"tracking": str(tracking), "entry": _entry_record(entry)}
        case FieldChanged(changed, before, after):
            values = {"before": shown(changed, before, family), "after": shown(changed, after, family)}
            return record | {"field": str(changed)} | values
        case Scheduled(at, why):
            server = None if at.server is None else join_host_port(format_ip(family, at.server.address), at.server.port)
            return record | {"at": str(at), "scheduler": at.virtual.scheduler, "server": server, "why": why}
        case ChainLeft(table, chain, _):
            return record | {"table": str(table), "chain": chain}
        case _:
            for field in fields(step):
                value = getattr(step, field.name)
                record[field.name] = value if isinstance(value, bool) else str(value)
            return record


def _rule_record(at: RuleReference, family: Family) -> JsonObject:
    record: JsonObject = {"table": str(at.table), "chain": at.chain, "number": at.number, "rule": None, "origin": None}
    if at.rule is not None:
        role, service, protocol, endpoint = at.origin
        record["rule"] = dialect_of(at.table, at.rule).spell(at, family, Form.SENT)
        if at.element is not None:
            record["element"] = dialect_of(at.table, at.rule).element(at, family)
        record["origin"] = {
            "role": str(role), "service": service or None, "protocol": protocol or None, "endpoint": endpoint or None,
        }  # fmt: skip
    return record


def _entry_record(entry: Entry | None) -> JsonObject | None:
    if entry is None:
        return None
    return {
        "state": str(entry.state), "original": str(entry.original), "reply": str(entry.reply),
        "seenReply": entry.seen_reply, "assured": entry.assured, "snat": entry.src_nat, "dnat": entry.dst_nat,
    }  # fmt: skip
