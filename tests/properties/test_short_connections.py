"""Short connections that go as others went leave exactly what walks would have left."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import left_behind, random_scenario

from kpsim.errors import InputError
from kpsim.scenario import load_scenario


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@given(data=st.data())
@settings(deadline=None, max_examples=6)
def test_what_a_run_leaves_does_not_depend_on_walking_all(mode: str, data: st.DataObject) -> None:
    def choose(several: Any) -> Any:
        return data.draw(st.sampled_from(several))

    try:
        scenario = random_scenario(choose, mode)
    except InputError:  # some parts do not go together
        return
    walked, _ = left_behind(scenario, walk_all=True)
    written, _ = left_behind(scenario, walk_all=False)
    assert written == walked


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_most_connections_are_written_at_once(mode: str) -> None:
    scenario = load_scenario("local-rollout-prestop", settings=["duration=20s", "traffic[0].perSecond=20"]).with_mode(
        mode
    )
    left, written = left_behind(scenario, walk_all=False)
    assert written > 0.9 * len(left["log"].connections)
    assert left == left_behind(scenario, walk_all=True)[0]
