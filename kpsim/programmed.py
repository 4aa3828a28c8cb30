"""What one family of one machine's kernel has been told: the one thing that kube-proxy and packets have in common.

A proxy mode turns one such value into the next. ``netfilter`` runs packets through it. A value never changes, so one that was kept
still says what the kernel held then. Connections, affinity and counters are not in here: packets make those, and a namespace
remembers them.
"""

from dataclasses import dataclass
from functools import cached_property

from kpsim.addresses import Family
from kpsim.ruleset import Origin, Role, Rule, Ruleset


@dataclass(frozen=True)
class Programmed:
    """What one family of one machine's kernel has been told. Nothing in it ages or counts.

    Caches what it is asked about its rules' origins; the caches are no part of the value.
    """

    family: Family
    ruleset: Ruleset

    @classmethod
    def nothing(cls, family: Family) -> "Programmed":
        """A machine that has just booted: no table exists."""
        return cls(family, Ruleset(family))

    @classmethod
    def of(cls, ruleset: Ruleset) -> "Programmed":
        """A machine that was told these rules and nothing else."""
        return cls(ruleset.family, ruleset)

    def has(self, wanted: Role | Origin) -> bool:
        """Whether some rule exists for this reason: for this role, or for exactly this origin."""
        if isinstance(wanted, Origin):
            return wanted in self._rules_by_origin
        return any(origin.role is wanted for origin in self._rules_by_origin)

    def rules_of(self, origin: Origin) -> tuple[Rule, ...]:
        """The rules that exist for exactly this reason, in no order that means anything; none if there is none."""
        return self._rules_by_origin.get(origin, ())

    @cached_property
    def _rules_by_origin(self) -> dict[Origin, tuple[Rule, ...]]:
        found: dict[Origin, list[Rule]] = {}
        for table in self.ruleset.in_order():
            for chain in table.ordered():
                for rule in chain.rules:
                    found.setdefault(rule.origin, []).append(rule)
        return {origin: tuple(rules) for origin, rules in found.items()}
