"""The report of a run: one HTML page, or a fragment for a notebook, that answers before it shows.

First stand the verdict, what to change and what was simulated; then the run over one time axis, and the ways of lost connections;
then the tables, folded where nothing is wrong. The page needs nothing else: its pictures are SVG with real text, its script is
its own. The fragment has no script, so a notebook shows the same without zoom. The same log, results and scenario give the
same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.errors import printable
from kpsim.reports.canvas import Plot
from kpsim.reports.drains import drain_lines
from kpsim.reports.expectations import ExpectationResult, failed, format_figure
from kpsim.reports.figures import figures
from kpsim.reports.held_up import held_up
from kpsim.reports.held_words import held_sentence, held_table
from kpsim.reports.html import PAGE_STYLE, STYLE, html_figure, html_table
from kpsim.reports.intended import intended_sentence
from kpsim.reports.local_policy import local_drop_windows
from kpsim.reports.losses import concentrations
from kpsim.reports.pinned import kept_flows, pinned_flows
from kpsim.reports.plots import plots
from kpsim.reports.remedies import remedies, try_line
from kpsim.reports.sentences import (
    TextTable,
    affinity_sentence,
    affinity_table,
    black_hole_lines,
    client_lines,
    duration,
    happenings_table,
    instant,
    kept_line,
    local_sentence,
    misdelivered_lines,
    node_lag_table,
    note_lines,
    percent,
    pinned_line,
    pinned_sentence,
    pinned_table,
    plural,
    share_sentence,
    sync_lag_sentence,
    sync_lag_table,
    syncs_sentence,
    traffic_sentence,
    traffic_table,
    where_line,
    window_sentence,
    windows_table,
)
from kpsim.reports.shares import imbalances
from kpsim.reports.simulated import Simulated
from kpsim.reports.sync_lag import is_slow, lag_quantiles
from kpsim.reports.timeline import timeline_of, trace_id
from kpsim.reports.zones import zones_sentence, zones_table
from kpsim.simulation.runlog import Fate, RunLog

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from kpsim.reports.figures import Figures

MOST_LINES = 12
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that may be folded. ``content`` is markup; ``brief`` stands beside the title."""

    title: str
    sentences: tuple[str, ...]
    content: str
    open: bool
    brief: str = ""


def html_page(
    log: RunLog,
    results: Sequence[ExpectationResult] = (),
    drawn: Sequence[Plot] | None = None,
    told: Simulated | None = None,
) -> str:
    """Return the whole report as one file. ``drawn`` are plots that exist already, so they are not drawn again.

    ``told`` is what was simulated, and the traces of lost connections. None: the log alone is known.
    """
    return _rendered("page.html", log, results, drawn, told)


def html_fragment(
    log: RunLog,
    results: Sequence[ExpectationResult] = (),
    drawn: Sequence[Plot] | None = None,
    told: Simulated | None = None,
) -> str:
    """Return the report as an element to put into a page, such as a notebook's output. The arguments are those of a page."""
    return _rendered("fragment.html", log, results, drawn, told)


def _rendered(
    template: str,
    log: RunLog,
    results: Sequence[ExpectationResult],
    drawn: Sequence[Plot] | None,
    told: Simulated | None,
) -> str:
    pictures = {plot.name: plot for plot in (plots(log) if drawn is None else drawn)}
    known = figures(log)
    lost = known["sent"] - known["delivered"]
    traces = () if told is None else told.traces
    timeline = timeline_of(log, traces)
    command = "" if told is None else told.command
    context: dict[str, Any] = {
        "title": log.scenario,
        "description": log.description,
        "verdict": traffic_sentence(log),
        "lost": lost,
        "intended": intended_sentence(results) if lost else "",
        "expectations": results,
        "broken": len(failed(results)),
        "expectations_sentence": _expectations_sentence(results),
        "span": instant(log.duration_ns),
        "mode": log.mode,
        "seed": log.seed,
        "headline": list(_headline(log, known)),
        "remedies": [
            {"remedy": each, "words": f"{each.words[:1].upper()}{each.words[1:]}.", "command": try_line(command, each)}
            for each in remedies(log, told)
        ],
        "told": told,
        "timeline": timeline,
        "timeline_data": _safe("" if timeline is None else timeline.data),
        "traces_sentence": _traces_sentence(len(traces), int(lost)),
        "sections": list(_sections(log, results, pictures)),
        "instant": instant,
        "trace_id": trace_id,
        "page_style": _safe(PAGE_STYLE),
        "style": _safe(STYLE + _text_of("report.css")),
        "script": _safe(_text_of("report.js")),
    }
    return _environment().get_template(template).render(context)


@cache
def _environment() -> "Environment":
    """Templates whose expressions are escaped, and printed without control characters and direction overrides."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _safe(markup: str) -> "Markup":
    """Return markup that the report itself made."""
    from markupsafe import Markup

    return Markup(markup)


@cache
def _text_of(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _headline(log: RunLog, known: "Figures") -> Iterator[tuple[str, str]]:
    yield f"{known['sent']:,}", "connections"
    yield percent(known["delivered_ratio"]), "delivered"
    for ended in Fate:
        if ended is not Fate.DELIVERED and (ended is not Fate.MISDELIVERED or known[ended.value]):
            yield f"{known[ended.value]:,}", ended.value
    if log.programming:
        lag = lag_quantiles(log)
        name = "max" if lag.is_maximum("p99") else "p99"
        yield ("≥ " if name in lag.at_least else "") + duration(lag.p99_ns), f"sync lag, {name}"
    if known["affinity.returns"]:
        yield percent(known["affinity.stay_ratio"]), "of returning clients stayed"


def _expectations_sentence(results: Sequence[ExpectationResult]) -> str:
    broken = len(failed(results))
    if broken:
        return f"{broken} of {plural(len(results), 'expectation')} failed."
    return "The expectation holds." if len(results) == 1 else f"All {len(results)} expectations hold."


def _traces_sentence(kept: int, lost: int) -> str:
    """Say how many of the losses can be looked at, and how to look at the others."""
    if kept == lost:
        return f"The ways of all {lost:,} lost connections, step by step, with what happened around them."
    return (
        f"The ways of {kept:,} of {lost:,} lost connections, step by step, with what happened around them: of each kind of loss at each"
        " node the first, the last and one between. kpsim run --trace SOURCE#NUMBER shows any other."
    )


# ------------------------------------------------------------------------------------------------------------- sections


def _sections(log: RunLog, results: Sequence[ExpectationResult], pictures: dict[str, Plot]) -> Iterator[Section]:
    if results:
        yield Section(
            "Expectations", (), _safe(_expectations(results)), bool(failed(results)), _expectations_sentence(results)
        )
    yield _connections(log, pictures)
    if groups := held_up(log):
        table = html_table(held_table(groups), 20)
        yield Section(
            "What held up the news", (held_sentence(log),), _safe(_figures(pictures, "held_up") + table), True
        )
    if zones := zones_table(log):
        yield Section("Zones", (zones_sentence(log),), _safe(html_table(zones)), True)
    if pinned := pinned_flows(log):
        sentences = (pinned_sentence(log), *map(pinned_line, pinned[:3]))
        yield Section("State against rules", sentences, _safe(html_table(pinned_table(pinned))), True)
    yield from _local(log, pictures)
    if sentence := affinity_sentence(log):
        content = html_table(affinity_table(log)) + _figures(pictures, "affinity_breaks")
        yield Section("Session affinity", (), _safe(content), "affinity_breaks" in pictures, sentence)
    yield from _sync_lag(log, pictures)
    if log.happenings:
        brief = plural(len(log.happenings), "entry").replace("entrys", "entries")
        yield Section("What happened", (), _safe(html_table(happenings_table(log))), False, brief)


def _connections(log: RunLog, pictures: dict[str, Plot]) -> Section:
    lines = [
        *client_lines(log),
        *black_hole_lines(log)[:MOST_LINES],
        *map(where_line, concentrations(log)[:MOST_LINES]),
        *[*drain_lines(log), *note_lines(log)][:MOST_LINES],
        *misdelivered_lines(log)[:MOST_LINES],
        *map(kept_line, kept_flows(log)[:MOST_LINES]),
        *map(share_sentence, imbalances(log)[:MOST_LINES]),
    ]
    table = traffic_table(log)
    content = (html_table(table) if table.rows else "") + _figures(pictures, "endpoint_shares", "open_connections")
    return Section("Connections", tuple(lines), _safe(content), any(c.lost for c in log.connections) or bool(lines))


def _local(log: RunLog, pictures: dict[str, Plot]) -> Iterator[Section]:
    windows = local_drop_windows(log)
    if not windows and "local_drops" not in pictures:
        return
    sentences = (local_sentence(log), *map(window_sentence, windows[:3]))
    table = html_table(windows_table(windows)) if windows else ""
    if windows:
        yield Section("externalTrafficPolicy: Local", sentences, _safe(table), True)
    else:
        yield Section("externalTrafficPolicy: Local", (), _safe(""), False, local_sentence(log))


def _sync_lag(log: RunLog, pictures: dict[str, Plot]) -> Iterator[Section]:
    if not log.programming and not log.unprogrammed and not log.syncs:
        return
    content = ""
    if log.programming or log.unprogrammed:
        content = (
            html_table(sync_lag_table(log))
            + _figures(pictures, "sync_lag", "sync_lag_stages", "sync_lag_nodes")
            + html_table(node_lag_table(log), 20)
        )
    yield Section("Sync lag", (syncs_sentence(log),), _safe(content), is_slow(log), sync_lag_sentence(log))


def _figures(pictures: dict[str, Plot], *names: str) -> str:
    return "".join(html_figure(pictures[name]) for name in names if name in pictures)


def _expectations(results: Sequence[ExpectationResult]) -> str:
    ordered = sorted(results, key=lambda r: r.holds)
    rows = tuple(("holds" if r.holds else "failed", r.text, format_figure(r.value)) for r in ordered)
    classes = tuple(row[0] for row in rows)
    return html_table(TextTable(("", "condition", "value"), rows, frozenset({2})), classes=classes)
