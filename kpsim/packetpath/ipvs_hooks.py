"""The hook functions of ip_vs: requests get a real server, its answers get the virtual server's address (IPVS-10).

Counterpart: ip_vs_core and ip_vs_xmit, for masquerading real servers (NAT), which kube-proxy uses alone. ``netfilter``
registers them at the kernel's priorities::

    INPUT     98  answers to connections that this node opened       OUTPUT  −99  answers of real servers on this node
    INPUT     99  requests                                           OUTPUT  −98  requests of this node
    FORWARD   99  ICMP errors about answers                          FORWARD 100  answers to others

A request whose server is elsewhere is taken from its hook and sent on as if this node had made it: routed anew, through
OUTPUT and POSTROUTING. A request whose server is this node goes on at its hook (IPVS-10.5). No kernel at hand has ip_vs:
all this follows the specification and has not been compared with a kernel. Fragments are not modelled, nor the helper
for FTP.
"""

from collections.abc import Hashable

from kpsim.addresses import Family
from kpsim.conntrack import Destroyed, Ending
from kpsim.ipvs import schedulers, states
from kpsim.ipvs.connections import (
    AnswerKey,
    Connection,
    ConnectionKey,
    Servers,
    TemplateId,
    Touch,
    server_of,
    template_key,
)
from kpsim.ipvs.servers import (
    RealServer,
    ServerReference,
    VirtualServer,
    VirtualServerFlags,
    VirtualServerKey,
)
from kpsim.ipvs.states import Side, State, Timeouts
from kpsim.packet import Packet
from kpsim.packetpath.reject import error_of_drop, error_of_reject
from kpsim.packetpath.routing import LOOPBACK4, LOOPBACK6, Decision, RouteKind
from kpsim.packetpath.steps import Scheduled, Served, Service
from kpsim.packetpath.traversal import Cause, Disposition, End, Traversal
from kpsim.ruleset import Hook
from kpsim.units import SECOND_NS

_FTP_DATA = 20  #: packets from this port get no connection (IPVS-11.2)
_UNREACHABLE = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
_NO_WAY = {Family.IPV4: "icmp-host-unreachable", Family.IPV6: "icmp6-addr-unreachable"}
_TIME_EXCEEDED = {Family.IPV4: "icmp-time-exceeded", Family.IPV6: "icmp6-time-exceeded"}
_TOO_BIG = {Family.IPV4: "icmp-fragmentation-needed", Family.IPV6: "icmp6-packet-too-big"}


# --- requests ---------------------------------------------------------------------------------------------------------


def request(traversal: Traversal, servers: Servers, timeouts: Timeouts = Timeouts()) -> End | None:  # noqa: B008
    """Takes a client's packet to the real server of its connection, or makes the connection (INPUT 99, OUTPUT −98).

    Returns the packet's end, or None if it goes on at its hook.
    """
    packet = traversal.packet
    if traversal.by_ipvs:
        return None
    if packet.related is not None:
        return error_about_answer(traversal)
    if packet.protocol not in states.PROTOCOLS:
        return None
    key = _key(packet)
    connection = traversal.node.memory.ipvs.find(key, traversal.now_ns)
    if connection is None:
        return _schedule(traversal, key, servers, timeouts)
    server, ends_at_once = server_of(connection, servers), traversal.node.sysctls.vs_expire_nodest_conn
    if server is None and not ends_at_once:
        return _dropped(traversal, Cause.SERVER_GONE)
    if server is None or (states.begins_anew(packet) and _gives_way(traversal, connection, server)):
        return _ended(traversal, connection) or _schedule(traversal, key, servers, timeouts)
    _note(traversal, Service.KNOWN, connection)
    connection = _seen(connection, packet, Side.CLIENT, traversal, timeouts)
    _stores(traversal, connection)
    return _sent_on(traversal, connection)


def _key(packet: Packet) -> ConnectionKey:
    client, virtual = (packet.saddr, packet.sport), (packet.daddr, packet.dport)
    return ConnectionKey(packet.family, packet.protocol, client, virtual)


def _gives_way(traversal: Traversal, connection: Connection, server: RealServer) -> bool:
    """Whether a first packet ends the connection that its port had before (IPVS-11.6)."""
    sysctls = traversal.node.sysctls
    if sysctls.vs_expire_nodest_conn and not server.weight:
        return True
    return bool(sysctls.vs_conn_reuse_mode) and connection.control is None and connection.state in states.OVER


def _ended(traversal: Traversal, connection: Connection) -> End | None:
    """Ends a connection. If connection tracking knows the packet's connection already, the packet is dropped (IPVS-11.6).

    Returns the packet's end, or None if the packet may be scheduled anew.
    """
    _note(traversal, Service.ENDED, connection)
    traversal.balanced = Touch(gone=(connection.key,))
    entry = traversal.entry
    if entry is None or traversal.unconfirmed or not connection.tracked:
        return None
    traversal.destroyed.append(Destroyed(entry, Ending.SERVER_GONE))
    traversal.updated = None
    return _dropped(traversal, Cause.NOT_RESCHEDULED)


def _dropped(traversal: Traversal, cause: Cause) -> End:
    error = error_of_drop(traversal.packet, in_output=traversal.hook is Hook.OUTPUT)
    return End(Disposition.DROPPED, cause, local_error=error)


# --- new connections --------------------------------------------------------------------------------------------------


def _schedule(traversal: Traversal, key: ConnectionKey, servers: Servers, timeouts: Timeouts) -> End | None:
    """Makes a connection for a first packet to a virtual server (IPVS-11). Any other packet goes on as it is."""
    packet, virtual = traversal.packet, servers.get(key.virtual_server)
    if virtual is None or not states.begins(packet) or packet.sport == _FTP_DATA:
        return None
    template, server = _chosen(traversal, key, virtual)
    traversal.server = ServerReference(key.family, key.virtual_server, virtual, server)
    if server is None:
        error = error_of_reject(packet, in_output=traversal.hook is Hook.OUTPUT)
        return End(
            Disposition.REJECTED, Cause.NO_REAL_SERVER, with_=_UNREACHABLE[key.family], local_error=error, tells=True,
            server=traversal.server,
        )  # fmt: skip
    connection = Connection(
        key, (server.address, server.port), State.NONE, traversal.now_ns, 0, 0,
        control=None if template is None else TemplateId(template.key, template.made_ns),
        tracked=traversal.node.sysctls.vs_conntrack,
    )  # fmt: skip
    connection = _seen(connection, packet, Side.CLIENT, traversal, timeouts)
    one_packet = VirtualServerFlags.ONE_PACKET in virtual.flags and key.protocol == "udp"
    _stores(traversal, *(each for each in (template,) if each is not None), *([] if one_packet else [connection]))
    return _sent_on(traversal, connection)


def _chosen(
    traversal: Traversal, key: ConnectionKey, virtual: VirtualServer
) -> tuple[Connection | None, RealServer | None]:
    """The real server for a new connection, and the template as it is then; None: there is no persistence."""
    at = template_key(key, virtual)
    if at is None:
        return None, _picked(traversal, key, virtual)
    now_ns = traversal.now_ns
    template = traversal.node.memory.ipvs.find(at, now_ns)
    if template is not None:
        kept = server_of(template, {key.virtual_server: virtual})
        if kept is not None and (kept.weight or not traversal.node.sysctls.vs_expire_quiescent_template):
            _told(traversal, key, virtual, kept, "the client had it before")
            return template._replace(expires_ns=now_ns + template.timeout_ns), kept
    server = _picked(traversal, key, virtual)
    if server is None:
        return None, None
    lasts_ns = virtual.timeout_s * SECOND_NS
    made = Connection(at, (server.address, server.port), State.NONE, now_ns, now_ns + lasts_ns, lasts_ns)
    return made, server


def _picked(traversal: Traversal, key: ConnectionKey, virtual: VirtualServer) -> RealServer | None:
    """The scheduler's choice. What it remembers afterwards is kept as a change."""
    table, at, now_ns = traversal.node.memory.ipvs, key.virtual_server, traversal.now_ns
    asked = schedulers.Request(
        key.family, key.client, key.virtual[0], now_ns,
        by_port=VirtualServerFlags.SCHEDULER_2 in virtual.flags,
        falls_back=VirtualServerFlags.SCHEDULER_1 in virtual.flags,
        known=table.knows(key.family, at, virtual.scheduler), of_one=table.of_one,
    )  # fmt: skip
    found = schedulers.pick(
        virtual.scheduler,
        table.candidates(key.family, at, virtual.servers, now_ns),
        asked,
        table.cursor(key.family, at),
        lambda limit: traversal.chooser.uniform(limit, traversal.draw_key(("ip_vs", *virtual.origin, *at))),
    )
    if found.cursor is not None:
        _remembers(traversal, key.family, at, found.cursor)
    _told(traversal, key, virtual, found.server, found.why)
    return found.server


def _told(
    traversal: Traversal, key: ConnectionKey, virtual: VirtualServer, server: RealServer | None, why: str
) -> None:
    if traversal.steps is not None:
        traversal.steps.append(Scheduled(ServerReference(key.family, key.virtual_server, virtual, server), why))


# --- what a packet changes --------------------------------------------------------------------------------------------


def _note(traversal: Traversal, service: Service, connection: Connection) -> None:
    if traversal.steps is not None:
        traversal.steps.append(Served(service, connection))


def _seen(connection: Connection, packet: Packet, side: Side, traversal: Traversal, timeouts: Timeouts) -> Connection:
    """The connection after this packet, with its timer restarted."""
    state = states.after(connection.state, packet, side)
    lasts_ns = states.timeout_ns(packet.protocol, state, timeouts)
    return connection._replace(state=state, timeout_ns=lasts_ns, expires_ns=traversal.now_ns + lasts_ns)


def _stores(traversal: Traversal, *connections: Connection) -> None:
    touch = traversal.balanced or Touch()
    traversal.balanced = touch._replace(stored=(*touch.stored, *connections))


def _remembers(traversal: Traversal, family: Family, at: VirtualServerKey, cursor: Hashable) -> None:
    touch = traversal.balanced or Touch()
    traversal.balanced = touch._replace(cursors=(*touch.cursors, ((family, at), cursor)))


# --- on the way -------------------------------------------------------------------------------------------------------


def _sent_on(traversal: Traversal, connection: Connection) -> End | None:
    """Gives a client's packet the real server as its destination.

    Returns its end: that it was taken and is sent on, or that it cannot be. None: the server is this node.
    """
    address, port = connection.server
    local = traversal.node.routing.is_local(traversal.family, address)
    if (end := _stopped_here(traversal, address) if local else _stopped(traversal, address)) is not None:
        return end
    traversal.rewrite_destination(address, port)
    traversal.by_ipvs, traversal.served = True, connection
    _follow(traversal, connection)
    return None if local else End(Disposition.STOLEN, resumes=True)


def _is_loopback(address: int, family: Family) -> bool:
    return address in (LOOPBACK4 if family is Family.IPV4 else LOOPBACK6)


def _stopped_here(traversal: Traversal, address: int) -> End | None:
    """Drops what comes from outside for a server on a loopback address. Returns None if the packet goes on."""
    if not traversal.local and _is_loopback(address, traversal.family):
        return End(Disposition.DROPPED, Cause.MARTIAN_DESTINATION)
    return None


def _stopped(traversal: Traversal, address: int) -> End | None:
    """The end of a packet that cannot go to a server elsewhere; None: it can.

    ip_vs routes it by its destination alone, spends a hop, also of what this node made, and minds the length.
    """
    family, packet, routing = traversal.family, traversal.packet, traversal.node.routing
    decision = routing.lookup(family, address)
    cause = Cause.MARTIAN_SOURCE if _is_loopback(packet.saddr, family) else _refusal(decision)
    if cause is not None:
        return End(Disposition.REJECTED, cause, with_=_NO_WAY[family], local_error="EHOSTUNREACH", tells=True)
    assert decision is not None
    if packet.ttl <= 1:
        return End(
            Disposition.REJECTED, Cause.TTL, with_=_TIME_EXCEEDED[family], local_error="EHOSTUNREACH", tells=True
        )
    mtu = routing.route_mtu(decision)
    if mtu and packet.length > mtu and packet.dont_fragment and packet.related is None:
        traversal.mtu = mtu
        return End(Disposition.REJECTED, Cause.TOO_BIG, with_=_TOO_BIG[family], local_error="EMSGSIZE", tells=True)
    traversal.rewrite_ttl(packet.ttl - 1)
    return None


def _refusal(decision: Decision | None) -> Cause | None:
    if decision is None:
        return Cause.NO_ROUTE
    refusals = {
        RouteKind.BLACKHOLE: Cause.BLACKHOLE, RouteKind.UNREACHABLE: Cause.UNREACHABLE, RouteKind.PROHIBIT: Cause.PROHIBIT,
    }  # fmt: skip
    return refusals.get(decision.kind)


def _follow(traversal: Traversal, connection: Connection) -> None:
    """Has connection tracking follow a connection, or the packet no longer tracked (IPVS-10.6).

    The entry's answers come from the real server from now on; its status says nothing of that. It ends when ip_vs'
    connection does (IPVS-12.3).
    """
    entry = traversal.entry
    if not connection.tracked:
        traversal.entry = traversal.created = traversal.updated = None
        traversal.unconfirmed = False
        traversal.set_state("UNTRACKED")
        return
    if entry is None or (entry.served_until_ns is None and not traversal.unconfirmed):
        return
    if traversal.unconfirmed:
        address, port = connection.server
        reply = entry.reply._replace(saddr=address, sport=port)
        entry = entry._replace(reply=reply) if entry.dst_nat else entry._replace(reply=reply, served_until_ns=0)
    if entry.served_until_ns is not None:
        entry = entry._replace(served_until_ns=connection.expires_ns)
    traversal.entry = entry
    if not traversal.unconfirmed and not traversal.destroyed:
        traversal.updated = entry


# --- answers ----------------------------------------------------------------------------------------------------------


def answer(traversal: Traversal, timeouts: Timeouts = Timeouts()) -> End | None:  # noqa: B008
    """Gives a real server's packet the virtual server as its source (FORWARD 100, INPUT 98, OUTPUT −99)."""
    packet = traversal.packet
    if traversal.by_ipvs:
        return None
    if packet.related is not None:
        _error_about_request(traversal, packet.related)
        return None
    connection = _find_answers(traversal, packet)
    if connection is None:
        return None
    _note(traversal, Service.ANSWER, connection)
    connection = _seen(connection, packet, Side.SERVER, traversal, timeouts)
    _stores(traversal, connection)
    _answered(traversal, connection)
    _follow(traversal, connection)
    return None


def _find_answers(traversal: Traversal, packet: Packet) -> Connection | None:
    key = AnswerKey(packet.family, packet.protocol, (packet.saddr, packet.sport), (packet.daddr, packet.dport))
    return traversal.node.memory.ipvs.find_answers(key, traversal.now_ns)


def _answered(traversal: Traversal, connection: Connection) -> None:
    address, port = connection.key.virtual
    traversal.rewrite_source(address, traversal.packet.sport if traversal.packet.related is not None else port)
    traversal.by_ipvs = True
    if traversal.hook is not Hook.INPUT:
        traversal.reroute()


def _error_about_request(traversal: Traversal, about: Packet) -> None:
    """Gives an ICMP error about a packet to a real server the virtual server as its source, outside and inside."""
    connection = _find_answers(traversal, _turned(about))
    if connection is None:
        return
    _note(traversal, Service.ANSWER, connection)
    about = about.copy()
    about.daddr, about.dport = connection.key.virtual
    traversal.packet.related = about
    _answered(traversal, connection)


def error_about_answer(traversal: Traversal) -> End | None:
    """Takes an ICMP error about an answer to the real server that sent it (INPUT 99, OUTPUT −98, FORWARD 99)."""
    about = traversal.packet.related
    if about is None or traversal.by_ipvs:
        return None
    connection = traversal.node.memory.ipvs.find(_key(_turned(about)), traversal.now_ns)
    if connection is None:
        return None
    _note(traversal, Service.KNOWN, connection)
    address, port = connection.server
    local = traversal.node.routing.is_local(traversal.family, address)
    if (end := _stopped_here(traversal, address) if local else _stopped(traversal, address)) is not None:
        return end
    about = about.copy()
    about.saddr, about.sport = address, port
    traversal.packet.related = about
    traversal.rewrite_destination(address, traversal.packet.dport)
    traversal.by_ipvs = True
    return None if local else End(Disposition.STOLEN, resumes=True)


def _turned(packet: Packet) -> Packet:
    """The packet that answers this one, as far as addresses and ports go."""
    turned = packet.copy()
    turned.saddr, turned.sport, turned.daddr, turned.dport = packet.daddr, packet.dport, packet.saddr, packet.sport
    return turned
