"""The parts of a page, without markup: text, tables, lists, code. Backticks in a text stand around code."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """``tone`` is a word of ``Tone``-like meaning for a page with colours: ``bad``, ``good``, or nothing."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list; numbered if the order counts."""

    texts: tuple[str, ...]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings. ``tones`` has a word for each row, as of a paragraph."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    text: str
    tone: str = ""


Block = Paragraph | Items | Table | Code | Heading


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page: what it says at its head, figures that stand out, and its sections."""

    title: str
    lead: tuple[Paragraph, ...]
    figures: tuple[tuple[str, str], ...]  #: value and name
    sections: tuple[Section, ...]
