"""Scenario files, read into typed values: the cluster, the events, the traffic and the expectations."""

from kpsim.scenario.loading import Scenario, load_scenario, parse_scenario, read_scenario, scenario_json_schema

__all__ = ["Scenario", "load_scenario", "parse_scenario", "read_scenario", "scenario_json_schema"]
