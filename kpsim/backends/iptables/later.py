"""Chains whose rules are made when a packet, a text or a comparison first reads them."""

from collections.abc import Callable
from functools import cached_property

from kpsim.ruleset import Chain, Rule


class LaterChain(Chain):
    """A chain of one service port whose rules are made when they are first read.

    Of 50,000 endpoints few are ever sent a packet. ``rule_count`` is how many rules there will be, and ``leads_to`` the
    chains that they jump to, in order.
    """

    def __init__(  # as ``Chain.__init__`` would: a full sync makes very many
        self, name: str, make: Callable[[], tuple[Rule, ...]], rule_count: int, leads_to: tuple[str, ...]
    ) -> None:
        self.name, self.base, self.comment, self.compiled = name, None, "", None
        self._make: Callable[[], tuple[Rule, ...]] | None = make
        self.rule_count = rule_count
        self.leads_to = leads_to

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        assert self._make is not None
        made, self._make = self._make(), None
        return made
