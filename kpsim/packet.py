"""One packet as netfilter sees it: slotted, cheap to copy, addresses as integers.

Counterpart: the sk_buff. ``wire`` says how a packet looks on the wire.
"""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port

ICMP_PROTOCOLS = frozenset({"icmp", "icmpv6"})
PORT_PROTOCOLS = frozenset({"tcp", "udp", "udplite", "sctp", "dccp"})


class Window(enum.StrEnum):
    """Where a TCP segment without :class:`Numbers` lies in the receiver's window."""

    EXACT = "exact"  #: the segment that was expected
    INSIDE = "inside"  #: acceptable, but there is a gap before it: matters for RST (K-6.4)
    OUTSIDE = "outside"  #: far beyond the window: INVALID unless be_liberal (CT-4.4)
    BEFORE = "before"  #: long acknowledged: passes without effect; an RST is INVALID (CT-4.4)


class Numbers(NamedTuple):
    """What a TCP segment says about sequence numbers. Windows of connections whose segments say it are followed."""

    seq: int
    ack: int = 0
    size: int = 0  #: bytes of data
    window: int = 65_535  #: as in the header, not scaled
    scale: int | None = None  #: the option of a SYN
    sack_permitted: bool = False  #: the option of a SYN
    sacked: tuple[int, ...] = ()  #: the right edges of selective acknowledgements


@dataclass(slots=True)
class Packet:
    """A packet and its skb fields. Without ports ``sport`` and ``dport`` are 0, but for ICMP echo ``sport`` is the id.

    PSH stands for "carries data". ``sctp_chunk`` is the first chunk's name, meaningless unless sctp.
    """

    family: Family
    protocol: str  #: lower case: ``tcp``, ``udp``, ``sctp``, ``icmp``, ``icmpv6``
    saddr: int
    daddr: int
    sport: int = 0
    dport: int = 0
    tcp_flags: frozenset[str] = frozenset({"SYN"})  #: some of SYN, ACK, FIN, RST, PSH, URG; meaningless unless tcp
    icmp_type: int = 0
    icmp_code: int = 0
    related: "Packet | None" = None  #: the packet an ICMP error is about
    ttl: int = 64
    length: int = 60  #: bytes, for counters
    mark: int = 0
    in_interface: str = ""  #: empty: made on this node (CFG-8.2)
    out_interface: str = ""
    window: Window = Window.EXACT
    sctp_chunk: str = "INIT"
    checksum_ok: bool = True
    repeated: bool = False  #: a TCP segment that its sender has sent before
    uid: int | None = 0  #: of the process that makes it, read only on its own node; None: the kernel makes it
    gid: int | None = 0
    numbers: Numbers | None = None  #: of a TCP segment; None: it follows its sender's last one
    dont_fragment: bool = True  #: routers must not divide it
    traffic_class: int = 0  #: 8 bits: DSCP, and below it two of ECN; IPv4 calls them type of service
    #: of an ICMP error that says that a packet is too big: the length that would fit
    mtu: int = field(default=0, compare=False)
    sourced: bool = field(default=False, compare=False)  #: its source was given, even if it is 0.0.0.0 or ::

    def copy(self) -> "Packet":
        return Packet(
            self.family, self.protocol, self.saddr, self.daddr, self.sport, self.dport, self.tcp_flags, self.icmp_type,
            self.icmp_code, self.related, self.ttl, self.length, self.mark, self.in_interface, self.out_interface,
            self.window, self.sctp_chunk, self.checksum_ok, self.repeated, self.uid, self.gid,
            self.numbers, self.dont_fragment, self.traffic_class, self.mtu, self.sourced,
        )  # fmt: skip

    @property
    def source(self) -> str:
        """The source address in canonical text."""
        return format_ip(self.family, self.saddr)

    @property
    def destination(self) -> str:
        """The destination address in canonical text."""
        return format_ip(self.family, self.daddr)

    def __str__(self) -> str:
        if self.sport or self.dport:
            ends = f"{join_host_port(self.source, self.sport)} → {join_host_port(self.destination, self.dport)}"
        else:
            ends = f"{self.source} → {self.destination}"
        return f"{self.protocol} {ends}"
