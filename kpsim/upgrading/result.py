"""The result of an upgrade: the Python interface of ``kpsim upgrade``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kpsim.reports.columns import Column, csv_of, frame_of
from kpsim.upgrading.patches import patch_of
from kpsim.upgrading.verdicts import Loss, Outcome, Verdict
from kpsim.upgrading.writing import counts, html_fragment, json_of, text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class UpgradeResult:
    """What an upgrade of a cluster's nodes costs its Services, and what avoids it. A notebook shows it as a page."""

    outcome: Outcome

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """The verdicts: those at risk first, then by name."""
        return self.outcome.verdicts

    @property
    def at_risk(self) -> Sequence[Verdict]:
        return self.outcome.at_risk

    @property
    def patch(self) -> str:
        """The YAML documents of all remedies found, with the commands that apply them as comments; empty if there are none."""
        return patch_of(self.outcome.changes)

    @property
    def scenario(self) -> str:
        """The scenario as YAML, for ``kpsim run`` and ``kpsim sweep``."""
        return self.outcome.plan.text(self.outcome.course)

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row for each Service, client, reason and drain with losses; of a Service without, one row."""
        return frame_of(_COLUMNS, [row for each in self.verdicts for row in _rows(each)])

    def to_csv(self) -> str:
        """The frame as CSV."""
        return csv_of(self.frame)

    def text(self) -> str:
        """The verdicts as ``kpsim upgrade`` prints them."""
        return text(self.outcome)

    def to_json(self) -> dict[str, Any]:
        """The verdicts as ``kpsim upgrade --format json`` prints them."""
        return json_of(self.outcome)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{self.outcome.plan.content['description']}: {counts(self.outcome)}>"

    def _repr_html_(self) -> str:
        return html_fragment(self.outcome)


Row = tuple[Verdict, Loss | None]


def _rows(verdict: Verdict) -> list[Row]:
    return [(verdict, loss) for loss in verdict.losses] or [(verdict, None)]


_COLUMNS: tuple[Column[Row], ...] = (
    Column("service", "str", "", "namespace/name", lambda row: row[0].service),
    Column("risk", "boolean", "", "whether the upgrade loses connections; missing: not simulated", lambda row: row[0].risk),
    Column("nodes", "str", "", "the nodes that were worked on", lambda row: ", ".join(row[1].nodes) if row[1] else ""),
    Column("clients", "str", "", "who sent", lambda row: row[1].clients if row[1] else ""),
    Column("frontend", "str", "", "which address was dialled", lambda row: row[1].frontend if row[1] else ""),
    Column("why", "str", "", "why connections were lost", lambda row: row[1].kind.value if row[1] else ""),
    Column("lost", "Int64", "connections", "over all seeds", lambda row: row[1].lost if row[1] else 0),
    Column("from_seconds", "float64", "s", "after the node was begun with, the first", lambda row: row[1].from_s if row[1] else None),
    Column("until_seconds", "float64", "s", "after the node was begun with, the last", lambda row: row[1].until_s if row[1] else None),
    Column("lost_in_a_run", "float64", "connections", "mean over the seeds, all reasons", lambda row: row[0].spread.mean if row[0].spread else None),
    Column("sent_in_a_run", "float64", "connections", "mean over the seeds", lambda row: row[0].sent / row[0].seeds if row[0].seeds else None),
    Column("seeds_lost", "Int64", "", "seeds in which something was lost", lambda row: row[0].seeds_lost),
    Column("remedy", "str", "", "the cheapest that loses nothing; empty: none was found", lambda row: row[0].remedy or ""),
)  # fmt: skip
