"""``kpsim survey``."""

import enum
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_node, complete_service
from kpsim.cli.options import (
    AllowUnknownOption,
    AssumeNodeOption,
    BesideOption,
    ClusterArgument,
    ClusterCommand,
    DeriveSlicesOption,
    EditOption,
    LongOption,
    ModeOption,
    NodePortRangeOption,
    SysctlOption,
    path_given,
    way_out,
)
from kpsim.cli.printing import console, go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.surveys import Requirement, Survey

_MOST_SHOWN = 10  #: rows that break a requirement


class SurveyFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    PARQUET = "parquet"


class FrontendName(enum.StrEnum):
    """The values of ``--frontend``."""

    CLUSTER_IP = "clusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "loadBalancer"
    NODE_PORT = "nodePort"


class ClientName(enum.StrEnum):
    """The values of ``--client``."""

    POD = "pod"
    NODE = "node"
    EXTERNAL = "external"
    PEER = "peer"


_SUFFIXES = {
    ".html": SurveyFormat.HTML, ".htm": SurveyFormat.HTML, ".csv": SurveyFormat.CSV, ".json": SurveyFormat.JSON,
    ".parquet": SurveyFormat.PARQUET, ".txt": SurveyFormat.TEXT,
}  # fmt: skip


def complete_setting(incomplete: str) -> list[str]:
    """Return the settings that a list may go on with."""
    from kpsim.surveys.settings import Setting

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in Setting if name.startswith(last) and name not in before.split(",")]


@app.command(
    cls=ClusterCommand,
    short_help="Dial every Service from everywhere, under every policy.",
    epilog="Examples: kpsim survey cluster.yaml. kpsim survey cluster.yaml --service shop/web --vary externalTrafficPolicy,mode "
    "--out matrix.html. kpsim survey cluster.yaml --client external --require works==1. "
    "Exit code 1: a row breaks a requirement.",
)
def survey(
    context: typer.Context,
    cluster: ClusterArgument,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAMESPACE/NAME[:PORT]",
            help="Only this Service, or this port of it. May be repeated.",
            show_default=False,
            autocompletion=complete_service,
        ),
    ] = None,
    vary: Annotated[
        str,
        typer.Option(
            "--vary",
            metavar="SETTING,…",
            help="Ask under every value of these: externalTrafficPolicy, internalTrafficPolicy, trafficDistribution, sessionAffinity, mode.",
            show_default=False,
            autocompletion=complete_setting,
        ),
    ] = "",
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="NAME",
            help="Only packets that come in at this node. May be repeated.",
            show_default=False,
            autocompletion=complete_node,
        ),
    ] = None,
    client: Annotated[
        list[ClientName] | None,
        typer.Option("--client", help="Only clients of this kind. May be repeated.", show_default=False),
    ] = None,
    frontend: Annotated[
        list[FrontendName] | None,
        typer.Option("--frontend", help="Only frontends of this kind. May be repeated.", show_default=False),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="CONDITION",
            help="What every row must satisfy, such as works==1 or source_kept==true. May be repeated.",
            show_default=False,
        ),
    ] = None,
    mode: ModeOption = None,
    beside: BesideOption = None,
    allow_unknown: AllowUnknownOption = False,
    sysctl: SysctlOption = None,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    set_: EditOption = None,
    derive_slices: DeriveSlicesOption = False,
    long: LongOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result here.", parser=path_given)
    ] = None,
    format: Annotated[
        SurveyFormat | None,
        typer.Option(
            "--format",
            help="What the result is written as; otherwise the name of --out says it, or it is text.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Dial every frontend of every Service from every kind of client at every node, and say what becomes of it."""
    from kpsim.cli.progress import count_bar
    from kpsim.cli.unused import notes
    from kpsim.explore import load
    from kpsim.outputs import check_file, write_file
    from kpsim.surveys import parse_requirement
    from kpsim.surveys import survey as ask
    from kpsim.sysctls import assignments

    for text in notes(context):
        note(text)
    requirements = [parse_requirement(text) for text in require or ()]
    chosen = format or (_SUFFIXES.get(out.suffix.lower()) if out is not None else None) or SurveyFormat.TEXT
    if out is not None:
        check_file(out)
        go_on_without_reader()
    elif chosen is SurveyFormat.PARQUET:
        raise InputError("--format parquet goes with --out FILE")
    with way_out():
        loaded = load(
            cluster,
            mode=mode,
            beside=beside or (),
            sysctls=assignments(sysctl or ()),
            assume_node=assume_node,
            service_node_port_range=service_node_port_range,
            unknown="keep" if allow_unknown else "refuse",
            derive_slices=derive_slices,
            edits=set_ or (),
        )
    loaded.print_notes(note)
    with count_bar("asking") as progress:
        found = ask(
            loaded, services=service or (), vary=vary, nodes=node or (), clients=client or (), frontends=frontend or (),
            progress=progress, long=long, note=note, name=_name(cluster),
        )  # fmt: skip
    for text in found.notes:
        note(text)
    if out is None:
        _print(found, chosen)
    else:
        write_file(out, _written(found, chosen))
        typer.echo(printable(f"{len(found.rows):,} rows written to {out}"), err=True)
    if requirements and not _hold(found, requirements):
        sys.exit(1)


def _name(paths: list[Path]) -> str:
    first = "standard input" if str(paths[0]) == "-" else paths[0].name
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"


def _print(found: "Survey", format: SurveyFormat) -> None:
    terminal = console()
    if format is SurveyFormat.TEXT and terminal is not None:
        from kpsim.surveys.writing import print_grids

        print_grids(found.head, found.grids, terminal)
        return
    text = _written(found, format)
    assert isinstance(text, str)
    typer.echo(text, nl=False)


def _written(found: "Survey", format: SurveyFormat) -> str | bytes:
    match format:
        case SurveyFormat.TEXT:
            return found.text()
        case SurveyFormat.JSON:
            return json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"
        case SurveyFormat.CSV:
            return found.to_csv()
        case SurveyFormat.HTML:
            return found.to_html()
        case SurveyFormat.PARQUET:
            return found.to_parquet()


def _hold(found: "Survey", requirements: "list[Requirement]") -> bool:
    """Say on stderr which rows break a requirement."""
    from kpsim.surveys import failing

    broken = failing(found.rows, requirements)
    for requirement, row in broken[:_MOST_SHOWN]:
        typer.echo(printable(f"{requirement.text} fails: {row}"), err=True)
    if len(broken) > _MOST_SHOWN:
        typer.echo(f"… and {len(broken) - _MOST_SHOWN:,} more rows", err=True)
    return not broken
