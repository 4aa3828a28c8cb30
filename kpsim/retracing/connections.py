"""Finds a connection of a run by its name, and explains what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from kpsim.errors import InputError, preformatted
from kpsim.reports.pinned import pinned_flows
from kpsim.reports.sentences import instant, pinned_line
from kpsim.retracing.around import Around, around, lines_of
from kpsim.retracing.rerun import Name, Replayed, Rerun
from kpsim.scenario import Scenario
from kpsim.simulation import Progress
from kpsim.simulation.runlog import Connection, Reason, RunLog
from kpsim.tracing.explain import Depth
from kpsim.tracing.traces import Trace
from kpsim.units import SECOND_NS


@dataclass(frozen=True, repr=False)
class ConnectionTrace:
    """A connection of a run with the way of one of its packets: the one that sealed its end, or one sent earlier.

    ``replayed`` None: nothing was sent until the time that was asked for.
    """

    connection: Connection
    log: RunLog
    replayed: Replayed

    @property
    def at_ns(self) -> int:
        """When the packet was sent, in nanoseconds since the start of the run."""
        return self.replayed.at_ns

    @property
    def trace(self) -> Trace | None:
        """The way of the packet as ``kpsim.trace`` gives it; None: no node got it."""
        return self.replayed.trace

    @property
    def seals(self) -> bool:
        """Whether the packet is the one that the connection's record is about."""
        return self.at_ns == self.connection.decisive_ns

    @cached_property
    def around(self) -> Around:
        """What happened around the packet."""
        return around(self.log, self.connection, self.at_ns, self.replayed.probes)

    def text(self, depth: Depth | str = Depth.SUMMARY) -> str:
        """Return the connection, its packet's way and what happened around it, without a newline at the end."""
        c = self.connection
        lines = [self._headline, ""]
        lines.append(_no_packet(c) if self.trace is None else self.trace.text(depth))
        if c.pin is not None and self.seals:
            alone = pinned_flows(replace(self.log, connections=[c]))
            lines += [f"state against rules: {pinned_line(group)}" for group in alone]
        where = f", {c.node}" if c.node else ""
        lines += ["", f"around it ({c.service}{where}):"]
        lines += lines_of(self.around, self.at_ns, f"{c.name} {self._fate}")
        return "\n".join(lines)

    @property
    def _fate(self) -> str:
        """What became of the connection, if this packet says it, else what the packet is."""
        c = self.connection
        if not self.seals:
            return f"sends this packet; in the end it is {outcome_of(c)}"
        return ("breaks: " if c.broken_ns is not None else "") + outcome_of(c)

    @property
    def _headline(self) -> str:
        c = self.connection
        begun = "" if self.at_ns == c.at_ns else f" (begun at {instant(c.at_ns)})"
        to = f" by its {_DIALLED[c.frontend.value]}" if c.frontend.value in _DIALLED else ""
        return f"{c.name} at {instant(self.at_ns)}{begun}: {c.client} to {c.service}{to}, {outcome_of(c)}"

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values; times in seconds since the start of the run."""

        def rows(found: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"at_seconds": each.at_ns / SECOND_NS, "what": each.what} for each in found]

        return {
            "connection": self.connection.name,
            "at_seconds": self.at_ns / SECOND_NS,
            "decides": self.seals,
            "record": asdict(self.connection),
            "trace": None if self.trace is None else self.trace.to_json(),
            "before": rows(self.around.before),
            "after": rows(self.around.after),
        }

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{self._headline}>"

    def _repr_html_(self) -> str:
        return preformatted(self.text())


_DIALLED = {
    "clusterIP": "cluster IP", "nodePort": "node port", "externalIP": "external IP", "loadBalancer": "load balancer",
}  # fmt: skip


def outcome_of(c: Connection) -> str:
    """Return what became of a connection and why: ``dropped (no local endpoints)``."""
    return c.disposition.value + (f" ({c.cause.value})" if c.cause not in ("", c.disposition.value) else "")


def _no_packet(c: Connection) -> str:
    """Say why no node got a packet."""
    match c.cause:
        case Reason.NO_HEALTHY_NODE:
            return "no node got it: the load balancer had no node in rotation"
        case Reason.NODE_DOWN:
            return f"no rules met it: {c.node or 'its node'} was off"
        case Reason.CUT:
            return "no node got it: the load balancer had ended the connection"
        case Reason.PACKET_LOST:
            return f"its packet or the answer got lost on a link of {c.node}: where it met rules is not kept"
        case cause:
            return f"no node got it: {cause.value}" if cause is not Reason.NONE else "no node got it"


# ------------------------------------------------------------------------------------------------------------- finding

_MOST_DIGITS = 18  #: of a number that may be a connection's


def find_connection(log: RunLog, name: str | int, from_ns: int | None = None) -> Connection:
    """Return the connection ``SOURCE#NUMBER``, or with ``SOURCE`` alone the first that the source lost from ``from_ns`` on.

    A number alone will do if there is one source. InputError if there is no such connection.
    """
    source, marked, number = str(name).partition("#") if isinstance(name, str) else ("", "#", str(name))
    source = source or _only_source(log, number)
    if source not in log.traffic:
        near = get_close_matches(source, log.traffic, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(log.traffic[:5]) or 'none'}"
        raise InputError(f"--trace {name}: no traffic source {source!r}; {known}")
    if not marked:
        return _first_lost(log, source, from_ns)
    if not (number.isascii() and number.isdigit()) or len(number) > _MOST_DIGITS or not int(number):
        raise InputError(
            f"--trace {name}: expected SOURCE#NUMBER, such as {source}#1, or SOURCE for its first lost one"
        )
    found = next((c for c in log.connections if c.traffic == source and c.number == int(number)), None)
    if found is not None:
        return found
    raise InputError(f"--trace {name}: {_missing(log, source, int(number))}")


def _only_source(log: RunLog, number: str) -> str:
    if len(log.traffic) == 1:
        return log.traffic[0]
    raise InputError(f"--trace #{number}: say of which traffic source: {', '.join(log.traffic[:5]) or 'there is none'}")


def _first_lost(log: RunLog, source: str, from_ns: int | None) -> Connection:
    lost = [c for c in log.connections if c.traffic == source and c.lost and c.decisive_ns >= (from_ns or 0)]
    if lost:
        return min(lost, key=lambda c: (c.decisive_ns, c.number))
    since = "" if not from_ns else f" from {instant(from_ns)} on"
    raise InputError(f"--trace {source}: {source} lost no connection{since}; {source}#1 is its first connection")


def _missing(log: RunLog, source: str, number: int) -> str:
    numbers = [c.number for c in log.connections if c.traffic == source]
    unsent = [u for u in log.unsent if u.traffic == source]
    last = max(numbers, default=0)
    if unsent and number <= last + sum(u.connections for u in unsent):
        return f"{source} could not attempt it: {unsent[0].why}"
    if not numbers:
        return f"{source} attempted no connection"
    return f"{source} has the connections {min(numbers)} to {last}"


# ------------------------------------------------------------------------------------------------------------- tracing


def trace_connection(
    scenario: Scenario,
    log: RunLog,
    name: str | int,
    at_ns: int | None = None,
    progress: Progress | None = None,
) -> ConnectionTrace:
    """Run a scenario again up to a connection, and return its way. ``log`` is what the run left behind.

    It is the way of the packet that sealed the connection's end; with ``at_ns`` of the last one that it had sent by then.
    InputError for an unknown connection, a time outside the run, or if nothing had been sent by then.
    """
    if at_ns is not None:
        check_time(log, at_ns)
    by_source = isinstance(name, str) and "#" not in name and bool(name)
    c = find_connection(log, name, at_ns)
    if at_ns is not None and not by_source:
        if at_ns < c.at_ns:
            raise InputError(f"--at {instant(at_ns)}: {c.name} begins at {instant(c.at_ns)} only")
        return trace_all(scenario, log, {(c.traffic, c.number): at_ns}, progress)[0]
    return trace_all(scenario, log, {(c.traffic, c.number): c.decisive_ns}, progress)[0]


def trace_all(
    scenario: Scenario, log: RunLog, wanted: Mapping[Name, int], progress: Progress | None = None
) -> list[ConnectionTrace]:
    """Run a scenario again, once, and return the ways of these connections' last packets until the times given.

    The order is that of ``wanted``.
    """
    rerun = Rerun(scenario, wanted)
    rerun.until(max(wanted.values(), default=0), progress)
    records = {(c.traffic, c.number): c for c in log.connections if (c.traffic, c.number) in wanted}
    again = {(c.traffic, c.number): c for c in rerun.run.log.connections if (c.traffic, c.number) in wanted}
    found = []
    for name, until_ns in wanted.items():
        record, replayed = records[name], rerun.found[name]
        if replayed.at_ns == record.decisive_ns and again[name] != record and until_ns == record.decisive_ns:
            raise RuntimeError(
                f"{record.name} took another way when the run was run again: {again[name]}, not {record}"
            )
        found.append(ConnectionTrace(record, log, replayed))
    return found


def check_time(log: RunLog, at_ns: int) -> None:
    """InputError if a time is not within the run."""
    if not 0 <= at_ns <= log.duration_ns:
        raise InputError(f"--at {instant(at_ns)}: the run lasts from 0 s to {instant(log.duration_ns)}")
