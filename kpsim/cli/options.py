"""Options and arguments that several commands share."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kpsim.addresses import Family
from kpsim.cli.words import Command
from kpsim.config import Mode
from kpsim.errors import InputError, Problem, UnsupportedRule


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


def complete_preset(incomplete: str) -> list[str]:
    """Return the load balancers that begin so."""
    from kpsim.scenario.load_balancer_schema import Preset

    return [each for each in Preset if each.startswith(incomplete)]


FormatOption = Annotated[Format, typer.Option("--format", help="Text for people or JSON for programs.")]
ModeOption = Annotated[Mode | None, typer.Option("--mode", help="Proxy mode, whatever is configured.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        help="Processes that compute; by default one for each processor.",
        show_default=False,
    ),
]
LoadBalancerOption = Annotated[
    str,
    typer.Option(
        "--load-balancer",
        metavar="PRESET",
        help="How load balancers probe nodes, by a name of kpsim schema --presets; otherwise every 5 s, and two failures count.",
        show_default=False,
        autocompletion=complete_preset,
    ),
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="[NODE=]FILE",
        help="Rules that the nodes, or one NODE, had before kube-proxy started: iptables-save, nft list ruleset. May be repeated.",
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
AssumeNodeOption = Annotated[
    str | None,
    typer.Option(
        "--assume-node",
        metavar="[NAME]",
        help="Make a Node of this name, if the manifests have none; without NAME the first that endpoints name.",
        show_default=False,
    ),
]
NodePortRangeOption = Annotated[
    str,
    typer.Option(
        "--service-node-port-range",
        metavar="FROM-TO",
        help="The API server's option: node ports outside are refused. Otherwise any is taken, with a note.",
        show_default=False,
    ),
]
EditOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OBJECT.PATH=VALUE",
        help="Edit an object: service/shop/web.spec.externalTrafficPolicy=Local; null removes. May be repeated.",
        show_default=False,
    ),
]
DeriveSlicesOption = Annotated[
    bool,
    typer.Option(
        "--derive-slices", help="Write EndpointSlices again, where Services, Pods or Nodes were edited in the files."
    ),
]
LongOption = Annotated[bool, typer.Option("--long", help="Begin also what will take hours, by the estimate.")]
WALKED = "--walk-all: every packet of short connections is walked; only the time that it takes is another"
WalkAllOption = Annotated[
    bool,
    typer.Option(
        "--walk-all",
        help="Walk every packet of short connections, in place of letting them go as others went: slower, and nothing else changes.",
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


AllowUnknownOption = Annotated[
    bool, typer.Option("--allow-unknown", help="With --beside: keep rules that are not modelled.")
]


@contextmanager
def way_out() -> Iterator[None]:
    """Adds to an error about rules that are not modelled which option keeps them."""
    try:
        yield
    except UnsupportedRule as error:
        words = Problem("--allow-unknown keeps such rules; packets whose end depends on one end unknown")
        raise InputError([*error.problems, words]) from error


class ClusterCommand(Command):
    """A command that loads a cluster. Its ``--assume-node`` may stand without a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        completed = []
        for number, word in enumerate(args):
            completed.append(word)
            if word == "--assume-node":
                following = args[number + 1] if number + 1 < len(args) else "-"
                if following.startswith("-") or Path(following).exists():
                    completed[-1] = "--assume-node="
        return super().parse_args(ctx, completed)


def complete_mode(incomplete: str) -> list[str]:
    """Return the modes that begin so."""
    return [each for each in Mode if each.startswith(incomplete)]


def complete_scenario(incomplete: str) -> list[str]:
    """Return the scenario names that begin so. If there are none, shells offer files."""
    from kpsim.scenarios import scenario_names

    return [name for name in scenario_names() if name.startswith(incomplete)]
