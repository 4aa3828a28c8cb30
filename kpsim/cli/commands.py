"""Imports the modules of the commands, which registers them: of a command that is named first its own alone."""

import os
from collections.abc import Sequence
from importlib import import_module

#: command → its module, if that has another name
_MODULES = {"explain-config": "explain_config", "scenarios": "run", "schema": "run"}
NAMES = (
    "calibrate", "check", "compare", "diff", "explain-config", "migrate", "replay", "risk", "rules", "run", "scenario", "scenarios", "schema",
    "survey", "sweep", "trace", "upgrade", "verify",
)  # fmt: skip
_COMPLETING = "_KPSIM_COMPLETE"  #: a shell asks for words, perhaps those of all commands


def register(words: Sequence[str]) -> None:
    """Register the command that a command line begins with; all if it begins with none, since help lists them."""
    first = words[0] if words and _COMPLETING not in os.environ else ""
    for name in (first,) if first in NAMES else NAMES:
        import_module(f"kpsim.cli.{_MODULES.get(name, name)}")
