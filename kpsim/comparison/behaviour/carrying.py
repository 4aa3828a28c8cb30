"""Carries what was found about one component of Services to another that is like it: their constants are exchanged."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.comparison.behaviour.alike import Member
from kpsim.comparison.behaviour.fates import Fate, Seen
from kpsim.comparison.behaviour.spaces import Values, holds, unite, without
from kpsim.inputs import Json


class Swap:
    """Exchanges the constants of two components in one family. Numbers that are neither's stay what they are."""

    def __init__(self, one: Member, other: Member, family: Family) -> None:
        self.one, self.other = one, other
        pairs = [(a[1], b[1]) for a, b in zip(one.addresses, other.addresses, strict=True) if a[0] is family and a != b]
        ports = [(a, b) for a, b in zip(one.ports, other.ports, strict=True) if a != b]
        self._addresses = dict([*pairs, *((b, a) for a, b in pairs)])
        self._ports = dict([*ports, *((b, a) for a, b in ports)])
        self._pairs, self._port_pairs = pairs, ports
        self._family = family
        self._sets: dict[Values, Values] = {}
        self._fates: dict[Fate, Fate] = {}

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {format_ip(self._family, a): format_ip(self._family, b) for a, b in self._addresses.items()}

    def address(self, value: int) -> int:
        return self._addresses.get(value, value)

    def port(self, value: int) -> int:
        return self._ports.get(value, value)

    def addresses(self, values: Values) -> Values:
        """A set of addresses after the exchange."""
        found = self._sets.get(values)
        if found is None:
            found = self._sets[values] = _exchanged(values, self._pairs)
        return found

    def ports(self, values: Values) -> Values:
        return _exchanged(values, self._port_pairs)

    def fate(self, fate: Fate) -> Fate:
        """What becomes of the corresponding packets."""
        found = self._fates.get(fate)
        if found is None:
            outcomes = frozenset((self.seen(seen), *rest) for seen, *rest in fate.outcomes)
            found = fate._replace(outcomes=outcomes, seen=self.seen(fate.seen))  # type: ignore[arg-type]
            self._fates[fate] = found
        return found

    def seen(self, seen: Seen | None) -> Seen | None:
        """What the receiver of the corresponding packet sees."""
        if seen is None:
            return None
        source, destination = (
            self.address(each) if isinstance(each, int) else each for each in (seen.source, seen.destination)
        )
        return Seen(
            source, seen.sport, destination, self.port(seen.dport) if isinstance(seen.dport, int) else seen.dport
        )

    def answer(self, told: Json, by: Mapping[str, Any], at: tuple[int, str, Family]) -> Json | None:
        """The answer to the corresponding probe. ``by`` are the rules that it names.

        Outcomes are in the order in which the ruleset ``at`` a side, a node and a family names them. None: they were
        not in that order to begin with.
        """
        outcomes = told["outcomes"]
        if outcomes and (self.one.order[at] is None or self.one.order[at] != self.other.order[at]):
            ranks = self._ranks(self.one, at)
            places = [ranks.get(each["seen"]["dst"], -1) for each in outcomes]
            if places != sorted(places) or -1 in places:
                return None
            ranks = self._ranks(self.other, at)
            if not ranks:
                return None
            outcomes = sorted(map(self._outcome, outcomes), key=lambda each: ranks[each["seen"]["dst"]])
        else:
            outcomes = [self._outcome(each) for each in outcomes]
        found = {**told, "outcomes": outcomes, **by}
        if "seen" in told:
            found["seen"] = self._told(told["seen"])
        return found

    def _ranks(self, member: Member, at: tuple[int, str, Family]) -> dict[str, int]:
        return {format_ip(*member.addresses[place]): rank for rank, place in enumerate(member.order[at] or ())}

    def _outcome(self, told: Json) -> Json:
        seen = self._told(told["seen"])
        return {**told, "endpoint": join_host_port(seen["dst"], seen["dport"]), "seen": seen}

    def _told(self, seen: Json) -> Json:
        texts = self._texts
        return {
            **seen, "src": texts.get(seen["src"], seen["src"]), "dst": texts.get(seen["dst"], seen["dst"]),
            "dport": self.port(seen["dport"]),
        }  # fmt: skip


def _exchanged(values: Values, pairs: list[tuple[int, int]]) -> Values:
    gone, new = [], []
    for one, other in pairs:
        has_one, has_other = holds(values, one), holds(values, other)
        if has_one != has_other:
            gone.append(one if has_one else other)
            new.append((other, other) if has_one else (one, one))
    if not gone:
        return values
    for value in gone:
        values = without(values, value)
    return unite([values, tuple(new)])
