"""What a shell offers for ``--vary`` and ``--set`` of a scenario: the paths of its fields, and the presets of load balancers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import typer

from kpsim.errors import KpsimError
from kpsim.inputs import Json

_DEEPEST = 6  #: steps of a path


def complete_field(context: typer.Context, incomplete: str) -> list[str]:
    """Return ``PATH=`` of every field of the scenario on the line that begins so."""
    from kpsim.manifests.yaml_reader import read_yaml
    from kpsim.scenario import scenario_json_schema
    from kpsim.scenario.loading import read_scenario

    name = next(filter(None, (context.params.get(each) for each in ("scenario", "a"))), None) or " ".join(
        context.args[:1]
    )
    with suppress(KpsimError, OSError, StopIteration):
        content = next(iter(read_yaml(read_scenario(str(name))[0]))).value
        return sorted(path for path in field_paths(content, scenario_json_schema()) if path.startswith(incomplete))
    return []


def field_paths(content: object, schema: Json) -> Iterator[str]:
    """Yield ``path=`` for the fields that a scenario may have. Of lists only the items that it has, by name or number."""
    yield from _below(schema, schema.get("$defs", {}), content, "")


def _below(schema: Json, known: Json, content: object, path: str) -> Iterator[str]:
    schema = _resolved(schema, known)
    if path.count(".") >= _DEEPEST:
        return
    if "properties" in schema:
        held = content if isinstance(content, Mapping) else {}
        for name, field in schema["properties"].items():
            step = f"['{name}']" if "." in name else f".{name}" if path else name
            yield from _below(field, known, held.get(name), f"{path}{step}")
    elif schema.get("type") == "array" and "properties" in _resolved(schema.get("items") or {}, known):
        items = content if isinstance(content, Sequence) and not isinstance(content, str) else ()
        for number, item in enumerate(items):
            name = item.get("name") if isinstance(item, Mapping) else None
            yield from _below(schema["items"], known, item, f"{path}[{name if isinstance(name, str) else number}]")
    elif path:
        yield f"{path}="


def _resolved(schema: Json, known: Json) -> Json:
    """Return what a schema refers to; of alternatives a plain value, such as a duration, else what has fields or items."""
    seen: Any = schema
    while True:
        if "$ref" in seen:
            seen = known[seen["$ref"].rpartition("/")[2]]
        elif "anyOf" in seen:
            each = [found for one in seen["anyOf"] if (found := _resolved(one, known)).get("type") != "null"]
            seen = next((one for one in each if "properties" not in one and "items" not in one), each[0])
        else:
            return dict(seen)
