"""Scenario files: what there is, what happens to it, who sends packets and what is expected, read into typed values."""

from kpsim.scenario.loading import Scenario, load_scenario, parse_scenario, scenario_json_schema

__all__ = ["Scenario", "load_scenario", "parse_scenario", "scenario_json_schema"]
