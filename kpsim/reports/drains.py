"""What drains and rolling upgrades of nodes did, if anything held them up: sentences for people."""

from collections.abc import Iterator

from kpsim.reports.sentences import instant, plural
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog

_ENDS = (HappeningKind.DRAIN_DONE, HappeningKind.DRAIN_GAVE_UP)


def drain_lines(log: RunLog) -> list[str]:
    """Say which drains had to wait for disruption budgets, gave up, or were not over at the end, and how upgrades went."""
    return [*_drains(log), *_upgrades(log)]


def _drains(log: RunLog) -> Iterator[str]:
    for number, begun in enumerate(log.happenings):
        if begun.kind is not HappeningKind.NODE_DRAINED:
            continue
        later = [each for each in log.happenings[number:] if each.subject == begun.subject]
        end = next((each for each in later if each.kind in _ENDS), None)
        until_ns = log.duration_ns if end is None else end.at_ns
        waited = sorted(
            {
                each.subject
                for each in log.happenings[number:]
                if each.kind is HappeningKind.EVICTION_REFUSED
                and each.at_ns <= until_ns
                and each.detail.startswith(f"{begun.subject}: ")
            }
        )
        if end is None or waited or end.kind is HappeningKind.DRAIN_GAVE_UP:
            yield _drain(begun, end, waited)


def _drain(begun: Happening, end: Happening | None, waited: list[str]) -> str:
    since = f"{begun.subject} was drained from {instant(begun.at_ns)}"
    if end is None:
        told = f"{since} on, and not all of its pods were gone when the run ended"
    elif end.kind is HappeningKind.DRAIN_GAVE_UP:
        told = f"{since} to {instant(end.at_ns)}; then the drain gave up: {end.detail}"
    else:
        told = f"{since} to {instant(end.at_ns)}"
    return f"{told}; {_listed(waited)} had to wait for a disruption budget." if waited else f"{told}."


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _upgrades(log: RunLog) -> Iterator[str]:
    for number, begun in enumerate(log.happenings):
        if begun.kind is not HappeningKind.ROLLING_UPGRADE:
            continue
        later = log.happenings[number + 1 :]
        end = next((each for each in later if each.kind is HappeningKind.ROLLING_UPGRADE_DONE), None)
        done = sum(each.kind is HappeningKind.NODE_UPGRADED for each in later if end is None or each.at_ns <= end.at_ns)
        since = f"A rolling upgrade took {plural(done, 'node')} from {instant(begun.at_ns)}"
        yield (
            f"{since} to {instant(end.at_ns)}."
            if end is not None
            else f"{since} on, and was not over when the run ended."
        )
