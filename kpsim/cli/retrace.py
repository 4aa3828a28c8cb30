"""``kpsim run --trace`` and ``--at``: one connection of a run, and the cluster at one moment of it."""

import json
from typing import TYPE_CHECKING

import typer

from kpsim.cli.options import Format
from kpsim.cli.printing import console
from kpsim.cli.progress import progress_bar
from kpsim.errors import InputError

if TYPE_CHECKING:
    from kpsim.result import RunResult


def time_of(text: str) -> int:
    """Return the nanoseconds of ``--at``. InputError if it is no time."""
    from kpsim.units import parse_duration_ns

    try:
        return parse_duration_ns(text)
    except ValueError as problem:
        raise InputError(f"--at: {problem}") from None


def show_retraced(result: "RunResult", name: str, at_ns: int | None, format: Format, *, detailed: bool) -> None:
    """Print the way of a connection, or without a name the cluster at a time. The run is run again for it."""
    from kpsim.retracing.connections import trace_connection
    from kpsim.retracing.moments import cluster_at
    from kpsim.tracing.explain import Depth

    depth = Depth.DETAILED if detailed else Depth.SUMMARY
    with progress_bar() as progress:
        if name:
            connection = trace_connection(result.scenario, result.log, name, at_ns, progress)
            shown = connection.to_json() if format is Format.JSON else connection.text(depth)
        else:
            assert at_ns is not None
            cluster, terminal = cluster_at(result.scenario, result.log, at_ns, progress), console()
            width = 120 if terminal is None else terminal.width
            shown = cluster.to_json() if format is Format.JSON else cluster.text(width)
    typer.echo(shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False))
