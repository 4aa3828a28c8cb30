"""Writes a page as text, Markdown or HTML. The three hold the same; what comes from input cannot become markup."""

import re
import textwrap

from kpsim.errors import printable
from kpsim.migration.blocks import Block, Code, Heading, Items, Page, Paragraph, Section, Table
from kpsim.reports.html import PAGE_STYLE, STYLE, escape

WIDTH = 110  #: columns of the text form
_CELL = 60  #: the widest column of a table in the text form


# ------------------------------------------------------------------------------------------------------------------ text


def as_text(page: Page) -> str:
    """The page for a terminal or a log, without markup and wrapped."""
    lines = [page.title, "=" * len(page.title), ""]
    for paragraph in page.lead:
        lines += [*_wrap(_plain(paragraph.text)), ""]
    lines += ["   ".join(f"{name}: {value}" for value, name in page.figures), ""]
    for section in page.sections:
        lines += [section.title, "-" * len(section.title), ""]
        for block in section.blocks:
            lines += [*_text_of(block), ""]
    return printable("\n".join(lines).rstrip() + "\n", keep="\n")


def _text_of(block: Block) -> list[str]:
    match block:
        case Paragraph(text):
            return _wrap(_plain(text))
        case Heading(text):
            return _wrap(f"* {_plain(text)}")
        case Items(texts, numbered):
            marks = [f"{number}. " if numbered else "- " for number in range(1, len(texts) + 1)]
            return [line for mark, text in zip(marks, texts, strict=True) for line in _wrap(_plain(text), mark)]
        case Table():
            return _columns(block)
        case Code(text):
            return [f"    {line}" for line in text.splitlines()]


def _plain(text: str) -> str:
    return text.replace("`", "")


def _wrap(text: str, mark: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(table: Table) -> list[str]:
    """A table whose columns are as wide as their longest line; long cells are wrapped."""
    rows = [[_cell(text) for text in row] for row in (table.headings, *table.rows)]
    widths = [max(len(line) for row in rows for line in row[column]) for column in range(len(table.headings))]
    lines = []
    for number, row in enumerate(rows):
        for at in range(max(map(len, row))):
            cells = (cell[at] if at < len(cell) else "" for cell in row)
            lines.append("  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return lines


def _cell(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), _CELL, break_on_hyphens=False) or [""]


# -------------------------------------------------------------------------------------------------------------- Markdown


def as_markdown(page: Page) -> str:
    """The page as GitHub's Markdown."""
    parts = [f"# {_marked(page.title)}", *(_marked(paragraph.text) for paragraph in page.lead)]
    parts.append("\n".join(f"- {_marked(name)}: **{_marked(value)}**" for value, name in page.figures))
    for section in page.sections:
        parts.append(f"## {_marked(section.title)}")
        parts += map(_markdown_of, section.blocks)
    return printable("\n\n".join(parts) + "\n", keep="\n")


def _markdown_of(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _marked(text)
        case Heading(text):
            return f"### {_marked(text)}"
        case Items(texts, numbered):
            return "\n".join(f"{f'{n}.' if numbered else '-'} {_marked(text)}" for n, text in enumerate(texts, 1))
        case Table(headings, rows):
            lines = [headings, tuple("---" for _ in headings), *rows]
            cells = (" | ".join(map(_marked, line)) if n != 1 else " | ".join(line) for n, line in enumerate(lines))
            return "\n".join(f"| {line} |" for line in cells)
        case Code(text, language):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}{language}\n{text.rstrip()}\n{fence}"


_MARKUP = re.compile(r"([\\*_\[\]<>|#~&])")


def _marked(text: str) -> str:
    """Escape what Markdown would take for markup. Code between backticks stays, but for bars, which end table cells."""
    pieces = text.replace("\n", " ").split("`")
    if len(pieces) % 2 == 0:  # a backtick without its fellow is no code
        return _MARKUP.sub(r"\\\1", text.replace("`", "\\`"))
    return "".join(
        f"`{piece.replace('|', chr(92) + '|')}`" if n % 2 else _MARKUP.sub(r"\\\1", piece)
        for n, piece in enumerate(pieces)
    )


# ------------------------------------------------------------------------------------------------------------------ HTML


def as_html(page: Page) -> str:
    """The page as one HTML file that needs nothing else and holds no script."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"{as_fragment(page)}</body>\n</html>\n"
    )


def as_fragment(page: Page) -> str:
    """The page as an element to put into another, such as a notebook's output."""
    figures = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for value, name in page.figures)
    lead = "".join(map(_html_of, page.lead))
    sections = "".join(map(_html_section, page.sections))
    return (
        f'<div class="kpsim-report">\n<style>\n{STYLE}{_OWN_STYLE}</style>\n<h1>{escape(page.title)}</h1>\n{lead}'
        f'<ul class="headline">{figures}</ul>\n{sections}</div>\n'
    )


_OWN_STYLE = """\
.kpsim-report h3{font-size:1.05em;margin:1.6em 0 .2em}
.kpsim-report p,.kpsim-report li{overflow-wrap:anywhere}
.kpsim-report code{font-size:.92em}
.kpsim-report pre{overflow-x:auto;padding:.7rem .9rem;border:1px solid #8886;border-radius:.4rem;font-size:.85em;line-height:1.4}
.kpsim-report p.bad,.kpsim-report h3.bad{border-left:.3rem solid #d55e00;padding-left:.6rem}
.kpsim-report p.good,.kpsim-report h3.good{border-left:.3rem solid #009e73;padding-left:.6rem}
.kpsim-report p.check,.kpsim-report h3.check{border-left:.3rem solid #e69f00;padding-left:.6rem}
.kpsim-report tr.bad td:first-child{border-left:.3rem solid #d55e00;padding-left:.5rem}
.kpsim-report tr.good td:first-child{border-left:.3rem solid #009e73;padding-left:.5rem}
.kpsim-report tr.check td:first-child{border-left:.3rem solid #e69f00;padding-left:.5rem}
.kpsim-report .migration td{white-space:normal;min-width:5rem}
@media (max-width:40rem){
.kpsim-report .migration thead{display:none}
.kpsim-report .migration,.kpsim-report .migration tbody,.kpsim-report .migration tr,.kpsim-report .migration td{display:block}
.kpsim-report .migration tr{padding:.5rem 0;border-bottom:1px solid #8884}
.kpsim-report .migration td{border:0;padding:.05rem 0 .05rem .6rem}
.kpsim-report .migration td:empty{display:none}
.kpsim-report .migration td::before{content:attr(data-name) ": ";opacity:.7}
.kpsim-report .migration td[data-name=""]::before{content:""}
}
"""


def _html_section(section: Section) -> str:
    return f"<h2>{escape(section.title)}</h2>\n{''.join(map(_html_of, section.blocks))}"


def _html_of(block: Block) -> str:
    match block:
        case Paragraph(text, tone):
            return f"<p{_class(tone)}>{_coded(text)}</p>\n"
        case Heading(text, tone):
            return f"<h3{_class(tone)}>{_coded(text)}</h3>\n"
        case Items(texts, numbered):
            tag = "ol" if numbered else "ul"
            return f"<{tag}>{''.join(f'<li>{_coded(text)}</li>' for text in texts)}</{tag}>\n"
        case Table():
            return _html_table(block)
        case Code(text):
            return f"<pre><code>{escape(text, quote=False)}</code></pre>\n"


def _html_table(table: Table) -> str:
    tones = table.tones or ("",) * len(table.rows)
    head = "".join(f"<th>{_coded(text)}</th>" for text in table.headings)
    rows = "".join(
        f"<tr{_class(tone)}>{''.join(_html_cell(name, text) for name, text in zip(table.headings, row, strict=True))}</tr>\n"
        for tone, row in zip(tones, table.rows, strict=True)
    )
    return f'<div class="scroll"><table class="migration"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n'


def _html_cell(name: str, text: str) -> str:
    """A cell. On a narrow screen its row is a list, and the cell says its column's name."""
    return f'<td data-name="{escape(name)}">{_coded(text)}</td>'


def _class(tone: str) -> str:
    return f' class="{tone}"' if tone else ""


def _coded(text: str) -> str:
    """The text with what stands between backticks as code."""
    pieces = escape(text).split("`")
    if len(pieces) % 2 == 0:
        return "`".join(pieces)
    return "".join(f"<code>{piece}</code>" if n % 2 else piece for n, piece in enumerate(pieces))
