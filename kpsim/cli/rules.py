"""``kpsim rules``."""

from typing import Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import BesideOption, ClusterArgument, FamilyName, ModeOption
from kpsim.cli.printing import note


@app.command(
    short_help="Print a node's rules as iptables-save would.",
    epilog="Example: kpsim rules cluster.yaml --node node-1 --family ipv4",
)
def rules(
    cluster: ClusterArgument,
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="The node whose rules to print.", show_default=False)
    ],
    mode: ModeOption = None,
    beside: BesideOption = None,
    family: Annotated[FamilyName | None, typer.Option("--family", help="One IP family only; otherwise both.")] = None,
) -> None:
    """Print a node's whole ruleset as the mode's own tool would save it."""
    from kpsim.explore import load

    loaded = load(cluster, mode=mode, beside=beside or ())
    loaded.print_notes(note)
    typer.echo(loaded.rules(node, family=family.family if family else None), nl=False)
