"""The judgement about an exchange: the verdict, where it was decided and by what, and what the client is told."""

import enum
from typing import NamedTuple

from kpsim.exchange.worlds import Http
from kpsim.fabric import Journey, Whose
from kpsim.netfilter import Walk
from kpsim.packet import Packet
from kpsim.packetpath.steps import RuleMatched
from kpsim.ruleset import Role, RuleReference
from kpsim.valueclass import dataclass


class Verdict(enum.StrEnum):
    """Whether the client gets an answer to the first packet that it sent."""

    WORKS = "works"  #: it gets the answer that it waits for
    REFUSED = "refused"  #: it is told that it gets none
    REQUEST_LOST = "request-lost"  #: the nodes lost the request, and it is not told
    ANSWER_LOST = "answer-lost"  #: the request reached its end; the answer does not reach it, or does not fit
    MISDELIVERED = "misdelivered"  #: it gets an answer, but not from an endpoint of the Service that it dialled
    UNKNOWN = "unknown"  #: the request or the answer met what is not modelled


@dataclass(frozen=True, slots=True)
class Told:
    """What the client gets. All fields are empty if it gets nothing."""

    packet: Packet | None = None  #: the last packet that it gets: the answer, a reset, an ICMP error
    with_: str = ""  #: of a refusal: ``tcp-reset``, ``icmp-port-unreachable``, …
    error: str = ""  #: what its system call returns: ``ECONNREFUSED``, ``EPERM``, …; empty if it does not fail
    http: Http | None = None


class Detour(NamedTuple):
    """A node that sends the answer to a client outside by another interface than the request came in by."""

    node: str
    came_by: str
    leaves_by: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange and the judgement about it."""

    verdict: Verdict
    request: Journey
    node: str  #: where it was decided: the node that translated, refused, lost or misled the packet
    told: Told = Told()
    answer: Journey | None = None  #: the way of the answer or of the refusal; None: nobody answered
    by: RuleReference | None = None  #: the rule that refused or lost the request or the answer
    cause: str = ""  #: why it does not work, if no rule decided
    who: str = ""  #: who answered, for people; empty: nobody did, or nothing is known of it
    assumed: bool = False  #: it is not known whether something listens where the request ended
    relay: "Exchange | None" = None  #: of a load balancer that took the request: its own exchange with a node
    misfit: bool = False  #: what comes back reaches a place, but not the client, or its socket does not take it
    nobody: bool = False  #: nobody is where the request was sent, or its node is off

    @property
    def last(self) -> "Exchange":
        """The exchange with the server: this one, or that of the load balancer between."""
        return self if self.relay is None else self.relay.last

    @property
    def reached(self) -> bool:
        """Whether the request reached a receiver, which answered or refused it."""
        return self.last.request.end is not None and not self.last.nobody

    @property
    def detour(self) -> Detour | None:
        """Where the answer leaves by another interface than the request came in by: the routers there may drop it.

        None: it does not, or the client is no client outside.
        """
        if self.answer is None or not self.answer.hops or self.request.origin.whose is not Whose.OUTSIDE:
            return None
        first, last = self.request.hops[0], self.answer.hops[-1]
        found = Detour(first.node, first.walk.came_by, last.walk.packet.out_interface)
        return found if first.node == last.node and found.leaves_by not in ("", found.came_by) else None

    @property
    def masquerade(self) -> bool:
        """Whether the source that the server sees is not the client's, by a rule of a node on the way."""
        return any(hop.walk.masqueraded for hop in self.last.request.hops)

    @property
    def source_port_drawn(self) -> bool:
        """Whether a kernel drew the source port that the server sees at random."""
        return any(hop.walk.source_port_drawn for hop in self.last.request.hops)

    @property
    def seen(self) -> Packet | None:
        """The request as its receiver sees it; None: nobody got it."""
        return self.last.request.packet if self.reached else None


def was_admitted(step: Walk) -> bool:
    """Whether a load balancer's source ranges let in a packet that its firewall dropped in the end (I-7).

    What drops the sources outside the ranges drops all that is not translated, so also what the node has no endpoint for
    under the policy Local. The walk was made with ``trace=True``.
    """
    if step.rule is None or step.rule.origin.role is not Role.SOURCE_RANGE_DROP:
        return False
    matched = (each.at.rule.origin for each in step.trace if isinstance(each, RuleMatched) and each.at.rule is not None)
    return any(origin[:2] == (Role.SOURCE_RANGE, step.rule.origin.service) for origin in matched)
