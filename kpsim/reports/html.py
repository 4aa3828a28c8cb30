"""One HTML page, or a fragment for a notebook, that needs nothing else: tables, and plots as inline SVG.

The page takes the text colour of its surroundings and has no background, so it is readable in light and in dark. It
holds no script, no font and no address of anything else. The same log and results give the same bytes.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from typing import TYPE_CHECKING

from kpsim.errors import printable
from kpsim.reports.drains import drain_lines
from kpsim.reports.expectations import ExpectationResult, failed, format_figure
from kpsim.reports.figures import figures
from kpsim.reports.local_policy import local_drop_windows
from kpsim.reports.losses import concentrations
from kpsim.reports.pinned import kept_flows, pinned_flows
from kpsim.reports.plots import INK, Plot, plots
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
from kpsim.reports.sync_lag import lag_quantiles
from kpsim.simulation.runlog import Fate, RunLog

if TYPE_CHECKING:
    from kpsim.reports.figures import Figures

MOST_ROWS = 200
MOST_LINES = 12

STYLE = """\
.kpsim-report{font:15px/1.5 system-ui,sans-serif;max-width:64rem}
.kpsim-report h1{font-size:1.6em;margin:0 0 .1em}
.kpsim-report h2{font-size:1.2em;margin:2em 0 .3em;border-bottom:1px solid #8886}
.kpsim-report .muted{opacity:.7}
.kpsim-report .headline{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.6rem,1fr));gap:.7rem;margin:1rem 0;padding:0;list-style:none}
.kpsim-report .headline li{margin:0;padding:.5rem .8rem;border:1px solid #8886;border-radius:.4rem}
.kpsim-report .headline b{display:block;font-size:1.4em;font-weight:600;font-variant-numeric:tabular-nums}
.kpsim-report .scroll{overflow-x:auto}
.kpsim-report table{border-collapse:collapse;margin:.6rem 0;font-size:.9em}
.kpsim-report th,.kpsim-report td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #8884;vertical-align:top;background:none;color:inherit}
.kpsim-report th.number,.kpsim-report td.number{text-align:right;font-variant-numeric:tabular-nums}
.kpsim-report td:not(:last-child),.kpsim-report td.number{white-space:nowrap}
.kpsim-report th{vertical-align:bottom}
.kpsim-report td:last-child:not(.number){min-width:12rem}
.kpsim-report figure{margin:1rem 0}
.kpsim-report figure svg{display:block;width:100%;height:auto}
.kpsim-report figcaption{font-size:.9em;opacity:.7}
.kpsim-report .failed td:first-child{border-left:.3rem solid #d55e00;padding-left:.5rem}
.kpsim-report .holds td:first-child{border-left:.3rem solid #009e73;padding-left:.5rem}
"""
PAGE_STYLE = """\
:root{color-scheme:light dark}
body{margin:0;padding:2rem 1rem;background:#fff;color:#1f2328}
.kpsim-report{margin:0 auto}
@media (prefers-color-scheme:dark){body{background:#14171a;color:#e3e6e8}}
"""


def escape(text: str, *, quote: bool = True) -> str:
    """Return a text that no browser takes for markup, with control characters and direction overrides shown escaped."""
    return escape_html(printable(text, keep="\n"), quote=quote)


def html_page(log: RunLog, results: Sequence[ExpectationResult] = (), drawn: Sequence[Plot] | None = None) -> str:
    """Return the whole report as one file. ``drawn`` are plots that exist already, so they are not drawn again."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(log.scenario)} – kpsim report</title>\n<style>\n{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"{html_fragment(log, results, drawn)}</body>\n</html>\n"
    )


def html_fragment(log: RunLog, results: Sequence[ExpectationResult] = (), drawn: Sequence[Plot] | None = None) -> str:
    """Return the report as an element to put into a page, such as a notebook's output."""
    pictures = {plot.name: plot for plot in (plots(log) if drawn is None else drawn)}
    known = figures(log)
    parts = [
        f"<style>\n{STYLE}</style>\n",
        f"<h1>{escape(log.scenario)}</h1>\n",
        f"<p>{escape(log.description)}</p>\n" if log.description else "",
        f'<p class="muted">{instant(log.duration_ns)} simulated · mode {escape(log.mode)} · seed {log.seed}</p>\n',
        _headline(log, known, results),
        _expectations(results),
        _section(
            "Connections",
            [
                traffic_sentence(log),
                *client_lines(log),
                *black_hole_lines(log)[:MOST_LINES],
                *map(where_line, concentrations(log)[:MOST_LINES]),
                *[*drain_lines(log), *note_lines(log)][:MOST_LINES],
                *misdelivered_lines(log)[:MOST_LINES],
                *map(kept_line, kept_flows(log)[:MOST_LINES]),
                *map(share_sentence, imbalances(log)[:MOST_LINES]),
            ],
            traffic_table(log),
            pictures,
            ("dispositions", "nodes", "endpoint_shares", "open_connections"),
        ),
        _pinned(log),
        _local(log, pictures),
        _affinity(log, pictures),
        _sync_lag(log, pictures),
        _happenings(log),
    ]
    return f'<div class="kpsim-report">\n{"".join(parts)}</div>\n'


def _headline(log: RunLog, known: "Figures", results: Sequence[ExpectationResult]) -> str:
    items = [(f"{known['sent']:,}", "connections")]
    items.append((percent(known["delivered_ratio"]), "delivered"))
    shown = [ended for ended in Fate if ended is not Fate.MISDELIVERED or known[ended.value]]
    items += [(f"{known[ended.value]:,}", ended.value) for ended in shown if ended is not Fate.DELIVERED]
    if log.programming:
        lag = lag_quantiles(log)
        name = "max" if lag.is_maximum("p99") else "p99"
        items.append((("≥ " if name in lag.at_least else "") + duration(lag.p99_ns), f"sync lag, {name}"))
    if known["affinity.returns"]:
        items.append((percent(known["affinity.stay_ratio"]), "of returning clients stayed"))
    if results:
        items.append((f"{len(results) - len(failed(results))} of {len(results)}", "expectations hold"))
    cells = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for value, name in items)
    return f'<ul class="headline">{cells}</ul>\n'


def _expectations(results: Sequence[ExpectationResult]) -> str:
    if not results:
        return ""
    broken = len(failed(results))
    verdict = f"{broken} of {plural(len(results), 'expectation')} failed." if broken else "All hold."
    rows = "".join(
        f'<tr class="{"holds" if r.holds else "failed"}"><td>{"holds" if r.holds else "failed"}</td>'
        f"<td><code>{escape(r.text)}</code></td><td class=number>{escape(format_figure(r.value))}</td></tr>\n"
        for r in sorted(results, key=lambda r: r.holds)
    )
    head = "<thead><tr><th></th><th>condition</th><th class=number>value</th></tr></thead>"
    return f"<h2>Expectations</h2>\n<p>{verdict}</p>\n<div class=scroll><table>{head}<tbody>\n{rows}</tbody></table></div>\n"


def _pinned(log: RunLog) -> str:
    groups = pinned_flows(log)
    if not groups:
        return ""
    sentences = [pinned_sentence(log), *map(pinned_line, groups[:3])]
    return _section("State against rules", sentences, pinned_table(groups), {}, ())


def _local(log: RunLog, pictures: dict[str, Plot]) -> str:
    windows = local_drop_windows(log)
    if not windows and "local_drops" not in pictures:
        return ""
    sentences = [local_sentence(log), *(window_sentence(window) for window in windows[:3])]
    table = windows_table(windows) if windows else None
    return _section("externalTrafficPolicy: Local", sentences, table, pictures, ("local_drops",))


def _affinity(log: RunLog, pictures: dict[str, Plot]) -> str:
    sentence = affinity_sentence(log)
    if not sentence:
        return ""
    return _section("Session affinity", [sentence], affinity_table(log), pictures, ("affinity_breaks",))


def _sync_lag(log: RunLog, pictures: dict[str, Plot]) -> str:
    if not log.programming and not log.unprogrammed and not log.syncs:
        return ""
    sentences = [sync_lag_sentence(log), syncs_sentence(log)]
    if not log.programming and not log.unprogrammed:
        return _section("Sync lag", sentences, None, pictures, ())
    return _section("Sync lag", sentences, sync_lag_table(log), pictures, ("sync_lag",)) + html_table(
        node_lag_table(log), 20
    )


def _happenings(log: RunLog) -> str:
    return _section("What happened", [], happenings_table(log), {}, ()) if log.happenings else ""


def _section(
    title: str, sentences: Iterable[str], table: TextTable | None, pictures: dict[str, Plot], shown: tuple[str, ...]
) -> str:
    text = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)
    drawn = "".join(html_figure(pictures[name]) for name in shown if name in pictures)
    return f"<h2>{escape(title)}</h2>\n{text}{html_table(table) if table and table.rows else ''}{drawn}"


def html_table(table: TextTable, most: int = MOST_ROWS) -> str:
    """Return a table as HTML, of at most so many rows."""

    def cells(tag: str, row: tuple[str, ...]) -> str:
        kinds = (f"<{tag} class=number>" if i in table.numeric else f"<{tag}>" for i in range(len(row)))
        return "".join(f"{kind}{escape(text)}</{tag}>" for kind, text in zip(kinds, row, strict=True))

    rows = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in table.rows[:most])
    hidden = len(table.rows) - most
    more = (
        f'<p class="muted">… and {plural(hidden, "more row")} (all of them are in the frames).</p>\n'
        if hidden > 0
        else ""
    )
    head = cells("th", table.headings)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n{more}'


def html_figure(plot: Plot) -> str:
    """Return a picture with its caption as HTML, in the colours of the page."""
    svg = plot.svg()
    svg = svg[svg.index("<svg") :]
    # All pictures share one page. Without a prefix, two of them could use the same identifier for different things.
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{plot.name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(INK.upper(), "currentColor")
    label = escape(plot.caption, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>\n{svg}<figcaption>{escape(plot.caption)}</figcaption>\n</figure>\n"
