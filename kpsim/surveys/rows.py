"""The rows of a survey and their declared columns: one client at one node dialling one frontend, under one variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.cluster import ClusterState
from kpsim.exchange import Target, Verdict
from kpsim.reports.columns import Column
from kpsim.surveys.answers import Outcomes
from kpsim.surveys.questions import Question, name_of
from kpsim.surveys.settings import Setting
from kpsim.tracing.directory import Directory
from kpsim.tracing.names import Via
from kpsim.tracing.site import Sender


class Reached(NamedTuple):
    """An endpoint that gets the request, with the odds of that. ``node`` and ``zone`` are empty if they are not known."""

    endpoint: str  #: ``ip:port``
    node: str
    zone: str
    odds: Fraction


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of a client's first exchange. Odds are exact."""

    service: str  #: ``namespace/name``
    port_name: str
    frontend: Via
    address: str
    port: int  #: that is dialled
    protocol: str  #: TCP, UDP, SCTP
    family: Family
    client: Sender
    node: str  #: where the packet comes in; of a pod and a process their own
    dialled_node: str  #: the node that has the address, of a node port; empty: no node
    in_rotation: bool | None  #: the load balancer sends to this node; None: none is between
    values: Mapping[Setting, str]  #: in force, varied or not; empty: the Service has none
    verdicts: Mapping[Verdict, Fraction]
    why: str  #: why it does not work, of the likeliest such outcome
    by: str  #: the rule that refused or lost it, of the same outcome
    decided_at: str  #: the node where that was decided; empty: it works
    assumed: bool  #: that it works rests on something listening there, which is not known
    source_kept: bool | None  #: every receiver sees the client's address; None: there is no receiver
    reached: tuple[Reached, ...]
    other_node: Fraction | None  #: of what is received, the part on another node; None: nothing is
    other_zone: Fraction | None  #: the part in another zone; None: also if a zone is not known
    same_again: Fraction | None  #: the odds that the client's next connection goes to the same endpoint

    @property
    def works(self) -> Fraction:
        return self.verdicts.get(Verdict.WORKS, Fraction(0))

    @property
    def verdict(self) -> str:
        """``works``, or with odds: ``works 2/3, answer-lost 1/3``."""
        return ", ".join(
            str(verdict) if weight == 1 else f"{verdict} {weight}" for verdict, weight in self.verdicts.items()
        )

    @property
    def endpoints(self) -> str:
        """Every endpoint with its odds: ``10.180.1.5:8080 1/2; 10.180.2.5:8080 1/2``."""
        return "; ".join(f"{each.endpoint} {each.odds}" for each in self.reached)

    @property
    def largest_share(self) -> Fraction | None:
        return max((each.odds for each in self.reached), default=None)

    def __str__(self) -> str:
        """Client, frontend and what becomes of it, on one line."""
        named = f"{self.service}:{self.port_name}" if self.port_name else self.service
        dialled = f"{self.frontend.words} {join_host_port(self.address, self.port)} of {named}"
        why = f" ({self.why})" if self.why else ""
        return f"{dialled} from {self.client} at {self.node}: {self.verdict}{why}"

    def to_json(self) -> dict[str, Any]:
        """The columns of the frame, with exact odds as text, and the endpoints one by one."""
        record = {column.name: column.read(self) for column in COLUMNS}
        record |= {name: str(odds) for name, odds in self._odds().items() if odds is not None}
        record["endpoints"] = [
            {"endpoint": each.endpoint, "node": each.node, "zone": each.zone, "odds": str(each.odds)}
            for each in self.reached
        ]
        return record

    def _odds(self) -> Mapping[str, Fraction | None]:
        return {
            "works": self.works, "largest_share": self.largest_share, "other_node": self.other_node,
            "other_zone": self.other_zone, "same_again": self.same_again,
        }  # fmt: skip


def _number(odds: Fraction | None) -> float | None:
    return None if odds is None else float(odds)


def _setting_column(setting: Setting) -> Column[Row]:
    return Column(str(setting), "str", "", "in force; empty: the Service has none", lambda r: r.values[setting])


COLUMNS: tuple[Column[Row], ...] = (
    Column("service", "str", "", "namespace/name", lambda r: r.service),
    Column("port_name", "str", "", "name of the Service port; empty: it has none", lambda r: r.port_name),
    Column("frontend", "str", "", "clusterIP, externalIP, loadBalancer or nodePort", lambda r: str(r.frontend)),
    Column("address", "str", "", "address that is dialled", lambda r: r.address),
    Column("port", "int64", "", "port that is dialled", lambda r: r.port),
    Column("protocol", "str", "", "TCP, UDP or SCTP", lambda r: r.protocol),
    Column("family", "str", "", "IPv4 or IPv6", lambda r: r.family.label),
    Column("client", "str", "", "pod, node (a process there), external, peer (another node)", lambda r: str(r.client)),
    Column("node", "str", "", "where the packet comes in; of a pod and a process their own", lambda r: r.node),
    Column("dialled_node", "str", "", "node that has the dialled address; empty: no node has it as its own", lambda r: r.dialled_node),
    Column("in_rotation", "boolean", "", "the load balancer sends to the node; missing: none is between", lambda r: r.in_rotation),
    *map(_setting_column, Setting),
    Column("works", "float64", "", "probability that the client gets the answer that it waits for", lambda r: float(r.works)),
    Column("verdict", "str", "", "works, refused, request-lost, answer-lost, misdelivered, unknown; several with odds", lambda r: r.verdict),
    Column("why", "str", "", "why it does not work, of the likeliest such outcome", lambda r: r.why),
    Column("by", "str", "", "rule that refused or lost it; empty: none did", lambda r: r.by),
    Column("decided_at", "str", "", "node where that was decided; empty: it works", lambda r: r.decided_at),
    Column("assumed", "bool", "", "whether something listens there is not known", lambda r: r.assumed),
    Column("source_kept", "boolean", "", "every receiver sees the client's address; missing: there is no receiver", lambda r: r.source_kept),
    Column("reached", "int64", "endpoints", "endpoints that may get the request", lambda r: len(r.reached)),
    Column("endpoints", "str", "", "each of them with its odds, separated by semicolons", lambda r: r.endpoints),
    Column("largest_share", "float64", "", "odds of the likeliest endpoint; missing: there is none", lambda r: _number(r.largest_share)),
    Column("other_node", "float64", "", "part of what is received on another node; missing: nothing is", lambda r: _number(r.other_node)),
    Column("other_zone", "float64", "", "part of it in another zone; missing: a zone is not known", lambda r: _number(r.other_zone)),
    Column("same_again", "float64", "", "odds that the client's next connection goes to the same endpoint; missing: there is none", lambda r: _number(r.same_again)),
)  # fmt: skip


class Places:
    """Where endpoints are: their nodes and zones, by the cluster's Nodes and EndpointSlices."""

    def __init__(self, state: ClusterState, directory: Directory) -> None:
        self._directory = directory
        self._zones = {node.metadata.name: node.zone or "" for node in state.nodes}
        self._known: dict[Target, tuple[str, str, str]] = {}

    def zone(self, node: str) -> str:
        """The zone of a node; empty: it is not known."""
        return self._zones.get(node, "")

    def of(self, target: Target) -> tuple[str, str, str]:
        """``ip:port``, node and zone of an endpoint. Node and zone are empty if they are not known."""
        if target not in self._known:
            node = self._directory.node_of((target.family, target.address))
            self._known[target] = str(target), node, self.zone(node)
        return self._known[target]


def make_row(question: Question, outcomes: Outcomes, values: Mapping[Setting, str], places: Places) -> Row:
    """The row of an answered question."""
    family, address = question.frontend.address
    reached = _reached(outcomes, places)
    received = _sum([weight for outcome, weight in outcomes.items() if outcome.endpoint is not None])
    worst = max(
        (each for each in outcomes if each.verdict is not Verdict.WORKS), key=outcomes.__getitem__, default=None
    )
    kept = [not outcome.masquerade for outcome in outcomes if outcome.endpoint is not None]
    return Row(
        name_of(question.service), question.port.name, question.frontend.kind, format_ip(family, address),
        question.frontend.port, question.port.protocol, family, question.client, question.node, question.frontend.own, question.in_rotation,
        values, _verdicts(outcomes), "" if worst is None else worst.why, "" if worst is None else worst.by, "" if worst is None else worst.at,
        any(outcome.assumed for outcome in outcomes), all(kept) if kept else None, reached,
        _elsewhere([(each.node, each.odds) for each in reached], question.node, received),
        _elsewhere([(each.zone, each.odds) for each in reached], places.zone(question.node), received),
        _same_again(outcomes, reached, received),
    )  # fmt: skip


def _sum(odds: Sequence[Fraction]) -> Fraction:
    """Their sum. Equal ones, as of endpoints that are drawn among equals, are counted: adding fractions takes time."""
    first = odds[0] if odds else Fraction(0)
    if all(each is first or each == first for each in odds):
        return first * len(odds)
    return sum(odds, Fraction(0))


_WORKS: Mapping[Verdict, Fraction] = {Verdict.WORKS: Fraction(1)}


def _verdicts(outcomes: Outcomes) -> Mapping[Verdict, Fraction]:
    found: dict[Verdict, list[Fraction]] = {}
    for outcome, weight in outcomes.items():
        found.setdefault(outcome.verdict, []).append(weight)
    if len(found) == 1 and Verdict.WORKS in found:
        return _WORKS  # of nearly all rows, so they share it
    return {verdict: _sum(found[verdict]) for verdict in Verdict if verdict in found}


def _reached(outcomes: Outcomes, places: Places) -> tuple[Reached, ...]:
    found: dict[Target, Fraction] = {}
    for outcome, weight in outcomes.items():
        if (at := outcome.endpoint) is not None:
            found[at] = found[at] + weight if at in found else weight
    return tuple([Reached(*places.of(at), odds) for at, odds in found.items()])


def _elsewhere(found: Sequence[tuple[str, Fraction]], here: str, whole: Fraction) -> Fraction | None:
    """The part of the odds that is at other places; None if there is nothing, or if a place is not known."""
    if not whole or not here or not all(place for place, _ in found):
        return None
    return _sum([odds for place, odds in found if place != here]) / whole


def _same_again(outcomes: Outcomes, reached: Sequence[Reached], received: Fraction) -> Fraction | None:
    """Affinity keeps a client that it remembers; the next connection of any other is drawn as this one was."""
    kept = _sum([
        weight for outcome, weight in outcomes.items() if outcome.endpoint is not None and outcome.remembered
    ])  # fmt: skip
    if kept == received:
        return Fraction(1) if received else None
    if not kept:
        return drawn_again(reached)
    odds: dict[Target, Fraction] = {}
    for outcome, weight in outcomes.items():
        if outcome.endpoint is not None and not outcome.remembered:
            odds[outcome.endpoint] = odds.get(outcome.endpoint, Fraction(0)) + weight
    return (kept + sum((weight * weight for weight in odds.values()), Fraction(0))) / received


def drawn_again(reached: Sequence[Reached]) -> Fraction | None:
    """The odds that two connections that are drawn independently go to the same endpoint; None: there is none."""
    odds = [each.odds for each in reached]
    if odds and all(each is odds[0] or each == odds[0] for each in odds):
        return odds[0]
    return sum((each * each for each in odds), Fraction(0)) / received if (received := sum(odds, Fraction(0))) else None
