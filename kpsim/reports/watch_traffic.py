"""What a change sends: bytes of each write of EndpointSlices and Endpoints, times those who watch, summed up by Service and kind.

Slices are why a change of one endpoint is small: a watcher gets the slice that it stands in. Of an Endpoints object it gets all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kpsim.reports.sentences import TextTable, plural
from kpsim.simulation.runlog import HappeningKind, RunLog, WatchWrite

KINDS = ("EndpointSlice", "Endpoints")


@dataclass(frozen=True, slots=True)
class WatchTotal:
    """The writes of one kind of object, of one Service or of all (``service`` is then empty)."""

    service: str
    kind: str
    writes: int
    object_bytes: int  #: of all writes together, each once
    largest_bytes: int
    most_endpoints: int  #: in one object
    events: int  #: each write, once for each watcher
    sent_bytes: int

    @property
    def mean_bytes(self) -> float | None:
        """Bytes of a write; None: there was none."""
        return self.object_bytes / self.writes if self.writes else None


def _total(service: str, kind: str, writes: Sequence[WatchWrite]) -> WatchTotal:
    return WatchTotal(
        service,
        kind,
        len(writes),
        sum(write.bytes for write in writes),
        max((write.bytes for write in writes), default=0),
        max((write.endpoints for write in writes), default=0),
        sum(write.watchers for write in writes),
        sum(write.sent_bytes for write in writes),
    )


def watch_totals(log: RunLog) -> list[WatchTotal]:
    """Return the totals by Service and kind. The Services are sorted by name, slices come before Endpoints."""
    found: dict[tuple[str, str], list[WatchWrite]] = {}
    for write in log.watched:
        found.setdefault((write.service, write.kind), []).append(write)
    ordered = sorted(found, key=lambda pair: (pair[0], KINDS.index(pair[1])))
    return [_total(service, kind, found[service, kind]) for service, kind in ordered]


def watch_sums(log: RunLog) -> list[WatchTotal]:
    """Return the totals of each kind over all Services, also of a kind that nobody wrote."""
    return [_total("", kind, [write for write in log.watched if write.kind == kind]) for kind in KINDS]


def refused_writes(log: RunLog) -> int:
    """Return how many writes of Endpoints etcd refused for their size."""
    return sum(happening.kind is HappeningKind.ENDPOINTS_REFUSED for happening in log.happenings)


def bytes_text(count: float) -> str:
    """Return a number of bytes in a decimal unit: ``12.7 KB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 1000 else f"{count:,.0f} TB"


def watch_parts(log: RunLog) -> list[str | TextTable]:
    """Return the report in words, with a table of the Services."""
    sums = watch_sums(log)
    if not log.watched:
        return ["Nobody wrote an EndpointSlice or an Endpoints object in the run.", *_refusals(log)]
    sent = bytes_text(sum(each.sent_bytes for each in sums))
    return [
        f"The API server sent {sent} to watchers of endpoints, for {plural(len(log.watched), 'write')}.",
        *(line for each in sums if each.writes for line in (_sentence(each, log.watched),)),
        *_refusals(log),
        _table([*watch_totals(log), *(each for each in sums if each.writes)]),
    ]


def _sentence(total: WatchTotal, watched: Iterable[WatchWrite]) -> str:
    own = [write for write in watched if write.kind == total.kind]
    proxies, others = _range(write.proxies for write in own), _range(write.others for write in own)
    mean = bytes_text(total.mean_bytes or 0)
    watching = "no kube-proxy watches them" if proxies == "0" else f"kube-proxies that watch them: {proxies}"
    name = "EndpointSlices" if total.kind == "EndpointSlice" else total.kind
    return f"{name}: {mean} a write on average; {watching}; others, with kube-controller-manager: {others}."


def _range(numbers: Iterable[int]) -> str:
    found = set(numbers)
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _refusals(log: RunLog) -> list[str]:
    count = refused_writes(log)
    return [f"etcd refused {plural(count, 'write')} of Endpoints for their size."] if count else []


def _table(totals: Iterable[WatchTotal]) -> TextTable:
    rows = tuple(
        (
            total.service or "all",
            total.kind,
            f"{total.writes:,}",
            f"{total.most_endpoints:,}",
            bytes_text(total.largest_bytes),
            bytes_text(total.object_bytes),
            f"{total.events:,}",
            bytes_text(total.sent_bytes),
        )
        for total in totals
    )
    headings = ("Service", "kind", "writes", "most endpoints", "largest", "objects", "events", "sent")
    return TextTable(headings, rows, frozenset(range(2, len(headings))))


def watch_json(log: RunLog) -> dict[str, Any]:
    """Return the report as plain values."""

    def plain(total: WatchTotal) -> dict[str, Any]:
        return {
            "kind": total.kind,
            "writes": total.writes,
            "most_endpoints": total.most_endpoints,
            "largest_bytes": total.largest_bytes,
            "object_bytes": total.object_bytes,
            "events": total.events,
            "sent_bytes": total.sent_bytes,
        }

    return {
        "kinds": [plain(total) for total in watch_sums(log)],
        "services": [{"service": total.service, **plain(total)} for total in watch_totals(log)],
        "refused_writes": refused_writes(log),
    }
