"""What is known of a rule while its statements are read one by one."""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.dialects.nft.selectors import Selector
from kpsim.ruleset import Compare, Counter, Expression, Field, Limit, Set, Space, Statement, named


class NotModelled(Exception):
    """Something that nft can say and the model cannot. ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Context:
    """The rule so far: its body, and what its packets are known to be."""

    def __init__(
        self, space: Space, sets: Mapping[str, Set], limits: Mapping[str, Limit], counters: Mapping[str, Counter]
    ) -> None:
        self.body: list[Expression | Statement] = []
        self.space = space
        self.both_families = space is Space.INET
        self.family: Family | None = {Space.IP: Family.IPV4, Space.IP6: Family.IPV6}.get(space)
        self.protocol: str | None = None
        self._sets, self._limits, self._counters = sets, limits, counters

    @property
    def has_ports(self) -> bool:
        """Whether a comparison names the protocol of the packets, so that a translation may name a port."""
        return any(isinstance(part, Compare) and part.field is Field.L4PROTO and not part.negate for part in self.body)

    def add(self, part: Expression | Statement) -> None:
        """Adds a part, and learns from it."""
        self.body.append(part)
        if isinstance(part, Compare) and not part.negate and part.mask is None and (name := part.name) is not None:
            if part.field is Field.L4PROTO:
                self.protocol = name
            elif part.field is Field.NFPROTO:
                self.family = Family.IPV4 if name == "ipv4" else Family.IPV6

    def imply(self, family: Family | None, protocol: str | None) -> None:
        """Makes sure that packets are of this family and protocol. ValueError if they are known to be of another."""
        if family is not None and family is not self.family:
            if self.family is not None:
                raise ValueError(f"{family.label} in a rule for {self.family.label} packets")
            self.add(named(Field.NFPROTO, "ipv4" if family is Family.IPV4 else "ipv6"))
        if protocol is not None and protocol != self.protocol:
            if self.protocol is not None:
                raise ValueError(f"{protocol} in a rule for {self.protocol} packets")
            self.add(named(Field.L4PROTO, protocol))

    def imply_row(self, row: Selector) -> None:
        """Makes sure that packets have the field of a selector. ValueError if they cannot, or if nft refuses it here."""
        if row.field is Field.NFPROTO and not self.both_families:
            raise ValueError("meta nfproto is only useful in the inet family")
        if row.words.startswith("ct original proto") and not self.has_ports:
            raise ValueError(f"{row.words} needs a comparison of the protocol before it")
        # in a table of one family nft takes the ICMP of the other
        self.imply(row.family if self.both_families or row.protocol is None else None, row.protocol)

    def set_named(self, name: str) -> Set:
        """The set or map of the table with this name. ValueError if there is none."""
        try:
            return self._sets[name]
        except KeyError:
            raise ValueError(f"there is no set or map {name} in this table") from None

    def limit(self, name: str) -> Limit:
        """The limit of the table with this name."""
        try:
            return self._limits[name]
        except KeyError:
            raise ValueError(f"there is no limit {name} in this table") from None

    def counter(self, name: str) -> Counter:
        """The counter of the table with this name."""
        try:
            return self._counters[name]
        except KeyError:
            raise ValueError(f"there is no counter {name} in this table") from None
