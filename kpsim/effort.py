"""How long a run would take, said before it begins: an estimate from what is asked for, never from a clock.

The costs are those of one core of an ordinary machine, measured with the built-in scenarios and the golden recordings.
They are good for telling minutes from hours.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kpsim.errors import InputError

CONNECTION_S = 1.3e-3  #: a connection and its answer that are walked, over all nodes that they pass
WRITTEN_S = 0.12e-3  #: a connection that goes as another of its class did
PACKET_S = 0.5e-3  #: a later packet of a connection
PROBE_S = 30e-6  #: a load balancer's probe of one node
POD_PROBE_S = 10e-6  #: a kubelet's probe of one container
SYNC_S = 1e-3  #: a sync
SYNC_ENDPOINT_S = 30e-6  #: an endpoint, in a sync
WRITE_S = 100e-6  #: a write that one node hears of
FILLED_S = 8e-6  #: a connection of others that is put into a table
LAB_PROBE_S = 10e-3  #: a probe that Linux gets too, with its share of the waits between packets
LAB_CLUSTER_S = 0.8  #: namespaces, links and rules of a random cluster's nodes

TELL_S = 60.0  #: a run that takes longer is announced
MOST_S = 3600.0  #: a run that takes longer is refused unless it is asked for


@dataclass(frozen=True, slots=True)
class Effort:
    """What a run has to do, in words, and the seconds that it will take about."""

    seconds: float
    what: str

    def __str__(self) -> str:
        return f"about {_rounded(self.seconds)}: {self.what}"


def _rounded(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length):,} {unit}"
    return f"{round(seconds)} seconds"


def permit(effort: Effort, *, long: bool, note: Callable[[str], None] | None = None) -> None:
    """Announces a run that takes more than a minute. InputError for one of more than an hour, unless ``long``."""
    if effort.seconds > MOST_S and not long:
        raise InputError(f"this would take {effort}; --long runs it all the same")
    if effort.seconds > TELL_S and note is not None:
        note(f"this takes {effort}")
