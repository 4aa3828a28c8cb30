"""Steps of a sequence, as values: a packet of a client or server, a change of endpoints, a deletion, a wait.

Counterpart: the lives of connections while a cluster changes. A step may be impossible when its turn comes. The
player lets servers answer only packets that they have seen, and skips steps that are not possible.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.conntrack import FlowTuple
from kpsim.objects import EndpointSlice, endpoint_slice_from_json
from kpsim.packet import ICMP_PROTOCOLS, Packet, Window
from kpsim.tracing.site import Sender
from kpsim.units import format_duration


@dataclass(frozen=True, slots=True)
class Opening:
    """The sender that begins a flow, and the flow's tuple as the client sends it."""

    sender: Sender
    tuple: FlowTuple

    def packet(self, says: str = "", window: Window = Window.EXACT) -> Packet:
        """A packet of the client, without an interface. ``says`` is as for :class:`ClientSegment`, or empty for a
        first packet.
        """
        family, protocol, saddr, sport, daddr, dport = self.tuple
        icmp = protocol in ICMP_PROTOCOLS
        kind, code = divmod(dport, 256) if icmp else (0, 0)
        packet = Packet(
            family, protocol, saddr, daddr, sport, 0 if icmp else dport, icmp_type=kind, icmp_code=code
        )  # fmt: skip
        return said(packet, says, window) if says else packet

    def __str__(self) -> str:
        return f"{self.tuple} from {self.sender}"


def said(packet: Packet, says: str, window: Window = Window.EXACT) -> Packet:
    """The packet with TCP flags or an SCTP chunk. Packets of other protocols say nothing."""
    match packet.protocol:
        case "tcp":
            return replace(packet, tcp_flags=frozenset(says.split()), window=window)
        case "sctp":
            return replace(packet, sctp_chunk=says)
        case _:
            return packet.copy()


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """A SYN, an INIT, a datagram or an echo request. If the flow has existed before, its client begins anew."""

    flow: int
    opening: Opening


@dataclass(frozen=True, slots=True)
class MidStream:
    """A TCP segment of a connection that began before the node could see it."""

    flow: int
    opening: Opening
    says: str


@dataclass(frozen=True, slots=True)
class ClientSegment:
    """A packet of the client. ``says``: TCP flags such as ``PSH ACK``, an SCTP chunk such as ``DATA``; empty for
    other protocols.
    """

    flow: int
    says: str = ""
    window: Window = Window.EXACT


@dataclass(frozen=True, slots=True)
class ServerSegment:
    """A packet of the endpoint to the source of the latest packet that it has seen. ``says`` is as for
    :class:`ClientSegment`.
    """

    flow: int
    says: str = ""
    window: Window = Window.EXACT


@dataclass(frozen=True, slots=True)
class ServerError:
    """The endpoint's kernel answers the latest packet with ICMP port unreachable."""

    flow: int


@dataclass(frozen=True, slots=True)
class Retransmit:
    """The client sends its latest packet once more."""

    flow: int


@dataclass(frozen=True, slots=True)
class DeleteFlow:
    """The connection's entry is deleted, as ``conntrack -D`` does it."""

    flow: int


class EndpointState(enum.StrEnum):
    """The meaning of an endpoint's conditions (T-1)."""

    READY = "ready"
    SERVING = "serving while terminating"
    TERMINATING = "terminating"
    UNREADY = "unready"


@dataclass(frozen=True, slots=True)
class ChangeEndpoints:
    """A Service (``namespace/name``) gets these endpoints, by address, in one family; kube-proxy syncs and cleans up."""

    service: str
    family: Family
    endpoints: tuple[tuple[str, EndpointState], ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens for a while."""

    duration_ns: int


SequenceStep = (
    FirstPacket | MidStream | ClientSegment | ServerSegment | ServerError | Retransmit | DeleteFlow | ChangeEndpoints | Wait
)  # fmt: skip


def changed_slices(state: ClusterState, change: ChangeEndpoints) -> tuple[EndpointSlice, ...]:
    """The Service's slices after a change. ``state`` is the cluster at the beginning: it holds all endpoints that may
    come back.
    """
    states = dict(change.endpoints)
    made = []
    for each in slices_of(state, change.service, change.family):
        endpoints = [
            {**endpoint, "conditions": _conditions(states[endpoint["addresses"][0]])}
            for endpoint in each.json.get("endpoints") or ()
            if endpoint["addresses"][0] in states
        ]
        made.append(endpoint_slice_from_json({**each.json, "endpoints": endpoints}))
    return tuple(made)


def _conditions(state: EndpointState) -> dict[str, bool]:
    ready, serving, terminating = {
        EndpointState.READY: (True, True, False),
        EndpointState.SERVING: (False, True, True),
        EndpointState.TERMINATING: (False, False, True),
        EndpointState.UNREADY: (False, False, False),
    }[state]
    return {"ready": ready, "serving": serving, "terminating": terminating}


def slices_of(state: ClusterState, service: str, family: Family) -> Iterator[EndpointSlice]:
    """The slices of a Service (``namespace/name``) in one family."""
    for each in state.endpoint_slices:
        if f"{each.metadata.namespace}/{each.service_name}" == service and each.address_type == family.label:
            yield each


# --- in words ------------------------------------------------------------------------------------------------------------


def describe(step: SequenceStep) -> str:
    """The step in one line, for a log."""
    match step:
        case FirstPacket(flow, opening):
            return f"flow {flow} begins: {opening}"
        case MidStream(flow, opening, says):
            return f"flow {flow} is there: {opening}, {says}"
        case ClientSegment(flow, says, window) | ServerSegment(flow, says, window):
            who = "client" if isinstance(step, ClientSegment) else "server"
            where = "" if window is Window.EXACT else f" ({window} the window)"
            return f"flow {flow} {who}: {says or 'a packet'}{where}"
        case ServerError(flow):
            return f"flow {flow} server: port unreachable"
        case Retransmit(flow):
            return f"flow {flow} client: once more"
        case DeleteFlow(flow):
            return f"flow {flow}: its entry is deleted"
        case ChangeEndpoints(service, family, endpoints):
            states = ", ".join(f"{address} {state}" for address, state in endpoints)
            return f"{family.label} endpoints of {service}: {states or 'none'}"
        case Wait(duration_ns):
            return f"wait {format_duration(duration_ns)}"
        case _:
            assert_never(step)
