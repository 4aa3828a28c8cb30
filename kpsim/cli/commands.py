"""Imports the module of every command, which registers the commands."""

from kpsim.cli import (
    check,
    compare,
    diff,
    migrate,
    replay,
    risk,
    rules,
    run,
    scenario,
    survey,
    sweep,
    trace,
    upgrade,
    verify,
)

__all__ = [
    "check",
    "compare",
    "diff",
    "migrate",
    "replay",
    "risk",
    "rules",
    "run",
    "scenario",
    "survey",
    "sweep",
    "trace",
    "upgrade",
    "verify",
]
