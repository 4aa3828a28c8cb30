"""``kpsim rules``."""

from typing import Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import (
    AllowUnknownOption,
    AssumeNodeOption,
    BesideOption,
    ClusterArgument,
    ClusterCommand,
    DeriveSlicesOption,
    EditOption,
    FamilyName,
    ModeOption,
    NodePortRangeOption,
    way_out,
)
from kpsim.cli.printing import note


@app.command(
    cls=ClusterCommand,
    short_help="Print a node's rules as iptables-save or nft would.",
    epilog="Example: kpsim rules cluster.yaml --node node-1 --family ipv4",
)
def rules(
    context: typer.Context,
    cluster: ClusterArgument,
    node: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="NAME",
            help="The node whose rules to print; the one of hostnameOverride if it is configured.",
            show_default=False,
        ),
    ] = "",
    mode: ModeOption = None,
    beside: BesideOption = None,
    allow_unknown: AllowUnknownOption = False,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    set_: EditOption = None,
    derive_slices: DeriveSlicesOption = False,
    family: Annotated[FamilyName | None, typer.Option("--family", help="One IP family only; otherwise both.")] = None,
) -> None:
    """Print a node's whole ruleset as the mode's own tool would save it."""
    from kpsim.cli.unused import notes
    from kpsim.explore import load

    for text in notes(context):
        note(text)
    with way_out():
        loaded = load(
            cluster,
            mode=mode,
            beside=beside or (),
            assume_node=assume_node,
            service_node_port_range=service_node_port_range,
            unknown="keep" if allow_unknown else "refuse",
            derive_slices=derive_slices,
            edits=set_ or (),
        )
    loaded.print_notes(note)
    typer.echo(
        loaded.rules(node or loaded.default_node(assume_node), family=family.family if family else None), nl=False
    )
