"""All commands, each in the module of its subject; importing this registers them."""

from kpsim.cli import check, replay, rules, run, trace, verify

__all__ = ["check", "replay", "rules", "run", "trace", "verify"]
