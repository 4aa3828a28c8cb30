"""IP protocols: their numbers in IP headers, by the lower-case names that packets and rules have for them.

Counterpart: ``/etc/protocols``, and ICMP's message numbers (RFC 792, RFC 4443). Spellings that belong to one rule
dialect only, such as ``ipv6-icmp``, are that dialect's.
"""

from collections.abc import Mapping

from kpsim.addresses import Family

#: protocols whose headers kpsim reads come first; of the others it knows the number only, by the names that Debian's
#: /etc/protocols has for it, because iptables-save prints those
PROTOCOL_NUMBERS: Mapping[str, int] = {
    "icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "dccp": 33, "udplite": 136,
    "igmp": 2, "ipencap": 4, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "pim": 103, "vrrp": 112,
    "ggp": 3, "st": 5, "egp": 8, "igp": 9, "pup": 12, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "xtp": 36, "ddp": 37,
    "idpr-cmtp": 38, "idrp": 45, "rsvp": 46, "skip": 57, "rspf": 73, "vmtp": 81, "eigrp": 88, "ax.25": 93, "ipip": 94,
    "etherip": 97, "encap": 98, "ipcomp": 108, "l2tp": 115, "isis": 124, "fc": 133, "mpls-in-ip": 137, "manet": 138,
    "wesp": 141, "rohc": 142, "ethernet": 143,
}  # fmt: skip
PROTOCOL_NAMES: Mapping[int, str] = {number: name for name, number in PROTOCOL_NUMBERS.items()}

#: protocol, type and code of the ICMP error that says that no process listens on a port
ICMP_PORT_UNREACHABLE: Mapping[Family, tuple[str, int, int]] = {
    Family.IPV4: ("icmp", 3, 3),
    Family.IPV6: ("icmpv6", 1, 4),
}
