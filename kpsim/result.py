"""The result of a scenario run: the Python interface of ``kpsim run``."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.config import Mode
from kpsim.effort import permit
from kpsim.errors import InputError
from kpsim.reports.expectations import ExpectationResult, evaluate_all, failed, parse_expectations
from kpsim.reports.figures import figures
from kpsim.reports.names import check_names
from kpsim.scenario import Scenario, load_scenario, parse_scenario
from kpsim.scenario.effort import effort_of
from kpsim.scenario.nodes import cluster_families, cluster_nodes
from kpsim.simulation import Progress
from kpsim.simulation import run as simulate
from kpsim.simulation.runlog import RunLog
from kpsim.units import MILLISECOND_NS, SECOND_NS, parse_duration_ns

if TYPE_CHECKING:
    from pandas import DataFrame

    from kpsim.drafting import Draft
    from kpsim.reports.canvas import Plot
    from kpsim.reports.expected import ExpectedResult
    from kpsim.reports.simulated import Simulated
    from kpsim.retracing.connections import ConnectionTrace
    from kpsim.retracing.moments import ClusterAt
    from kpsim.simulation.scraping import Scraper, TableSampler
    from kpsim.sweeping.result import SweepResult


#: how often metrics are read if nobody says otherwise
DEFAULT_SCRAPE_INTERVAL_NS = 15 * SECOND_NS
#: how often connection tables are counted in a run
TABLE_SAMPLES = 200


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run left behind. A notebook shows it as a report."""

    scenario: Scenario
    log: RunLog
    command: str = ""  #: that repeats the run in a shell; empty: none does, as its scenario is no file
    scraper: "Scraper | None" = field(default=None, compare=False)  #: what was scraped meanwhile
    sampler: "TableSampler | None" = field(default=None, compare=False)  #: the sizes of connection tables meanwhile

    @cached_property
    def figures(self) -> Mapping[str, int | float]:
        """Every report figure by the name that ``expect`` conditions use."""
        return figures(self.log)

    @cached_property
    def expectations(self) -> Sequence[ExpectationResult]:
        """The scenario's expectations, each with the figure that it compares.

        InputError if one names an unknown figure.
        """
        return evaluate_all(parse_expectations(self.scenario.expect, self.scenario.expect_places), self.figures)

    @property
    def holds(self) -> bool:
        """Whether all expectations hold."""
        return not failed(self.expectations)

    def frames(self) -> "dict[str, DataFrame]":
        """All report tables as data frames with declared columns, by name."""
        return frames(self.log)

    @cached_property
    def scraped(self) -> "Scraper":
        """Every kube-proxy's metrics. If the run was not scraped it runs again, and is scraped every 15 s."""
        if self.scraper is not None:
            return self.scraper
        scraper = _scraper(self.scenario, DEFAULT_SCRAPE_INTERVAL_NS)
        simulate(self.scenario, watchers=[scraper])
        return scraper

    @cached_property
    def metrics(self) -> "DataFrame":
        """Every kube-proxy's metrics as Prometheus would have stored them: a row for each sample (see :attr:`scraped`)."""
        from kpsim.reports.exposition import metrics_frame

        return metrics_frame(self.scraped)

    def openmetrics(self) -> str:
        """Return the metrics as OpenMetrics text with time stamps, as ``kpsim run --metrics FILE`` writes it."""
        from kpsim.reports.exposition import openmetrics_text

        return openmetrics_text(self.scraped)

    def perfetto(self) -> str:
        """Return the run as a trace for ui.perfetto.dev, as ``kpsim run --perfetto FILE`` writes it.

        If the connection tables were not counted meanwhile the run runs again. InputError for more events than it opens.
        """
        from kpsim.reports.perfetto import perfetto_text

        sampler = self.sampler
        if sampler is None:
            sampler = _sampler(self.scenario)
            simulate(self.scenario, watchers=[sampler])
        return perfetto_text(self.log, sampler.sizes)

    @cached_property
    def plots(self) -> "dict[str, Plot]":
        """Every picture that has something to show, by name. A notebook shows each as an image."""
        from kpsim.reports.plots import plots

        return {plot.name: plot for plot in plots(self.log)}

    def summary(self, width: int = 120) -> str:
        """Return the summary as ``kpsim run`` prints it."""
        from kpsim.reports.summary import summary_text

        return summary_text(self.log, self.expectations, width)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as ``kpsim run --format json`` prints it."""
        from kpsim.reports.summary import summary_json

        return summary_json(self.log, self.expectations, self.figures)

    def write(self, directory: Path | str, progress: Progress | None = None) -> list[Path]:
        """Write frames, plots, summary and the HTML report into a directory, and return the files.

        The page has the ways of some lost connections; the scenario is run again for them.
        """
        from kpsim.reports.output import write_output

        return write_output(self.log, self.expectations, Path(directory), self._told(progress))

    def _told(self, progress: Progress | None) -> "Simulated":
        """What the page says of the scenario, with the ways of some lost connections. The run is run again for them."""
        from kpsim.reports.simulated import KeptTrace, simulated
        from kpsim.retracing.choosing import chosen_losses
        from kpsim.retracing.connections import trace_all

        chosen = {(c.traffic, c.number): c.decisive_ns for c in chosen_losses(self.log)}
        found = trace_all(self.scenario, self.log, chosen, progress) if chosen else []
        kept = [
            KeptTrace(c.name, each.at_ns, c.node, c.disposition.value, c.cause.value, each.text())
            for each in found
            for c in (each.connection,)
        ]
        return simulated(self.scenario, self.command, kept)

    def seeds(self, count: int, **how: Any) -> "SweepResult":
        """Run the scenario with ``count`` seeds, its own and those after it: how far do its figures vary?

        ``how`` are ``jobs``, ``keep``, ``progress``, ``long`` and ``note`` of :func:`kpsim.sweep`.
        """
        from kpsim.sweeping.sweep import seeds_of

        return seeds_of(self.scenario, count, {self.scenario.seed: self.figures}, **how)

    def trace(self, connection: int | str, at: str | int | None = None) -> "ConnectionTrace":
        """Return the way of a connection's packet with all its steps, and what happened around it.

        ``connection`` is ``SOURCE#NUMBER`` as the frame ``connections`` has them, a number if there is one source, or a source
        alone for its first lost connection. Its deciding packet is traced; with ``at`` (``14.3s`` or nanoseconds) the last
        that it had sent by then. The scenario runs again up to there, so the packet meets the same draws, connection
        tables and affinity lists. InputError for an unknown connection or a time outside the run.
        """
        from kpsim.retracing.connections import trace_connection

        return trace_connection(self.scenario, self.log, connection, None if at is None else _time_ns(at))

    def cluster_at(self, at: str | int) -> "ClusterAt":
        """Return the cluster at a time of the run (``14.3s`` or nanoseconds): slices, pods, rotation, rules on each node.

        InputError for a time outside the run.
        """
        from kpsim.retracing.moments import cluster_at

        return cluster_at(self.scenario, self.log, _time_ns(at))

    def __repr__(self) -> str:
        from kpsim.reports.sentences import title_line, traffic_sentence

        return f"<{title_line(self.log)}: {traffic_sentence(self.log)}>"

    def _repr_html_(self) -> str:
        from kpsim.reports.page import html_fragment
        from kpsim.reports.simulated import simulated

        return html_fragment(self.log, self.expectations, told=simulated(self.scenario, self.command))


def _time_ns(at: str | int) -> int:
    if isinstance(at, int):
        return at
    try:
        return parse_duration_ns(at)
    except ValueError as problem:
        raise InputError(f"--at: {problem}") from None


def run(
    scenario: "Scenario | Draft | Path | str",
    *,
    mode: Mode | str | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
    long: bool = False,
    walk_all: bool = False,
    note: Callable[[str], None] | None = None,
    scrape_interval: str | int | None = None,
    count_entries: bool = False,
) -> RunResult:
    """Run a scenario: a loaded one, a file, a built-in by name, or a draft. ``settings`` are ``path=value`` overrides.

    With ``walk_all`` every packet of short connections is walked, in place of letting them go as others went. The result is
    the same.

    ``scrape_interval`` (``15s`` or nanoseconds): how often a Prometheus reads kube-proxies' metrics; None: not meanwhile.
    With ``count_entries`` the entries of connection tables are counted on the way, which :meth:`RunResult.perfetto` shows.

    ``note`` is called before a run of minutes. InputError names file, line and field of everything that is wrong in the
    scenario and its expectations, and refuses a run of hours unless ``long``.
    """
    loaded = _loaded(scenario, mode, seed, settings)
    if walk_all:
        loaded = replace(loaded, walk_all=True)
    check_names(loaded)
    permit(effort_of(loaded), long=long, note=note)
    command = "" if isinstance(scenario, Scenario) else _command(scenario, mode, seed, settings)
    scraper = None if scrape_interval is None else _scraper(loaded, _interval_ns(scrape_interval))
    sampler = _sampler(loaded) if count_entries else None
    watchers = [watcher for watcher in (scraper, sampler) if watcher is not None]
    return RunResult(loaded, simulate(loaded, progress=progress, watchers=watchers), command, scraper, sampler)


def _sampler(scenario: Scenario) -> "TableSampler":
    from kpsim.simulation.scraping import TableSampler

    return TableSampler(max(MILLISECOND_NS, scenario.spec.duration_ns // TABLE_SAMPLES))


def _interval_ns(interval: str | int) -> int:
    try:
        return interval if isinstance(interval, int) else parse_duration_ns(interval)
    except ValueError as problem:
        raise InputError(f"--scrape-interval: {problem}") from None


def _scraper(scenario: Scenario, interval_ns: int) -> "Scraper":
    from kpsim.reports.exposition import scraper_for

    spec = scenario.spec
    nodes, families = len(cluster_nodes(spec.nodes)), len(cluster_families(spec.nodes))
    return scraper_for(interval_ns, duration_ns=spec.duration_ns, nodes=nodes, families=families)


def _command(scenario: "Draft | Path | str", mode: Mode | str | None, seed: int | None, settings: Sequence[str]) -> str:
    """Return the command that repeats a run of a file or a built-in scenario; empty for a draft."""
    if not isinstance(scenario, Path | str):
        return ""
    words = ["kpsim", "run", str(scenario)]
    words += [] if mode is None else ["--mode", str(mode)]
    words += [] if seed is None else ["--seed", str(seed)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)


def expected(
    scenario: "Scenario | Draft | Path | str",
    *,
    mode: Mode | str | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> "ExpectedResult":
    """Compute the losses to be expected of a scenario, without drawing connections. The arguments are those of :func:`run`.

    It is the expectation for the course that the cluster takes with the seed. InputError names everything beside rates and odds that
    decides there, such as session affinity and connections that last.
    """
    from kpsim.reports.expected import ExpectedResult
    from kpsim.simulation.expected import expected_losses

    loaded = _loaded(scenario, mode, seed, settings)
    if note is not None:
        for text in loaded.notes:
            note(text)
        if loaded.expect:
            note("expectations are about connections that are drawn: --exact does not evaluate them")
    return ExpectedResult.of_run(expected_losses(loaded, progress=progress))


def _loaded(
    scenario: "Scenario | Draft | Path | str", mode: Mode | str | None, seed: int | None, settings: Sequence[str]
) -> Scenario:
    if isinstance(scenario, Path | str):
        scenario = load_scenario(str(scenario), settings=settings)
    elif not isinstance(scenario, Scenario):
        scenario = parse_scenario(json.dumps(scenario.content), "the drafted scenario", settings=settings)
    elif settings:
        raise ValueError("settings change a scenario while it is loaded: give its file or name")
    if seed is not None:
        scenario = scenario.with_seed(seed)
    return scenario if mode is None else scenario.with_mode(str(mode))


def frames(run: RunResult | RunLog) -> "dict[str, DataFrame]":
    """All report tables of a run as data frames, by name."""
    from kpsim.reports.frames import TABLES

    log = run.log if isinstance(run, RunResult) else run
    return {table.name: table.frame(log) for table in TABLES}
