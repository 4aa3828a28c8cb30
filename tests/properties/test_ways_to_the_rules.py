"""The stages of every change's way are in order, without gaps, and sum to its lag; what they lost sums to what was lost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import random_scenario

from kpsim.errors import InputError
from kpsim.reports.held_up import attributed, held_up
from kpsim.reports.sync_lag import Stage, lag_ns, mean_stages_ns, stage_ns
from kpsim.simulation import run
from kpsim.simulation.runlog import RunLog


def drawn_run(data: st.DataObject, mode: str) -> RunLog | None:
    """A run of a random scenario with delays of every stage. None: some parts of the scenario do not go together."""

    def choose(several: Any) -> Any:
        return data.draw(st.sampled_from(several))

    try:
        scenario = random_scenario(choose, mode, delays=choose((False, True)))
    except InputError:
        return None
    return run(scenario)


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_stages_sum_to_the_lag(mode: str, data: st.DataObject) -> None:
    log = drawn_run(data, mode)
    for change in () if log is None else log.programming:
        legs = [stage_ns(change, stage) for stage in Stage]
        assert sum(legs) == lag_ns(change) and min(legs) >= 0
    if log is not None and log.programming:
        mean = sum(map(lag_ns, log.programming)) / len(log.programming)
        assert sum(mean_stages_ns(log).values()) == pytest.approx(mean)


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_stages_and_other_reasons_sum_to_what_was_lost(mode: str, data: st.DataObject) -> None:
    log = drawn_run(data, mode)
    if log is not None:
        lost = [c for c in log.connections if c.lost]
        assert [c for c, _ in attributed(log)] == lost
        groups = held_up(log)
        assert sum(group.connections for group in groups) == len(lost)
        for group in groups:
            assert 0 <= group.start_ns <= group.end_ns
