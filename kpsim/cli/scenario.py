"""``kpsim scenario init``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_service_name, complete_workload
from kpsim.cli.options import ClusterArgument, ClusterCommand, Format, FormatOption, ModeOption, path_given
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.drafting import Draft
    from kpsim.explore import Cluster

scenario = typer.Typer(
    help="Draft a scenario file from a cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(scenario, name="scenario")


def noted_draft(cluster: "Cluster", *services: str, rollout: str = "") -> "Draft":
    """Draft the scenario of a cluster, and print what was read, taken, guessed and left out."""
    from kpsim.manifests.kinds import MAKERS_NOTE

    for words in cluster.notes:
        if not words.startswith(MAKERS_NOTE):  # a draft does read them
            note(words)
    drafted = cluster.scenario(*services, rollout=rollout)
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

    from kpsim.explore import load
    from kpsim.outputs import check_file, write_file

    if out is not None:
        check_file(out)
        if out.exists() and not force:
            raise InputError(f"{out} is there already: --force replaces it")
        go_on_without_reader()
    loaded = load(cluster, mode=mode)
    drafted = noted_draft(loaded, *(service or ()), rollout=rollout)
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
