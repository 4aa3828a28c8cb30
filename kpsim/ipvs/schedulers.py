"""The schedulers of ip_vs: which real server gets a new connection (IPVS-14).

A scheduler is a function of the servers as they are now, of the packet, and of what it remembers: its *cursor*, which a
pick returns changed. Servers come newest first, as the kernel keeps them (IPVS-11.7), those of weight 0 among them.

What a scheduler remembers, and how many connections each server has, follow from all packets of the past. If those are
not known (``Request.known`` False), a scheduler that reads them gives every server that could be picked the same
chance. That is a convention: what the kernel would do then is not known. The same is done with the servers of a
scheduler that hashes the client, if the packet stands for many clients (``Request.of_one`` False).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.ipvs.hashing import BUCKETS, PLACE_KEY, SLOTS, STEP_KEY, bucket, folded, mixed
from kpsim.ipvs.servers import RealServer

_NO_WEIGHT = "no server has a weight"

ServerId = tuple[int, int]  #: address and port: what tells the real servers of a virtual server apart (IPVS-5.3)

#: draws an integer in [0, limit)
Draw = Callable[[int], int]


class Candidate(NamedTuple):
    """A real server and the connections that it has."""

    server: RealServer
    active: int = 0
    inactive: int = 0

    @property
    def id(self) -> ServerId:
        return self.server.address, self.server.port

    @property
    def weight(self) -> int:
        return self.server.weight

    @property
    def overhead(self) -> int:
        """What ``lc`` and its like compare: an active connection counts as 257 inactive ones."""
        return 256 * self.active + (self.active + self.inactive)


class Request(NamedTuple):
    """What a scheduler may read of the packet and of its virtual server."""

    family: Family
    client: ServerId  #: address and port
    destination: int  #: address
    now_ns: int = 0
    by_port: bool = False  #: ``sh`` and ``mh``: the source port is hashed too
    falls_back: bool = False  #: ``sh`` and ``mh``: another server serves if the hashed one cannot
    known: bool = True  #: whether cursor and connections are those of all packets of the past
    of_one: bool = True  #: the client is this one, not any of many that differ in their addresses
    expiry_ns: int = 24 * 3600 * 10**9  #: ``lblcr_expiration``


class Pick(NamedTuple):
    """A decision. ``server`` None: nobody gets the connection, also where another server could."""

    server: RealServer | None
    cursor: Hashable = None  #: the scheduler's memory afterwards
    why: str = ""  #: in words


Scheduler = Callable[[Sequence[Candidate], Request, Hashable, Draw], Pick]


class Kind(NamedTuple):
    """A scheduler, whether it reads the past (a cursor or counts of connections), and whether it hashes the client."""

    pick: Scheduler
    has_past: bool
    hashes_client: bool = False


def pick(scheduler: str, candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """The decision of a scheduler by its name in the kernel. KeyError if there is none of that name."""
    kind = SCHEDULERS[scheduler]
    if not candidates:
        return Pick(None, cursor, "it has no server")
    if kind.has_past and not request.known:
        return _anyone(candidates, draw)
    if kind.hashes_client and not request.of_one:
        return _hashed_anywhere(candidates, request, draw)
    return kind.pick(candidates, request, cursor, draw)


def _anyone(candidates: Sequence[Candidate], draw: Draw) -> Pick:
    usable = _usable(candidates)
    if not usable:
        return Pick(None, None, _NO_WEIGHT)
    number = draw(len(usable)) if len(usable) > 1 else 0
    return Pick(usable[number].server, usable[number].id, "earlier connections are not known, so it may be any server")


def _hashed_anywhere(candidates: Sequence[Candidate], request: Request, draw: Draw) -> Pick:
    """The server of a client that may be any. One that is draining keeps its clients, and refuses them (IPVS-14)."""
    if request.falls_back or not _usable(candidates):
        return _anyone(candidates, draw)
    found = candidates[draw(len(candidates)) if len(candidates) > 1 else 0]
    return Pick(found.server if found.weight > 0 else None, None, "by the client's address")


def _usable(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [each for each in candidates if each.weight > 0]


# --- in turn ----------------------------------------------------------------------------------------------------------


def _in_turn(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``rr``: the next server of the list. The cursor is the server that was used last; None: the head of the list."""
    ids = [each.id for each in candidates]
    start = ids.index(cursor) + 1 if cursor in ids else 0
    for each in (*candidates[start:], *candidates[:start]):
        if each.weight > 0:
            return Pick(each.server, each.id, "its turn" if cursor is not None else "the first in the list")
    return Pick(None, cursor, _NO_WEIGHT)


class _Level(NamedTuple):
    """The cursor of ``wrr``: the server that was used last, and the weight that the next one must have."""

    last: ServerId | None
    least: int


def _in_weighted_turn(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``wrr``: in turn those with at least some weight. That weight falls from the greatest in steps of the common
    divisor, one step for each time around the list.
    """
    step, highest = _step(candidates), _highest(candidates)
    if not highest:
        return Pick(None, None, _NO_WEIGHT)
    last, least = cursor if isinstance(cursor, _Level) else _Level(None, highest)
    ids = [each.id for each in candidates]
    position = ids.index(last) + 1 if last in ids else 0
    while True:
        for each in candidates[position:]:
            if each.weight >= least:
                return Pick(each.server, _Level(each.id, least), "its turn")
        position, least = 0, least - step if least > step else highest


def _step(candidates: Sequence[Candidate]) -> int:
    return gcd(*(each.weight for each in candidates)) or 1


def _highest(candidates: Sequence[Candidate]) -> int:
    """The greatest weight, in such a way that steps of the common divisor lead from it to 1."""
    highest = max((each.weight for each in candidates), default=0)
    return highest - (_step(candidates) - 1) if highest else 0


# --- by connections ---------------------------------------------------------------------------------------------------


def _least(candidates: Sequence[Candidate], load: Callable[[Candidate], int]) -> Candidate | None:
    """The usable server with the least load for its weight; of equal ones the first."""
    least = None
    for each in _usable(candidates):
        if least is None or load(each) * least.weight < load(least) * each.weight:
            least = each
    return least


def _of_least(least: Candidate | None, words: str) -> Pick:
    return Pick(None, None, _NO_WEIGHT) if least is None else Pick(least.server, None, words)


def _overhead(each: Candidate) -> int:
    return each.overhead


def _least_overhead(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``lc``: the server with the fewest connections, whatever its weight; of equal ones the first."""
    return _of_least(min(_usable(candidates), key=_overhead, default=None), "the fewest connections")


def _least_weighted(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``wlc``: the server with the fewest connections for its weight."""
    return _of_least(_least(candidates, _overhead), "the fewest connections for its weight")


def _shortest_delay(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``sed``: the server that would have the fewest active connections for its weight."""
    return _of_least(_least(candidates, lambda each: each.active + 1), "the fewest active connections for its weight")


def _idle_first(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``nq``: the first server without active connections, else as ``sed``."""
    for each in _usable(candidates):
        if not each.active:
            return Pick(each.server, None, "the first without active connections")
    return _shortest_delay(candidates, request, cursor, draw)


def _first_of_highest(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``fo``: the server with the highest weight; of equal ones the first."""
    return _heaviest(_usable(candidates), _NO_WEIGHT)


def _until_full(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``ovf``: the same among servers that have no more active connections than their weight."""
    fitting = [each for each in _usable(candidates) if each.active <= each.weight]
    return _heaviest(fitting, "every server has more active connections than its weight")


def _heaviest(candidates: Sequence[Candidate], otherwise: str) -> Pick:
    heaviest = max(candidates, key=lambda each: each.weight, default=None)
    return Pick(None, None, otherwise) if heaviest is None else Pick(heaviest.server, None, "the highest weight")


def _better_of_two(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``twos``: of two servers drawn by weight the one with fewer connections for its weight; of equal ones the first
    drawn. Each draw is from 0 to the sum of the weights, both included, so the head of the list has one chance more.
    """
    usable = _usable(candidates)
    if not usable:
        return Pick(None, None, _NO_WEIGHT)
    total = sum(each.weight for each in usable) + 1
    first, second = (_drawn(usable, draw(total)) for _ in range(2))
    better = second if second.weight * first.overhead > first.weight * second.overhead else first
    return Pick(better.server, None, "the better of two that were drawn")


def _drawn(usable: Sequence[Candidate], number: int) -> Candidate:
    for each in usable:
        number -= each.weight
        if number <= 0:
            return each
    raise ValueError(f"a draw beyond the sum of the weights by {number}")


# --- by destination ---------------------------------------------------------------------------------------------------


def _is_overloaded(each: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Whether a server has more active connections than its weight while another has fewer than half of its own."""
    return each.active > each.weight and any(other.active * 2 < other.weight for other in candidates)


def _by_destination(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``lblc``: the server that the destination had before. The cursor is that server."""
    kept = next((each for each in _usable(candidates) if each.id == cursor), None)
    if kept is not None and not _is_overloaded(kept, candidates):
        return Pick(kept.server, cursor, "the destination's server")
    least = _least(candidates, _overhead)
    if least is None:
        return Pick(None, cursor, _NO_WEIGHT)
    return Pick(least.server, least.id, "the fewest connections for its weight: the destination's server from now on")


class _Group(NamedTuple):
    """The cursor of ``lblcr``: the servers of the destination, newest first, and when the group last changed."""

    servers: tuple[ServerId, ...]
    changed_ns: int


def _by_group(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``lblcr``: the least loaded of the destination's servers; if that is overloaded, one more joins them."""
    group = cursor if isinstance(cursor, _Group) else _Group((), request.now_ns)
    by_id = {each.id: each for each in candidates}
    members = [by_id[each] for each in group.servers if each in by_id]
    least = _least(members, _overhead)
    if len(group.servers) > 1 and request.now_ns > group.changed_ns + request.expiry_ns:
        most = _most(members)
        if most is not None:
            group = _Group(tuple(each for each in group.servers if each != most.id), request.now_ns)
    if least is not None and not _is_overloaded(least, candidates):
        return Pick(least.server, group, "the fewest connections of the destination's servers")
    best = _least(candidates, _overhead)
    if best is None:
        return Pick(None, group, _NO_WEIGHT)
    if best.id not in group.servers:
        group = _Group((best.id, *group.servers), request.now_ns)
    return Pick(best.server, group, "the fewest connections for its weight: it joins the destination's servers")


def _most(members: Sequence[Candidate]) -> Candidate | None:
    """The usable server with the most load for its weight; of equal ones the first."""
    most = None
    for each in _usable(members):
        if most is None or most.overhead * each.weight < each.overhead * most.weight:
            most = each
    return most


# --- by hash ----------------------------------------------------------------------------------------------------------


def _by_source(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``sh``: a table of buckets, filled from the list with a copy of each server for each unit of weight."""
    order = [each for each in candidates for _ in range(max(each.weight, 1))]
    value = folded(request.family, request.client[0]) + (request.client[1] if request.by_port else 0)

    def at(offset: int) -> tuple[int, Candidate]:
        number = bucket(value, offset)
        return number, order[number % len(order)]

    return _hashed(order, at, BUCKETS, "bucket", request)


def _by_target(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``dh``: the same for destinations, one copy of each server whatever its weight."""

    def at(offset: int) -> tuple[int, Candidate]:
        number = bucket(folded(request.family, request.destination), offset)
        return number, candidates[number % len(candidates)]

    return _hashed(candidates, at, BUCKETS, "bucket", request._replace(falls_back=False))


def _by_maglev(candidates: Sequence[Candidate], request: Request, cursor: Hashable, draw: Draw) -> Pick:
    """``mh``: a table in which each server takes slots in an order of its own."""
    value = folded(request.family, request.client[0]) + (request.client[1] if request.by_port else 0)
    table = maglev(request.family, tuple([(each.id, each.weight) for each in candidates]))

    def at(offset: int) -> tuple[int, Candidate]:
        number = mixed(offset + value, PLACE_KEY) % SLOTS
        return number, candidates[table[number]]

    return _hashed(candidates, at, SLOTS, "slot", request)


def _hashed(
    servers: Sequence[Candidate], at: Callable[[int], tuple[int, Candidate]], size: int, name: str, request: Request
) -> Pick:
    """The server at the client's place, or where that falls back, at the first place after it that can serve."""
    number, placed = at(0)
    if placed.weight > 0:
        return Pick(placed.server, None, f"{name} {number} of {size}")
    for offset in range(size) if request.falls_back else ():
        found, other = at((offset + number) % size)
        if other.weight > 0:
            return Pick(other.server, None, f"{name} {found} of {size}: the server of {name} {number} has weight 0")
    return Pick(None, None, f"the server of {name} {number} of {size} has weight 0")


@lru_cache(maxsize=1 << 8)
def maglev(family: Family, servers: tuple[tuple[ServerId, int], ...]) -> bytes | tuple[int, ...]:
    """The number of the server in each slot. ``servers`` are ids with weights, in the order of the list.

    A server of weight 0 keeps the slots that it had with its last weight, taken for 1 here: kube-proxy gives no other.
    """
    weights = [max(weight, 1) for _, weight in servers]
    unit = gcd(*weights)
    shift = max(0, (max(weights) // unit).bit_length() - 6)
    turns = [(weight // unit >> shift) or 1 for weight in weights]
    values = [folded(family, address) + port for (address, port), _ in servers]
    places = [mixed(value, PLACE_KEY) % SLOTS for value in values]
    steps = [mixed(value, STEP_KEY) % (SLOTS - 1) + 1 for value in values]
    table = [-1] * SLOTS
    filled = 0
    while True:
        for number, each in enumerate(turns):
            for _ in range(each):
                while table[places[number]] >= 0:
                    places[number] = (places[number] + steps[number]) % SLOTS
                table[places[number]] = number
                filled += 1
                if filled == SLOTS:
                    return tuple(table)


#: all schedulers of Linux 6.1, by name
SCHEDULERS: Mapping[str, Kind] = {
    "rr": Kind(_in_turn, True),
    "wrr": Kind(_in_weighted_turn, True),
    "lc": Kind(_least_overhead, True),
    "wlc": Kind(_least_weighted, True),
    "sed": Kind(_shortest_delay, True),
    "nq": Kind(_idle_first, True),
    "lblc": Kind(_by_destination, True),
    "lblcr": Kind(_by_group, True),
    "sh": Kind(_by_source, False, True),
    "dh": Kind(_by_target, False),
    "mh": Kind(_by_maglev, False, True),
    "fo": Kind(_first_of_highest, False),
    "ovf": Kind(_until_full, True),
    "twos": Kind(_better_of_two, True),
}


# --- when servers change ----------------------------------------------------------------------------------------------


def moved(scheduler: str, cursor: Hashable, before: Sequence[RealServer], after: Sequence[RealServer]) -> Hashable:
    """What a scheduler remembers when the servers of its virtual server have changed.

    ``rr``'s place moves to the server before a deleted one; a server that was added again was deleted before. ``wrr``
    begins again at the head of the list.
    """
    match scheduler:
        case "rr":
            return _moved_place(cursor, before, after)
        case "wrr":
            return _level_after(cursor, [Candidate(each) for each in after])
        case _:
            return cursor


def _id(server: RealServer) -> ServerId:
    return server.address, server.port


def _moved_place(cursor: Hashable, before: Sequence[RealServer], after: Sequence[RealServer]) -> Hashable:
    ids = [_id(each) for each in before]
    if cursor not in ids:
        return cursor
    kept = _kept(before, after)
    for each in ids[ids.index(cursor) :: -1]:
        if each in kept:
            return each
    return None


def _kept(before: Sequence[RealServer], after: Sequence[RealServer]) -> set[ServerId]:
    """The servers that stayed in the list all the time.

    New ones, and those deleted and added again, stand in front of them. The latter may have another generation, too.
    """
    places = {(_id(each), each.generation): place for place, each in enumerate(before)}
    kept: set[ServerId] = set()
    limit = len(before)
    for each in reversed(after):
        place = places.get((_id(each), each.generation), limit)
        if place >= limit:
            break
        limit = place
        kept.add(_id(each))
    return kept


def _level_after(cursor: Hashable, after: Sequence[Candidate]) -> Hashable:
    if not isinstance(cursor, _Level):
        return cursor
    step, highest = _step(after), _highest(after)
    if cursor.least > highest:
        return _Level(None, highest) if highest else None
    return _Level(None, cursor.least // step * step + 1 if step > 1 else cursor.least)
