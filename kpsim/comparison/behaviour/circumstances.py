"""What a reason may look at, to tell whether it explains why packets fare differently."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from kpsim.comparison.behaviour.boxes import Difference
from kpsim.comparison.behaviour.fates import Fate, Item, without_source_ports
from kpsim.comparison.behaviour.frontends import LOOPBACK, Frontend
from kpsim.comparison.behaviour.spaces import Values
from kpsim.exchange import Verdict
from kpsim.netfilter import Cause
from kpsim.objects import Service
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.tracing.probes import ProbeResult


class Why(NamedTuple):
    """A reason in words, the place of the specification that says more, and the code by which ``--allow`` names it."""

    code: str
    words: str
    see: str = ""


class Circumstances(NamedTuple):
    """What a reason may look at."""

    difference: Difference
    frontend: Frontend | None
    in_service_network: bool
    from_services: bool = False  #: all sources are addresses of Services
    service: Service | None = None
    turned: bool = False  #: the mode that a row names first is that of side b

    @property
    def fates(self) -> tuple[Fate, Fate]:
        """The fates in the two modes, in the order in which the table of reasons names them."""
        both = self.difference.a, self.difference.b
        return both[::-1] if self.turned else both

    @property
    def results(self) -> set[ProbeResult]:
        return {fate.result for fate in self.fates}

    def is_loopback(self, values: Values) -> bool:
        """Whether all of these addresses are loopback addresses."""
        return list(LOOPBACK[self.difference.box.family].split(values)) == [True]

    def is_frontend(self, *kinds: str) -> bool:
        return self.frontend is not None and self.frontend.kind in kinds

    @property
    def items(self) -> Iterator[Item]:
        return (way.leaf for ways in self.difference.ways for way in ways)


class Reason(NamedTuple):
    """A known difference between modes."""

    why: Why
    holds: Callable[[Circumstances], bool]


def pings(at: Circumstances) -> bool:
    return at.difference.box.protocol in ICMP_PROTOCOLS


def only_exchanges_differ(at: Circumstances) -> bool:
    a, b = at.fates
    return a._replace(exchange=b.exchange) == b and Verdict.ANSWER_LOST in {
        verdict for verdict, _ in a.exchange | b.exchange
    }


def hairpins(at: Circumstances) -> bool:
    """Whether endpoints send to their own Service, and only what becomes of their source differs."""
    chosen = [{seen.destination for seen, _, _ in fate.outcomes if seen is not None} for fate in at.fates]
    return chosen[0] == chosen[1] and all(low == high and low in chosen[0] for low, high in at.difference.box.source)


def only_source_ports_differ(at: Circumstances) -> bool:
    a, b = map(without_source_ports, at.fates)
    return a == b


def host_policy(at: Circumstances) -> bool:
    """Whether one side drops what the other accepts, the packet or its answer, by the policy of a chain."""
    if ProbeResult.DROPPED in at.results and any(item.cause is Cause.POLICY for item in at.items):
        return True
    answers = (item.by for item in at.items if item.verdict is Verdict.ANSWER_LOST)
    return only_exchanges_differ(at) and any(by is not None and by.rule is None for by in answers)
