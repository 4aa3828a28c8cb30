"""Answers that Services have in common: a question about one is answered from what was found about others that are akin to it.

Two Services are akin if their rules differ in their own constants and in their endpoints alone, on every node, and if nothing else
tells their constants apart (:mod:`kpsim.comparison.behaviour.alike`). Each draws its endpoints with the same probability, and what comes
behind the draw depends on the kind of the endpoint drawn (:mod:`kpsim.comparison.behaviour.composing`). So the answer to a question follows
from the answers to the corresponding questions about others, as soon as each kind of its endpoints was among theirs. Exchanges that do
not work are always followed: the reason names the Service's own addresses and rules.
"""

from collections.abc import Collection, Hashable
from fractions import Fraction
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.alike import Alike, Member
from kpsim.exchange import Target, Verdict
from kpsim.packet import Packet
from kpsim.surveys.answers import Outcome, Outcomes
from kpsim.surveys.questions import Question, name_of


class _Drawn(NamedTuple):
    """What becomes of packets to an endpoint of some kind."""

    port: int
    masquerade: bool
    remembered: bool
    assumed: bool


#: by kind of endpoint what becomes of packets to it; None: a packet of the question does not draw it
_Known = dict[int, _Drawn | None]


class _Akin(NamedTuple):
    """A Service that has akin ones. ``places`` are those of its constants."""

    kin: int
    member: Member
    places: dict[tuple[Family, int] | int, int]


class Kinship:
    """The akin Services of a cluster, and what is known of questions about them."""

    def __init__(self, found: Alike) -> None:
        self._of: dict[str, _Akin] = {}
        self._known: dict[Hashable, _Known] = {}
        self._varies: set[Hashable] = set()  #: questions whose answers do not follow from kinds of endpoints
        self._orders: dict[Hashable, tuple[int, ...] | None] = {}
        for number, kin in enumerate(found.kin):
            members = [member for group in kin.groups for member in group]
            for member in members if kin.composed and len(members) > 1 else ():
                places: dict[tuple[Family, int] | int, int] = {each: at for at, each in enumerate(member.addresses)}
                places |= {port: at for at, port in enumerate(member.ports)}
                if len(member.component.services) == 1:
                    self._of[member.component.services[0]] = _Akin(number, member, places)

    def answer(self, question: Question, packet: Packet) -> Outcomes | None:
        """The outcomes of a question, in the order of the rules; None: they do not follow from what is known.

        ``packet`` is the question's packet as the first node gets it.
        """
        akin = self._of.get(name_of(question.service))
        known = None if akin is None else self._known.get(self._key(akin, question, packet))
        if akin is None or known is None:
            return None
        family, own = packet.family, _kinds(akin.member, packet.family)
        if not all(kind in known for kind in own):
            return None
        order = self._order(akin.member, family, frozenset([kind for kind in own if known[kind] is not None]))
        if not order:
            return None
        odds, found = Fraction(1, len(order)), Outcomes()
        for place in order:
            at, of = akin.member.addresses[place][1], known[akin.member.kinds[place]]
            assert of is not None
            target = Target(family, packet.protocol, at, of.port)
            found[Outcome(Verdict.WORKS, target, of.masquerade, of.remembered, of.assumed)] = odds
        return found

    def learn(self, question: Question, packet: Packet, outcomes: Outcomes) -> None:
        """Keeps what the outcomes of a question say about the kinds of its Service's endpoints."""
        akin = self._of.get(name_of(question.service))
        key = None if akin is None else self._key(akin, question, packet)
        if akin is None or key is None or key in self._varies:
            return
        if any(outcome.verdict is not Verdict.WORKS or outcome.endpoint is None for outcome in outcomes):
            return
        odds, places, found = Fraction(1, len(outcomes)), list[int](), _Known()
        known = self._known.get(key, {})
        for outcome, weight in outcomes.items():
            assert outcome.endpoint is not None
            place = akin.places.get((packet.family, outcome.endpoint.address), -1)
            kind = akin.member.kinds[place] if place >= 0 else -1
            drawn = _Drawn(outcome.endpoint.port, outcome.masquerade, outcome.remembered, outcome.assumed)
            if kind < 0 or weight != odds or found.setdefault(kind, drawn) != drawn:
                break
            places.append(place)
        own = _kinds(akin.member, packet.family)
        fits = all(known.get(kind, found.get(kind)) == found.get(kind) for kind in own)
        if fits and tuple(places) == self._order(akin.member, packet.family, frozenset(found)):
            self._known[key] = {**known, **{kind: found.get(kind) for kind in own}}
        else:
            self._varies.add(key)
            self._known.pop(key, None)

    def _key(self, akin: _Akin, question: Question, packet: Packet) -> Hashable:
        """What akin Services' corresponding questions have in common. None: one of the Service's endpoints asks."""
        family = packet.family
        if (family, packet.saddr) in akin.places:
            return None
        destination, port = akin.places.get((family, packet.daddr)), akin.places.get(packet.dport)
        return (
            akin.kin, question.client, question.node, family, packet.protocol, packet.saddr, packet.sport, packet.sourced,
            ("its", destination) if destination is not None else packet.daddr, ("its", port) if port is not None else packet.dport,
        )  # fmt: skip

    def _order(self, member: Member, family: Family, drawn: Collection[int]) -> tuple[int, ...] | None:
        """The places of all endpoints of some kinds in the order in which rules name them.

        None: the rules of two nodes name them in different orders.
        """
        key = member.component, family, drawn
        if key not in self._orders:
            wanted = {
                place
                for place, (address, kind) in enumerate(zip(member.addresses, member.kinds, strict=True))
                if kind in drawn and address[0] is family
            }
            orders = {
                tuple([place for place in order or () if place in wanted])
                for (_, _, of), order in member.order.items()
                if of is family
            }
            whole = [order for order in orders if len(order) == len(wanted)]
            self._orders[key] = whole[0] if len(whole) == 1 else None
        return self._orders[key]


def _kinds(member: Member, family: Family) -> frozenset[int]:
    """The kinds of a Service's endpoints in a family."""
    return frozenset(
        [kind for (of, _), kind in zip(member.addresses, member.kinds, strict=True) if kind >= 0 and of is family]
    )
