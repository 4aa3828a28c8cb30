"""Recognises templates that were not rendered: of Helm, Jinja, envsubst and others, and placeholders to be replaced.

A template is no manifest yet. Its values are somewhere else, so it is told as what it is, at every place.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

#: what cannot stand in a name, an address, a number or a label
_MARK = re.compile(
    r"""
    \{\{.*?(\}\}|$)                  # Helm, Go, Jinja
    | \{%.*?(%\}|$) | \{\#.*?\#\}    # Jinja
    | <%.*?(%>|$)                    # ERB
    | \$\{[A-Za-z_][^}]*(\}|$)       # envsubst, Terraform, shell
    | \$\([A-Za-z_]\w*\)             # make, Kubernetes' own references
    | \$[A-Za-z_]\w*                 # envsubst
    | \(\(\s*[A-Za-z_][\w.-]*\s*\)\) # BOSH, Concourse
    | <[A-Za-z][\w .-]*>             # a place for a person's own value
    | @[A-Z][A-Z0-9_]+@ | \#\{.*?\}  # autoconf, Azure Pipelines
    """,
    re.VERBOSE,
)
#: marks that say of a whole text that it is a template; the others also stand in scripts inside a manifest
_LINE_MARK = re.compile(r"\{\{-?.*?-?(?:\}\}|$)|\{%.*?(?:%\}|$)|<%.*?(?:%>|$)|\$\{[A-Za-z_][^}]*\}", re.MULTILINE)

#: the characters that every mark has, to look for before anything slower
_SIGNS = ("{{", "{%", "{#", "#{", "<", "$", "((", "@")

HINT = "a template that was not rendered?"
RENDER = "render it first (helm template, kubectl kustomize, envsubst, …) and give the result"


def may_hold_template(value: Any) -> bool:
    """Return False if no text in a JSON value can be a template. It is fast, and True proves nothing."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return any(sign in text for sign in _SIGNS)


def template_in(text: str) -> str | None:
    """Return the first piece of a value that is a template's, such as ``{{ .Values.port }}``, or None."""
    found = _MARK.search(text)
    return found[0] if found else None


def template_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines (from 1) of a text that hold a piece of a template, each with its first piece. No comments."""
    for number, line in enumerate(text.split("\n"), 1):
        found = _LINE_MARK.search(line)
        if found and not line.lstrip().startswith("#"):
            yield number, found[0].strip()
