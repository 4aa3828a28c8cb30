"""The identity of a run by its content: two runs with the same key have the same figures.

The key covers what the run depends on: the resolved scenario, the seed, and kpsim itself, by its source, in which its version
stands. It does not cover what a run does not read: expectations, the description.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping, Set
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kpsim.addresses import Family
from kpsim.scenario import Scenario
from kpsim.scenario.beside import RulesBeside

#: the seed is a part of the key by itself; Kubernetes objects and kube-proxy's configuration count as they were resolved
_NOT_READ = {"seed", "expect", "description", "proxy", "objects", "manifests"}
_ABOUT_IT = {"spec", "source", "notes", "expect_places", "content"}


def fingerprint(scenario: Scenario) -> str:
    """Return the identity of a scenario without its seed. It is equal in every process."""
    resolved = [field.name for field in dataclasses.fields(scenario) if field.name not in _ABOUT_IT]
    content = [
        scenario.spec.model_dump(mode="json", exclude=_NOT_READ),
        *(_plain(getattr(scenario, name)) for name in resolved),
    ]
    return _digest(json.dumps(content, sort_keys=True).encode())


def run_key(scenario_fingerprint: str, seed: int) -> str:
    """Return the identity of one run."""
    return _digest(f"{program()} {scenario_fingerprint} {seed}".encode())


@cache
def program() -> str:
    """Return a digest of kpsim's source, its version included: what another kpsim computed is not taken for this one's."""
    home = Path(__file__).parent.parent
    source = blake2b(digest_size=8)
    for file in sorted(home.rglob("*.py")):
        source.update(f"{file.relative_to(home).as_posix()}\0".encode() + file.read_bytes())
    return source.hexdigest()


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as JSON can write it. Sets are sorted, so that their order does not depend on the process."""
    match value:
        case Family():
            return value.label
        case enum.Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case RulesBeside():
            return [_plain(value.nodes), value.text]
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case Set():
            return sorted((_plain(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {"": type(value).__name__, **inner}
        case _:
            return repr(value)
