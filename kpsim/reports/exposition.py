"""The metrics of a run as Prometheus would have stored them: as OpenMetrics text with time stamps, and as a frame.

``promtool tsdb create-blocks-from openmetrics FILE DIRECTORY`` makes a Prometheus' storage of the text. Each series has the labels
``job`` and ``instance``, as a Prometheus that scrapes nodes would set them, and ``node``. The series ``up`` is what a Prometheus adds.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kpsim.errors import InputError
from kpsim.kubeproxy.metrics import DEFINITIONS, PREFIX, Definition, Histogram, Kind, Labels
from kpsim.reports.columns import Column, frame_of
from kpsim.simulation.clock import wall_ns
from kpsim.simulation.scraping import JOB, Scrape, Scraper
from kpsim.units import SECOND_NS, format_duration

if TYPE_CHECKING:
    import pandas as pd
    from prometheus_client.core import Metric

#: samples that one run may give: some 800 MB of text
MOST_SAMPLES = 5_000_000
#: samples of one target, and of each family that it serves: nearly all are buckets
_OF_TARGET, _OF_FAMILY = 10, 150
_UP = Definition("up", Kind.GAUGE, "Whether the target answered")


class Sample(NamedTuple):
    """One value of one series, as Prometheus stores it."""

    at_ns: int
    name: str
    labels: dict[str, str]
    value: float


def scraper_for(interval_ns: int, *, duration_ns: int, nodes: int, families: int) -> Scraper:
    """Return a scraper for a run. InputError if the samples would be too many, or the interval is none."""
    if interval_ns <= 0:
        raise InputError("--scrape-interval: expected more than 0s")
    each = nodes * (_OF_TARGET + _OF_FAMILY * families)
    scrapes = duration_ns // interval_ns + 1
    if scrapes * each > MOST_SAMPLES:
        most = max(1, MOST_SAMPLES // each)
        least = -(-duration_ns // (most * SECOND_NS)) + 1
        raise InputError(
            f"--scrape-interval {format_duration(interval_ns)}: {scrapes:,} scrapes of {nodes:,} nodes give about"
            f" {scrapes * each:,} samples, and {MOST_SAMPLES:,} are the most; try {least}s"
        )
    return Scraper(interval_ns)


def openmetrics_text(scraper: Scraper) -> str:
    """Return all samples in the OpenMetrics text format, families by name, series by labels, samples in time order."""
    from prometheus_client.openmetrics.exposition import generate_latest

    text: bytes = generate_latest(_Collector(scraper))  # type: ignore[no-untyped-call]
    return text.decode()


def metrics_frame(scraper: Scraper) -> "pd.DataFrame":
    """Return a row for each sample, in the order of the text."""
    return frame_of(_COLUMNS, (sample for _, samples in _families(scraper) for sample in samples))


class _Collector:
    def __init__(self, scraper: Scraper) -> None:
        self._scraper = scraper

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import Metric
        from prometheus_client.samples import Timestamp

        for definition, samples in _families(self._scraper):
            name = definition.name if definition is _UP else PREFIX + definition.name
            bare = name.removesuffix("_total") if definition.kind is Kind.COUNTER else name
            metric = Metric(bare, definition.help, definition.kind.value)
            for sample in samples:
                seconds, nanoseconds = divmod(wall_ns(sample.at_ns), SECOND_NS)
                metric.add_sample(sample.name, sample.labels, sample.value, Timestamp(seconds, nanoseconds))
            yield metric


def _families(scraper: Scraper) -> Iterator[tuple[Definition, Iterator[Sample]]]:
    """Yield each metric that any target has, with its samples."""
    by_node: dict[str, list[Scrape]] = {}
    for scrape in scraper.scrapes:
        by_node.setdefault(scrape.node, []).append(scrape)
    if by_node:
        yield _UP, _ups(scraper, by_node.values())
    found: dict[str, list[tuple[Labels, Sequence[Scrape]]]] = {}
    for scrapes in by_node.values():
        different = {id(scrape.series): scrape.series for scrape in scrapes if scrape.series is not None}
        for name, labels in sorted({key for series in different.values() for key in series}):
            found.setdefault(name, []).append((labels, scrapes))
    for definition in sorted(DEFINITIONS):
        if definition.name in found:
            yield definition, _samples(scraper, definition, found[definition.name])


def _target(scraper: Scraper, node: str) -> dict[str, str]:
    return {"job": JOB, "instance": scraper.addresses[node], "node": node}


def _ups(scraper: Scraper, targets: Iterable[Sequence[Scrape]]) -> Iterator[Sample]:
    for scrapes in targets:
        labels = _target(scraper, scrapes[0].node)
        for scrape in scrapes:
            yield Sample(scrape.at_ns, "up", labels, float(scrape.series is not None))


def _samples(
    scraper: Scraper, definition: Definition, targets: Iterable[tuple[Labels, Sequence[Scrape]]]
) -> Iterator[Sample]:
    name = PREFIX + definition.name
    for labels, scrapes in targets:
        known = {**_target(scraper, scrapes[0].node), **dict(labels)}
        buckets = [(known | {"le": text}) for text in _bounds(definition)]
        for scrape in scrapes:
            value = None if scrape.series is None else scrape.series.get((definition.name, labels))
            match value:
                case None:
                    pass
                case Histogram():
                    total = 0
                    for bucket, count in zip(buckets, value.counts, strict=True):
                        total += count
                        yield Sample(scrape.at_ns, f"{name}_bucket", bucket, total)
                    yield Sample(scrape.at_ns, f"{name}_count", known, total)
                    yield Sample(scrape.at_ns, f"{name}_sum", known, value.sum_ns / SECOND_NS)
                case _:
                    yield Sample(scrape.at_ns, name, known, value / SECOND_NS if definition.is_time else value)


def _bounds(definition: Definition) -> list[str]:
    """The label ``le`` of each bucket."""
    return [*(repr(ns / SECOND_NS) for ns in definition.bounds_ns), "+Inf"] if definition.bounds_ns else []


def _label(name: str) -> Column[Sample]:
    return Column(name, "str", "", f"label {name}; empty: the series has none", lambda s: s.labels.get(name, ""))


_COLUMNS: tuple[Column[Any], ...] = (
    Column("at_ns", "int64", "ns", "when it was scraped, since the start of the run", lambda s: s.at_ns),
    Column("at_seconds", "float64", "s", "the same in seconds", lambda s: s.at_ns / SECOND_NS),
    Column("name", "str", "", "of the series, with _bucket, _count or _sum for a histogram", lambda s: s.name),
    *map(_label, ("node", "instance", "job", "ip_family", "table", "traffic_policy", "code", "le")),
    Column("value", "float64", "", "in seconds where the name says so", lambda s: s.value),
)
