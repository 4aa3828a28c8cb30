"""What one machine's kernel was told for one family: the only thing that kube-proxy and packets have in common.

A proxy mode turns one such value into the next, and ``netfilter`` runs packets through it. A value never changes, so a
kept one still says what the kernel held then. Connections, affinity and counters are not in here: packets cause them,
and ``netfilter.Netns`` remembers them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from kpsim.addresses import Family, format_ip
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.ipvs.states import Timeouts
from kpsim.maps import Map
from kpsim.ruleset import Origin, Role, Rule, Ruleset, Set, joined
from kpsim.ruleset import united as tables_of_both
from kpsim.ruleset.references import elements_in


@dataclass(frozen=True)
class Programmed:
    """What one machine's kernel was told for one family. Nothing in it expires or counts.

    The look-up of rules by origin is cached. The cache is not part of the value.
    """

    family: Family
    ruleset: Ruleset
    ipsets: Map[str, Set] = Map()  # noqa: RUF009 - immutable; those that rules of the family may name
    virtual_servers: Map[VirtualServerKey, VirtualServer] = Map()  # noqa: RUF009 - immutable
    #: addresses of devices that only make them local, and each one's device: those of ``kube-ipvs0`` (IPVS-3)
    local_addresses: Map[int, str] = Map()  # noqa: RUF009 - immutable
    ipvs_timeouts: Timeouts = Timeouts()  # noqa: RUF009 - immutable

    @classmethod
    def nothing(cls, family: Family) -> "Programmed":
        """The state of a machine that has just booted: no table exists."""
        return cls(family, Ruleset(family))

    @classmethod
    def of(cls, ruleset: Ruleset, ipsets: Map[str, Set] = Map()) -> "Programmed":  # noqa: B008 - immutable
        """The state of a machine that was told these rules, these ipsets, and nothing else."""
        return cls(ruleset.family, ruleset, ipsets)

    def joined(self, loaded: Ruleset) -> "Programmed":
        """The state after another program has loaded rules, too. ValueError if the kernel refuses a name."""
        return replace(self, ruleset=joined(self.ruleset, loaded))

    def has(self, wanted: Role | Origin) -> bool:
        """Whether a rule, an element, a virtual server or a real server that gets connections exists for this reason: for
        this role, or for exactly this origin.
        """
        if isinstance(wanted, Origin):
            return wanted in self._rules_by_origin or wanted in self._served
        return any(origin.role is wanted for origin in (*self._rules_by_origin, *self._served))

    @property
    def origins(self) -> Iterable[Origin]:
        """The reasons for which something exists, as :meth:`has` knows them."""
        return chain(self._rules_by_origin, self._served)

    def rules_of(self, origin: Origin) -> tuple[Rule, ...]:
        """The rules that exist for exactly this reason, or have an element that does. Their order means nothing."""
        return self._rules_by_origin.get(origin, ())

    @cached_property
    def _served(self) -> dict[Origin, None]:
        found: dict[Origin, None] = {}
        for virtual in self.virtual_servers.values():
            found[virtual.origin] = None
            found.update((server.origin, None) for server in virtual.servers if server.weight)
        return found

    @cached_property
    def _rules_by_origin(self) -> dict[Origin, tuple[Rule, ...]]:
        found: dict[Origin, list[Rule]] = {}
        for table in self.ruleset.in_order():
            for each in table.ordered():
                for rule in each.rules:
                    for origin in {rule.origin: None} | {element.origin: None for element in elements_in(rule.body)}:
                        found.setdefault(origin, []).append(rule)
        for of in chain(self.ipsets.values(), *(table.sets.values() for table in self.ruleset.in_order())):
            for element in of.elements.values():
                found.setdefault(element.origin, [])
        return {origin: tuple(rules) for origin, rules in found.items()}


def united(first: Programmed, second: Programmed) -> Programmed:
    """All that two values tell one kernel. ValueError if both have the same table, ipset or virtual server."""
    for name in second.ipsets:
        if name in first.ipsets:
            raise ValueError(f"ipset {name} twice")
    for key in second.virtual_servers:
        if key in first.virtual_servers:
            raise ValueError(
                f"virtual server {key.protocol} {format_ip(first.family, key.address)} port {key.port} twice"
            )
    return Programmed(
        first.family,
        tables_of_both(first.ruleset, second.ruleset),
        first.ipsets.update(second.ipsets),
        first.virtual_servers.update(second.virtual_servers),
        first.local_addresses.update(second.local_addresses),
    )
