"""Values put into objects by paths, as on a command line: ``spec.ports[0].port=80``.

Counterpart: Helm's ``--set``.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from kpsim.manifests.places import Path, format_path
from kpsim.manifests.yaml_reader import YamlRefused, read_yaml

_STEP = re.compile(
    r"\[(\d+)\]|\[([^\[\]='\"]+(?:=[^\[\]]*)?)\]|(?:^|\.)([^.\[\]=]+)|\[(['\"])(.+?)\4\]", re.ASCII
)  # [0], [name=http] or [http], .spec, ['a.b/c']


def parse_assignment(text: str) -> tuple[Path, Any]:
    """Parse ``path=value``. The value is YAML.

    Paths are such as ``traffic[0].perSecond``, ``traffic.0.perSecond``, ``workloads[web]``, ``ports[name=http]`` and
    ``labels['a.b/c']``; a leading dot is allowed. ValueError otherwise.
    """
    body = text.removeprefix(".")
    steps: list[str | int] = []
    position = 0
    while found := _STEP.match(body, position):
        steps.append(int(found[1]) if found[1] is not None else found[2] or found[3] or found[5])
        position = found.end()
    if "=" not in body[position:]:
        raise ValueError("expected path=value")
    if not steps or body[position] != "=":
        raise ValueError(f"not a path (like traffic[0].perSecond): {body.partition('=')[0]!r}")
    return tuple(steps), _value(body[position + 1 :])


def _value(text: str) -> Any:
    try:
        documents: Iterable[Any] = list(read_yaml(text))
    except YamlRefused as refusal:
        raise ValueError(refusal.message) from None
    values = []
    for document in documents:
        if document.faults:
            raise ValueError(document.faults[0].message)
        values.append(document.value)
    if len(values) > 1:
        raise ValueError("expected one value")
    return values[0] if values else None


def put(content: Any, path: Path, value: Any, *, editing: bool = False, above: Path = ()) -> tuple[Any, Path, Path]:
    """Return a copy of ``content`` with the value at ``path``, and two paths. ValueError if there is no such place.

    The first is ``path`` with list positions as integers. The second is the part of it that leads to the first field
    which was not there before. With ``editing`` a null takes the field or item away, as in a merge patch, and the position
    behind the last item of a list is a new item.
    """
    if not path:
        return value, above, above
    step, rest = path[0], path[1:]
    removed = editing and value is None and not rest
    if isinstance(content, list):
        if editing and step == len(content):
            content = [*content, None]
        number = _position(content, step, above)
        inner = put(content[number], rest, value, editing=editing, above=(*above, number))
        return [*content[:number], *([] if removed else [inner[0]]), *content[number + 1 :]], *inner[1:]
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{_shown(above)} is a single value: it has no {step!r}")
    if isinstance(step, int):
        raise ValueError(f"{_shown(above)} is not a list: it has no [{step}]")
    fields = content or {}
    changed, full, made = put(fields.get(step), rest, value, editing=editing, above=(*above, step))
    if removed:
        return {key: kept for key, kept in fields.items() if key != step}, full, made
    return {**fields, step: changed}, full, made if step in fields else (*above, step)


def _position(items: Sequence[Any], step: str | int, above: Path) -> int:
    """Return the position in a list that a step means: a number, the name of one item, or its ``field=value``."""
    if isinstance(step, str) and "=" in step:
        name, _, value = step.partition("=")
        found = [number for number, item in enumerate(items) if isinstance(item, dict) and str(item.get(name)) == value]
        if len(found) != 1:
            raise ValueError(f"{_shown(above)} has {len(found)} items with {name} {value}, expected one")
        return found[0]
    if isinstance(step, str) and not (step.isascii() and step.isdigit()):
        return _named(items, step, above)
    if int(step) >= len(items):
        raise ValueError(f"{_shown(above)} has {len(items)} items: there is no [{int(step)}]")
    return int(step)


def _named(items: Sequence[Any], name: str, above: Path) -> int:
    """Return the position of the one item of this name, which is that of its metadata if it has some."""
    names = [_names_of(item) for item in items]
    found = [number for number, each in enumerate(names) if name in each]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{_shown(above)} has {len(found)} items named {name!r}: expected a position from 0")
    known = sorted({each[0] for each in names if each})
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; its items are {', '.join(known[:12])}" if known else ""
    raise ValueError(f"{_shown(above)} is a list: expected a position from 0 or an item's name, got {name!r}{hint}")


def _names_of(item: Any) -> list[str]:
    """Return the names by which an item may be called: ``name``, and ``namespace/name``."""
    if not isinstance(item, dict):
        return []
    metadata = item.get("metadata")
    about = metadata if isinstance(metadata, dict) else item
    name, namespace = about.get("name"), about.get("namespace")
    if not isinstance(name, str):
        return []
    return [name, f"{namespace}/{name}"] if isinstance(namespace, str) else [name]


def _shown(path: Path) -> str:
    return format_path(path) or "the document"
