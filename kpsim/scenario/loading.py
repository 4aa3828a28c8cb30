"""From a scenario file, or the name of a built-in one, to a scenario that can run: typed, checked, overridden.

It knows files and what they may contain, never how a run works.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kpsim.config import Mode, ProxyConfig, config_from_json
from kpsim.errors import InputError, Problem
from kpsim.manifests.places import Finding, problems_of
from kpsim.objects import ApiObject, Service, object_from_json
from kpsim.scenario.document import Document, override, read_document
from kpsim.scenario.problems import findings_of, suggestion
from kpsim.scenario.references import check_references
from kpsim.scenario.schema import ScenarioSpec

CLUSTER_CIDR = "10.180.0.0/16"


@dataclass(frozen=True)
class Scenario:
    """A scenario that can run. ``created`` holds the Service of each ``createService`` event by the event's position."""

    spec: ScenarioSpec
    objects: tuple[ApiObject, ...]
    created: Mapping[int, Service] = field(default_factory=dict)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    source: str = ""

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
        """The same scenario with other draws."""
        return replace(self, spec=self.spec.model_copy(update={"seed": seed}))

    def with_mode(self, mode: str) -> "Scenario":
        """The same scenario with kube-proxies in another mode; InputError if that is not modelled."""
        return replace(self, proxy=replace(self.proxy, mode=_mode(mode)))


def _mode(text: str) -> Mode:
    if text not in tuple(Mode):
        raise InputError(f"there is no mode {text!r}{suggestion(text, Mode)}")
    if text != Mode.IPTABLES:
        raise InputError(f"mode {text}: not modelled yet")
    return Mode(text)


def scenario_json_schema() -> dict[str, Any]:
    """JSON Schema of the scenario file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ScenarioSpec.model_json_schema()}


def load_scenario(
    path_or_name: str | Path, *, settings: Sequence[str] = (), seed: int | None = None, mode: str | None = None
) -> Scenario:
    """The scenario of a file or of a built-in name, with ``settings`` (``path=value``) put in before it is checked.

    InputError holds everything that is wrong: file, line, JSON path, and what was expected.
    """
    path = _find(str(path_or_name))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(Problem(f"cannot be read: {reason}", file=str(path))) from None
    scenario = parse_scenario(text, str(path), settings=settings)
    if seed is not None:
        scenario = scenario.with_seed(seed)
    return scenario.with_mode(mode or scenario.proxy.mode)


def _find(path_or_name: str) -> Path:
    from kpsim.scenarios import scenario_names, scenario_path

    if path_or_name in scenario_names():
        return scenario_path(path_or_name)
    path = Path(path_or_name)
    if not path.exists() and path.suffix not in (".yaml", ".yml", ".json"):
        known = suggestion(path_or_name, scenario_names())
        raise InputError(f"{path_or_name!r} is neither a file nor a built-in scenario{known}")
    return path


def parse_scenario(text: str, file: str, *, settings: Sequence[str] = ()) -> Scenario:
    """Like :func:`load_scenario` for a text; ``file`` names it in errors and is where manifests are looked for."""
    document = override(read_document(text, file), settings)
    try:
        spec = ScenarioSpec.model_validate_json(json.dumps(document.content), by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(problems_of(findings_of(error, document, ScenarioSpec))) from None
    findings: list[Finding] = []
    objects = _objects(spec, document, findings)
    created = _created(spec, document, findings)
    proxy = _proxy(spec, document, findings)
    if not findings:
        findings = check_references(spec, _by_name(objects), _by_name(created.values()), document)
    if findings:
        raise InputError(problems_of(findings))
    return Scenario(spec, objects, created, proxy, file)


def _by_name(objects: Iterable[ApiObject]) -> dict[str, Service]:
    return {f"{obj.metadata.namespace}/{obj.metadata.name}": obj for obj in objects if isinstance(obj, Service)}


def _objects(spec: ScenarioSpec, document: Document, findings: list[Finding]) -> tuple[ApiObject, ...]:
    found = []
    for number, json_object in enumerate(spec.objects):
        obj = object_from_json(json_object)
        if obj is None:
            findings.append(document.finding("kind not modelled", ("objects", number)))
        else:
            found.append(obj)
    return tuple(found)


def _created(spec: ScenarioSpec, document: Document, findings: list[Finding]) -> dict[int, Service]:
    made = {}
    for number, event in enumerate(spec.events):
        if event.create_service is not None:
            obj = object_from_json(event.create_service)
            if isinstance(obj, Service):
                made[number] = obj
            else:
                findings.append(document.finding("expected a Service", ("events", number, "createService")))
    return made


def _proxy(spec: ScenarioSpec, document: Document, findings: list[Finding]) -> ProxyConfig:
    try:
        return config_from_json({"clusterCIDR": CLUSTER_CIDR, **spec.proxy})
    except ValueError as error:
        findings.append(document.finding(str(error), ("proxy",)))
        return ProxyConfig()
