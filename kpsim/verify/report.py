"""Reports what verifications found, as a value, as text and as JSON.

Frequencies are judged here, because the chance of a false alarm depends on how many of them there are.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kpsim.lab.tools.variants import Variant
from kpsim.tracing.probes import ProbeResult
from kpsim.verify.frequencies import FALSE_ALARM, Frequencies, Spread
from kpsim.verify.verification import Disagreement, Verification

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 40
_MOST_TOLD = 20
_COLUMNS = {
    ProbeResult.DELIVERED: "delivered", ProbeResult.REJECTED: "rejected", ProbeResult.DROPPED: "dropped", ProbeResult.PASSED: "left alone",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """All verifications of one run."""

    verifications: tuple[Verification, ...]
    variant: Variant
    seconds: float

    @property
    def probes(self) -> int:
        return sum(each.probes for each in self.verifications)

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs that loaded the rules."""
        return tuple(sorted({each.tool for each in self.verifications if each.tool}))

    @property
    def packets(self) -> int:
        """The number of probes and of answers to them."""
        return self.probes + sum(each.answers for each in self.verifications)

    @property
    def disagreements(self) -> tuple[Disagreement, ...]:
        return tuple(found for each in self.verifications for found in each.disagreements)

    @property
    def draws(self) -> tuple[tuple[str, Frequencies], ...]:
        """Frequencies with enough draws to be judged, each with the name of its subject."""
        return tuple((each.subject, found) for each in self.verifications for found in each.frequencies)

    @property
    def unfair(self) -> tuple[tuple[str, Frequencies], ...]:
        """Frequencies that differ from the model's too much to be chance."""
        draws = self.draws
        return tuple((subject, found) for subject, found in draws if found.p_value < FALSE_ALARM / len(draws))

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """Where the source ports lie that Linux drew, for each range that the model draws from."""
        found: dict[tuple[int, int], Spread] = {}
        for each in (spread for verification in self.verifications for spread in verification.spreads):
            ports = each.low, each.high
            found[ports] = found[ports] + each if ports in found else each
        return tuple(found[ports] for ports in sorted(found))

    @property
    def narrow(self) -> tuple[Spread, ...]:
        """Ranges of which Linux leaves an end empty too long for chance."""
        limit = FALSE_ALARM / max(1, len(self.spreads))
        return tuple(each for each in self.spreads if each.p_value < limit)

    @property
    def left_out(self) -> str:
        """What was not compared, in a sentence; empty: everything was."""
        probes = sum((each.left_out for each in self.verifications), Counter[str]())
        rules = sum(each.rules_left_out for each in self.verifications)
        if not probes:
            return ""
        servers = f"{len(probes)} virtual server{'s' if len(probes) > 1 else ''}"
        said = f"left out, as this kernel is not asked about ip_vs: {probes.total()} probes to {servers}"
        return said + (f"; rules that ask of ip_vs: {rules}" if rules else "")

    @property
    def agrees(self) -> bool:
        return not (self.disagreements or self.unfair or self.narrow)

    def to_json(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "kernel": platform.release(),
            "backend": str(self.variant),
            "tools": list(self.tools),
            "seconds": round(self.seconds, 3),
            "probes": self.probes,
            "packets": self.packets,
            "subjects": [_subject_json(each) for each in self.verifications],
            "disagreements": [_disagreement_json(each) for each in self.disagreements],
            "draws": [_draw_json(subject, found) for subject, found in self.draws],
            "unfair": [str(found) for _, found in self.unfair],
            "sourcePorts": [_spread_json(each) for each in self.spreads],
            "narrow": [str(each) for each in self.narrow],
        }

    def sentence(self) -> str:
        """The result in a line."""
        how = f"Linux {platform.release()}, {', '.join(self.tools)}"
        sent = f"{self.probes} probes, {self.packets} packets in {self.seconds:.1f} s ({self.probes / max(self.seconds, 1e-9):.0f} probes/s)"
        if self.agrees:
            return f"{how} does what the model says: {sent}"
        count = len(self.disagreements) + len(self.unfair) + len(self.narrow)
        return f"{how} disagrees with the model in {count} case{'s' if count > 1 else ''}: {sent}"


def _subject_json(each: Verification) -> dict[str, Any]:
    return {
        "name": each.subject, "probes": each.probes, "answers": each.answers,
        "results": {str(result): count for result, count in sorted(each.results.items())},
        "disagreements": len(each.disagreements),
    } | ({"leftOut": dict(sorted(each.left_out.items())), "rulesLeftOut": each.rules_left_out} if each.left_out else {})  # fmt: skip


def _disagreement_json(each: Disagreement) -> dict[str, Any]:
    sides = each.sides
    return {
        "subject": each.subject, "probe": each.probe, "packet": each.packet,
        "differences": [d._asdict() for d in each.differences],
        "model": list(sides.model) if sides else None, "linux": list(sides.linux) if sides else None,
        "again": sides.again if sides else None,
    }  # fmt: skip


def _draw_json(subject: str, found: Frequencies) -> dict[str, Any]:
    return {
        "subject": subject, "packet": found.question, "drawn": dict(sorted(found.drawn.items())),
        "weights": {end: str(weight) for end, weight in sorted(found.weights.items())},
        "chiSquare": round(found.chi_square, 3), "p": float(f"{found.p_value:.3g}"),
    }  # fmt: skip


def _spread_json(each: Spread) -> dict[str, Any]:
    return {
        "from": each.low, "to": each.high, "drawn": each.samples, "lowest": each.lowest, "highest": each.highest,
        "p": float(f"{each.p_value:.3g}"),
    }  # fmt: skip


# --- for people ------------------------------------------------------------------------------------------------------------


def print_report(report: Report, console: "Console") -> None:
    """Prints a table of the subjects, each disagreement with both sides, and the result."""
    from rich.table import Table

    shown: Sequence[Verification] = report.verifications
    if len(shown) > _MOST_ROWS:
        shown = [each for each in shown if each.disagreements][:_MOST_ROWS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("subject")
    for name in ("probes", *_COLUMNS.values(), "answers", "draws judged", "disagree"):
        table.add_column(name, justify="right")
    for each in shown:
        table.add_row(each.subject, *_cells(each.results, each.answers, len(each.frequencies), len(each.disagreements)))
    if len(report.verifications) > 1:
        results = sum((each.results for each in report.verifications), Counter())
        answers = report.packets - report.probes
        table.add_row(
            f"all {len(report.verifications)}",
            *_cells(results, answers, len(report.draws), len(report.disagreements)), style="bold",
        )  # fmt: skip
    console.print(table)
    width = (console.width - 7) // 2
    for line in _disagreement_lines(report, width):
        console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ignore", crop=False)
    if report.left_out:
        console.print(report.left_out, highlight=False)
    console.print(report.sentence(), highlight=False, style="green" if report.agrees else "red")


def _cells(results: Counter[ProbeResult], answers: int, draws: int, disagreements: int) -> list[str]:
    counts = [results.total(), *(results[result] for result in _COLUMNS), answers, draws, disagreements]
    return [str(count) for count in counts]


def _disagreement_lines(report: Report, width: int) -> Iterator[str]:
    found = report.disagreements
    for each in found[:_MOST_TOLD]:
        yield ""
        yield f"{each.subject}: {each.probe}".rstrip(": ")
        yield f"  {each.packet}"
        yield from (f"    {difference}" for difference in each.differences)
        if each.sides is not None:
            yield from (f"    {line}" for line in each.sides.beside(width))
    if len(found) > _MOST_TOLD:
        yield f"… and {len(found) - _MOST_TOLD} more (--format json has them all)"
    for subject, unfair in report.unfair:
        yield ""
        yield f"{subject}: drawn otherwise than the model says"
        yield f"  {unfair}"
    for narrow in report.narrow:
        yield ""
        yield "source ports: drawn from fewer than the model says"
        yield f"  {narrow}"
    if found or report.unfair or report.narrow:
        yield ""
