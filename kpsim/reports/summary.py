"""The summary that `kpsim run` prints: for a person (with rich; plain text if not on a terminal), and as JSON.

It says the same as the HTML page's sentences and tables, at the width of the terminal. It computes no figure of its
own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any

from kpsim.reports.affinity import affinity_by_client, affinity_by_service
from kpsim.reports.drains import drain_lines
from kpsim.reports.expectations import ExpectationResult, failed, format_figure
from kpsim.reports.figures import Figures, figures
from kpsim.reports.held_words import held_sentence
from kpsim.reports.intended import intended_sentence
from kpsim.reports.local_policy import local_drop_windows
from kpsim.reports.losses import concentrations
from kpsim.reports.overview import count_groups, tally_by_service_and_policy
from kpsim.reports.pinned import kept_flows, pinned_flows
from kpsim.reports.sentences import (
    TextTable,
    affinity_sentence,
    affinity_table,
    black_hole_lines,
    break_lines,
    client_lines,
    kept_line,
    local_sentence,
    loss_lines,
    misdelivered_lines,
    note_lines,
    pinned_line,
    pinned_sentence,
    plural,
    share_sentence,
    sync_lag_sentence,
    sync_lag_table,
    syncs_sentence,
    title_line,
    traffic_sentence,
    traffic_table,
    where_line,
    why_line,
    window_sentence,
)
from kpsim.reports.shares import imbalances
from kpsim.reports.sync_lag import is_slow
from kpsim.simulation.runlog import Fate, RunLog
from kpsim.units import SECOND_NS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.padding import Padding
    from rich.table import Table

MOST_LINES = 12
MOST_ROWS = 40
Results = Sequence[ExpectationResult]


def print_summary(log: RunLog, results: Results, console: "Console") -> None:
    """Print the summary. The console decides about colours and width."""
    for part in _parts(log, results):
        console.print(part, highlight=False)


def summary_text(log: RunLog, results: Results = (), width: int = 120) -> str:
    """Return the summary as plain text, at most ``width`` columns wide."""
    return _plain_text(width, lambda console: print_summary(log, results, console))


def plain_tables(parts: "Sequence[str | TextTable]", width: int = 120) -> str:
    """Return lines and tables below each other as plain text, without a newline at the end."""

    def show(console: "Console") -> None:
        for part in parts:
            console.print(part if isinstance(part, str) else drawn_table(part), highlight=False, markup=False)

    return _plain_text(width, show).rstrip("\n")


def _plain_text(width: int, show: "Callable[[Console], None]") -> str:
    from rich.console import Console

    out = StringIO()
    # force_jupyter: in a notebook, rich would put its output into the cell and leave `out` empty
    show(Console(file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def summary_json(log: RunLog, results: Results = (), known: Figures | None = None) -> dict[str, Any]:
    """Return the summary as plain values.

    The keys and their order are the same for every run; undefined figures are None.
    """
    known = figures(log) if known is None else known
    clients = affinity_by_client(log)
    return {
        "scenario": log.scenario,
        "description": log.description,
        "seed": log.seed,
        "mode": log.mode,
        "duration_seconds": log.duration_ns / SECOND_NS,
        "holds": not failed(results),
        "expectations": [
            {"text": r.text, "figure": r.figure, "value": _plain(r.value), "holds": r.holds} for r in results
        ],
        "services": [
            {
                "service": service,
                "traffic_policy": policy,
                "sent": part.sent,
                **{ended.value: part.of(ended) for ended in Fate},
                "causes": {cause.value: count for cause, count in part.causes()},
            }
            for (service, policy), part in tally_by_service_and_policy(count_groups(log)).items()
        ],
        "affinity": [
            {
                "service": r.service,
                "clients": r.clients,
                "returns": r.returns,
                "stays": r.stays,
                "stay_ratio": _plain(r.stay_ratio),
                "breaks": dict(r.breaks),
            }
            for r in affinity_by_service(clients)
        ],
        "notes": [*drain_lines(log), *note_lines(log)],
        "pinned_flows": [asdict(group) for group in pinned_flows(log)],
        "local_drop_windows": [asdict(window) for window in local_drop_windows(log)],
        "happenings": [asdict(happening) for happening in log.happenings],
        "figures": {name: _plain(value) for name, value in known.items()},
    }


def _plain(value: int | float) -> int | float | None:
    return None if math.isnan(value) else value


def _parts(log: RunLog, results: Results) -> "list[RenderableType]":
    """The parts of the summary: what was lost and why first, then counts, then what is fine, in short."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(title_line(log), style="bold")]
    if log.description:
        parts.append(Text(log.description, style="dim"))
    parts += _verdict_parts(log, results)
    if log.connections:
        parts += ["", drawn_table(traffic_table(log).without_last())]
    parts += _connection_parts(log)
    if sentence := affinity_sentence(log):
        parts += ["", Text(sentence), drawn_table(affinity_table(log).without_last()), *_lines(break_lines(log))]
    parts += _sync_parts(log)
    if results:
        parts += ["", *_expectation_parts(results)]
    return parts


def _verdict_parts(log: RunLog, results: Results) -> "list[RenderableType]":
    """What became of the connections, and why those were lost that were."""
    from rich.text import Text

    lost = [c for c in log.connections if c.lost]
    parts: list[RenderableType] = [
        "",
        Text(traffic_sentence(log), style=_style(lost=bool(lost), sent=bool(log.connections))),
    ]
    parts += [_line(text, "red") for text in _cut(loss_lines(log))]
    if windows := local_drop_windows(log):
        parts += [Text(local_sentence(log), style="red"), *_lines([window_sentence(window) for window in windows])]
    if lines := black_hole_lines(log):
        parts += list(map(Text, lines[:MOST_LINES]))
    if where := concentrations(log):
        parts += _lines([where_line(group) for group in where])
    if taken := misdelivered_lines(log):
        parts += _lines(taken)
    if pinned := pinned_flows(log):
        parts += [Text(pinned_sentence(log), style="red"), *_lines([pinned_line(group) for group in pinned])]
    if lost:
        parts.append(Text(held_sentence(log)))
        parts += [Text(line, style="dim") for line in (intended_sentence(results), why_line(log)) if line]
    return parts


def _style(*, lost: bool, sent: bool) -> str:
    if lost:
        return "bold red"
    return "bold green" if sent else ""


def _connection_parts(log: RunLog) -> "list[RenderableType]":
    """What there is to say about connections that went well, too."""
    from rich.text import Text

    parts: list[RenderableType] = []
    if lines := client_lines(log):
        parts += ["", *map(Text, lines)]
    if notes := [*drain_lines(log), *note_lines(log)]:
        parts += ["", *_lines([f"note: {line}" for line in notes])]
    if kept := kept_flows(log):
        parts += ["", *_lines([kept_line(group) for group in kept])]
    if unequal := imbalances(log):
        parts += ["", *map(Text, map(share_sentence, unequal[:MOST_LINES]))]
    return parts


def _sync_parts(log: RunLog) -> "list[RenderableType]":
    """How long changes took to reach the rules: a line if nothing is wrong, else the legs, too."""
    from rich.text import Text

    if not (log.programming or log.unprogrammed or log.syncs):
        return []
    if not is_slow(log):
        return ["", Text(f"{sync_lag_sentence(log, reported=False)} {syncs_sentence(log)}")]
    parts: list[RenderableType] = ["", Text(sync_lag_sentence(log))]
    if log.programming or log.unprogrammed:
        parts.append(drawn_table(sync_lag_table(log)))
    return [*parts, Text(syncs_sentence(log))]


def _cut(texts: Sequence[str]) -> list[str]:
    hidden = len(texts) - MOST_LINES
    return [*texts[:MOST_LINES], *([f"… and {hidden:,} more"] if hidden > 0 else [])]


def _lines(texts: Sequence[str]) -> "list[Padding]":
    return [_line(text) for text in _cut(texts)]


def _line(text: str, style: str = "") -> "Padding":
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style=style), (0, 0, 0, 2), expand=False)


def _expectation_parts(results: Results) -> "list[RenderableType]":
    from rich.text import Text

    broken = failed(results)
    if not broken:
        text = "The expectation holds." if len(results) == 1 else f"All {len(results)} expectations hold."
        return [Text(text, style="green")]
    heading = f"{len(broken)} of {plural(len(results), 'expectation')} failed:"
    lines = [_line(f"{r.text}    ({r.figure} is {format_figure(r.value)})", "red") for r in broken]
    return [Text(heading, style="bold red"), *lines]


def drawn_table(table: TextTable) -> "Table":
    """Return a table as rich draws it, of at most :data:`MOST_ROWS` rows."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for i, heading in enumerate(table.headings):
        numeric = i in table.numeric
        drawn.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in table.rows[:MOST_ROWS]:
        drawn.add_row(*map(Text, row))
    if len(table.rows) > MOST_ROWS:
        drawn.add_row(f"… and {len(table.rows) - MOST_ROWS:,} more")
    return drawn
