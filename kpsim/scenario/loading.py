"""Loads a scenario from a file or by a built-in name: typed, checked, overridden, ready to run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kpsim.backends.table import notes_on
from kpsim.config import DEFAULT_MODE, Mode, ProxyConfig, config_from_json
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text
from kpsim.manifests import check_proxy_config
from kpsim.manifests.places import problems_of
from kpsim.objects import ApiObject, Endpoints, EndpointSlice, Service
from kpsim.scenario.beside import RulesBeside, read_beside
from kpsim.scenario.document import instead_of_cluster, override, read_document
from kpsim.scenario.endpoints import idle_endpoints
from kpsim.scenario.priced import read_costs
from kpsim.scenario.problems import findings_of, suggestion
from kpsim.scenario.references import check_references, idle_balancing, idle_labels, idle_timeouts, silent_traffic
from kpsim.scenario.schema import ScenarioSpec
from kpsim.scenario.services import merged_proxy, read_objects
from kpsim.scenario.settings import check_fills, check_settings
from kpsim.scenario.sync_costs import SyncCosts
from kpsim.scenario.taken import take_objects


@dataclass(frozen=True)
class Scenario:
    """A scenario that can run.

    ``created`` holds the Service of each ``createService`` event by the event's position, ``created_slices`` the slice
    of each ``createEndpointSlice`` event.
    """

    spec: ScenarioSpec
    objects: tuple[ApiObject, ...]
    created: Mapping[int, Service] = field(default_factory=dict)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    source: str = ""
    notes: tuple[str, ...] = ()  #: what was filled in, skipped or ignored while loading, in words
    created_slices: Mapping[int, EndpointSlice] = field(default_factory=dict)
    expect_places: tuple[Problem, ...] = ()  #: where each expectation stands; empty if not known
    beside: tuple[RulesBeside, ...] = ()  #: rules that nodes have from the start
    loaded: Mapping[int, RulesBeside] = field(
        default_factory=dict
    )  #: those of each ``loadRules`` event, by its position
    created_endpoints: Mapping[int, Endpoints] = field(default_factory=dict)  #: of each ``createEndpoints`` event
    costs: Mapping[str, SyncCosts] = field(default_factory=dict)  #: of syncs, by the names that ``delays`` give them
    walk_all: bool = False  #: no short connection goes as one before did: the same results, after a longer time
    #: the file's own content with every setting in it; what its ``manifests`` hold is not in there
    content: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        return self.spec.metadata.name

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def duration_ns(self) -> int:
        return self.spec.duration_ns

    @property
    def expect(self) -> tuple[str, ...]:
        return self.spec.expect

    def with_seed(self, seed: int) -> "Scenario":
        """Return the scenario with another seed. InputError for a seed that a file could not have."""
        if not -(2**63) <= seed < 2**63:
            raise InputError(f"seed {seed}: expected a number of 64 bits")
        return replace(self, spec=self.spec.model_copy(update={"seed": seed}))

    def with_mode(self, mode: str) -> "Scenario":
        """Return the scenario with its kube-proxies in another mode. InputError if there is no such mode."""
        return replace(self, proxy=replace(self.proxy, mode=_mode(mode)))

    def yaml_text(self) -> str:
        """Return the scenario as a file: its own content with all settings, its seed and its mode. Comments are lost."""
        content = {**self.content, "seed": self.seed}
        content["proxy"] = {**self.spec.proxy, "mode": str(self.proxy.mode)}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def _mode(text: str) -> Mode:
    if text not in tuple(Mode):
        raise InputError(f"there is no mode {text!r}{suggestion(text, Mode)}")
    return Mode(text)


def scenario_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the scenario file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ScenarioSpec.model_json_schema()}


def load_scenario(
    path_or_name: str | Path, *, settings: Sequence[str] = (), seed: int | None = None, mode: str | None = None
) -> Scenario:
    """Load the scenario of a file or of a built-in name. ``settings`` (``path=value``) are put in before it is checked.

    InputError holds everything that is wrong: file, line, JSON path, and what was expected.
    """
    scenario = parse_scenario(*read_scenario(path_or_name), settings=settings)
    if seed is not None:
        scenario = scenario.with_seed(seed)
    return scenario if mode is None else scenario.with_mode(mode)


def read_scenario(path_or_name: str | Path) -> tuple[str, str]:
    """Return the text of a scenario's file or of a built-in, and the name of its file. InputError if it cannot be read."""
    path = _find(str(path_or_name))
    return read_text(path), str(path)


def _find(path_or_name: str) -> Path:
    from kpsim.scenarios import scenario_names, scenario_path

    if path_or_name in scenario_names():
        return scenario_path(path_or_name)
    if path_or_name == "":  # Path would take it for the current directory
        raise InputError("an empty path")
    path = Path(path_or_name)
    if path.is_dir():
        raise InputError(Problem(instead_of_cluster([path_or_name]), file=path_or_name))
    if path_or_name != "-" and not path.exists() and path.suffix not in (".yaml", ".yml", ".json"):
        known = suggestion(path_or_name, scenario_names())
        raise InputError(f"{path_or_name!r} is neither a file nor a built-in scenario{known}")
    return path


def parse_scenario(text: str, file: str, *, settings: Sequence[str] = ()) -> Scenario:
    """Parse a text as :func:`load_scenario` does.

    ``file`` names it in errors; manifests are looked for beside that file.
    """
    given = override(read_document(text, file), settings)
    taken = take_objects(given, file)
    document = taken.document
    try:
        spec = ScenarioSpec.model_validate_json(json.dumps(document.content), by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(problems_of(findings_of(error, document, ScenarioSpec))) from None
    objects = read_objects(spec, taken)
    problems = [document.attributed(problem) for problem in objects.problems]
    beside = read_beside(spec, document, file)
    problems += beside.problems
    proxy_json = merged_proxy(spec, objects.proxy)
    check = check_proxy_config(proxy_json)
    complaints = check.complaints
    findings = [document.finding(message, ("proxy", *path)) for path, message in complaints]
    if proxy_json.get("hostnameOverride"):
        findings.append(
            document.finding("one name for all nodes: nodes are named by nodes", ("proxy", "hostnameOverride"))
        )
    config = None if complaints else replace(config_from_json(proxy_json), **objects.exact)  # type: ignore[arg-type]
    costs = read_costs(spec.delays, DEFAULT_MODE if config is None else config.mode, document, file)
    problems += costs.problems
    findings += check_settings(spec.nodes, config, document)
    if config is not None and not findings:
        findings += check_fills(spec, config, document)
    if not problems:
        findings += check_references(spec, objects.services, objects.later_services, document)
    problems += problems_of(findings)
    if problems or config is None:
        raise InputError(problems)
    services = (*objects.services.values(), *objects.later_services.values())
    notes = (
        *objects.notes,
        *beside.notes,
        *check.notes,
        *costs.notes,
        *notes_on(config.mode, services),
        *silent_traffic(spec),
        *idle_labels(spec),
        *idle_timeouts(spec),
        *idle_balancing(spec, services),
        *idle_endpoints(spec),
    )
    places = tuple(document.problem("", ("expect", number)) for number in range(len(spec.expect)))
    return Scenario(
        spec,
        objects.initial,
        objects.created,
        config,
        file,
        tuple(dict.fromkeys(notes)),
        objects.created_slices,
        places,
        beside.initial,
        beside.loaded,
        costs=costs.named,
        content=given.content,
        created_endpoints=objects.created_endpoints,
    )
