"""Traffic sources on the clock: when a client sends, and what it does when nothing answers or somebody refuses.

Counterpart: clients. The load is open loop: a source sends at its rate whatever becomes of its packets.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from kpsim import rng
from kpsim.addresses import Family
from kpsim.objects import Service
from kpsim.scenario.clients import Clients
from kpsim.scenario.traffic_schema import Arrivals, Traffic
from kpsim.simulation.attempts import OpenFlow
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.connecting import Connector, Outcome, Turn, Undertaking
from kpsim.simulation.delays import exponential
from kpsim.simulation.dialling import dialled_family, lacking
from kpsim.simulation.lasting import Lasting, Opened, Pool
from kpsim.simulation.packetloss import SYN_REPEATED_NS
from kpsim.simulation.runlog import Fate, RunLog, Unsent
from kpsim.simulation.senders import Senders, TrafficSender, World
from kpsim.units import SECOND_NS


def arrival_times_ns(traffic: Traffic, stop_ns: int, seed: int) -> Iterator[int]:
    """Yield the times at which the source sends, in order: evenly spaced, or memoryless with the same mean rate."""
    number, elapsed = 0, 0.0
    while True:
        match traffic.arrivals:
            case Arrivals.CONSTANT:
                after = number * SECOND_NS / traffic.per_second
            case Arrivals.POISSON:
                elapsed += exponential(seed, "arrival", traffic.name, number) / traffic.per_second
                after = elapsed * SECOND_NS
        if after >= stop_ns:  # it is infinite for the smallest rates
            return
        at_ns = traffic.start_ns + math.floor(after)
        if at_ns >= stop_ns:
            return
        yield at_ns
        number += 1


class TrafficSource:
    """One traffic source of the scenario. ``clients`` are those that it has outside."""

    def __init__(
        self, clock: Clock, traffic: Traffic, world: World, *, clients: Clients, stop_ns: int, seed: int, log: RunLog
    ) -> None:
        self._clock = clock
        self._traffic = traffic
        self._world = world
        self._seed = seed
        self._log = log
        self._subject = f"traffic {traffic.name}"
        self._times = arrival_times_ns(traffic, stop_ns, seed)
        self._senders = Senders(traffic, world, clients)
        self._connector = Connector(clock, traffic, world, self._senders, log)
        self._lasting = Lasting(clock, self._subject, traffic, world, self._senders, seed, log)
        kept = traffic.keep_alive
        self._pool = None if kept is None else Pool(clock, self._subject, kept, self._lasting)
        self._number = 0
        self._unsent: dict[str, int] = {}  #: by reason: its place in the log

    def start(self) -> None:
        self._plan_next()

    def _plan_next(self) -> None:
        at_ns = next(self._times, None)
        if at_ns is not None:
            self._clock.at(at_ns, Rank.PACKET, self._subject, self._arrive)

    def _arrive(self) -> None:
        number, self._number = self._number, self._number + 1
        self._begin(Undertaking(number, self._clock.now_ns))
        self._plan_next()

    def _skip(self, why: str) -> None:
        """Note that a connection was not attempted."""
        now_ns, log = self._clock.now_ns, self._log.unsent
        place = self._unsent.setdefault(why, len(log))
        if place == len(log):
            log.append(Unsent(self._traffic.name, why, 0, now_ns, now_ns))
        log[place] = replace(log[place], connections=log[place].connections + 1, last_ns=now_ns)

    # ------------------------------------------------------------------------------------------------------------ trying

    def _begin(self, undertaking: Undertaking) -> None:
        """Begin a round: request over a pooled connection, or try to connect."""
        service = self._world.service()
        happy = self._traffic.happy_eyeballs
        first = dialled_family(self._traffic, service)
        if happy is not None and self._traffic.ip_family is None:
            first = Family.IPV6  # RFC 6724, RFC 8305
        undertaking.other_family = None
        if happy is not None:
            undertaking.other_family = Family.IPV4 if first is Family.IPV6 else Family.IPV6
        base = self._senders.sender(undertaking.number, first, undertaking.client)
        if isinstance(base, str):
            self._give_up_unsent(undertaking, base)
            return
        undertaking.client = base.client
        if self._pool is None or undertaking.tries > 1 or not self._request(undertaking, base):
            self._try(undertaking, base, first, service)
            if happy is not None:
                self._clock.at(
                    self._clock.now_ns + happy.delay_ns, Rank.PACKET, self._subject, self._other(undertaking)
                )

    def _give_up_unsent(self, undertaking: Undertaking, why: str) -> None:
        """A try that cannot even begin: note it, unless the undertaking is in the log by what it came to before."""
        if undertaking.record is None:
            self._skip(why)

    def _try(self, undertaking: Undertaking, base: TrafficSender, family: Family, service: Service) -> None:
        sender = self._senders.with_port(base, undertaking.number, again=undertaking.tries > 1)
        if isinstance(sender, str):
            self._give_up_unsent(undertaking, sender)
            return
        dialled = self._connector.dial(service, family)
        if dialled is None:  # the Service never had such an address
            if undertaking.other_family is not None:
                self._other(undertaking)()
            else:
                self._give_up_unsent(
                    undertaking, lacking(self._traffic, service, family, proxied=self._connector.proxied)
                )
            return
        undertaking.racing += 1
        self._attempt(Turn(undertaking, base, sender, dialled, family, self._clock.now_ns))

    def _other(self, undertaking: Undertaking) -> Callable[[], None]:
        """Return what tries the other family, unless that was tried in this round, or the client is connected or gone."""
        round_of = undertaking.tries

        def later() -> None:
            family = undertaking.other_family
            if undertaking.done or family is None or undertaking.tries != round_of:
                return
            undertaking.other_family = None
            base = self._senders.sender(undertaking.number, family, undertaking.client)
            if not isinstance(base, str):
                self._try(undertaking, base, family, self._world.service())

        return later

    def _attempt(self, turn: Turn) -> None:
        """Send a try's first packet, for the first time or again."""
        undertaking, port = turn.undertaking, turn.dialled.port
        if undertaking.done:
            return
        service = self._world.service()
        outcome = self._connector.connect(turn, service)
        attempt = outcome.attempt
        record = self._connector.record(turn, service, attempt)
        if port.protocol != "TCP":
            return
        if attempt.flow is not None and outcome.dial is not None:
            undertaking.done = True
            self._go_on(turn, outcome, attempt.flow, record)
        elif attempt.silent:
            self._plan_retry(turn)
        else:
            self._fail(turn)

    def _plan_retry(self, turn: Turn) -> None:
        """Repeat an unanswered SYN as Linux does, unless the client has given up by then or is gone."""
        patience_ns = self._traffic.connect_timeout_ns
        if patience_ns is None:
            return
        if turn.retries == len(SYN_REPEATED_NS) or SYN_REPEATED_NS[turn.retries] >= patience_ns:
            if self._traffic.retries is not None:
                at_ns = turn.started_ns + patience_ns
                self._clock.at(at_ns, Rank.PACKET, self._subject, lambda: self._fail(turn))
            return

        def again() -> None:
            if self._senders.lives(turn.sender) and not turn.undertaking.done:
                turn.undertaking.syn_retries += 1
                self._attempt(replace(turn, retries=turn.retries + 1))

        self._clock.at(turn.started_ns + SYN_REPEATED_NS[turn.retries], Rank.PACKET, self._subject, again)

    def _fail(self, turn: Turn) -> None:
        """End a try. If no other is under way, begin another round after a while, as often as the source says."""
        undertaking = turn.undertaking
        undertaking.racing -= 1
        if undertaking.done:
            return
        if undertaking.other_family is not None:  # a refusal does not wait for the delay (RFC 8305)
            self._other(undertaking)()
        if not undertaking.racing and not undertaking.done:
            self._try_again(undertaking, turn.base)

    def _try_again(self, undertaking: Undertaking, base: TrafficSender) -> None:
        retries = self._traffic.retries
        if retries is None or undertaking.tries > retries.count:
            return
        wait_ns = retries.wait_ns(undertaking.tries)
        share = rng.uniform(self._seed, "back-off", self._traffic.name, undertaking.number, undertaking.tries)
        wait_ns -= math.floor(wait_ns * retries.jitter * share)

        def again() -> None:
            if self._senders.lives(base):
                undertaking.tries += 1
                self._begin(undertaking)

        self._clock.at(self._clock.now_ns + wait_ns, Rank.PACKET, self._subject, again)

    # ------------------------------------------------------------------------------------------------- what is connected

    def _go_on(self, turn: Turn, outcome: Outcome, flow: OpenFlow, record: int) -> None:
        """Establish a connection. Close it unless it is a long one, or goes into a pool."""
        assert outcome.dial is not None
        now_ns = self._clock.now_ns
        self._world.machines.establish(flow, now_ns)
        delivered = self._log.connections[record].disposition is Fate.DELIVERED
        opened = Opened(
            turn.sender, flow, outcome.dial, turn.dialled, record, outcome.balanced, now_ns, now_ns,
            turn.undertaking.place,
        )  # fmt: skip
        if self._pool is not None and delivered:
            self._pool.put(opened)
        elif self._traffic.long is not None and delivered:
            self._lasting.keep_sending(opened, turn.undertaking.number)
        else:
            self._world.machines.close(flow, now_ns)

    def _request(self, undertaking: Undertaking, base: TrafficSender) -> bool:
        """Send a request over a pooled connection of the client. Returns whether there was one."""
        assert self._pool is not None
        undertaking.place = self._pool.place(base.client)
        opened = self._pool.at(undertaking.place)
        if opened is None:
            return False
        lost = self._lasting.send(opened, undertaking.number + 1)
        first = self._log.connections[opened.record]
        undertaking.record = len(self._log.connections)
        done = replace(
            first,
            at_ns=undertaking.begun_ns,
            disposition=Fate.DELIVERED,
            new_flow=False,
            affinity_break="",
            syn_retries=0,
            decided_ns=None,
            tries=1,
            reused=True,
            number=undertaking.number + 1,
        )
        if lost is not None:
            broken, pin = lost
            done = replace(done, disposition=Fate.FAILED, cause=broken.cause, pin=pin)
            self._pool.drop(opened, close=False)
        self._log.connections.append(done)
        if lost is not None:
            self._try_again(undertaking, base)
        else:
            undertaking.done = True
        return True
