"""``kpsim migrate``."""

import enum
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import (
    AllowUnknownOption,
    AssumeNodeOption,
    BesideOption,
    ClusterArgument,
    ClusterCommand,
    LongOption,
    NodePortRangeOption,
    SysctlOption,
    path_given,
    way_out,
)
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.config import Mode
from kpsim.errors import printable

if TYPE_CHECKING:
    from kpsim.migration.report import MigrationReport


class PageFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"


_SUFFIXES = {
    ".md": PageFormat.MARKDOWN,
    ".markdown": PageFormat.MARKDOWN,
    ".html": PageFormat.HTML,
    ".htm": PageFormat.HTML,
    ".json": PageFormat.JSON,
}


@app.command(
    cls=ClusterCommand,
    short_help="Say what another proxy mode would change, on one page.",
    epilog="Example: kpsim migrate cluster.yaml --to nftables --beside node-1.rules --out migration.html",
)
def migrate(
    context: typer.Context,
    cluster: ClusterArgument,
    to: Annotated[Mode, typer.Option("--to", metavar="MODE", help="The mode to change to.", show_default=False)],
    from_: Annotated[
        Mode | None,
        typer.Option("--from", metavar="MODE", help="The mode that runs today, whatever is configured."),
    ] = None,
    beside: BesideOption = None,
    allow_unknown: AllowUnknownOption = False,
    sysctl: SysctlOption = None,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    long: LongOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the page here.", parser=path_given)
    ] = None,
    format: Annotated[
        PageFormat | None,
        typer.Option(
            "--format",
            help="What the page is written as; otherwise the name of --out says it, or it is text.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare two proxy modes for one cluster: Services, nodes, programs beside kube-proxy, costs, configuration.

    Exit code 1 if something that works today stops working.
    """
    from kpsim.bulk import without_collector
    from kpsim.cli.diff import effort
    from kpsim.cli.progress import count_bar
    from kpsim.cli.unused import notes
    from kpsim.comparison.behaviour.report import Subject
    from kpsim.effort import permit
    from kpsim.explore import load
    from kpsim.migration.report import migrate as assess
    from kpsim.outputs import check_file, write_file
    from kpsim.sysctls import assignments

    for text in notes(context):
        note(text)
    if out is not None:
        check_file(out)
        go_on_without_reader()
    with way_out():
        loaded = load(
            cluster,
            mode=from_,
            beside=beside or (),
            sysctls=assignments(sysctl or ()),
            assume_node=assume_node,
            service_node_port_range=service_node_port_range,
            unknown="keep" if allow_unknown else "refuse",
        )
    loaded.print_notes(note)
    as_it_is = Subject.of(loaded)
    permit(effort(as_it_is, as_it_is), long=long, note=note)
    with without_collector(), count_bar("comparing") as progress:
        report = assess(loaded, to, progress=progress)
    chosen = format or (_SUFFIXES.get(out.suffix.lower()) if out is not None else None) or PageFormat.TEXT
    page = _written(report, chosen)
    if out is None:
        typer.echo(page, nl=False)
    else:
        write_file(out, page)
        typer.echo(printable(f"written to {out}"), err=True)
    if report.breaks:
        sys.exit(1)


def _written(report: "MigrationReport", format: PageFormat) -> str:
    match format:
        case PageFormat.TEXT:
            return report.text()
        case PageFormat.MARKDOWN:
            return report.markdown()
        case PageFormat.HTML:
            return report.html()
        case PageFormat.JSON:
            return json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
