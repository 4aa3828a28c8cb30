"""Checks the figures that conditions name before a run, so that a slip does not cost a whole run."""

from collections.abc import Iterable

from kpsim.reports.expectations import Expectation, evaluate_all, parse_expectations
from kpsim.reports.figures import figures
from kpsim.scenario import Scenario

#: a patch can give a Service other ports, and pods get their addresses in the run: these names are known only after it
_UNSETTLED = ("services.", "affinity.", "endpoints.")


def check_names(scenario: Scenario, others: Iterable[Expectation] = ()) -> None:
    """InputError if an expectation of the scenario, or another condition, names a figure that its runs will not have."""
    from kpsim.simulation.engine import blank_log

    expected = [*parse_expectations(scenario.expect, scenario.expect_places), *others]
    settled = [e for e in expected if not e.figure.startswith(_UNSETTLED) and ".endpoints." not in e.figure]
    evaluate_all(settled, figures(blank_log(scenario, scenario.seed)))
