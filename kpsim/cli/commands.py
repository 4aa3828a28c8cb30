"""All commands, each in the module of its subject; importing this registers them."""

from kpsim.cli import replay, rules, run

__all__ = ["replay", "rules", "run"]
