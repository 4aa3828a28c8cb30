"""What is known of a rule while its statements are read one by one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import Type
from kpsim.dialects.nft.selectors import Selector
from kpsim.ruleset import (
    CONTINUE,
    Compare,
    Counter,
    Dnat,
    Expression,
    Field,
    Goto,
    Jump,
    Limit,
    Masquerade,
    Quota,
    Redirect,
    Reject,
    Set,
    SetFlags,
    SetType,
    Snat,
    Space,
    Statement,
    Terminal,
    named,
)

#: what ends a rule, so that nft takes nothing behind it
_ENDS = Terminal | Jump | Goto | Reject | Dnat | Snat | Masquerade | Redirect
SEVERAL = "several protocols'"  #: a rule that asks for one of several protocols cannot ask for a field of one


class NotModelled(Exception):
    """Something that nft can say and the model cannot. ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Objects(NamedTuple):
    """What the rules of a table may name."""

    sets: dict[str, Set]
    types: dict[str, Sequence[Type]]  #: of the keys of each set
    unread: frozenset[str]  #: names of sets that are not modelled
    limits: Mapping[str, Limit]
    counters: Mapping[str, Counter]
    quotas: Mapping[str, Quota]
    meters: set[str]  #: names of sets that meters of rules have made


class Context:
    """The rule so far: its body, and what its packets are known to be."""

    def __init__(self, space: Space, objects: Objects, *, held: bool) -> None:
        self.held = held  #: whether the text lists what the kernel holds, and is not a command for nft
        self.body: list[Expression | Statement] = []
        self.space = space
        self.both_families = space is Space.INET
        self.family: Family | None = {Space.IP: Family.IPV4, Space.IP6: Family.IPV6}.get(space)
        self.protocol: str | None = None
        self._objects = objects

    @property
    def has_ports(self) -> bool:
        """Whether a comparison names the protocol of the packets, so that a translation may name a port."""
        return any(isinstance(part, Compare) and part.field is Field.L4PROTO and not part.negate for part in self.body)

    @property
    def ended(self) -> bool:
        """Whether the last statement ended the rule, so that what follows has no effect."""
        last = self.body[-1] if self.body else None
        return isinstance(last, _ENDS) and last != CONTINUE

    def add(self, part: Expression | Statement) -> None:
        """Adds a part, and learns from it."""
        self.body.append(part)
        if isinstance(part, Compare) and not part.negate and (name := part.name) is not None:
            if part.field is Field.L4PROTO:
                self.protocol = name if self.protocol in (None, name) else SEVERAL
            elif part.field is Field.NFPROTO:
                self.family = Family.IPV4 if name == "ipv4" else Family.IPV6
        elif isinstance(part, Compare) and part.field is Field.L4PROTO and not part.negate:
            self.protocol = SEVERAL

    def imply(self, family: Family | None, protocol: str | None) -> None:
        """Makes sure that packets are of this family and protocol. ValueError if they are known to be of another."""
        if family is not None and family is not self.family:
            if self.family is not None:
                raise ValueError(f"conflicting protocols: {family.label} in a rule for {self.family.label} packets")
            self.add(named(Field.NFPROTO, "ipv4" if family is Family.IPV4 else "ipv6"))
        if protocol is not None and protocol != self.protocol:
            if self.protocol is not None:
                raise ValueError(f"conflicting protocols: {protocol} in a rule for {self.protocol} packets")
            self.add(named(Field.L4PROTO, protocol))

    def imply_row(self, row: Selector) -> None:
        """Makes sure that packets have the field of a selector. ValueError if they cannot, or if nft refuses it here."""
        if row.field is Field.NFPROTO and not self.both_families:
            raise ValueError("meta nfproto is only useful in the inet family")
        if row.words.startswith("ct original proto") and not self.has_ports:
            raise ValueError(f"{row.words} needs a comparison of the protocol before it")
        # where the family is known nft takes the ICMP of the other one too
        self.imply(row.family if row.protocol is None or self.family is None else None, row.protocol)

    def set_named(self, name: str) -> Set:
        """The set or map of the table with this name. ValueError if there is none, NotModelled if it was not read."""
        if name in self._objects.unread:
            raise NotModelled(f"set {name}")
        if name not in self._objects.sets or name in self._objects.meters:
            raise ValueError(f"there is no set or map {name} in this table")
        return self._objects.sets[name]

    def set_of_types(self, name: str, types: Sequence[Type]) -> Set:
        """As :meth:`set_named`. ValueError if the key of the set has other types."""
        found = self.set_named(name)
        wanted, asked = (" . ".join(each.name for each in some) for some in (self._objects.types[name], types))
        if wanted != asked:
            raise ValueError(f"{name} has keys of {wanted}, not of {asked}")
        return found

    def limit(self, name: str) -> Limit:
        """The limit of the table with this name."""
        try:
            return self._objects.limits[name]
        except KeyError:
            raise ValueError(f"there is no limit {name} in this table") from None

    def quota(self, name: str) -> Quota:
        """The quota of the table with this name."""
        try:
            return self._objects.quotas[name]
        except KeyError:
            raise ValueError(f"there is no quota {name} in this table") from None

    def meter(self, name: str, types: Sequence[Type], size: int | None) -> None:
        """Adds the set of a meter to the table, which no other rule can name. ValueError if there is a set of this name."""
        if name in self._objects.sets:
            raise ValueError(f"a meter has a set of its own, and there is a set {name} already")
        words = " . ".join(each.name for each in types)
        kind = SetType(tuple(each.data for each in types), None, words)
        self._objects.sets[name] = Set(name=name, type=kind, flags=SetFlags.DYNAMIC, size=size)
        self._objects.meters.add(name)

    def counter(self, name: str) -> Counter:
        """The counter of the table with this name."""
        try:
            return self._objects.counters[name]
        except KeyError:
            raise ValueError(f"there is no counter {name} in this table") from None
