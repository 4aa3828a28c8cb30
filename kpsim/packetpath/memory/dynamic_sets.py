"""What packets have put into the sets of nftables: kube-proxy's ClientIP affinity in nftables mode (NFT-6.11, K-9.2).

Counterpart: nft_dynset and nft_set_hash. A set is named by its table. Members last as long as the set: a set that was
deleted and made again has another generation. Nothing here knows endpoints or Services.

A look-up never finds an expired member, but the member takes up room until the next round of the collector (K-9.6).
When a set's rounds begin is not known to the model; they are at whole multiples of their interval.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpsim.ruleset import Key, Set, SetVerb, TableKey
from kpsim.units import SECOND_NS

DEFAULT_SIZE = 65535  #: of a set that rules add to (K-9.2)
_DEFAULT_ROUND_NS = SECOND_NS
_FEW = 1024


class SetId(NamedTuple):
    """Names a set. A set of an ``inet`` table, and an ipset, is one set for both families."""

    table: TableKey | None  #: None: an ipset
    name: str


class Member(NamedTuple):
    """An element that a packet put into a set. ``expires_ns`` None: it stays.

    A member that stands in the set's own elements too overrides that element. So a deleted element is a member that
    expired at the beginning of time.
    """

    expires_ns: int | None = None

    def lives(self, now_ns: int) -> bool:
        return self.expires_ns is None or now_ns < self.expires_ns


DELETED = Member(-1)


class SetTouch(NamedTuple):
    """A change that a packet makes to a set. ``member`` is what the set then knows of the key."""

    at: SetId
    generation: int
    key: Key
    member: Member
    collected_ns: int  #: when the collector went through the set last


class DynamicSets:
    """The members of all sets of a network namespace, other than the elements that a tool wrote."""

    def __init__(self) -> None:
        self._members: dict[SetId, tuple[int, dict[Key, Member]]] = {}
        self._tidy_at: dict[SetId, int] = {}  #: how many members a set may have before the expired ones are dropped

    def __len__(self) -> int:
        """The number of sets that have members."""
        return len(self._members)

    def copy(self) -> "DynamicSets":
        other = DynamicSets()
        other._members = {at: (generation, dict(members)) for at, (generation, members) in self._members.items()}
        other._tidy_at = dict(self._tidy_at)
        return other

    def members(self, at: SetId, generation: int) -> Mapping[Key, Member]:
        """What packets put into a set; some of it may have expired. The caller must not change it."""
        held = self._members.get(at)
        return held[1] if held is not None and held[0] == generation else {}

    def put(self, at: SetId, generation: int, key: Key, member: Member) -> None:
        """Puts a member into a set, as if a packet had."""
        held = self._members.get(at)
        if held is None or held[0] != generation:
            held = self._members[at] = generation, {}
        held[1][key] = member

    def commit(self, touch: SetTouch) -> None:
        at, generation, key, member, collected_ns = touch
        self.put(at, generation, key, member)
        members = self._members[at][1]
        if len(members) > self._tidy_at.get(at, _FEW):
            left = {key: each for key, each in members.items() if each == DELETED or not _expired(each, collected_ns)}
            self._members[at] = generation, left
            self._tidy_at[at] = max(_FEW, 2 * len(left))

    def retain(self, generation: Callable[[SetId], int | None]) -> None:
        """Forgets the members of sets that are gone. ``generation`` returns that of a set; None: there is none."""
        self._members = {at: held for at, held in self._members.items() if generation(at) == held[0]}


def known(declared: Set, key: Key, member: Member | None, now_ns: int) -> bool:
    """Whether a set has a key: as a member that lives, or among the elements that a tool wrote."""
    return key in declared.elements if member is None else member.lives(now_ns)


def has_room(declared: Set, members: Mapping[Key, Member], now_ns: int) -> bool:
    """Whether one more member fits into a set. Elements that a tool wrote take up room too (K-9.5)."""
    size = declared.size or DEFAULT_SIZE
    elements = declared.elements
    if len(elements) + len(members) < size:
        return True
    taken = sum(key not in elements and _in_room(member, declared, now_ns) for key, member in members.items())
    gone = sum(key in elements and member == DELETED for key, member in members.items())
    return len(elements) - gone + taken < size


def touched(
    declared: Set, members: Mapping[Key, Member], key: Key, verb: SetVerb, timeout_ns: int | None, now_ns: int
) -> tuple[bool, Member | None]:
    """Whether a rule that changes a set goes on, and what the set then knows of the key; None: nothing changes.

    Only a full set ends the rule. To delete a key that is not there does not (K-9.5).
    """
    there = known(declared, key, members.get(key), now_ns)
    if verb is SetVerb.DELETE:
        return True, DELETED if there else None
    lasts_ns = declared.timeout_ns if timeout_ns is None else timeout_ns
    member = Member(None if lasts_ns is None else now_ns + lasts_ns)
    if there:
        return True, member if verb is SetVerb.UPDATE and lasts_ns is not None else None
    return (True, member) if has_room(declared, members, now_ns) else (False, None)


def collected_ns(declared: Set, now_ns: int) -> int:
    """When the collector went through a set last."""
    round_ns = declared.gc_ns or _DEFAULT_ROUND_NS
    return now_ns // round_ns * round_ns


def _in_room(member: Member, declared: Set, now_ns: int) -> bool:
    return not _expired(member, collected_ns(declared, now_ns))


def _expired(member: Member, at_ns: int) -> bool:
    return member.expires_ns is not None and member.expires_ns <= at_ns
