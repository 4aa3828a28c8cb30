"""A comparison of runs in words and as plain values."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from kpsim.comparison.runs import RunComparison, Window
from kpsim.reports.expectations import format_figure
from kpsim.reports.sentences import instant, plural

MOST_WINDOWS = 20
#: figures that stand side by side in the text, if they differ; JSON has all that differ
_SHOWN = ("sent", "lost", "delivered", "rejected", "dropped", "failed", "misdelivered", "broken", "retried")


def comparison_lines(found: RunComparison) -> Iterator[str]:
    """Yield the summary, line by line."""
    yield f"A: {found.a.name} ({found.a.about})"
    yield f"B: {found.b.name} ({found.b.about})"
    yield from (f"note: {note}" for note in found.notes)
    yield ""
    yield pairs_sentence(found)
    for window in found.windows[:MOST_WINDOWS]:
        yield f"  {window_sentence(window)}"
    if len(found.windows) > MOST_WINDOWS:
        yield f"  … and {len(found.windows) - MOST_WINDOWS:,} more"
    shown = [each for each in found.figures if each.name in _SHOWN or each.name.startswith("causes.")]
    if shown:
        width = max(len(each.name) for each in shown)
        yield ""
        yield f"{'figure':<{width}} {'A':>12} {'B':>12} {'B - A':>12}"
        for each in shown:
            cells = (_cell(each.a), _cell(each.b), _cell(each.difference, sign=True))
            yield f"{each.name:<{width}} " + " ".join(f"{cell:>12}" for cell in cells)
    rest = len(found.figures) - len(shown)
    if rest:
        yield f"{plural(rest, 'more figure')} differ{'s' if rest == 1 else ''} (--format json has all)."


def pairs_sentence(found: RunComparison) -> str:
    """Say how many connections moved."""
    text = (
        f"Of {plural(found.pairs, 'connection')} in both runs, {found.lost_only('a'):,} were lost only in A, {found.lost_only('b'):,} only in B, "
        f"{found.lost_in_both:,} in both"
    )
    if found.other_cause:
        text += f" ({found.other_cause:,} of them for another cause)"
    if found.only_a or found.only_b:
        text += f"; {found.only_a:,} were attempted only in A, {found.only_b:,} only in B"
    return text + "."


def window_sentence(window: Window) -> str:
    """Say which connections one run lost, and where the other served them."""
    here, other = ("A", "B") if window.lost_in == "a" else ("B", "A")
    when = (
        f"from {instant(window.first_ns)} to {instant(window.last_ns)}"
        if window.connections > 1
        else f"at {instant(window.first_ns)}"
    )
    where = f" at {window.node}" if window.node else ""
    served = ", ".join(f"{node} {count:,}" for node, count in window.elsewhere)
    return (
        f"only in {here}: {window.connections:,} of {window.traffic} {window.disposition}{where} {when} ({window.cause or 'no cause'}); "
        f"{other} delivered them to endpoints on {served}."
    )


def _cell(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    text = format_figure(int(value) if value == int(value) else value)
    return f"+{text}" if sign and value > 0 else text


def comparison_json(found: RunComparison) -> dict[str, Any]:
    """Return the comparison as plain values. A figure that a run does not have is null."""

    def about(side: str) -> dict[str, Any]:
        account = found.a if side == "a" else found.b
        return {
            "name": account.name, "scenario": account.scenario, "seed": account.seed, "mode": account.mode,
            "lost_only_here": found.lost_only(side), "attempted_only_here": found.only_a if side == "a" else found.only_b,
        }  # fmt: skip

    return {
        "a": about("a"),
        "b": about("b"),
        "connections_in_both": found.pairs,
        "lost_in_both": found.lost_in_both,
        "lost_in_both_for_another_cause": found.other_cause,
        "windows": [{**asdict(window), "elsewhere": dict(window.elsewhere)} for window in found.windows],
        "figures": {each.name: {"a": each.a, "b": each.b, "difference": each.difference} for each in found.figures},
        "notes": list(found.notes),
    }
