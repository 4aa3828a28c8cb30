"""Steps of a sequence, as values: a packet of a client or server, a change of endpoints, a deletion, a wait.

Counterpart: the lives of connections while a cluster changes. A step may be impossible when its turn comes. The
player lets servers answer only packets that they have seen, and skips steps that are not possible.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

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


DAMAGED, LAST_HOP = "DAMAGED", "LAST-HOP"  #: words that any packet may say: a wrong checksum, no hop left


def said(packet: Packet, says: str, window: Window = Window.EXACT) -> Packet:
    """The packet with TCP flags, an SCTP chunk, or ICMP's type and code as ``0/0``. Packets of UDP say nothing.

    Any packet may say ``DAMAGED`` and ``LAST-HOP``, too.
    """
    words = says.split()
    rest = [word for word in words if word not in (DAMAGED, LAST_HOP)]
    packet = replace(packet, checksum_ok=DAMAGED not in words, ttl=1 if LAST_HOP in words else packet.ttl)
    match packet.protocol:
        case "tcp":
            return replace(packet, tcp_flags=frozenset(rest), window=window)
        case "sctp" if rest:
            return replace(packet, sctp_chunk=rest[0])
        case "icmp" | "icmpv6" if rest:
            kind, _, code = rest[0].partition("/")
            return replace(packet, icmp_type=int(kind), icmp_code=int(code or 0))
        case _:
            return packet


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """A SYN, an INIT, a datagram or an echo request. If the flow has existed before, its client begins anew."""

    flow: int
    opening: Opening


@dataclass(frozen=True, slots=True)
class MidStream:
    """A packet that begins no flow in the usual way: of a connection that began before the node could see it, an answer
    that nobody asked for, flags that no stack sends.
    """

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
class RouterError:
    """A router on the way sends an ICMP error about the flow's latest request, as the other end saw it, or about the
    latest answer, as the client saw it.
    """

    flow: int
    about: Literal["request", "answer"]
    says: str  #: ICMP's type and code, as ``11/0``


@dataclass(frozen=True, slots=True)
class StrayError:
    """The sender of an opening sends an ICMP error about a packet that never came from the opening's destination."""

    flow: int
    opening: Opening
    says: str  #: ICMP's type and code


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
class ChangeService:
    """A Service (``namespace/name``) is put in place of the present one, or deleted; kube-proxy syncs."""

    service: str
    document: str  #: the object as JSON; empty: it is deleted


@dataclass(frozen=True, slots=True)
class Restart:
    """kube-proxy starts anew with another configuration, and finds the rules of the one before."""

    document: str  #: the KubeProxyConfiguration as JSON


@dataclass(frozen=True, slots=True)
class Flush:
    """Another program removes all of kube-proxy's rules. kube-proxy notices it at the next sync that fails (I-14, NFT-8.7)."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens for a while."""

    duration_ns: int


#: steps of one flow
PacketStep = (
    FirstPacket | MidStream | ClientSegment | ServerSegment | ServerError | RouterError | StrayError | Retransmit
    | DeleteFlow
)  # fmt: skip
SequenceStep = PacketStep | ChangeEndpoints | ChangeService | Restart | Flush | Wait


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
        case RouterError() | StrayError():
            return _error_told(step)
        case Retransmit(flow):
            return f"flow {flow} client: once more"
        case DeleteFlow(flow):
            return f"flow {flow}: its entry is deleted"
        case ChangeEndpoints() | ChangeService() | Restart() | Flush():
            return _change_told(step)
        case Wait(duration_ns):
            return f"wait {format_duration(duration_ns)}"
        case _:
            assert_never(step)


def _error_told(step: RouterError | StrayError) -> str:
    match step:
        case RouterError(flow, about, says):
            return f"flow {flow}: a router tells {says} about the {about}"
        case StrayError(flow, opening, says):
            return f"flow {flow}: an error {says} about nothing, as if of {opening}"
        case _:
            assert_never(step)


def _change_told(step: ChangeEndpoints | ChangeService | Restart | Flush) -> str:
    match step:
        case ChangeEndpoints(service, family, endpoints):
            states = ", ".join(f"{address} {state}" for address, state in endpoints)
            return f"{family.label} endpoints of {service}: {states or 'none'}"
        case ChangeService(service, document):
            return f"Service {service}: {document or 'deleted'}"
        case Restart(document):
            return f"kube-proxy starts anew with {document}"
        case Flush():
            return "kube-proxy's rules are removed"
        case _:
            assert_never(step)
