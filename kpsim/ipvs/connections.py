"""The connection table of ip_vs on one node: connections, persistence templates, counters and schedulers' memory.

Counterpart: ip_vs_conn, and the counters of ip_vs_dest. The table serves both families, stands beside that of connection
tracking, and has timers of its own (IPVS-11 to IPVS-13). A *template* is what persistence remembers: the server of a
client (IPVS-11.4). The table stores, finds and expires; ``packetpath.ipvs_hooks`` says what packets do to it.
"""

import heapq
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.ipvs.schedulers import Candidate, ServerId, moved
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerFlags, VirtualServerKey
from kpsim.ipvs.states import ACTIVE, State
from kpsim.units import SECOND_NS

#: a template whose time is over while one of its connections exists is kept for so long, again and again (IPVS-11.4)
HELD_NS = 60 * SECOND_NS

Servers = Mapping[VirtualServerKey, VirtualServer]


class ConnectionKey(NamedTuple):
    """By what a client's packets find their connection. Of a template, the client is its network, with port 0."""

    family: Family
    protocol: str
    client: ServerId  #: address and port
    virtual: ServerId
    template: bool = False

    @property
    def virtual_server(self) -> VirtualServerKey:
        return VirtualServerKey(*self.virtual, self.protocol)


class TemplateId(NamedTuple):
    """A template, and when it was made: a later one of the same client is another."""

    key: ConnectionKey
    made_ns: int


class Connection(NamedTuple):
    """One connection, or a template."""

    key: ConnectionKey
    server: ServerId
    state: State
    made_ns: int
    expires_ns: int
    timeout_ns: int  #: by which a packet, or of a template a new connection, puts off its end
    control: TemplateId | None = None  #: the template that chose its server
    tracked: bool = True  #: connection tracking follows it (``vs/conntrack``): its entry ends with the connection

    @property
    def answers(self) -> "AnswerKey":
        """By what the server's packets find it."""
        return AnswerKey(self.key.family, self.key.protocol, self.server, self.key.client)

    def __str__(self) -> str:
        family = self.key.family
        client, virtual, server = (
            join_host_port(format_ip(family, address), port)
            for address, port in (self.key.client, self.key.virtual, self.server)
        )
        return f"{self.key.protocol} {client} → {virtual} → {server} {self.state}"


class AnswerKey(NamedTuple):
    family: Family
    protocol: str
    server: ServerId
    client: ServerId


class Touch(NamedTuple):
    """What one packet changes in the table."""

    stored: tuple[Connection, ...] = ()  #: new ones and later versions of known ones
    gone: tuple[ConnectionKey, ...] = ()  #: removed before those are stored
    cursors: tuple[tuple[tuple[Family, VirtualServerKey], Hashable], ...] = ()  #: what schedulers remember now


class Counters(NamedTuple):
    """The connections of a real server (IPVS-12.1)."""

    active: int = 0
    inactive: int = 0


class IpvsTable:
    """Connections by key. Expired connections never match and are not counted; ``expire`` removes them.

    ``known`` False: the table was made without the packets of the past, so what schedulers remember is not known.
    ``of_one`` False: each packet stands for many, whose clients have other addresses.
    """

    def __init__(self, *, known: bool = True, of_one: bool = True) -> None:
        self.known, self.of_one = known, of_one
        self._connections: dict[ConnectionKey, Connection] = {}
        self._by_answers: dict[AnswerKey, tuple[ConnectionKey, ...]] = {}  # newest first
        self._counters: dict[tuple[Family, VirtualServerKey, ServerId], Counters] = {}
        self._controlled: dict[TemplateId, int] = {}  # template → how many connections it has
        self._cursors: dict[tuple[Family, VirtualServerKey], Hashable] = {}
        # as in conntrack: timers that were replaced are void. At one instant connections end before templates are looked at
        self._timers: list[tuple[int, bool, int, ConnectionKey]] = []
        self._timed: dict[ConnectionKey, tuple[int, int]] = {}
        self._sequence = 0

    def copy(self, *, connections: bool = True, templates: bool = True) -> "IpvsTable":
        """A table with the same contents. What changes in one of the two does not change in the other.

        Without ``connections`` or ``templates`` it has none. What schedulers remember stays.
        """
        other = IpvsTable(known=self.known, of_one=self.of_one)
        if connections and templates:
            copied = {name: each.copy() if isinstance(each, dict | list) else each for name, each in vars(self).items()}
            other.__dict__.update(copied)
            return other
        other._cursors = dict(self._cursors)
        for each in self:
            if templates if each.key.template else connections:
                other._store(each)
        return other

    def __bool__(self) -> bool:
        return bool(self._connections or self._cursors)

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        """All connections and templates, oldest first; expired ones that were not removed yet are among them."""
        return iter(self._connections.values())

    # --- questions ----------------------------------------------------------------------------------------------------

    def find(self, key: ConnectionKey, now_ns: int) -> Connection | None:
        """The live connection of a client's packet, or the live template."""
        found = self._connections.get(key)
        if found is None or found.expires_ns > now_ns:
            return found
        return found._replace(timeout_ns=HELD_NS) if key.template and self._is_held(found, now_ns) else None

    def find_answers(self, key: AnswerKey, now_ns: int) -> Connection | None:
        """The live connection of a server's packet; of several the newest."""
        for each in self._by_answers.get(key, ()):
            if (found := self._connections[each]).expires_ns > now_ns:
                return found
        return None

    def counters(self, family: Family, key: VirtualServerKey, server: ServerId, now_ns: int) -> Counters:
        """How many live connections a real server of a virtual server has."""
        at = family, key, server
        active, inactive = self._counters.get(at, Counters())
        for each in self._expired(now_ns):
            if not each.key.template and (each.key.family, each.key.virtual_server, each.server) == at:
                active, inactive = active - (each.state in ACTIVE), inactive - (each.state not in ACTIVE)
        return Counters(active, inactive)

    def candidates(
        self, family: Family, key: VirtualServerKey, servers: Iterable[RealServer], now_ns: int
    ) -> list[Candidate]:
        """The real servers with their counters, in the same order."""
        return [Candidate(each, *self.counters(family, key, (each.address, each.port), now_ns)) for each in servers]

    def cursor(self, family: Family, key: VirtualServerKey) -> Hashable:
        """What the virtual server's scheduler remembers; None: nothing."""
        return self._cursors.get((family, key))

    def knows(self, family: Family, key: VirtualServerKey, scheduler: str) -> bool:
        """Whether what this scheduler will do follows from the table.

        It does if the table is ``known``. It does, too, if a packet was seen after which ``rr`` goes on.
        """
        return self.known or (scheduler == "rr" and (family, key) in self._cursors)

    def _is_held(self, template: Connection, now_ns: int) -> bool:
        """Whether a template whose time is over still lives, because each time that it was looked at it had a
        connection.
        """
        control = TemplateId(template.key, template.made_ns)
        if control not in self._controlled:
            return False
        ends_ns = max((each.expires_ns for each in self if each.control == control), default=0)
        looked_at_ns = template.expires_ns
        while looked_at_ns <= now_ns:
            if looked_at_ns >= ends_ns:
                return False
            looked_at_ns += HELD_NS
        return True

    def _expired(self, now_ns: int) -> Iterator[Connection]:
        """The expired connections that are still in the table, found as the connection table of conntrack does."""
        waiting, seen = [0], set()
        while waiting:
            position = waiting.pop()
            if position < len(self._timers) and self._timers[position][0] <= now_ns:
                key = self._timers[position][-1]
                found = self._connections.get(key)
                if found is not None and found.expires_ns <= now_ns and key not in seen:
                    seen.add(key)
                    yield found
                waiting += (2 * position + 1, 2 * position + 2)

    # --- changes ------------------------------------------------------------------------------------------------------

    def commit(self, touch: Touch, now_ns: int) -> None:
        """Applies what a packet changed, after what has expired by then is gone."""
        self.expire(now_ns)
        for key in touch.gone:
            if key in self._connections:
                self._remove(key)
        for each in touch.stored:
            self._store(each)
        self._cursors.update(touch.cursors)

    def expire(self, now_ns: int) -> tuple[Connection, ...]:
        """Removes the connections and templates whose time is over, in the order of their ends. Returns them."""
        gone = []
        while self._timers and self._timers[0][0] <= now_ns:
            at_ns, _, sequence, key = heapq.heappop(self._timers)
            if self._timed.get(key) != (at_ns, sequence):
                continue
            del self._timed[key]
            found = self._connections[key]
            if found.expires_ns > at_ns:  # put off since
                self._arm(key, found.expires_ns)
            elif TemplateId(key, found.made_ns) in self._controlled:
                # from now on a new connection, too, puts its end off by no more than this
                self._store(found._replace(expires_ns=at_ns + HELD_NS, timeout_ns=HELD_NS))
            else:
                gone.append(found)
                self._remove(key)
        return tuple(gone)

    def retain(
        self, family: Family, before: Servers, after: Servers, *, expires_connections: bool = True
    ) -> tuple[Connection, ...]:
        """Follows a change of the virtual servers of a family. Returns the connections that end with it (IPVS-13).

        The connections and templates of deleted servers end at once, unless ``expires_connections`` is False
        (``vs/expire_nodest_conn``). A server that was deleted and added again in one change keeps them: what the kernel
        does to them in between is a race (IPVS-13.4).
        """
        if before is after or before == after:
            return ()
        for of, key in [each for each in self._cursors if each[0] is family]:
            old, new = before.get(key), after.get(key)
            if old is None or new is None or old.scheduler != new.scheduler:
                del self._cursors[of, key]
            elif old.servers != new.servers:
                self._cursors[of, key] = moved(old.scheduler, self._cursors[of, key], old.servers, new.servers)
        if not expires_connections:
            return ()
        gone = [each for each in self if each.key.family is family and not is_served(each, after)]
        for each in gone:
            self._remove(each.key)
        return tuple(each for each in gone if not each.key.template)

    def _store(self, each: Connection) -> None:
        key, old = each.key, self._connections.get(each.key)
        if old is not None and old.made_ns == each.made_ns and old.server == each.server:
            self._count(old, -1)
        else:
            if old is not None:
                self._remove(key)
            if not key.template:
                self._by_answers[each.answers] = (key, *self._by_answers.get(each.answers, ()))
            if each.control is not None:
                self._controlled[each.control] = self._controlled.get(each.control, 0) + 1
        self._connections[key] = each
        self._count(each, 1)
        timed = self._timed.get(key)
        if timed is None or each.expires_ns < timed[0]:
            self._arm(key, each.expires_ns)

    def _count(self, each: Connection, by: int) -> None:
        if each.key.template:
            return
        at = each.key.family, each.key.virtual_server, each.server
        active, inactive = self._counters.get(at, Counters())
        if each.state in ACTIVE:
            active += by
        else:
            inactive += by
        if active or inactive:
            self._counters[at] = Counters(active, inactive)
        else:
            del self._counters[at]

    def _arm(self, key: ConnectionKey, at_ns: int) -> None:
        self._sequence += 1
        self._timed[key] = at_ns, self._sequence
        heapq.heappush(self._timers, (at_ns, key.template, self._sequence, key))

    def _remove(self, key: ConnectionKey) -> None:
        gone = self._connections.pop(key)
        self._timed.pop(key, None)
        self._count(gone, -1)
        if not key.template:
            others = tuple(each for each in self._by_answers[gone.answers] if each != key)
            if others:
                self._by_answers[gone.answers] = others
            else:
                del self._by_answers[gone.answers]
        if gone.control is not None:
            left = self._controlled[gone.control] - 1
            if left:
                self._controlled[gone.control] = left
            else:
                del self._controlled[gone.control]


def is_served(connection: Connection, servers: Servers) -> bool:
    """Whether the connection's real server is there, whatever its weight."""
    return server_of(connection, servers) is not None


def server_of(connection: Connection, servers: Servers) -> RealServer | None:
    """The connection's real server; None: it was deleted."""
    virtual = servers.get(connection.key.virtual_server)
    if virtual is None:
        return None
    return next((each for each in virtual.servers if (each.address, each.port) == connection.server), None)


def template_key(key: ConnectionKey, virtual: VirtualServer) -> ConnectionKey | None:
    """The key of the template for a client's connection; None: the virtual server has no persistence."""
    if VirtualServerFlags.PERSISTENT not in virtual.flags:
        return None
    network = key.client[0] & key.family.mask(virtual.netmask)
    return key._replace(client=(network, 0), template=True)
