"""Turns pydantic's errors into kpsim's words: place in the file, what was expected, the name probably meant."""

import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kpsim.manifests.places import Finding, Path
from kpsim.scenario.document import Document
from kpsim.units import format_duration, parse_duration_ns


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``. If no name is near, return the known names if they are few, else nothing."""
    names = sorted(str(candidate) for candidate in known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    folded = {candidate.replace("_", "").lower(): candidate for candidate in names}
    same = folded.get(name.replace("_", "").replace("-", "").lower())
    if same or near:
        return f"; did you mean {same or near[0]!r}?"
    return f"; known: {', '.join(names)}" if names and len(names) <= 12 else ""


def findings_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Finding]:
    """Return a finding for everything that a validation error says."""
    found = []
    for detail in error.errors(include_url=False):
        path: Path = detail["loc"]
        if detail["type"] == "extra_forbidden":
            name = str(path[-1])
            known = _field_names(_model_at(model, path[:-1]))
            message = f"unknown field {name!r}{suggestion(name, known)}"
        else:
            message = _message(detail["type"], detail["msg"], detail["input"], detail.get("ctx") or {})
        found.append(document.finding(message, path))
    return found


def _message(kind: str, text: str, value: Any, context: Mapping[str, Any]) -> str:
    match kind:
        case "missing":
            return "required, but not there"
        case "value_error":
            return str(context["error"]) + ("" if isinstance(value, dict) else _got(value))
        case "literal_error" | "enum":
            expected = str(context["expected"])
            known = [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]
            near = suggestion(value, known) if isinstance(value, str) else ""
            return f"expected {expected}{_got(value)}{near if near.startswith('; did') else ''}"
        case "greater_than_equal" | "less_than_equal" if _is_duration(value):
            bound, words = (context["ge"], "at least") if kind == "greater_than_equal" else (context["le"], "at most")
            return f"expected {words} {format_duration(bound)}{_got(value)}"
        case "string_pattern_mismatch":
            return f"expected text that matches {context['pattern']}{_got(value)}"
        case _:
            said = text.removeprefix("Input should be ")
            return f"expected {said}{_got(value)}" if said != text else f"{text}{_got(value)}"


def _is_duration(value: Any) -> bool:
    """Say whether a file has a duration here. The bounds of one are nanoseconds, which no file writes."""
    try:
        return isinstance(value, str) and parse_duration_ns(value) >= 0
    except ValueError:
        return False


_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


def _got(value: Any) -> str:
    kind = _KINDS.get(type(value))
    return f", got {kind or json.dumps(value, ensure_ascii=False)}"


def _field_names(model: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the model whose fields are at ``path`` below ``model``, or None."""
    current: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, int):  # an item of a list: the step before has already led to the item's model
            continue
        if current is None:
            return None
        annotations = [f.annotation for name, f in current.model_fields.items() if step in (f.alias, name)]
        current = _inner_model(annotations[0]) if annotations else None
    return current


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        models = map(_inner_model, typing.get_args(annotation))
        return next((inner for inner in models if inner is not None), None)
    return None
