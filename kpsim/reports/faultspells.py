"""When something was broken on a node: what the scenario kept so, kube-proxies that were away, and rules that were removed."""

from collections.abc import Iterator

from kpsim.reports.sentences import instant
from kpsim.simulation.runlog import HappeningKind, RunLog

_AWAY = (HappeningKind.PROXY_STOPPED, HappeningKind.PROXY_CRASHED)


def fault_band(log: RunLog, subject: str) -> list[tuple[str, int, int, str]]:
    """Return the stretches of the faults of a node or of the API server as marks of a lane: class, beginning, end and words."""
    spells = sorted(fault_spells(log, subject))
    return [("fault", a, b, f"{words} from {instant(a)} to {instant(b)}") for a, b, words in spells]


def fault_spells(log: RunLog, node: str) -> Iterator[tuple[int, int, str]]:
    """Yield beginning, end and what was broken."""
    for fault in log.faults:
        if fault.subject == node:
            detail = f" ({fault.detail})" if fault.detail else ""
            yield fault.from_ns, min(fault.until_ns, log.duration_ns), f"{fault.kind}{detail}"
    yield from ((a, b, "kube-proxy away") for a, b in _away(log, node))
    yield from without_rules(log, node)


def _away(log: RunLog, node: str) -> Iterator[tuple[int, int]]:
    since_ns: int | None = None
    for each in log.happenings:
        if each.subject != node:
            continue
        if each.kind in _AWAY and since_ns is None:
            since_ns = each.at_ns
        elif each.kind in (HappeningKind.PROXY_STARTED, HappeningKind.NODE_UP) and since_ns is not None:
            if each.at_ns > since_ns:
                yield since_ns, each.at_ns
            since_ns = None
    if since_ns is not None:
        yield since_ns, log.duration_ns


def without_rules(log: RunLog, node: str) -> Iterator[tuple[int, int, str]]:
    """From a flush until the first full sync that began and succeeded after it."""
    for each in log.happenings:
        if each.kind is HappeningKind.RULES_FLUSHED and each.subject == node:
            repaired = (
                s.end_ns for s in log.syncs if s.node == node and s.full and s.success and s.start_ns >= each.at_ns
            )
            yield each.at_ns, next(repaired, log.duration_ns), f"rules removed ({each.detail})"
