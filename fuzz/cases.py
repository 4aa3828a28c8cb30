"""Cases: a cluster, a node and what is sent there, in a file that a person can read and a test can play again.

A case holds no expected results: when it is played, Linux says what is right.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, assert_never

import yaml

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.config import Host
from kpsim.conntrack import FlowTuple
from kpsim.errors import InputError
from kpsim.explore import Cluster, load
from kpsim.inputs import JsonObject
from kpsim.lab.tools.variants import Variant
from kpsim.nodes import Machine
from kpsim.packet import ICMP_PROTOCOLS, Window
from kpsim.tracing.probes import Probe, make_packet, split_end
from kpsim.tracing.site import Sender, Site
from kpsim.units import MILLISECOND_NS
from kpsim.verify.drawing.circumstances import with_sysctls
from kpsim.verify.prediction import told
from kpsim.verify.sequences.playing import Player, Playing
from kpsim.verify.sequences.steps import (
    ChangeEndpoints,
    ChangeService,
    ClientSegment,
    DeleteFlow,
    EndpointState,
    FirstPacket,
    Flush,
    MidStream,
    Opening,
    Restart,
    Retransmit,
    RouterError,
    SequenceStep,
    ServerError,
    ServerSegment,
    StrayError,
    Wait,
    describe,
)
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.twin import Twin
from kpsim.verify.verification import Verifier


@dataclass(frozen=True)
class Case:
    """Probes, or the steps of a sequence, for one family of a node."""

    manifest: str
    node: str
    family: Family
    probes: tuple[Probe, ...] = ()
    steps: tuple[SequenceStep, ...] = ()
    sysctls: Mapping[str, int] = field(
        default_factory=dict
    )  #: by the names of Sysctls' fields; times without ``_ns``, in seconds
    random_fully: bool = True  #: whether iptables knows --random-fully
    about: str = ""  #: remarks for the reader

    def cluster(self) -> Cluster:
        """Loads the manifest. InputError if it does not load or does not have the node."""
        cluster = load(text=self.manifest)
        cluster.check_node(self.node)
        return replace(cluster, host=Host(random_fully=self.random_fully))

    def machine(self, cluster: Cluster) -> Machine:
        """The node with the case's settings."""
        return with_sysctls(cluster.site.machine(self.node), self.sysctls)


class CaseResult(NamedTuple):
    """What playing a case found."""

    finding: tuple[str, ...] = ()  #: the last step and what differed, line by line; empty if nothing differed
    packets: int = 0
    steps: int = 0  #: steps that were played, up to the first difference


def play(case: Case, variant: Variant = Variant.NFT) -> CaseResult:
    """Plays a case in the model and in Linux. LabError if nothing could be measured, InputError if case and cluster
    do not fit.
    """
    return _sent(case, variant) if case.probes else _stepped(case, variant)


def _stepped(case: Case, variant: Variant) -> CaseResult:
    cluster = case.cluster()
    twin = Twin(case.machine(cluster), case.family, variant, silent=True)
    try:
        playing = Player(twin, cluster, case.node).play(case.steps)
    finally:
        twin.close()
    return CaseResult(finding_of(playing), playing.packets, len(playing.played))


def finding_of(playing: Playing) -> tuple[str, ...]:
    """The last step and what differed after it, line by line."""
    if not playing.differences:
        return ()
    last = [] if playing.in_the_end or not playing.played else [playing.played[-1]]
    words = [describe(each.step) for each in last]
    words += [told(each.exchange.shot.packet) for each in last if each.exchange]
    return (*words, *map(str, playing.differences))


def _sent(case: Case, variant: Variant) -> CaseResult:
    with Verifier(variant) as verifier:
        found = verifier.verify(_subject(case), case.probes)
    lines: list[str] = []
    for each in found.disagreements:
        lines += [f"{each.packet}{' (the answer to it)' if each.answer else ''}", *map(str, each.differences)]
    return CaseResult(tuple(lines), found.probes + found.answers)


def _subject(case: Case) -> Subject:
    cluster = case.cluster()
    for subject in cluster_subjects(cluster, [case.node]):
        if subject.family is case.family:
            site = Site(cluster.node_names, cluster.site.directory, lambda _: case.machine(cluster), cluster.told)
            return replace(subject, site=site)
    raise InputError(f"node {case.node} has no {case.family.label}")


# --- as a file -------------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def write_case(case: Case, file: Path) -> None:
    """Writes a case as YAML, with one line for each probe or step."""
    found: JsonObject = {"about": case.about, "node": case.node, "family": case.family.label}
    if case.sysctls:
        found["sysctls"] = dict(case.sysctls)
    if not case.random_fully:
        found["random-fully"] = False
    head = yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    body = "".join(f"- {_flow_style(probe_to_json(p))}\n" for p in case.probes)
    body += "".join(f"- {_flow_style(step_to_json(s))}\n" for s in case.steps)
    kind = "probes" if case.probes else "steps"
    tail = yaml.dump({"manifest": case.manifest}, Dumper=_Dumper, width=120)
    file.write_text(f"{head}{kind}:\n{body}{tail}", encoding="utf-8")


def _flow_style(value: JsonObject) -> str:
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    return text.strip()


def read_case(file: Path) -> Case:
    """Reads a case. InputError if the file holds none."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        node, family = found["node"], Family.from_label(found["family"])
        return Case(
            found["manifest"], node, family,
            tuple(probe_from_json(each, node) for each in found.get("probes", ())),
            tuple(step_from_json(each, family) for each in found.get("steps", ())),
            found.get("sysctls", {}), found.get("random-fully", True), found.get("about", ""),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no case: {type(error).__name__}: {error}") from error


def probe_to_json(probe: Probe) -> JsonObject:
    packet = probe.packet
    icmp = packet.protocol in ICMP_PROTOCOLS
    source = format_ip(packet.family, packet.saddr) if packet.saddr else ""
    return {
        "id": probe.id,
        "from": str(probe.sender),
        "protocol": "icmp" if icmp else packet.protocol,
        "src": source,
        "sport": packet.sport,
        "dst": format_ip(packet.family, packet.daddr),
    } | ({} if icmp else {"dport": packet.dport})


def probe_from_json(found: JsonObject, node: str) -> Probe:
    packet = make_packet(
        found["protocol"], found["dst"], found.get("dport"), src=found["src"], sport=found["sport"]
    )  # fmt: skip
    return Probe(found["id"], node, Sender(found["from"]), packet)


#: steps that consist of a flow's number only
_BARE: dict[str, Callable[[int], SequenceStep]] = {
    "server error": ServerError, "retransmit": Retransmit, "delete": DeleteFlow,
}  # fmt: skip


def step_to_json(step: SequenceStep) -> JsonObject:  # noqa: C901 - one case per kind of step
    match step:
        case FirstPacket(flow, opening):
            return {"do": "begin", "flow": flow, **_opening_to_json(opening)}
        case MidStream(flow, opening, says):
            return {"do": "mid-stream", "flow": flow, "says": says, **_opening_to_json(opening)}
        case ClientSegment(flow, says, window) | ServerSegment(flow, says, window):
            who = "client" if isinstance(step, ClientSegment) else "server"
            place = {} if window is Window.EXACT else {"window": str(window)}
            return {"do": who, "flow": flow, "says": says, **place}
        case ServerError(flow):
            return {"do": "server error", "flow": flow}
        case Retransmit(flow):
            return {"do": "retransmit", "flow": flow}
        case DeleteFlow(flow):
            return {"do": "delete", "flow": flow}
        case ChangeEndpoints(service, _, endpoints):
            return {"do": "endpoints", "of": service, "are": {address: str(state) for address, state in endpoints}}
        case RouterError(flow, about, says):
            return {"do": "router", "flow": flow, "about": about, "says": says}
        case StrayError(flow, opening, says):
            return {"do": "stray error", "flow": flow, "says": says, **_opening_to_json(opening)}
        case ChangeService(service, document):
            return {"do": "service", "of": service, "is": json.loads(document) if document else None}
        case Restart(document):
            return {"do": "restart", "with": json.loads(document)}
        case Flush():
            return {"do": "flush"}
        case Wait(duration_ns):
            return {"do": "wait", "ms": duration_ns // MILLISECOND_NS}
        case _:
            assert_never(step)


def _opening_to_json(opening: Opening) -> JsonObject:
    family, protocol, saddr, sport, daddr, dport = opening.tuple
    ends = (join_host_port(format_ip(family, address), port) for address, port in ((saddr, sport), (daddr, dport)))
    return {"from": str(opening.sender), "protocol": protocol, "src": next(ends), "dst": next(ends)}


def step_from_json(found: JsonObject, family: Family) -> SequenceStep:
    """The inverse of ``step_to_json``. KeyError, TypeError or ValueError if ``found`` is no step."""
    match found["do"]:
        case "begin":
            return FirstPacket(found["flow"], _opening_from_json(found, family))
        case "mid-stream":
            return MidStream(found["flow"], _opening_from_json(found, family), found["says"])
        case "client" | "server" as who:
            kind = ClientSegment if who == "client" else ServerSegment
            return kind(found["flow"], found["says"], Window(found.get("window", "exact")))
        case "endpoints":
            states = tuple((address, EndpointState(state)) for address, state in found["are"].items())
            return ChangeEndpoints(found["of"], family, states)
        case "router":
            return RouterError(found["flow"], found["about"], found["says"])
        case "stray error":
            return StrayError(found["flow"], _opening_from_json(found, family), found["says"])
        case "service":
            return ChangeService(found["of"], json.dumps(found["is"]) if found["is"] else "")
        case "restart":
            return Restart(json.dumps(found["with"]))
        case "flush":
            return Flush()
        case "wait":
            return Wait(found["ms"] * MILLISECOND_NS)
        case word:
            return _BARE[word](found["flow"])


def _opening_from_json(found: JsonObject, family: Family) -> Opening:
    (saddr, sport), (daddr, dport) = (_end(found[name], family) for name in ("src", "dst"))
    return Opening(Sender(found["from"]), FlowTuple(family, found["protocol"], saddr, sport, daddr, dport))


def _end(text: str, family: Family) -> tuple[int, int]:
    host, port = split_end(text)
    parsed = parse_ip(host)
    if parsed is None or parsed[0] is not family or port is None:
        raise ValueError(f"{text!r} is no {family.label} address with a port")
    return parsed[1], port


def documents(manifest: str) -> list[JsonObject]:
    """The objects of a manifest, a YAML stream."""
    return [document for document in yaml.safe_load_all(manifest) if document]


def manifest_of(found: Sequence[JsonObject]) -> str:
    """Writes objects as a YAML stream; the inverse of ``documents``."""
    text: str = yaml.safe_dump_all(found, sort_keys=False, default_flow_style=None, width=120)
    return text
