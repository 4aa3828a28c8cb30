"""``kpsim calibrate``."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import Format, FormatOption, path_given
from kpsim.cli.printing import console, note
from kpsim.errors import InputError

if TYPE_CHECKING:
    from kpsim.calibration.clusters import Size

_SIZES = "100x2,100x10,400x2,1000x2,400x10,2000x2"
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,4}))?", re.ASCII)
_MOST_OBJECTS = 500_000  #: endpoints of a cluster and its Services: a few minutes to make the rules alone


@app.command(
    short_help="Measure what kube-proxy's tools cost on this machine.",
    epilog="Examples: sudo kpsim calibrate --out costs.yaml. kpsim calibrate --seconds 20 --sizes 50x2,200x2. "
    "Then: kpsim run scenario.yaml --set delays.sync.costs=costs.yaml",
)
def calibrate(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the costs here, for scenarios to name.", parser=path_given),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="N[xM],…", help="Clusters of N Services with M endpoints each (2).")
    ] = _SIZES,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", metavar="S", help="Leave out clusters that would not end within this time.", min=1, max=3600
        ),
    ] = 120.0,
    format: FormatOption = Format.TEXT,
) -> None:
    """Load kpsim's rules for clusters of several sizes into this kernel, in network namespaces of its own, and fit prices.

    It measures iptables-restore in both variants, nft, ipset, and ip_vs where the kernel has it: full syncs, full syncs over the same,
    partial syncs, deletions and listings. What kube-proxy's own process takes is not measured. Needs root, or a kernel that grants users
    namespaces. Exit code 3 if nothing could be measured.
    """
    asked = _sizes(sizes)
    from kpsim.calibration.measuring import measure
    from kpsim.calibration.writing import costs_json, costs_text, lines
    from kpsim.lab.requirements import require_namespaces
    from kpsim.lab.rootless import become_root
    from kpsim.outputs import check_file, write_file

    if out is not None:
        check_file(out)
    require_namespaces(refused=become_root())
    note(f"this takes {seconds:.0f} seconds at most, or twice the smallest cluster's if that is more")
    with _progress() as progress:
        found = measure(asked, seconds, progress)
    date = time.strftime("%Y-%m-%d")
    if format is Format.JSON:
        typer.echo(json.dumps(costs_json(found, date), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(lines(found)))
    if out is not None:
        write_file(out, costs_text(found, date))


def _sizes(text: str) -> "list[Size]":
    """Return the clusters that ``--sizes`` names. InputError for anything else."""
    from kpsim.calibration.clusters import Size

    found = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        size = Size(int(match[1]), int(match[2] or 2)) if match else Size(0, 0)
        if size.services < 1 or size.services * (1 + size.endpoints) > _MOST_OBJECTS:
            why = f"expected clusters such as 100x2,1000x10, of at most {_MOST_OBJECTS:,} Services and endpoints"
            raise InputError(f"--sizes {word.strip()!r}: {why}")
        found.append(size)
    return list(dict.fromkeys(found))


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Show a bar on stderr, on a terminal only."""
    terminal = console(stderr=True)
    if terminal is None:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("preparing", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
