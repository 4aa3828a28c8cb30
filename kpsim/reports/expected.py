"""Expected losses in words, as a table, and as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from html import escape
from io import StringIO
from typing import Any, Self

from kpsim.reports.sentences import TextTable, instant, percent, plural
from kpsim.reports.summary import drawn_table
from kpsim.simulation.expected import Expected, ExpectedPart
from kpsim.simulation.runlog import Fate
from kpsim.units import SECOND_NS

MOST_WINDOWS = 20
_LOST = tuple(ended for ended in Fate if ended is not Fate.DELIVERED)


@dataclass(frozen=True, slots=True, repr=False)
class ExpectedResult(Expected):
    """Expected losses as Python users get them. They show themselves in a notebook."""

    @classmethod
    def of_run(cls, found: Expected) -> Self:
        return cls(**{each.name: getattr(found, each.name) for each in fields(found)})

    def __repr__(self) -> str:
        return f"<{self.scenario}, seed {self.seed}: {expected_sentence(self)}>"

    def _repr_html_(self) -> str:
        from kpsim.reports.html import html_table

        windows = loss_windows(self)
        parts = [
            f"<p><strong>{escape(self.scenario)}</strong>: {escape(expected_sentence(self))}</p>",
            html_table(services_table(self)),
            *([html_table(windows_table(windows))] if windows else []),
            *(
                [f"<p>{len(windows) - MOST_WINDOWS:,} more are in <code>parts</code>.</p>"]
                if len(windows) > MOST_WINDOWS
                else []
            ),
            f"<p>{escape(course_note(self))}</p>",
        ]
        return "\n".join(parts)


def expected_text(found: Expected, width: int = 120) -> str:
    """Return the summary as plain text."""
    from rich.console import Console
    from rich.text import Text

    out = StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    lines = [
        f"{found.scenario}: {instant(found.duration_ns)}, mode {found.mode}, expected losses, not drawn",
        found.description,
        "",
        expected_sentence(found),
    ]
    for line in lines:
        if line or line is lines[2]:
            console.print(Text(line), highlight=False)
    console.print(drawn_table(services_table(found)))
    windows = loss_windows(found)
    if windows:
        console.print()
        console.print(drawn_table(windows_table(windows)))
        if len(windows) > MOST_WINDOWS:
            console.print(f"… and {len(windows) - MOST_WINDOWS:,} more windows in --format json", highlight=False)
    console.print()
    for note in (course_note(found), *found.notes):
        console.print(Text(f"note: {note}"), highlight=False)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def expected_sentence(found: Expected) -> str:
    """Say how many connections are expected to be lost."""
    if not found.sent:
        return "No connection is to be expected."
    ratio = percent(float(found.lost / found.sent))
    return f"{number(found.lost)} of {number(found.sent)} connections are expected to be lost ({ratio})."


def course_note(found: Expected) -> str:
    """Say for what the expectation holds."""
    return (
        f"this is for the course of the cluster with seed {found.seed}; delays and first probes that are drawn differ with other seeds "
        f"(--seeds), and arrivals count as evenly spread over each stretch of time"
    )


def number(value: Fraction) -> str:
    """Format an expected number: whole if it is, else with two decimals."""
    return f"{int(value):,}" if value.denominator == 1 else f"{float(value):,.2f}"


def services_table(found: Expected) -> TextTable:
    """Expected numbers by service port and policy."""
    by_service: dict[tuple[str, str], dict[Fate, Fraction]] = {}
    for part in found.parts:
        ends = by_service.setdefault((part.service, part.traffic_policy), {})
        ends[part.disposition] = ends.get(part.disposition, Fraction(0)) + part.connections
    ended = [each for each in Fate if each is not Fate.MISDELIVERED or found.of(each)]
    rows = [
        (
            service,
            policy,
            number(sum(ends.values(), Fraction(0))),
            *(number(ends.get(each, Fraction(0))) for each in ended),
        )
        for (service, policy), ends in sorted(by_service.items())
    ]
    headings = ("service", "policy", "sent", *(each.value for each in ended))
    return TextTable(headings, tuple(rows), frozenset(range(2, len(headings))))


def loss_windows(found: Expected) -> list[ExpectedPart]:
    """Return the stretches of time in which connections are expected to be lost, in time order."""
    return [part for part in found.parts if part.disposition in _LOST]


def windows_table(windows: Sequence[ExpectedPart]) -> TextTable:
    """The stretches of time with losses, a row each."""
    rows = tuple(
        (
            instant(part.from_ns), instant(part.until_ns), part.traffic, part.node or "(no node)", part.disposition.value, part.cause.value,
            number(part.connections),
        )
        for part in windows[:MOST_WINDOWS]
    )  # fmt: skip
    return TextTable(("from", "until", "traffic", "node", "end", "why", "expected"), rows, frozenset({0, 1, 6}))


def expected_json(found: Expected) -> dict[str, Any]:
    """Return the expected losses as plain values. Numbers are exact sums, given as decimals."""
    return {
        "scenario": found.scenario,
        "description": found.description,
        "seed": found.seed,
        "mode": found.mode,
        "duration_seconds": found.duration_ns / SECOND_NS,
        "expected": {
            "sent": float(found.sent), "lost": float(found.lost), **{ended.value: float(found.of(ended)) for ended in Fate},
        },
        "parts": [
            {
                "traffic": part.traffic, "service": part.service, "traffic_policy": part.traffic_policy, "node": part.node,
                "disposition": part.disposition.value, "cause": part.cause.value, "from_ns": part.from_ns, "until_ns": part.until_ns,
                "connections": float(part.connections),
            }
            for part in found.parts
        ],
        "notes": [course_note(found), *found.notes],
    }  # fmt: skip


def over_seeds_sentence(several: Sequence[Expected]) -> str:
    """Say how far the expectation differs between the courses of several seeds."""
    from statistics import fmean, median

    lost = [float(each.lost) for each in several]
    text = f"Over the courses of {plural(len(several), 'seed')} ({several[0].seed} to {several[-1].seed}), expected losses are"
    if min(lost) == max(lost):
        return f"{text} {lost[0]:,.2f} in each."
    none = sum(value == 0 for value in lost)
    return f"{text} {min(lost):,.2f} to {max(lost):,.2f}: median {median(lost):,.2f}, mean {fmean(lost):,.2f}; nothing in {none}."
