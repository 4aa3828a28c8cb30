"""``kpsim diff``."""

import enum
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import (
    AllowUnknownOption,
    AssumeNodeOption,
    BesideOption,
    ClusterCommand,
    EditOption,
    LongOption,
    NodePortRangeOption,
    path_given,
    way_out,
)
from kpsim.cli.printing import note
from kpsim.config import Mode
from kpsim.errors import InputError

if TYPE_CHECKING:
    from kpsim.comparison.behaviour.report import Report, Subject
    from kpsim.effort import Effort
    from kpsim.explore import Cluster


class DiffFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(
    cls=ClusterCommand,
    short_help="What two clusters, modes or rulesets do differently.",
    epilog="Examples: kpsim diff cluster.yaml --mode iptables --mode nftables; kpsim diff before/ after/; "
    "kpsim diff cluster.yaml --set service/shop/web.spec.externalTrafficPolicy=Local. "
    "Exit code 1: there is a difference that no --allow names.",
)
def diff(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="Manifests, a recording, or saved rules.", show_default=False, parser=path_given
        ),
    ],
    b: Annotated[
        Path | None,
        typer.Argument(
            metavar="[B]", help="The other; without it, A in another way.", show_default=False, parser=path_given
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            metavar="[NODE=]MODE",
            help="Proxy mode; given twice, that of A and that of B. With NODE, the mode of one node in B.",
            show_default=False,
        ),
    ] = None,
    set_: EditOption = None,
    syncs: Annotated[
        str,
        typer.Option(
            "--syncs", metavar="I,J", help="Of one recording: its state after these two syncs.", show_default=False
        ),
    ] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="REASON|SERVICE",
            help="A reason's code, NAMESPACE/NAME or NAMESPACE/NAME:PORT whose differences are expected. May be repeated.",
            show_default=False,
        ),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service", metavar="NAMESPACE/NAME", help="Compare only packets for this Service. May be repeated."
        ),
    ] = None,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="How the text of rules, ipsets and virtual servers differs, instead of packets."),
    ] = False,
    node_ip: Annotated[
        list[str] | None,
        typer.Option("--node-ip", metavar="IP", help="Of saved rules: the machine's addresses.", show_default=False),
    ] = None,
    pod_cidr: Annotated[
        list[str] | None,
        typer.Option("--pod-cidr", metavar="CIDR", help="Of saved rules: its pods' networks.", show_default=False),
    ] = None,
    beside: BesideOption = None,
    allow_unknown: AllowUnknownOption = False,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    long: LongOption = False,
    format: Annotated[DiffFormat, typer.Option("--format", help="How to print.")] = DiffFormat.TEXT,
) -> None:
    """Compare what becomes of every first packet: of all clients, addresses, ports and protocols, at all nodes."""
    asked = _Asked(
        a, b, tuple(mode or ()), tuple(set_ or ()), syncs, tuple(beside or ()), allow_unknown, assume_node,
        service_node_port_range, tuple(node_ip or ()), tuple(pod_cidr or ()),
    )  # fmt: skip
    with way_out():
        first, second = _subjects(asked)
    _check_allowed(allow or [], first, second)
    if rules:
        if service:
            note("--service without effect beside --rules: the text of all rules is compared")
        _print_rules(first, second, format)
        return
    from kpsim.bulk import without_collector
    from kpsim.cli.progress import count_bar
    from kpsim.comparison.behaviour.report import report
    from kpsim.effort import permit

    permit(effort(first, second, service or ()), long=long, note=note)
    with without_collector(), count_bar("comparing") as progress:
        found = report(first, second, progress, services=frozenset(service or ()))
    _print(found.without(frozenset(allow or ())), format)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is compared, as it was typed."""

    a: Path
    b: Path | None
    modes: tuple[str, ...]
    edits: tuple[str, ...]
    syncs: str
    beside: tuple[str, ...]
    allow_unknown: bool
    assume_node: str | None
    port_range: str
    node_ips: tuple[str, ...]
    pod_cidrs: tuple[str, ...]

    def modes_of_clusters(self) -> tuple[Mode | None, Mode | None, dict[str, Mode]]:
        """The mode of A, that of B, and those of single nodes in B."""
        whole = [_mode(text) for text in self.modes if "=" not in text]
        if len(whole) > 2:
            raise InputError("--mode: there are two sides, so at most two modes of whole clusters")
        single = dict(text.split("=", 1) for text in self.modes if "=" in text)
        first = whole[0] if whole else None
        return first, whole[-1] if whole else None, {node: _mode(text) for node, text in single.items()}


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise InputError(f"--mode {text}: there are {', '.join(Mode)}") from None


# --- what is compared ---------------------------------------------------------------------------------------------------


def _subjects(asked: _Asked) -> "tuple[Subject, Subject]":
    saved = [_is_saved_rules(path) for path in (asked.a, asked.b) if path is not None]
    if any(saved):
        if not all(saved) or asked.b is None:
            raise InputError("saved rules are compared with saved rules: give two files")
        if asked.modes or asked.edits or asked.syncs or asked.beside or asked.assume_node is not None:
            raise InputError(
                "--mode, --set, --syncs, --beside and --assume-node go with clusters, not with saved rules"
            )
        return _saved(asked.a, asked), _saved(asked.b, asked)
    if asked.node_ips or asked.pod_cidrs:
        raise InputError("--node-ip and --pod-cidr go with saved rules")
    if asked.syncs:
        return _syncs(asked)
    mode_a, mode_b, of_nodes = asked.modes_of_clusters()
    if asked.b is None and not asked.edits and mode_a == mode_b and not of_nodes:
        raise InputError("nothing to compare: give B, two modes, a mode of one node, --set, or --syncs of a recording")
    text = _standard_input(asked)
    first = _cluster(asked.a, asked, mode_a, (), text)
    second = _cluster(asked.b or asked.a, asked, mode_b, asked.edits, text)
    for node, mode in of_nodes.items():
        second = _with_node_mode(second, node, mode)
    names = _names(asked, first, second)
    from kpsim.comparison.behaviour.report import Subject

    return Subject.of(first, names[0]), Subject.of(second, names[1])


def _standard_input(asked: _Asked) -> str | None:
    """The text of standard input, which can be read only once, though both sides may be made of it."""
    from kpsim.inputs import read_text

    if "-" not in (str(asked.a), str(asked.b)):
        return None
    if str(asked.a) == str(asked.b):
        raise InputError("A and B are both standard input")
    return read_text("-")


def _cluster(path: Path, asked: _Asked, mode: Mode | None, edits: Sequence[str], text: str | None) -> "Cluster":
    from kpsim.explore import load

    loaded = load(
        path,
        text=text if str(path) == "-" else None,
        mode=mode,
        beside=asked.beside,
        unknown="keep" if asked.allow_unknown else "refuse",
        assume_node=asked.assume_node,
        service_node_port_range=asked.port_range,
        edits=edits,
    )
    loaded.print_notes(note)
    return loaded


def _with_node_mode(cluster: "Cluster", node: str, mode: Mode) -> "Cluster":
    from kpsim.config import config_from_json

    return cluster.with_config(config_from_json(cluster.document, mode=mode), node)


def _names(asked: _Asked, first: "Cluster", second: "Cluster") -> tuple[str, str]:
    """How the two sides are called: by what tells them apart."""
    a, b = str(asked.a), str(asked.b or asked.a)
    if first.config.mode is not second.config.mode or asked.modes:
        a, b = f"{a}, mode {first.config.mode}", f"{b}, mode {second.config.mode}"
    several = [f"{text.split('=')[1]} on {text.split('=')[0]}" for text in asked.modes if "=" in text]
    return a, ", ".join([b, *several, *asked.edits])


def _syncs(asked: _Asked) -> "tuple[Subject, Subject]":
    from kpsim.comparison.behaviour.report import Subject
    from kpsim.explore.loading import recording_after

    if asked.b is not None or asked.edits or asked.modes:
        raise InputError("--syncs compares two moments of one recording: it goes without B, --mode and --set")
    parts = asked.syncs.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--syncs {asked.syncs}: expected two numbers of syncs, such as 0,3")
    first, second = (recording_after(asked.a, int(part)) for part in parts)
    return Subject.of(first, f"{asked.a}, sync {parts[0]}"), Subject.of(second, f"{asked.a}, sync {parts[1]}")


def _is_saved_rules(path: Path) -> bool:
    from kpsim.explore.saved import is_saved_rules

    return is_saved_rules(path)


def _saved(path: Path, asked: _Asked) -> "Subject":
    from kpsim.addresses import Family
    from kpsim.comparison.behaviour.differences import Side
    from kpsim.comparison.behaviour.report import Subject
    from kpsim.explore.saved import read_machine
    from kpsim.explore.site import rules_site
    from kpsim.replay import START_NS

    programmed = read_machine([path], None, Family.IPV4, unknown="keep" if asked.allow_unknown else "refuse")
    site = rules_site(*programmed, node_ips=asked.node_ips, pod_cidrs=asked.pod_cidrs)
    return Subject(Side(site, tuple(each.family for each in programmed), START_NS), str(path))


# --- what is printed ----------------------------------------------------------------------------------------------------


#: what costs at one node (measured): a frontend, a kind of Services for each node that packets may go on to, and the
#: packets to no Service, which are followed at a few nodes if nodes stand for each other
_FRONTEND_S, _KIND_S, _REST_S = 0.003, 0.06, 2.5


def effort(first: "Subject", second: "Subject", services: Collection[str] = ()) -> "Effort":
    """How long the comparison will take about; of some ``services`` alone."""
    from kpsim.comparison.behaviour.components import kinds
    from kpsim.comparison.behaviour.frontends import Frontends
    from kpsim.comparison.behaviour.narrowing import SECONDS, entangled
    from kpsim.effort import Effort

    states = first.state, second.state
    frontends, nodes = Frontends(states).count, max(1, len(first.side.site.node_names))
    whole = 0.0 if services else _REST_S * len(first.side.families) + _FRONTEND_S * frontends
    of_kinds = _KIND_S * min(kinds(states), len(services) or frontends) * nodes
    each = whole + of_kinds + SECONDS * len(entangled(states, services)) * nodes
    return Effort(nodes * each, f"{frontends:,} frontends of Services at {nodes:,} nodes, on both sides")


def _check_allowed(allowed: list[str], first: "Subject", second: "Subject") -> None:
    """Raise an InputError for a name that is no Service's and no reason's."""
    from kpsim.comparison.behaviour.frontends import Frontends
    from kpsim.comparison.behaviour.reasons import codes

    services = Frontends((first.state, second.state)).names
    for name in allowed:
        if name not in codes() and name not in services:
            raise InputError(f"--allow {name}: no Service of this name, and no reason; there is {', '.join(codes())}")


def _print(found: "Report", format: DiffFormat) -> None:
    from kpsim.comparison.behaviour.words import lines, markdown

    if format is DiffFormat.JSON:
        for text in _json(found):
            typer.echo(text)
    else:
        for line in lines(found) if format is DiffFormat.TEXT else markdown(found):
            typer.echo(line)
    if found.records:
        raise typer.Exit(1)


def _json(found: "Report") -> Iterator[str]:
    """The report as JSON, record by record: a large cluster has some 100,000, each with two answers."""
    if not found.records:
        yield json.dumps(found.to_json(), indent=1)
        return
    yield f'{{\n "classes": {found.classes},\n "differences": ['
    for number, record in enumerate(found.records, 1):
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False).replace("\n", "\n  ")
        yield f"  {text}{',' if number < len(found.records) else ''}"
    yield " ]\n}"


def _print_rules(first: "Subject", second: "Subject", format: DiffFormat) -> None:
    from kpsim.comparison.behaviour.texts import rule_differences

    found = list(rule_differences(first, second))
    if format is DiffFormat.JSON:
        typer.echo(json.dumps([chain.to_json() for chain in found], indent=1, ensure_ascii=False))
    else:
        for chain in found:
            typer.echo("\n".join(chain.lines(fenced=format is DiffFormat.MARKDOWN)))
    if found:
        raise typer.Exit(1)
