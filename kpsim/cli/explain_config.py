"""``kpsim explain-config``."""

import enum
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_node_of_config
from kpsim.cli.options import FamilyName, ModeOption, SysctlOption, path_given
from kpsim.cli.printing import console, note, plain_console


class AccountFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(
    name="explain-config",
    short_help="Say what kube-proxy does at its start with a configuration.",
    epilog="Examples: kpsim explain-config kube-proxy.yaml --cores 8. kpsim explain-config configmap.yaml nodes.yaml --node node-1 --all. "
    "echo --proxy-mode=ipvs --ipvs-scheduler=lc | kpsim explain-config -. "
    "Exit code 1: kube-proxy would not start, or something that is asked for has no effect.",
)
def explain_config(
    context: typer.Context,
    config: Annotated[
        list[Path],
        typer.Argument(
            metavar="KUBEPROXYCONFIG",
            help="A KubeProxyConfiguration, the ConfigMap with it, the DaemonSet or systemd unit that starts kube-proxy, a file of flags; and "
            "Nodes beside it (files, directories, - for standard input).",
            show_default=False,
            parser=path_given,
        ),
    ],
    node: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="NAME",
            help="The node on which it starts; otherwise the first, and what differs on the others.",
            show_default=False,
            autocompletion=complete_node_of_config,
        ),
    ] = "",
    mode: ModeOption = None,
    cores: Annotated[
        int | None,
        typer.Option(
            "--cores",
            metavar="N",
            min=1,
            max=1 << 20,
            help="Processors of the machine, whatever its Node says; 4 if nobody does.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="QUANTITY",
            help="Memory of the machine, such as 16Gi, whatever its Node says.",
            show_default=False,
        ),
    ] = "",
    sysctl: SysctlOption = None,
    family: Annotated[
        FamilyName | None,
        typer.Option("--family", help="The only IP family that the machine supports; otherwise both."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Explain every setting, those at their defaults too.")] = False,
    format: Annotated[
        AccountFormat, typer.Option("--format", help="What the account is written as.")
    ] = AccountFormat.TEXT,
) -> None:
    """Say what kube-proxy does at its start with a configuration: to the machine, step by step, and setting by setting.

    For each setting: the value in force, where it comes from, what it does in this mode, what it costs or risks, with the section of
    docs/specification. Nothing is started.
    """
    from kpsim.cli.unused import note_unused, was_given
    from kpsim.startup import explain_config as explained
    from kpsim.startup.explaining import WIDTH
    from kpsim.sysctls import assignments

    for option in ("node", "memory"):
        if not context.params[option] and was_given(context, option):
            raise typer.BadParameter("expected a value, got nothing", param_hint=f"--{option}")
    note_unused(context, whole=format is not AccountFormat.TEXT)
    only = None if family is None else family.family
    found = explained(
        config, node=node, mode=mode, cores=cores, memory=memory, sysctls=assignments(sysctl or ()), family=only
    )
    for words in found.notes:
        note(words)
    match format:
        case AccountFormat.TEXT:
            found.print(console() or plain_console(WIDTH), everything=all_)
        case AccountFormat.JSON:
            typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
        case AccountFormat.MARKDOWN:
            typer.echo(found.markdown(), nl=False)
    if not found.holds:
        sys.exit(1)
