"""Options and arguments that several commands share."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from kpsim.addresses import Family
from kpsim.config import Mode


def path_given(text: str) -> Path:
    """Read a path. An empty one would be the current directory, which nobody means."""
    if not text:
        raise typer.BadParameter("an empty path")
    if "\0" in text:
        raise typer.BadParameter("a path with a NUL character")
    return Path(text)


class Format(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"


class FamilyName(enum.StrEnum):
    """The values of ``--family``."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def family(self) -> Family:
        return Family.IPV4 if self is FamilyName.IPV4 else Family.IPV6


FormatOption = Annotated[Format, typer.Option("--format", help="Text for people or JSON for programs.")]
ModeOption = Annotated[
    Mode | None, typer.Option("--mode", help="Proxy mode, whatever is configured; so far only iptables is modelled.")
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="[NODE=]FILE",
        help="Rules that the nodes, or one NODE, had before kube-proxy started: iptables-save output. May be repeated.",
        show_default=False,
    ),
]
SysctlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sysctl",
        metavar="NAME=VALUE",
        help="A kernel setting of the nodes, such as net.netfilter.nf_conntrack_udp_timeout=10. May be repeated.",
        show_default=False,
    ),
]
ClusterArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="CLUSTER",
        help="Manifests (YAML or JSON files, directories, - for standard input) or one recording.",
        show_default=False,
        parser=path_given,
    ),
]


def complete_scenario(incomplete: str) -> list[str]:
    """Return the scenario names that begin so. If there are none, shells offer files."""
    from kpsim.scenarios import scenario_names

    return [name for name in scenario_names() if name.startswith(incomplete)]
