"""All commands, each in the module of its subject; importing this registers them."""

from kpsim.cli import replay, rules

__all__ = ["replay", "rules"]
