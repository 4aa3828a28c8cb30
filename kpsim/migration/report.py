"""An assessment with its page, in every form: what ``kpsim migrate`` prints, and what a notebook shows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kpsim.comparison.behaviour.differences import Progress
from kpsim.comparison.behaviour.report import Record, Subject
from kpsim.comparison.behaviour.report import report as compared
from kpsim.config import Mode
from kpsim.explore import Cluster
from kpsim.migration.assessment import Comparison, Migration, assess
from kpsim.migration.blocks import Page
from kpsim.migration.differences import Differing
from kpsim.migration.page import page
from kpsim.migration.records import migration_record
from kpsim.migration.writing import as_fragment, as_html, as_markdown, as_text
from kpsim.packet import ICMP_PROTOCOLS


@dataclass(frozen=True, repr=False)
class MigrationReport:
    """What a change of proxy mode means for a cluster. A notebook shows the page."""

    migration: Migration

    @property
    def breaks(self) -> bool:
        """Whether something that works today stops working."""
        return self.migration.breaks

    @cached_property
    def _page(self) -> Page:
        return page(self.migration)

    def text(self) -> str:
        return as_text(self._page)

    def markdown(self) -> str:
        return as_markdown(self._page)

    def html(self) -> str:
        """The page as one HTML file that needs nothing else."""
        return as_html(self._page)

    def to_json(self) -> dict[str, Any]:
        """Everything that the page says, for programs."""
        return migration_record(self.migration)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<migration from {self.migration.source} to {self.migration.target}, breaks={self.breaks}>"

    def _repr_html_(self) -> str:
        return as_fragment(self._page)


def migrate(cluster: Cluster, to: Mode | str, *, progress: Progress | None = None) -> MigrationReport:
    """What a cluster would do otherwise in another proxy mode, and what to mind before it gets there.

    ``progress`` is called with the pieces of work done and their number. InputError if the cluster has no nodes or is in
    this mode already, or if a mode is not modelled.
    """

    def compare(a: Cluster, b: Cluster) -> Comparison:
        found = compared(Subject.of(a), Subject.of(b), progress)
        return Comparison(found.classes, list(map(_differing, found.records)))

    return MigrationReport(assess(cluster, to, compare))


def _differing(record: Record) -> Differing:
    box = record.box
    pings = box.protocol in ICMP_PROTOCOLS
    return Differing(
        record.service, box.family, box.node, box.sender, "ICMP" if pings else box.protocol.upper(), box.source,
        box.destination, () if pings else box.port, *record.answers, record.why.words, record.why.see,
    )  # fmt: skip
