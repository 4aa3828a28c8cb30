"""Writes a draft as YAML with its comments, so that later edits by a person or a program keep them."""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kpsim.drafting.part import Part

_WIDTH = 4096  #: of a line: a flow collection stays on one


def yaml_text(content: Part) -> str:
    """Return the YAML text of a draft. Equal drafts give equal texts."""
    writer = YAML()
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.width = _WIDTH
    writer.allow_unicode = True
    stream = io.StringIO()
    writer.dump(_tree(content, 0), stream)
    return stream.getvalue()


def _tree(value: Any, depth: int, *, flow: bool = False) -> Any:
    """Return the tree that ruamel.yaml writes. ``depth`` is the indentation of the value's fields."""
    if isinstance(value, Mapping):
        return _map(value, depth, flow=flow)
    if isinstance(value, list | tuple):
        made = CommentedSeq()
        plain = not any(isinstance(item, Part) and not item.flow for item in value)
        inner = flow or (plain and not any(isinstance(item, Mapping) for item in value))
        if inner:
            made.fa.set_flow_style()
        for number, item in enumerate(value):
            made.append(_tree(item, depth + 2, flow=inner))
            if isinstance(item, Part) and (words := item.head):  # above the dash
                made.yaml_set_comment_before_after_key(number, before=words, indent=depth)
        return made
    if isinstance(value, str) and (value.startswith(":") or value.endswith(":")):
        return DoubleQuotedScalarString(value)  # an IPv6 address that other readers of YAML take for an indicator
    return value


def _map(value: Mapping[str, Any], depth: int, *, flow: bool) -> CommentedMap:
    made = CommentedMap()
    on_one_line = flow or (isinstance(value, Part) and value.flow) or (not isinstance(value, Part) and _is_small(value))
    if on_one_line:
        made.fa.set_flow_style()
    for key, inner in value.items():
        made[key] = _tree(inner, depth + 2, flow=on_one_line)
    if isinstance(value, Part):
        for key, words in value.above.items():
            made.yaml_set_comment_before_after_key(key, before=words, indent=depth)
        for key, words in value.beside.items():
            made.yaml_add_eol_comment(words, key, column=0)
    return made


def _is_small(value: Mapping[str, Any]) -> bool:
    return not any(isinstance(inner, Mapping | list) for inner in value.values())
