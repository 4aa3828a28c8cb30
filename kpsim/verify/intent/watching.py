"""Follows a sequence and knows what is due in it: affinities that hold, and UDP flows that are stale (PP-9, CT-2, CT-8)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.conntrack import Entry
from kpsim.inputs import Json
from kpsim.netfilter import Disposition, Walk
from kpsim.packet import Packet
from kpsim.units import MILLISECOND_NS, SECOND_NS
from kpsim.verify.intent.due import Fate
from kpsim.verify.intent.judging import Intent, Unmeant, asked_of, end_of
from kpsim.verify.intent.objects import End, MeantPort, meant_ports, serves_udp
from kpsim.verify.intent.settings import MeantSettings, settings_in

_MARGIN_NS = 100 * MILLISECOND_NS  #: nothing is said about an affinity so close to its end

#: an affinity list: a service port by name and protocol, and an endpoint
_List = tuple[str, str, End]


class Onlooker:
    """What is due at one family of a node while packets and changes follow each other.

    ``intent`` makes the intent of objects and settings.
    """

    def __init__(self, family: Family, node: str, settings: MeantSettings, intent: Callable[[Sequence[Json], MeantSettings], Intent]) -> None:  # fmt: skip
        self._family, self._node, self._settings, self._make = family, node, settings, intent
        self._intent: Intent | None = None
        self._remembered: dict[_List, dict[int, int]] = {}  # source → when it was sent there last

    def configured(self, document: Json) -> None:
        """kube-proxy has another configuration from now on."""
        fresh = settings_in(document, random_fully=self._settings.random_fully)
        self._settings = replace(fresh, liberal=self._settings.liberal)

    def look(self, objects: Sequence[Json]) -> None:
        """Reads the objects as they are now. An affinity list ends with the rules that use it (CT-8.3)."""
        self._intent = self._make(objects, self._settings)
        sticky = {
            (port.name, port.protocol, end)
            for port in self._intent.node.ports
            if port.sticky_s
            for end in port.everywhere | port.here
        }
        self._remembered = {key: found for key, found in self._remembered.items() if key in sticky}

    # --- packets -----------------------------------------------------------------------------------------------------------

    def foresees(self, packet: Packet, ways: Callable[[], Iterable[Walk]], now_ns: int) -> list[Unmeant]:
        """What the model may do with a packet that it has not met yet, and is not meant to: a client that is bound has one
        endpoint, one that is not bound has all of them.

        ``ways`` tells all ways that the packet may take; it is asked only where an affinity decides. A look at the way
        that Linux took cannot tell: the model follows what Linux draws.
        """
        if self._intent is None or packet.related is not None or not packet.checksum_ok:
            return []
        due = self._intent.node.due(asked_of(packet))
        port = due.port
        if due.fate is not Fate.ENDPOINT or port is None or not port.sticky_s:
            return []
        bound, sure = self._bound(port, due.ends, packet.saddr, now_ns)
        found = list(ways()) if sure else []
        if not found or any(way.ct_state != "NEW" or way.effects.updated is not None for way in found):
            return []
        ends = {end for way in found if (end := end_of(way)) is not None}
        meant = due.ends if bound is None else {bound}
        if not ends or ends == meant:
            return []
        about = f"affinity of {packet.source} to {port.name} ({port.protocol})"
        return [
            Unmeant(about, *(" or ".join(_shown(self._family, end) for end in sorted(each)) for each in (meant, ends)))
        ]

    def saw(self, packet: Packet, way: Walk, now_ns: int) -> list[Unmeant]:
        """What a packet's way was not meant to be."""
        if self._intent is None:
            return []
        return self._intent.judge(packet, way) or list(self._affinity(packet, way, now_ns))

    def _affinity(self, packet: Packet, way: Walk, now_ns: int) -> Iterable[Unmeant]:
        """Compares the endpoint of a new flow with the one that its client is bound to, and remembers it (PP-9.2)."""
        assert self._intent is not None
        end = end_of(way)
        if end is None or way.effects.updated is not None or packet.related is not None:
            return
        due = self._intent.node.due(asked_of(packet))
        port = due.port
        if due.fate is not Fate.ENDPOINT or port is None or not port.sticky_s:
            return
        bound, sure = self._bound(port, due.ends, packet.saddr, now_ns)
        if sure and bound is not None and bound != end:
            told = (_shown(self._family, each) for each in (bound, end))
            yield Unmeant(f"affinity of {packet.source} to {port.name} ({port.protocol})", *told)
        if way.disposition is not Disposition.UNKNOWN:  # also if the packet ends behind the choice
            listed = self._remembered.setdefault((port.name, port.protocol, end), {})
            listed[packet.saddr] = now_ns

    def _bound(self, port: MeantPort, ends: frozenset[End], source: int, now_ns: int) -> tuple[End | None, bool]:
        """The endpoint that a client is bound to, if any, and whether that can be said."""
        for end in sorted(ends, key=lambda each: _shown(self._family, each)):
            listed = self._remembered.get((port.name, port.protocol, end), {})
            if self._intent is not None and len(listed) >= self._intent.node.listed:
                return None, False
            if source not in listed:
                continue
            left_ns = listed[source] + port.sticky_s * SECOND_NS - now_ns
            if abs(left_ns) < _MARGIN_NS:
                return None, False
            if left_ns > 0:
                return end, True
        return None, True

    # --- changes -----------------------------------------------------------------------------------------------------------

    def synced(
        self, service: str | None, before: Sequence[Json], objects: Sequence[Json], entries: Iterable[Entry], gone: Iterable[Entry]
    ) -> list[Unmeant]:  # fmt: skip
        """What a sync was not meant to do to UDP flows. ``service``: whose slices changed; empty: none's; None: all are
        new to kube-proxy. ``gone`` are those of the ``entries`` that kube-proxy deletes.
        """
        self.look(objects)
        due: list[Entry] = []
        old, new = ([each for each in found if service is None or _is_of(each, service)] for found in (before, objects))
        news = [*old, *new] if service is None or old != new else []
        if serves_udp(news, self._family):
            ports = list(meant_ports(objects, self._node, self._family, external_ips=self._settings.external_ips))
            due = [
                entry for entry in entries if any(_is_stale(entry, port) for port in ports if port.protocol == "udp")
            ]
        wanted, done = ({entry.original: entry for entry in found} for found in (due, gone))
        if wanted.keys() == done.keys():
            return []
        return [Unmeant("UDP flows that kube-proxy deletes", *(_listed(found.values()) for found in (wanted, done)))]


def _is_of(each: Json, service: str) -> bool:
    meta = each["metadata"]
    name = (meta.get("labels") or {}).get("kubernetes.io/service-name")
    return each.get("kind") == "EndpointSlice" and f"{meta.get('namespace') or 'default'}/{name}" == service


def _is_stale(entry: Entry, port: MeantPort) -> bool:
    """Whether a flow was sent to one of the port's frontends and is led to no endpoint that serves (CT-2.2, CT-2.3)."""
    dialled, led = (entry.original.daddr, entry.original.dport), (entry.reply.saddr, entry.reply.sport)
    ours = dialled in (port.cluster, *port.vips, *port.external) or (port.node_port and port.node_port == dialled[1])
    return bool(ours and port.serving and led not in port.serving)


def _listed(entries: Iterable[Entry]) -> str:
    return ", ".join(sorted(str(entry.original) for entry in entries)) or "none"


def _shown(family: Family, end: End) -> str:
    return join_host_port(format_ip(family, end[0]), end[1])
