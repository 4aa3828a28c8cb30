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
    from kpsim.scenario import scenario_json_schema

    return sorted(
        path
        for content in _scenario(context)
        for path in field_paths(content, scenario_json_schema())
        if path.startswith(incomplete)
    )


def complete_connection(context: typer.Context, incomplete: str) -> list[str]:
    """Return ``SOURCE#`` of every traffic source of the scenario on the line that begins so."""
    found = []
    for content in _scenario(context):
        sources = content.get("traffic") if isinstance(content, Mapping) else None
        for each in sources if isinstance(sources, list) else ():
            if isinstance(each, Mapping) and isinstance(each.get("name"), str):
                found.append(f"{each['name']}#")
    return [name for name in found if name.startswith(incomplete)]


def _scenario(context: typer.Context) -> Iterator[object]:
    """Yield the content of the scenario on the line; nothing if it cannot be read: a shell shows no errors."""
    from kpsim.manifests.yaml_reader import read_yaml
    from kpsim.scenario.loading import read_scenario

    given = next(filter(None, (context.params.get(each) for each in ("scenario", "a"))), None) or context.args[:1]
    name = given if isinstance(given, str) else " ".join(given[:1])
    with suppress(KpsimError, OSError, StopIteration):
        yield next(iter(read_yaml(read_scenario(name)[0]))).value


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
