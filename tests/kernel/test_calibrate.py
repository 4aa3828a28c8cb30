"""``kpsim calibrate`` on this machine: tiny clusters, and a file that a scenario can name."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from simulations import HEAD

from fuzz import hostile
from kpsim import simulation
from kpsim.calibration.clusters import Size, syncs
from kpsim.calibration.measuring import measure
from kpsim.calibration.subjects import Command, nft, obstacle, subjects
from kpsim.config import Mode
from kpsim.lab.calls import LabError, ToolFailed
from kpsim.lab.namespace import Namespace
from kpsim.lab.timing import timed
from kpsim.scenario import parse_scenario
from kpsim.scenario.sync_costs import load_costs
from kpsim.units import SECOND_NS

pytestmark = pytest.mark.kernel


def test_a_calibration_is_a_file_that_scenarios_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    done = hostile.run(
        ["calibrate", "--sizes", "10x1,30x2", "--seconds", "8", "--out", str(file), "--format", "json"], 60
    )
    assert (done.code or 0) == 0, done.said
    said: dict[str, Any] = json.loads(done.out)
    steps = {(each["tool"], each["step"]) for each in said["measurements"]}
    assert {("nft", step) for step in ("first", "again", "list", "partial", "deletion")} <= steps
    assert {("iptables-nft", step) for step in ("first", "again", "save", "partial", "deletion", "check")} <= steps
    assert all(0 < each["milliseconds"] < 10_000 for each in said["measurements"])
    costs = load_costs(str(file))
    assert costs.machine.kernel == os.uname().release
    assert set(costs.costs.names) | set(costs.not_measured) == {subject.key for subject in subjects()}
    scenario = parse_scenario(
        HEAD, str(tmp_path / "x.yaml"), settings=["delays.sync={costs: mine.yaml}", "proxy.mode=nftables"]
    )
    log = simulation.run(scenario)
    assert all(sync.end_ns - sync.start_ns < SECOND_NS for sync in log.syncs)


def test_a_larger_cluster_is_left_out_for_want_of_time() -> None:
    found = measure([Size(10, 1), Size(20_000, 5)], 1.0)
    assert (found.sizes, found.left_out) == ([Size(10, 1)], [Size(20_000, 5)])


def test_the_documents_of_each_sync_load(tmp_path: Path) -> None:
    """What is measured is what kube-proxy hands over, so the kernel takes all of it in its order."""
    namespace = Namespace()
    try:
        for step in nft().steps(syncs(Size(20, 2), Mode.NFTABLES)):
            for command in step.commands:
                assert timed(namespace, command.words, command.stdin).own_ns > 0
        listed = namespace.run(["nft", "list", "table", "ip", "kube-proxy"])
        assert listed.count("dnat ip to numgen") == 18  # of twenty Services two are deleted
    finally:
        namespace.close()


def test_a_tool_that_fails_or_does_not_end_is_no_measurement() -> None:
    namespace = Namespace()
    try:
        with pytest.raises(ToolFailed, match="nft -f -"):
            timed(namespace, ("nft", "-f", "-"), "add nothing")
        with pytest.raises(LabError, match="did not end within"):
            timed(namespace, ("sleep", "60"), limit_s=0.2)
        with pytest.raises(LabError, match="not found in PATH"):
            timed(namespace, ("no-such-tool",))
    finally:
        namespace.close()


def test_what_a_tool_waits_for_a_processor_is_not_its_time() -> None:
    """A command that sleeps is on no processor; one that computes is."""
    namespace = Namespace()
    try:
        sleeping = timed(namespace, ("sleep", "0.3"))
        computing = timed(namespace, (sys.executable, "-S", "-c", "sum(range(3_000_000))"))
    finally:
        namespace.close()
    assert sleeping.processor_ns < 0.1 * SECOND_NS and sleeping.own_ns >= 0.25 * SECOND_NS
    assert computing.processor_ns > 0.01 * SECOND_NS
    assert computing.own_ns <= computing.wall_ns


def test_what_a_machine_lacks_is_said() -> None:
    missing = nft()
    trial = (Command(("nft", "-f", "-"), "add nothing"),)
    absent = (Command(("no-such-tool",)),)
    from dataclasses import replace

    assert "nft -f -" in str(obstacle(replace(missing, trial=trial)))
    assert "not found in PATH: no-such-tool" in str(obstacle(replace(missing, trial=absent)))
    assert obstacle(missing) is None
