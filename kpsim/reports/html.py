"""What pages of all commands share: their style, tables, and pictures as inline SVG in the colours of the page.

A fragment takes the text colour of its surroundings and has no background, so it is readable in light and in dark. Nothing here
has an address of anything else.
"""

import re
from collections.abc import Sequence
from html import escape as escape_html

from kpsim.errors import printable
from kpsim.reports.canvas import INK, Plot
from kpsim.reports.sentences import TextTable, plural

MOST_ROWS = 200

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


def html_table(table: TextTable, most: int = MOST_ROWS, classes: Sequence[str] = ()) -> str:
    """Return a table as HTML, of at most so many rows. ``classes`` are those of its rows."""

    def cells(tag: str, row: tuple[str, ...]) -> str:
        kinds = (f"<{tag} class=number>" if i in table.numeric else f"<{tag}>" for i in range(len(row)))
        return "".join(f"{kind}{escape(text)}</{tag}>" for kind, text in zip(kinds, row, strict=True))

    kinds = [f' class="{each}"' for each in classes[:most]] or [""] * len(table.rows)
    rows = "".join(f"<tr{kind}>{cells('td', row)}</tr>\n" for kind, row in zip(kinds, table.rows[:most], strict=False))
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
