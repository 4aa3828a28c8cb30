"""Fields: the parts of a packet, and of the connection that it belongs to, that a rule may read or write.

A field has a type, which says what its values are and how a dialect writes them. ``packetpath.matching`` says how a
field is read from a packet.
"""

import enum
from collections.abc import Callable


class FieldType(enum.Enum):
    """What the values of a field are."""

    ADDRESS = "address"  #: an integer of the width that the family has
    PORT = "port"  #: 0 to 65535
    BYTE = "byte"  #: 0 to 255
    MARK = "mark"  #: 32 bits
    NAME = "name"  #: one name: a protocol, an interface
    NAMES = "names"  #: some names at once: conntrack states
    NUMBER = "number"  #: an unsigned integer of at most 32 bits


class Field(enum.Enum):
    """A part of a packet. The value is its name in texts for people."""

    SADDR = "source"
    DADDR = "destination"
    NFPROTO = "family"  #: ``ipv4``, ``ipv6``
    L4PROTO = "protocol"  #: lower case: ``tcp``
    SPORT = "source port"
    DPORT = "destination port"
    #: as ipsets read it: of ICMP 256 · type + code, in both directions; of a protocol whose ports they do not read, 0
    SPORT_OR_TYPE = "source port or ICMP type"
    DPORT_OR_TYPE = "destination port or ICMP type"
    SPORT_OF_BITMAP = "source port of TCP or UDP"  #: as bitmaps of ports read it; packets of other protocols lack it
    DPORT_OF_BITMAP = "destination port of TCP or UDP"
    ICMP_TYPE = "ICMP type"
    ICMP_CODE = "ICMP code"
    TCP_FLAGS = "TCP flags"  #: bits as in the TCP header, see ``TCP_FLAG_BITS``
    TTL = "time to live"  #: of IPv6 the hop limit
    TRAFFIC_CLASS = "traffic class"  #: of IPv4 the type of service
    DSCP = "DSCP"  #: the upper six bits of the traffic class
    ECN = "ECN"  #: the lower two
    LENGTH = "length"  #: bytes, with all headers from IP on
    MARK = "mark"
    IIFNAME = "input interface"  #: empty for a packet that this node made (CFG-8.2)
    OIFNAME = "output interface"  #: empty before routing
    SADDR_TYPE = "source type"  #: by the local routing table: LOCAL, UNICAST, … (K-7.4)
    DADDR_TYPE = "destination type"
    #: as SADDR_TYPE and DADDR_TYPE, but LOCAL and BROADCAST only if the address belongs to that interface
    SADDR_TYPE_IN = "source type at the input interface"
    SADDR_TYPE_OUT = "source type at the output interface"
    DADDR_TYPE_IN = "destination type at the input interface"
    DADDR_TYPE_OUT = "destination type at the output interface"
    #: how the frame that it came in was addressed: ``host``, ``broadcast``, ``multicast``, ``other`` (K-24.1)
    FRAME = "frame"
    SOCKET = "socket"  #: whose: ``process`` or ``kernel``; only packets that this node made have one (K-20.1)
    UID = "user"  #: of the process that made the packet
    GID = "group"
    #: NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED, and the virtual SNAT and DNAT (CT-3.3)
    CT_STATE = "conntrack state"
    CT_STATUS = "conntrack status"  #: SNAT, DNAT, SEEN_REPLY, ASSURED, CONFIRMED, …; bits of the connection
    CT_DIRECTION = "direction"  #: ORIGINAL or REPLY
    CT_MARK = "connection mark"
    CT_ORIGINAL_DADDR = "original destination"  #: where the connection's first packet went before DNAT
    CT_ORIGINAL_DPORT = "original destination port"
    IPVS = "ip_vs"  #: ``yes`` if ip_vs has rewritten the packet, else ``no``
    #: of the connection that ip_vs has for a request that it has rewritten; no other packet has these (IPVS-10.3)
    IPVS_PROTOCOL = "protocol of the virtual server"
    IPVS_VADDR = "virtual address"
    IPVS_VPORT = "virtual port"
    IPVS_DIRECTION = "direction of what ip_vs rewrote"  #: ORIGINAL or REPLY, as connection tracking says
    IPVS_METHOD = "forwarding method"  #: ``MASQ``, the only one that is modelled

    @property
    def type(self) -> FieldType:
        return _TYPES[self]


_TYPES = {
    Field.SADDR: FieldType.ADDRESS, Field.DADDR: FieldType.ADDRESS, Field.CT_ORIGINAL_DADDR: FieldType.ADDRESS,
    Field.SPORT_OR_TYPE: FieldType.PORT, Field.DPORT_OR_TYPE: FieldType.PORT,
    Field.SPORT_OF_BITMAP: FieldType.PORT, Field.DPORT_OF_BITMAP: FieldType.PORT,
    Field.SPORT: FieldType.PORT, Field.DPORT: FieldType.PORT, Field.CT_ORIGINAL_DPORT: FieldType.PORT,
    Field.ICMP_TYPE: FieldType.BYTE, Field.ICMP_CODE: FieldType.BYTE, Field.TCP_FLAGS: FieldType.BYTE,
    Field.TTL: FieldType.BYTE, Field.TRAFFIC_CLASS: FieldType.BYTE, Field.DSCP: FieldType.BYTE, Field.ECN: FieldType.BYTE, Field.LENGTH: FieldType.NUMBER, Field.UID: FieldType.NUMBER, Field.GID: FieldType.NUMBER,
    Field.MARK: FieldType.MARK, Field.CT_MARK: FieldType.MARK,
    Field.L4PROTO: FieldType.NAME, Field.IIFNAME: FieldType.NAME, Field.OIFNAME: FieldType.NAME,
    Field.SADDR_TYPE: FieldType.NAME, Field.DADDR_TYPE: FieldType.NAME, Field.CT_DIRECTION: FieldType.NAME,
    Field.SADDR_TYPE_IN: FieldType.NAME, Field.SADDR_TYPE_OUT: FieldType.NAME, Field.DADDR_TYPE_IN: FieldType.NAME,
    Field.DADDR_TYPE_OUT: FieldType.NAME, Field.SOCKET: FieldType.NAME, Field.FRAME: FieldType.NAME,
    Field.IPVS: FieldType.NAME, Field.IPVS_PROTOCOL: FieldType.NAME, Field.IPVS_VADDR: FieldType.ADDRESS,
    Field.IPVS_VPORT: FieldType.PORT, Field.IPVS_DIRECTION: FieldType.NAME, Field.IPVS_METHOD: FieldType.NAME,
    Field.CT_STATE: FieldType.NAMES, Field.CT_STATUS: FieldType.NAMES, Field.NFPROTO: FieldType.NAME,
}  # fmt: skip

#: fields of the connection that a packet belongs to; a packet without connection has only the state
OF_CONNECTION = frozenset({
    Field.CT_STATE, Field.CT_STATUS, Field.CT_DIRECTION, Field.CT_MARK, Field.CT_ORIGINAL_DADDR, Field.CT_ORIGINAL_DPORT,
})  # fmt: skip

#: flags as the TCP header numbers them, lowest bit first
TCP_FLAG_BITS = {"FIN": 0x01, "SYN": 0x02, "RST": 0x04, "PSH": 0x08, "ACK": 0x10, "URG": 0x20}


def slot_setters(cls: type) -> tuple[Callable[[object, object], None], ...]:
    """A setter for each slot of a frozen class, in the order of its fields, for an ``__init__`` that must be fast."""
    return tuple(getattr(cls, name).__set__ for name in cls.__slots__)  # type: ignore[attr-defined]
