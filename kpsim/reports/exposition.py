"""The metrics of a run as Prometheus would have stored them: as OpenMetrics text with time stamps, and as a frame.

``promtool tsdb create-blocks-from openmetrics FILE DIRECTORY`` makes a Prometheus' storage of the text. Each series has the labels
``job`` and ``instance``, as a Prometheus would set them, and those of kube-proxies also ``node``. The series ``up`` is what a
Prometheus adds.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kpsim.errors import InputError
from kpsim.kubeproxy.metrics import Definition, Histogram, Kind, Labels
from kpsim.reports.columns import Column, frame_of
from kpsim.reports.sentences import plural
from kpsim.simulation.clock import wall_ns
from kpsim.simulation.scraping import Scrape, Scraper, Target
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
            f"--scrape-interval {format_duration(interval_ns)}: {scrapes:,} scrapes of {plural(nodes, 'node')} give about"
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
    return frame_of(_COLUMNS, (sample for family in _families(scraper) for sample in family.samples()))


class _Collector:
    def __init__(self, scraper: Scraper) -> None:
        self._scraper = scraper

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import Metric
        from prometheus_client.samples import Timestamp

        for family in _families(self._scraper):
            metric = Metric(*_named(family.name, family.definition))
            for sample in family.samples():
                seconds, nanoseconds = divmod(wall_ns(sample.at_ns), SECOND_NS)
                metric.add_sample(sample.name, sample.labels, sample.value, Timestamp(seconds, nanoseconds))
            yield metric


def _named(name: str, definition: Definition) -> tuple[str, str, str]:
    """The family's name, what it means, and its kind. OpenMetrics has no counter without ``_total``, Kubernetes has."""
    if definition.kind is not Kind.COUNTER:
        return name, definition.help, definition.kind.value
    bare = name.removesuffix("_total")
    return bare, definition.help, "unknown" if bare == name else "counter"


class _Family(NamedTuple):
    """A metric that a target has, with the scrapes of each series."""

    name: str
    definition: Definition
    series: list[tuple[Labels, Sequence[Scrape]]]

    def samples(self) -> Iterator[Sample]:
        for labels, scrapes in self.series:
            known = {**_labels_of(scrapes[0].target), **dict(labels)}
            if self.definition is _UP:
                yield from (Sample(s.at_ns, self.name, known, float(s.series is not None)) for s in scrapes)
                continue
            buckets = [(known | {"le": text}) for text in _bounds(self.definition)]
            for scrape in scrapes:
                value = None if scrape.series is None else scrape.series.get((self.definition.name, labels))
                if value is not None:
                    yield from _values(scrape.at_ns, self.name, self.definition, known, buckets, value)


def _labels_of(target: Target) -> dict[str, str]:
    labels = {"job": target.job, "instance": target.instance}
    return {**labels, "node": target.node} if target.node else labels


def _families(scraper: Scraper) -> Iterator[_Family]:
    """Yield each metric that any target has, by name."""
    by_target: dict[Target, list[Scrape]] = {}
    for scrape in scraper.scrapes:
        by_target.setdefault(scrape.target, []).append(scrape)
    found: dict[tuple[str, str], list[tuple[Labels, Sequence[Scrape]]]] = {}
    for target, scrapes in by_target.items():
        different = {id(scrape.series): scrape.series for scrape in scrapes if scrape.series is not None}
        for name, labels in sorted({key for series in different.values() for key in series}):
            found.setdefault((target.prefix, name), []).append((labels, scrapes))
    if by_target:
        yield _Family("up", _UP, [((), scrapes) for scrapes in by_target.values()])
    defined = {
        (target.prefix, definition.name): definition for target in by_target for definition in target.definitions
    }
    for (prefix, name), series in sorted(found.items(), key=lambda item: item[0]):
        yield _Family(prefix + name, defined[prefix, name], series)


def _values(
    at_ns: int,
    name: str,
    definition: Definition,
    known: dict[str, str],
    buckets: Sequence[dict[str, str]],
    value: int | Histogram,
) -> Iterator[Sample]:
    """The samples of one series at one scrape."""
    if not isinstance(value, Histogram):
        yield Sample(at_ns, name, known, value / definition.unit)
        return
    total = 0
    for bucket, count in zip(buckets, value.counts, strict=True):
        total += count
        yield Sample(at_ns, f"{name}_bucket", bucket, total)
    yield Sample(at_ns, f"{name}_count", known, total)
    yield Sample(at_ns, f"{name}_sum", known, value.total / definition.unit)


def _bounds(definition: Definition) -> list[str]:
    """The label ``le`` of each bucket."""
    return [*(repr(bound / definition.unit) for bound in definition.bounds), "+Inf"] if definition.bounds else []


def _label(name: str) -> Column[Sample]:
    return Column(name, "str", "", f"label {name}; empty: the series has none", lambda s: s.labels.get(name, ""))


_LABELS = ("node", "instance", "job", "ip_family", "table", "traffic_policy", "code", "operation", "result", "le")
_COLUMNS: tuple[Column[Any], ...] = (
    Column("at_ns", "int64", "ns", "when it was scraped, since the start of the run", lambda s: s.at_ns),
    Column("at_seconds", "float64", "s", "the same in seconds", lambda s: s.at_ns / SECOND_NS),
    Column("name", "str", "", "of the series, with _bucket, _count or _sum for a histogram", lambda s: s.name),
    *map(_label, _LABELS),
    Column("value", "float64", "", "in seconds where the name says so", lambda s: s.value),
)
