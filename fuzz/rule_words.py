"""The words from which rulesets are drawn: for every option of iptables that kpsim models, values that are right, values
at the edges, and values that are wrong.

The words are typed by hand from the manual pages iptables(8) and iptables-extensions(8), not taken from kpsim's option
table. So what kpsim's table leaves out or lets through is drawn too.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kpsim.addresses import Family

V4, V6 = Family.IPV4, Family.IPV6

Values = tuple[str, ...]


class Words(NamedTuple):
    """The values of one option: those that are right, and the others. An option without values has one empty value."""

    right: Values
    odd: Values = ()


NUMBERS: Values = (
    "0", "1", "010", "0x10", "08", "-1", "+1", "", "1a", "0x", "255", "256", "65535", "65536", "4294967295", "4294967296",
    "18446744073709551616", "1.5",
)  # fmt: skip
MARKS = Words(
    ("0x4000", "0x4000/0x4000", "1", "0/0xff", "0x1/0x2", "0xffffffff"),
    (
        "",
        "/",
        "0x1/",
        "/0x1",
        "0x100000000",
        "1/0x100000000",
        "4294967296",
        "010/010",
        "0xg",
        "1/2/3",
        "-1",
        "0x4000/16384",
    ),
)
PORTS = Words(
    ("80", "1:1024", "0", "65535", ":80", "80:"),
    (
        "010",
        "0x50",
        "65536",
        "90:80",
        ":",
        "",
        "-1",
        "+80",
        "8o",
        "80-90",
        "80,90",
        "80:90:100",
        "008",
        "0:65535",
        "80:65536",
    ),
)
MANY_PORTS = Words(
    ("80", "80,443", "80:90,443", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"),
    (
        "", ",", "80,", ",80", "80,,90", "90:80", "010", "0x50,80", "65536", ":", "80:", ":80", "443,80", "80,80", "80:80",
        "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "1:2,3:4,5:6,7:8,9:10,11:12,13:14,15,16", "80:90:100",
    ),
)  # fmt: skip
INTERFACES = Words(
    ("eth0", "eth+", "lo", "cni0", "a23456789012345"),
    ("+", "", "a234567890123456", "eth 0", "eth/0", "eth0:1", "++", "eth+0", "-", "."),
)
PROTOCOLS = Words(
    ("tcp", "udp", "sctp", "icmp", "ipv6-icmp", "esp", "gre"),
    (
        "TCP", "Tcp", "6", "006", "0x6", "0", "all", "ALL", "255", "256", "1", "58", "132", "udplite", "icmpv6", "136", "nothing", "",
        "-6", "6.0", "ipv6", "41", "ah", "dccp", "33", "icmp6", "mh", "135", "mobility-header", "17", "ipip", "4", "2", "igmp",
    ),
)  # fmt: skip
#: names of this machine's files stand here too: what depends on them must not be accepted
ADDRESSES: Mapping[Family, Words] = {
    V4: Words(
        ("10.0.0.1", "10.0.0.0/8", "10.1.2.3/16", "192.168.0.1/255.255.0.0", "10.0.0.1/32", "224.0.0.1"),
        (
            "0.0.0.0/0", "0/0", "10/8", "10.0/16", "10.0.0.1/33", "10.0.0.1/", "/8", "", "10.0.0.256", "010.0.0.1", "10.0.0.1/0",
            "10.0.0.1/255.0.255.0", "10.0.0.1/0.0.0.0", "10.0.0.1/08", "10.0.0.1/0x8", "10.0.0.1,10.0.0.2", "10.0.0.1,10.0.0.0/8",
            "10.0.0.1,", ",10.0.0.1", "10.0.0.1,10.0.0.1", "localhost", "fd00::1", "::ffff:10.0.0.1", "10.0.0.1/255.255.255.255",
            "10.0.0.1.2", "10.0.0.1/8/8", "10.0.0.1-10.0.0.2", "0.0.0.0", "255.255.255.255", "10.0.0.1/-1", "10.0.0.1/+8",
            "10.0.0.1, 10.0.0.2", "0.0.0.0/0,10.0.0.1", "10.0.0.1:80",
        ),
    ),
    V6: Words(
        ("fd00::1", "fd00::/8", "fd00:1:2:3::4/64", "fd00::1/128", "ff02::1"),
        (
            "::/0", "::", "::1", "fd00::1/129", "fd00::1/", "", "fd00::1/ffff::", "fd00::1/ff:ff::", "FD00::1", "fd00::0:1",
            "::ffff:10.0.0.1", "fd00::1,fd00::2", "fd00::1,fd00::/8", "10.0.0.1", "fd00::1%lo", "[fd00::1]", "fd00:::1",
            "fd00::1/08", "fd00::1/0x8", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "localhost", "ip6-localhost", "fd00::1/-1",
        ),
    ),
}  # fmt: skip
RANGES: Mapping[Family, Words] = {
    V4: Words(
        ("10.0.0.1-10.0.0.9", "10.0.0.1", "0.0.0.0-255.255.255.255"),
        ("10.0.0.9-10.0.0.1", "-", "10.0.0.1-", "-10.0.0.1", "", "10.0.0.1-fd00::1", "10.0.0.0/8", "10.0.0.1-10.0.0.2-10.0.0.3", "localhost"),
    ),
    V6: Words(("fd00::1-fd00::9", "fd00::1"), ("fd00::9-fd00::1", "-", "", "fd00::1-", "10.0.0.1-10.0.0.9")),
}  # fmt: skip
DESTINATIONS: Mapping[Family, Words] = {
    V4: Words(
        ("10.0.0.1", "10.0.0.1:80", ":80"),
        (
            "10.0.0.1:080", "10.0.0.1:0x50", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:", ":", "", "10.0.0.1:80-90", "10.0.0.1-10.0.0.9",
            "10.0.0.1-10.0.0.9:80", "10.0.0.9-10.0.0.1", "10.0.0.1:90-80", "[10.0.0.1]:80", "fd00::1", "10.0.0.0/8", "10.0.0.1:80-90/5",
            "0.0.0.0", "10.0.0.1:http", "10.0.0.1:-1", "010.0.0.1", "10.0.0.1:80:90", "localhost", "10.0.0.1:0-65535", ":80-80",
            "10.0.0.1:80-80",
        ),
    ),
    V6: Words(
        ("fd00::1", "[fd00::1]:80", "[fd00::1]"),
        (
            "fd00::1:80", ":80", "[fd00::1]:080", "[fd00::1]:0", "[fd00::1]:65536", "[fd00::1]:", "[]:80", "[fd00::1", "fd00::1]", "",
            "[fd00::1]:80-90", "fd00::1-fd00::9", "[fd00::1-fd00::9]:80", "10.0.0.1", "[fd00::1]80", "::", "[fd00::1]:80-80",
        ),
    ),
}  # fmt: skip
NETWORKS: Mapping[Family, Words] = {
    V4: Words(("10.1.0.0/24", "10.1.0.1/16", "10.1.0.1"), ("10.1.0.0/33", "", "/8", "10.1.0.0/255.255.0.0", "10.1.0.0/0.255.0.0", "0/0")),
    V6: Words(("fd01::/64", "fd01::1"), ("fd01::/129", "", "::/0")),
}  # fmt: skip
ICMP4 = Words(
    ("8", "echo-request", "3/1", "any", "destination-unreachable", "0", "255"),
    (
        "", "256", "8/", "/1", "3/256", "08", "0x8", "255/3", "ECHO-REQUEST", "echo", "ping", "pong", "port-unreachable", "8/0", "3:4",
        "3/0:1", "ttl-exceeded", "redirect", "host-redirect", "network-redirect", "timestamp-reply", "address-mask-request", "nonsense",
        "router-advertisement", "ip-header-bad", "required-option-missing", "TOS-network-redirect", "tos-host-redirect", "all", "-1",
        "network-unknown", "host-unknown", "source-route-failed", "precedence-cutoff", "host-precedence-violation", "3/1/2",
        "communication-prohibited", "echo-re", "d", "timestamp-request", "parameter-problem", "fragmentation-needed",
    ),
)  # fmt: skip
ICMP6 = Words(
    ("128", "echo-request", "1/4", "destination-unreachable", "0", "255"),
    (
        "", "256", "any", "128/", "/1", "1/256", "0x80", "255/3", "ping", "packet-too-big", "neighbour-solicitation", "bad-header",
        "neighbor-advertisement", "router-solicitation", "unknown-header-type", "unknown-option", "redirect", "nonsense", "1:4",
        "ttl-zero-during-reassembly", "no-route", "policy-fail", "reject-route", "beyond-scope", "echo-re", "mld-listener-query",
    ),
)  # fmt: skip
FLAGS = Words(
    ("SYN,RST,ACK,FIN SYN", "ALL NONE", "SYN SYN", "ALL ALL"),
    (
        "syn SYN",
        "SYN",
        "SYN,, SYN",
        "NONE SYN",
        "SYN SYN,BAD",
        "BAD SYN",
        "SYN,SYN SYN",
        ", SYN",
        "SYN ,",
        "all none",
        "NONE NONE",
        "SYN,ALL SYN",
    ),
)
STATES = Words(
    ("NEW", "ESTABLISHED,RELATED", "INVALID", "RELATED,ESTABLISHED", "UNTRACKED", "SNAT", "DNAT,NEW"),
    (
        "",
        ",",
        "NEW,",
        "new",
        "NEW,NEW",
        "BOGUS",
        "NEW BOGUS",
        "New,Established",
        "NE",
        "INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT",
    ),
)
TYPES = Words(
    ("LOCAL", "UNICAST", "LOCAL,BROADCAST", "MULTICAST"),
    ("", "local", "LOCAL,", "LOCAL,LOCAL", "BOGUS", "ANYCAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE", "UNSPEC",
     "BROADCAST", "LOC", "MULTICAST,LOCAL"),
)  # fmt: skip
COMMENTS = Words(
    ("x", '"two words"', '"default/web:http cluster IP"', "a-b_c"),
    ('""', '"a\\"b"', '"a\\\\b"', '"a\'b"', "'a b'", "'a", "a'b", '"unclosed', '"a"b', 'a"b"c', "\\", "\\\"", '"a\tb"', '"!"', "!", "-j", '"-j ACCEPT"',
     "#", '"#"', "x" * 255, "x" * 256, '"' + "y" * 256 + '"', '"a\\nb"', "a;b", "$(a)", "é", '"a  b"', '"a\\tb"', "[0:0]", "a,b", '"a" "b"'),
)  # fmt: skip
NAMES = Words(("LIST", "K-1_a"), ("", "n" * 199, "n" * 200, "n" * 201, "a/b", ".", "..", "a b", "é"))
RATES = Words(
    ("5/min", "1/sec", "10/hour", "3/day", "100/second"),
    ("", "5", "5/m", "0/sec", "-1/sec", "5/fortnight", "10001/sec", "10000/sec", "5/", "/sec", "5/MIN", "5/minutes", "1.5/sec", "4294967296/sec",
     "7/min", "23/hour", "5/da", "5 /sec", "0x5/sec", "010/sec"),
)  # fmt: skip
PROBABILITIES = Words(
    ("0.5", "0.33333333349", "1", "0", "0.0"),
    (
        "",
        ".5",
        "1.0",
        "1.1",
        "-0.1",
        "0x1",
        "1e-1",
        "5e-1",
        "nan",
        "inf",
        "0,5",
        " 0.5",
        "+0.5",
        "0.5x",
        "00.5",
        "1.",
        ".",
    ),
)
ANSWERS: Mapping[Family, Words] = {
    V4: Words(
        ("icmp-port-unreachable", "tcp-reset", "icmp-admin-prohibited", "icmp-host-prohibited"),
        ("", "port-unreach", "net-unreach", "tcp-rst", "TCP-RESET", "icmp6-no-route", "nonsense", "icmp-net", "echo-reply", "icmp-proto-unreachable",
         "host-prohib", "admin-prohib", "proto-unreach", "host-unreach", "net-prohib", "icmp-net-prohibited"),
    ),
    V6: Words(
        ("icmp6-port-unreachable", "tcp-reset", "icmp6-adm-prohibited", "icmp6-no-route"),
        ("", "port-unreach", "no-route", "adm-prohibited", "addr-unreach", "tcp-rst", "policy-fail", "reject-route", "icmp-port-unreachable",
         "icmp6-addr-unreachable", "icmp6-policy-fail", "icmp6-reject-route", "nonsense"),
    ),
}  # fmt: skip
OWNERS = Words(
    ("1337", "0", "1000-2000", "0-4294967294"),
    (
        "",
        "root",
        "nobody",
        "2000-1000",
        "-1",
        "4294967295",
        "4294967296",
        "010",
        "0x10",
        "1-",
        "-",
        "1-2-3",
        "nosuchuser",
    ),
)
LENGTHS = Words(
    ("100", "100:200", ":100", "100:"), ("", ":", "200:100", "65535", "65536", "0", "010", "0x10", "100-200", "-1")
)
HOPS = Words(("64", "0", "1", "255"), ("", "256", "-1", "010", "0x10", "64:65", "x"))
BYTES = Words(("0x10", "46", "0"), ("", "64", "63", "256", "010", "x", "-1"))
NONE = Words(("",))

#: module → option → its values; a question mark: it may be left out
MATCHES: Mapping[str, Mapping[str, Words]] = {
    "comment": {"--comment": COMMENTS},
    "tcp": {"--sport": PORTS, "--dport": PORTS, "--tcp-flags": FLAGS, "--syn": NONE, "--source-port": PORTS, "--destination-port": PORTS},
    "udp": {"--sport": PORTS, "--dport": PORTS},
    "sctp": {"--sport": PORTS, "--dport": PORTS},
    "icmp": {"--icmp-type": ICMP4},
    "icmp6": {"--icmpv6-type": ICMP6},
    "multiport": {"--sports": MANY_PORTS, "--dports": MANY_PORTS, "--ports": MANY_PORTS},
    "conntrack": {"--ctstate": STATES, "--ctdir": Words(("ORIGINAL", "REPLY"), ("", "original", "BOTH")), "--ctorigdstport": PORTS,
                  "--ctorigdst": ADDRESSES[V4]},
    "state": {"--state": STATES},
    "mark": {"--mark": MARKS},
    "connmark": {"--mark": MARKS},
    "addrtype": {"--src-type": TYPES, "--dst-type": TYPES, "--limit-iface-in": NONE, "--limit-iface-out": NONE},
    "iprange": {"--src-range": RANGES[V4], "--dst-range": RANGES[V4]},
    "dscp": {"--dscp": BYTES, "--dscp-class": Words(("EF", "cs1", "AF41", "be"), ("", "XX"))},
    "tos": {"--tos": Words(("0x10", "0x10/0x3f", "16", "Minimize-Delay"), ("", "0x100", "0x10/", "0x10/0x100", "010"))},
    "pkttype": {"--pkt-type": Words(("unicast", "broadcast", "multicast", "host", "otherhost", "bcast"), ("", "any"))},
    "ttl": {"--ttl-eq": HOPS, "--ttl-lt": HOPS, "--ttl-gt": HOPS},
    "hl": {"--hl-eq": HOPS, "--hl-lt": HOPS, "--hl-gt": HOPS},
    "recent": {"--set": NONE, "--rcheck": NONE, "--update": NONE, "--remove": NONE, "--name": NAMES, "--seconds": Words(("10", "60"), NUMBERS),
               "--reap": NONE, "--hitcount": Words(("1", "20"), NUMBERS), "--rsource": NONE, "--mask": Words(("255.255.255.255",), ("255.255.255.0", "")),
               "--rdest": NONE, "--rttl": NONE},
    "statistic": {"--mode": Words(("random",), ("nth", "RANDOM", "")), "--probability": PROBABILITIES},
    "limit": {"--limit": RATES, "--limit-burst": Words(("5", "10", "100"), ("", "0", "10001", "10000", "-1", "010", "x"))},
    "rpfilter": {"--loose": NONE, "--validmark": NONE, "--accept-local": NONE, "--invert": NONE},
    "owner": {"--uid-owner": OWNERS, "--gid-owner": OWNERS, "--socket-exists": NONE, "--suppl-groups": NONE},
    "physdev": {"--physdev-in": INTERFACES, "--physdev-out": INTERFACES, "--physdev-is-in": NONE, "--physdev-is-out": NONE, "--physdev-is-bridged": NONE},
    "length": {"--length": LENGTHS},
    "socket": {"--transparent": NONE, "--nowildcard": NONE, "--restore-skmark": NONE},
    "rt": {"--rt-type": Words(("0", "4"), NUMBERS), "--rt-segsleft": Words(("1", "1:2"), NUMBERS), "--rt-len": Words(("8",), NUMBERS)},
}  # fmt: skip
#: modules of one family alone, and the options of them whose values differ by family
ONLY: Mapping[str, Family] = {"icmp": V4, "icmp6": V6, "ttl": V4, "hl": V6, "rt": V6, "TTL": V4, "HL": V6}
BY_FAMILY: Mapping[str, Mapping[Family, Words]] = {
    "--ctorigdst": ADDRESSES, "--src-range": RANGES, "--dst-range": RANGES, "--reject-with": ANSWERS, "--to-destination": DESTINATIONS,
    "--to-source": DESTINATIONS, "--to": NETWORKS,
}  # fmt: skip
#: the protocol that a module wants
WANTS: Mapping[str, str] = {
    "tcp": "tcp", "udp": "udp", "sctp": "sctp", "icmp": "icmp", "icmp6": "ipv6-icmp", "multiport": "tcp", "REJECT": "", "DNAT": "tcp", "SNAT": "tcp",
    "REDIRECT": "tcp", "MASQUERADE": "tcp", "TCPMSS": "tcp",
}  # fmt: skip
_SET_MARK = {f"--{name}": MARKS for name in ("set-xmark", "set-mark")} | {
    f"--{name}": Words(("0x4000", "1"), (*MARKS.odd, "0x1/0x1")) for name in ("or-mark", "and-mark", "xor-mark")
}
_HOP_TARGET = Words(("64", "1"), NUMBERS)
#: target → option → its values
TARGETS: Mapping[str, Mapping[str, Words]] = {
    "ACCEPT": {}, "DROP": {}, "RETURN": {}, "CH-1": {}, "CH-2": {}, "NOWHERE": {}, "INPUT": {}, "": {}, "accept": {},
    "REJECT": {"--reject-with": ANSWERS[V4]},
    "DNAT": {"--to-destination": DESTINATIONS[V4], "--random": NONE, "--persistent": NONE},
    "SNAT": {"--to-source": DESTINATIONS[V4], "--random": NONE, "--random-fully": NONE, "--persistent": NONE},
    "MASQUERADE": {"--to-ports": Words(("80", "1024-65535"), ("", "010", "0x50", "90-80", "80-", "65536", "80:90", "0", "-80", "80-80")), "--random": NONE, "--random-fully": NONE},
    "REDIRECT": {"--to-ports": Words(("80", "15001"), ("", "010", "0x50", "80-90", "90-80", "65536", "0", "80:90", "80-80")), "--random": NONE},
    "NETMAP": {"--to": NETWORKS[V4]},
    "MARK": _SET_MARK,
    "CONNMARK": {**_SET_MARK, "--save-mark": NONE, "--restore-mark": NONE, "--mask": Words(("0xff", "0xffffffff"), NUMBERS),
                 "--nfmask": Words(("0xff",), NUMBERS), "--ctmask": Words(("0xff00",), NUMBERS)},
    "CT": {"--notrack": NONE, "--helper": Words(("ftp",), ("", "nonsense", "tftp", "FTP")), "--zone": Words(("1",), NUMBERS), "--ctevents": Words(("new,destroy",), ("", "nonsense"))},
    "NOTRACK": {},
    "TTL": {"--ttl-set": _HOP_TARGET, "--ttl-inc": _HOP_TARGET, "--ttl-dec": _HOP_TARGET},
    "HL": {"--hl-set": _HOP_TARGET, "--hl-inc": _HOP_TARGET, "--hl-dec": _HOP_TARGET},
    "LOG": {"--log-prefix": Words(("x", '"two words "'), ('""', "z" * 29, "z" * 30, '"a\\"b"', '"a\\nb"')),
            "--log-level": Words(("4", "info"), ("", "8", "7", "debug", "DEBUG", "warn", "warning", "nonsense", "07", "0x7")),
            "--log-ip-options": NONE, "--log-uid": NONE, "--log-macdecode": NONE, "--log-tcp-options": NONE, "--log-tcp-sequence": NONE},
    "NFLOG": {"--nflog-prefix": Words(("x", '"two words"'), ('""', "z" * 63, "z" * 64, "z" * 65)), "--nflog-group": Words(("1",), NUMBERS),
              "--nflog-range": Words(("100",), NUMBERS), "--nflog-size": Words(("100",), NUMBERS), "--nflog-threshold": Words(("5",), NUMBERS)},
    "TRACE": {},
    "TCPMSS": {"--clamp-mss-to-pmtu": NONE, "--set-mss": Words(("1400",), NUMBERS)},
    "DSCP": {"--set-dscp": BYTES, "--set-dscp-class": Words(("EF",), ("", "XX"))},
    "TOS": {"--and-tos": BYTES, "--or-tos": BYTES, "--xor-tos": BYTES, "--set-tos": Words(("0x10", "0x10/0x3f"), ("", "16", "Minimize-Delay", "0x100", "0x10/", "0x10/0x100", "010"))},
    "CLASSIFY": {"--set-class": Words(("1:2", "ffff:ffff"), ("", "1", "1:", ":1", "g:1", "10000:1", "1:10000", "001:02"))},
    "CHECKSUM": {"--checksum-fill": NONE},
}  # fmt: skip
#: the only tables and chains of some targets and matches; most rules keep to them
HOMES: Mapping[str, tuple[Values, Values]] = {
    "REJECT": (("filter",), ()), "DNAT": (("nat",), ("PREROUTING", "OUTPUT", "CH-1")), "SNAT": (("nat",), ("INPUT", "POSTROUTING", "CH-1")),
    "MASQUERADE": (("nat",), ("POSTROUTING", "CH-1")), "REDIRECT": (("nat",), ("PREROUTING", "OUTPUT", "CH-1")), "NETMAP": (("nat",), ()),
    "CT": (("raw",), ()), "NOTRACK": (("raw",), ()), "TRACE": (("raw",), ()), "TTL": (("mangle",), ()), "HL": (("mangle",), ()),
    "DSCP": (("mangle",), ()), "TOS": (("mangle",), ()), "CHECKSUM": (("mangle",), ()), "DROP": (("filter", "raw", "mangle", "security"), ()),
    "CLASSIFY": ((), ("FORWARD", "OUTPUT", "POSTROUTING", "CH-1")), "rpfilter": (("raw", "mangle"), ("PREROUTING", "CH-1")),
    "owner": ((), ("OUTPUT", "POSTROUTING", "CH-1")), "socket": ((), ("PREROUTING", "INPUT", "CH-1")),
    "-i": ((), ("PREROUTING", "INPUT", "FORWARD", "CH-1")), "-o": ((), ("OUTPUT", "FORWARD", "POSTROUTING", "CH-1")),
}  # fmt: skip
#: table → its chains; every table also has CH-1, CH-2
CHAINS: Mapping[str, Values] = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
OWN_CHAINS = ("CH-1", "CH-2")
