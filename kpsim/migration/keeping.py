"""Which differences a configuration prevents: packets of each are sent again, today and with that configuration."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kpsim.addresses import format_ip
from kpsim.comparison.behaviour.spaces import Values
from kpsim.explore import Cluster
from kpsim.migration.differences import Differing
from kpsim.tracing.probes import Answer, Probe, Prober, make_packet
from kpsim.tracing.site import Sender

_MOST_ASKED = 32  #: stretches of destinations of one difference that are asked for; the others count as not prevented


@dataclass(frozen=True, slots=True)
class Keeping:
    """Compares a cluster with itself in the new mode with the configuration to start with."""

    today: Prober
    started: Prober

    @classmethod
    def between(cls, today: Cluster, started: Cluster) -> "Keeping":
        return cls(*(Prober(cluster.site, cluster.now_ns) for cluster in (today, started)))

    def divided(self, differences: Iterable[Differing]) -> Iterator[Differing]:
        """The differences, divided into what is left with that configuration and what it prevents."""
        for each in differences:
            kept = [stretch for stretch in each.destination[:_MOST_ASKED] if self._same(each, stretch[0])]
            left: Values = tuple(stretch for stretch in each.destination if stretch not in kept)
            if left:
                yield replace(each, destination=left)
            if kept:
                yield replace(each, destination=tuple(kept), prevented=True)

    def _same(self, difference: Differing, destination: int) -> bool:
        """Whether a packet of the difference fares alike. A process has the source that routing chooses."""
        own = difference.sender is Sender.NODE
        packet = make_packet(
            difference.protocol,
            format_ip(difference.family, destination),
            max(difference.ports[0][0], 1) if difference.ports else None,
            src="" if own else format_ip(difference.family, difference.source[0][0]),
        )
        probe = Probe(0, difference.node, difference.sender, packet)
        return _compared(self.today.answer(probe)) == _compared(self.started.answer(probe))


def _compared(answer: Answer) -> tuple[Any, ...]:
    """What two answers are compared by: all but the rule that decided."""
    return (
        answer.result,
        frozenset(answer.outcomes),
        answer.with_,
        answer.source and answer.source.seen,
        dict(answer.exchange),
    )
