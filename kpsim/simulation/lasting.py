"""Connections that stay open: long ones that send from time to time, and pools whose connections carry requests.

Counterpart: clients with keep-alive. Each packet goes by the load balancer again, which may have ended the connection, or
may know no connections and send the packet to another node.
"""

from dataclasses import dataclass, field, replace

from kpsim.addresses import parse_ip
from kpsim.scenario.traffic_schema import KeepAlive, Traffic
from kpsim.simulation.attempts import Broken, OpenFlow
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.connecting import DialledPort
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.dialling import node_port_ip
from kpsim.simulation.pins import Dial
from kpsim.simulation.runlog import Fate, Pin, RunLog
from kpsim.simulation.senders import Senders, TrafficSender, World


@dataclass(slots=True)
class Opened:
    """A connection that is open.

    ``record`` is the place of the record of its set-up, ``balanced`` the flow by which a load balancer knows it.
    """

    sender: TrafficSender
    flow: OpenFlow
    dial: Dial
    dialled: DialledPort
    record: int
    balanced: tuple[str | int, ...]
    opened_ns: int
    used_ns: int
    pooled: tuple[str, int] = ("", 0)  #: the client in whose pool it is, and its place there


class Lasting:
    """The open connections of one traffic source."""

    def __init__(
        self, clock: Clock, subject: str, traffic: Traffic, world: World, senders: Senders, seed: int, log: RunLog
    ) -> None:
        self._clock = clock
        self._subject = subject
        self._traffic = traffic
        self._world = world
        self._senders = senders
        self._seed = seed
        self._log = log
        self._nodes = {node.name: node for node in world.nodes}
        self._balancer = world.load_balancer

    def hold(self, opened: Opened) -> None:
        """Begin to keep a connection open."""
        self._senders.occupy(opened.sender)
        if opened.balanced and self._balancer is not None:
            self._balancer.opened(opened.flow.at_node)

    def let_go(self, opened: Opened, *, close: bool) -> None:
        """Cease to keep it open: it broke, or ``close`` says that the client closes it."""
        self._senders.release(opened.sender)
        if opened.balanced and self._balancer is not None:
            self._balancer.closed(opened.flow.at_node)
        if close:
            self._world.machines.close(opened.flow, self._clock.now_ns)

    def send(self, opened: Opened, number: int) -> tuple[Broken, Pin | None] | None:
        """Send one more packet. If the connection is broken, return why, and the entry that overrode the rules.

        ``number`` is that of the connection, or of the request, among those of the source.
        """
        now_ns = self._clock.now_ns
        opened.used_ns = now_ns
        with self._world.machines.watched(self._traffic.name, number):
            broken = self._sent_by_balancer(opened)
        if broken is None:
            return None
        pin = None if broken.followed is None else self._world.pins.judge(broken.followed, opened.dial, now_ns)
        return broken, pin

    def _sent_by_balancer(self, opened: Opened) -> Broken | None:
        machines, now_ns = self._world.machines, self._clock.now_ns
        if not opened.balanced or self._balancer is None:
            return machines.carry_on(opened.flow, now_ns)
        node, why = self._balancer.follow(opened.flow.at_node, *opened.balanced, own=opened.flow.outer is not None)
        if not node:
            return Broken(why)
        if node == opened.flow.at_node:
            return machines.carry_on(opened.flow, now_ns)
        return self._move(opened, node)

    def _move(self, opened: Opened, node: str) -> Broken | None:
        """Send a packet of the connection to another node, which does not know it."""
        request = opened.flow.request.copy()
        if not opened.dialled.address:
            address = parse_ip(node_port_ip(self._traffic, self._nodes[node], request.family))
            assert address is not None
            request.daddr = address[1]
        moved = replace(opened.flow, at_node=node, request=request)
        broken = self._world.machines.carry_on(moved, self._clock.now_ns, moved=True)
        if broken is None and self._balancer is not None:
            self._balancer.closed(opened.flow.at_node)
            self._balancer.opened(node)
            opened.flow = moved
        return broken

    # --------------------------------------------------------------------------------------------------- long connections

    def keep_sending(self, opened: Opened, number: int) -> None:
        """Keep a connection as long as the source says, and send from time to time. If it breaks, its record says so."""
        assert self._traffic.long is not None
        self.hold(opened)
        now_ns = self._clock.now_ns
        ends_ns = now_ns + draw_ns(self._traffic.long.lasts, self._seed, "lasts", self._traffic.name, number)
        self._log.connections[opened.record] = replace(self._log.connections[opened.record], closes_ns=ends_ns)
        self._plan_segment(opened, ends_ns)

    def _plan_segment(self, opened: Opened, ends_ns: int) -> None:
        assert self._traffic.long is not None
        at_ns = min(self._clock.now_ns + self._traffic.long.packet_every_ns, ends_ns)
        self._clock.at(at_ns, Rank.PACKET, self._subject, lambda: self._segment(opened, ends_ns))

    def _segment(self, opened: Opened, ends_ns: int) -> None:
        lost = self.send(opened, self._log.connections[opened.record].number)
        now_ns = self._clock.now_ns
        if lost is not None:
            broken, pin = lost
            self.let_go(opened, close=False)
            self._log.connections[opened.record] = replace(
                self._log.connections[opened.record],
                disposition=Fate.FAILED,
                cause=broken.cause,
                broken_ns=now_ns,
                pin=pin,
            )
        elif now_ns >= ends_ns:
            self.let_go(opened, close=True)
        else:
            self._plan_segment(opened, ends_ns)


@dataclass(slots=True)
class _Slots:
    """The pool of one client."""

    held: dict[int, Opened] = field(default_factory=dict)
    uses: int = 0


class Pool:
    """The pooled connections of one traffic source's clients. A client's requests use its connections in turn."""

    def __init__(self, clock: Clock, subject: str, keep_alive: KeepAlive, lasting: Lasting) -> None:
        self._clock = clock
        self._subject = subject
        self._keep_alive = keep_alive
        self._lasting = lasting
        self._clients: dict[str, _Slots] = {}

    def place(self, client: str) -> tuple[str, int]:
        """Return the place in the pool that the client's next request has."""
        slots = self._clients.setdefault(client, _Slots())
        slots.uses += 1
        return client, (slots.uses - 1) % self._keep_alive.connections

    def at(self, place: tuple[str, int]) -> Opened | None:
        """Return the connection that is open at a place, if it is young enough. One that is not is closed."""
        opened = self._clients[place[0]].held.get(place[1])
        age_ns = self._keep_alive.max_age_ns
        if opened is not None and age_ns is not None and self._clock.now_ns - opened.opened_ns >= age_ns:
            self.drop(opened, close=True)
            return None
        return opened

    def put(self, opened: Opened) -> None:
        """Keep a connection that was set up. If its place is taken, close it."""
        client, place = opened.pooled
        self._lasting.hold(opened)
        if self._clients[client].held.setdefault(place, opened) is not opened:
            self._lasting.let_go(opened, close=True)
            return
        self._plan_look(opened)

    def drop(self, opened: Opened, *, close: bool) -> None:
        """Take a connection out of the pool: it broke, or ``close`` says that the client closes it."""
        client, place = opened.pooled
        del self._clients[client].held[place]
        self._lasting.let_go(opened, close=close)

    def _plan_look(self, opened: Opened) -> None:
        at_ns = opened.used_ns + self._keep_alive.idle_timeout_ns
        self._clock.at(at_ns, Rank.PACKET, self._subject, lambda: self._look(opened))

    def _look(self, opened: Opened) -> None:
        """Close the connection if it was idle for so long."""
        client, place = opened.pooled
        if self._clients[client].held.get(place) is not opened:
            return  # it was closed, or broke
        if self._clock.now_ns - opened.used_ns >= self._keep_alive.idle_timeout_ns:
            self.drop(opened, close=True)
        else:
            self._plan_look(opened)
