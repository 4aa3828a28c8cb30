"""``kpsim scenario init``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_service_name, complete_workload
from kpsim.cli.options import ClusterArgument, ClusterCommand, Format, FormatOption, ModeOption, path_given
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kpsim.config import Mode
    from kpsim.drafting import Draft

scenario = typer.Typer(
    help="Draft a scenario file from a cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(scenario, name="scenario")


def noted_draft(files: "Sequence[Path]", *services: str, rollout: str = "", mode: "Mode | None" = None) -> "Draft":
    """Draft the scenario of a cluster's files, and print what was read, taken, guessed and left out."""
    from kpsim.explore import load
    from kpsim.inputs import shown_name
    from kpsim.manifests.kinds import MAKERS_NOTE

    cluster = load(files, mode=mode)

    for words in cluster.notes:
        if not words.startswith(MAKERS_NOTE):  # a draft does read them
            note(words)
    try:
        drafted = cluster.scenario(*services, rollout=rollout)
    except InputError as error:
        where = ", ".join(map(shown_name, files))
        raise InputError([each if each.file else replace(each, file=where) for each in error.problems]) from None
    for words in drafted.notes:
        note(words)
    return drafted


@scenario.callback()
def _group() -> None:
    """Draft a scenario file from a cluster."""


@scenario.command(
    cls=ClusterCommand,
    short_help="Draft a scenario from a cluster's objects.",
    epilog="Example: kubectl get nodes,svc,endpointslices,pods,deploy,sts,ds -A -o yaml | kpsim scenario init - > mine.yaml",
)
def init(
    cluster: ClusterArgument,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAMESPACE/NAME",
            help="Draft only this Service and the workloads behind it. May be repeated.",
            show_default=False,
            autocompletion=complete_service_name,
        ),
    ] = None,
    rollout: Annotated[
        str,
        typer.Option(
            "--rollout",
            metavar="NAMESPACE/NAME",
            help="Roll out this workload, or those behind this Service, and send traffic only there.",
            show_default=False,
            autocompletion=complete_workload,
        ),
    ] = "",
    mode: ModeOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the scenario here.", parser=path_given)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --out: replace a file that is there.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Draft a scenario from a cluster: its nodes, Services, workloads and kube-proxy's configuration.

    CLUSTER is what kubectl get -o yaml prints, and kube-proxy's ConfigMap. The draft runs as it is; what the objects do not tell is
    marked TODO. Standard error says what was taken, guessed and left out. --format json writes it without comments.
    """
    import json

    from kpsim.outputs import check_file, write_file
    from kpsim.scenario import parse_scenario

    if out is not None:
        check_file(out)
        if out.exists() and not force:
            raise InputError(f"{out} is there already: --force replaces it")
        go_on_without_reader()
    drafted = noted_draft(cluster, *(service or ()), rollout=rollout, mode=mode)
    parse_scenario(json.dumps(drafted.content), "the draft")  # what it holds has to run
    if format is Format.JSON:
        text = json.dumps(drafted.content, indent=2, ensure_ascii=False) + "\n"
    else:
        text = drafted.text
    marks = drafted.todos
    if marks:
        note(f"{marks:,} values are marked TODO; kpsim run {'FILE' if out is None else out} runs the scenario as it is")
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_file(out, text)
        typer.echo(printable(f"written to {out}"), err=True)
