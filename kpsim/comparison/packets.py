"""Finds the first packets that end differently under two rulesets, for every address that either of them dispatches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from kpsim.addresses import Family, format_ip
from kpsim.dialects import dialect_reading
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.inputs import Json
from kpsim.programmed import Programmed
from kpsim.replay import Replay
from kpsim.ruleset import Compare, Field, Rule, Ruleset
from kpsim.tracing.probes import Answer, Probe, Prober, ProbeResult, make_packet
from kpsim.tracing.site import Sender

_SENDERS = (Sender.POD, Sender.NODE, Sender.EXTERNAL)
MOST_SHOWN = 10


def first_packet_differences(replay: Replay, expected: Sequence[Json], actual: Sequence[Json]) -> list[str]:
    """Statements about the first sync after which some first packet ends differently; empty if there is none.

    Only syncs are considered after which the rules of the two accounts differ.
    """
    mode = str(replay.proxier.settings.config.mode)
    for number, (wanted, found) in enumerate(zip(expected, actual, strict=False)):
        before, after = _saved_rules(wanted, mode), _saved_rules(found, mode)
        if before is not None and after is not None and before != after:
            statements = list(_differences(replay, before, after))
            shown = [f"sync {number}: first packet {statement}" for statement in statements[:MOST_SHOWN]]
            if len(statements) > MOST_SHOWN:
                shown.append(f"sync {number}: … and {len(statements) - MOST_SHOWN} more first packets end otherwise")
            if shown:
                return shown
    return []


def _saved_rules(account: Mapping[str, Any], mode: str) -> str | None:
    """What the tool of a mode saved after a sync; None if the account does not tell."""
    programmed = account.get(mode)
    saved = programmed.get("save") if isinstance(programmed, Mapping) else None
    return saved if isinstance(saved, str) else None


def _differences(replay: Replay, expected: str, actual: str) -> Iterator[str]:
    recording = replay.recording
    family, node = recording.family, recording.node_name
    cluster = Cluster(replay.cluster, recording.config, recording.host, replay=replay)
    try:
        rulesets = [ruleset for text in (expected, actual) for ruleset in dialect_reading(text).parse(text, family)]
    except InputError:  # no tool would load these rules, so no packet meets them
        return
    others, held = cache(cluster.told), replay.proxier.held

    def told(compared: Ruleset, asked: str, of: Family) -> Programmed:
        return replace(held, ruleset=compared) if (asked, of) == (node, family) else others(asked, of)

    probers = [Prober(cluster.site_with(partial(told, ruleset)), replay.now_ns) for ruleset in rulesets]
    node_ip = format_ip(family, replay.proxier.settings.node_ip)
    targets = sorted({target for ruleset in rulesets for target in _targets(ruleset, node_ip)})
    for protocol, address, port in targets:
        for sender in _SENDERS:
            probe = Probe(0, node, sender, make_packet(protocol, address, port))
            try:
                before, after = (prober.answer(probe) for prober in probers)
            except InputError:  # the site has no sender of this kind
                continue
            if _told(before) != _told(after):
                whence = f"{protocol} from {sender} to {address} port {port}"
                yield f"{whence}: expected {_words(before)}, got {_words(after)}"


def _targets(ruleset: Ruleset, node_ip: str) -> Iterator[tuple[str, str, int]]:
    """Every protocol, address and port that a rule names. A node port is dialled at the node's address."""
    for table in ruleset.tables.values():
        for chain in table.ordered():
            for rule in chain.rules:
                found = _target(rule, ruleset.family, node_ip)
                if found is not None:
                    yield found


def _target(rule: Rule, family: Family, node_ip: str) -> tuple[str, str, int] | None:
    protocol, address, port = "", node_ip, 0
    for part in rule.body:
        if not isinstance(part, Compare) or part.negate or part.mask is not None:
            continue
        if part.field is Field.L4PROTO and part.name is not None:
            protocol = part.name.upper()
        elif part.field is Field.DADDR and part.value is not None:
            address = format_ip(family, part.value)
        elif part.field is Field.DPORT and part.value is not None:
            port = part.value
    return (protocol, address, port) if protocol and port else None


def _told(answer: Answer) -> tuple[object, ...]:
    """What a client or an endpoint notices of an answer."""
    source = None if answer.source is None else answer.source.seen
    return answer.result, answer.outcomes, source, answer.exchange


def _words(answer: Answer) -> str:
    exchange = f" [exchange {answer.exchange}]"
    if answer.result is not ProbeResult.DELIVERED:
        return f"{answer.result}{f' as {answer.source.seen.src}' if answer.source else ''}{exchange}"
    ends = (f"{o.endpoint} ({o.weight}{', masqueraded' if o.masquerade else ''})" for o in answer.outcomes)
    return f"delivered to {', '.join(ends)}{exchange}"
