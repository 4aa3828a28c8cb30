"""Shells offer the fields of the scenario on the line for ``--vary`` and ``--set``."""

import io
import os
import sys
from contextlib import redirect_stdout
from unittest.mock import patch

import pytest

from kpsim.cli.application import run_command
from kpsim.cli.fields import field_paths
from kpsim.manifests.assignments import parse_assignment
from kpsim.manifests.yaml_reader import read_yaml
from kpsim.scenario import load_scenario, scenario_json_schema
from kpsim.scenario.loading import read_scenario


def paths_of(name: str) -> list[str]:
    return list(field_paths(next(iter(read_yaml(read_scenario(name)[0]))).value, scenario_json_schema()))


def test_items_of_lists_have_their_names_and_other_fields_are_there_too() -> None:
    found = paths_of("local-rollout")
    assert {
        "workloads[web].termination.preStop=", "workloads[web].replicas=", "loadBalancer.interval=", "events[0].rollout.maxSurge=",
        "traffic[customers].perSecond=", "nodes.sysctls['net.ipv4.vs.conntrack']=", "delays.preset=",
    } <= set(found)  # fmt: skip
    assert len(found) == len(set(found))


def test_every_path_that_is_offered_is_one() -> None:
    assert all(parse_assignment(f"{path}1")[0] for path in paths_of("local-rollout"))
    load_scenario("local-rollout", settings=["workloads[web].termination.preStop=1s", "traffic[customers].perSecond=2"])


@pytest.mark.parametrize(
    "words", ["sweep local-rollout --vary", "compare local-rollout --set", "run local-rollout --set"]
)
def test_a_shell_offers_them(words: str) -> None:
    line = f"kpsim {words} workloads[web].term"
    asked = {"_KPSIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    out = io.StringIO()
    with redirect_stdout(out), patch.object(sys, "argv", ["kpsim"]), patch.dict(os.environ, asked):
        run_command()
    assert "workloads[web].termination.preStop=" in out.getvalue().split()


def test_a_shell_offers_the_traffic_sources_whose_connections_can_be_traced() -> None:
    line = "kpsim run graceful-termination --trace s"
    asked = {"_KPSIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    out = io.StringIO()
    with redirect_stdout(out), patch.object(sys, "argv", ["kpsim"]), patch.dict(os.environ, asked):
        run_command()
    assert out.getvalue().split() == ["streams#", "sessions#"]
