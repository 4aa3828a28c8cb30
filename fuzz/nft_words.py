"""The grammar from which rules of nft are drawn: symbols in angle brackets, and what may stand for each.

The first alternative is the simplest. Alternatives of a symbol that ends in ``!`` are odd: nft refuses most of them.
"""

from collections.abc import Mapping, Sequence

#: where a rule may stand: family, type and hook of its chain
PLACES: Sequence[tuple[str, str, str]] = (
    ("inet", "filter", "input"), ("inet", "filter", "forward"), ("inet", "filter", "prerouting"), ("inet", "filter", "output"),
    ("inet", "filter", "postrouting"), ("ip", "filter", "input"), ("ip", "filter", "forward"), ("ip", "nat", "prerouting"),
    ("ip", "nat", "postrouting"), ("ip", "nat", "output"), ("ip", "nat", "input"), ("ip6", "filter", "input"),
    ("ip6", "nat", "prerouting"), ("ip6", "nat", "postrouting"), ("inet", "nat", "prerouting"), ("inet", "nat", "postrouting"),
    ("ip", "route", "output"),
)  # fmt: skip

#: objects that rules may name, for a table ``FAMILY t``; ADDR is the type of its addresses
OBJECTS = """add chain {family} t c2
add set {family} t s {{ type {addr}; elements = {{ {one} }} }}
add set {family} t si {{ type {addr}; flags interval; elements = {{ {net} }} }}
add set {family} t ports {{ type inet_service; flags interval; elements = {{ 22, 80-90 }} }}
add set {family} t names {{ type ifname; elements = {{ "eth0" }} }}
add set {family} t conc {{ type {addr} . inet_proto . inet_service; elements = {{ {one} . tcp . 80 }} }}
add set {family} t dyn {{ type {addr}; flags dynamic,timeout; timeout 5m; size 100; }}
add map {family} t vm {{ type {addr} : verdict; elements = {{ {one} : accept }} }}
add map {family} t pm {{ type inet_service : {addr} . inet_service; elements = {{ 80 : {one} . 8080 }} }}
add map {family} t am {{ type {addr} : {addr}; elements = {{ {one} : {one} }} }}
add map {family} t marks {{ type {addr} : mark; flags interval; elements = {{ {one} : 0x5, {net} : 0x6 }} }}
add counter {family} t cnt
add limit {family} t lim {{ rate 10/second; }}
add quota {family} t quo {{ over 100 mbytes; }}
"""
BY_FAMILY: Mapping[str, Mapping[str, str]] = {
    "ip": {"family": "ip", "addr": "ipv4_addr", "one": "192.0.2.1", "net": "192.0.2.8/29"},
    "ip6": {"family": "ip6", "addr": "ipv6_addr", "one": "2001:db8::1", "net": "2001:db8::8/125"},
    "inet": {"family": "inet", "addr": "ipv4_addr", "one": "192.0.2.1", "net": "192.0.2.8/29"},
}

_COMMON: Mapping[str, Sequence[str]] = {
    "rule": ("<does>", "<match> <does>", "<match> <match> <does>", "<match> <match> <match> <does>", "<match> <acts> <does>",
             "<match> <acts> <match> <does>"),
    "does": ("<verdict>", "<verdict>", "<verdict> comment \"why not\"", "counter <verdict>", "<acts>", "<looks>", "<reject>", "<nat>"),
    "verdict": ("accept", "drop", "return", "continue", "jump c2", "goto c2", "<verdict!>"),
    "verdict!": ("jump c3", "jump c", "ACCEPT", "queue", "jump"),
    "acts": ("<mark>", "counter", "log", 'log prefix "a b: " level info', "log group 3", "<limit>", "counter name \"cnt\"",
             "limit name \"lim\"", "meta nftrace set 1", "<sets>", "notrack", "ip ttl set 5", "<quota>", "<class> set <classed>", "ip ecn set ce", "ip6 ecn set ect0", "<meter>", "<acts!>"),
    "meter": ("meter m<digit> { <a> <of> }", "meter m<digit> size 100 { <a> . tcp dport <of> }", "meter m<digit> { <a> timeout 60s <of> }",
              "meter m<digit> { tcp dport <of> }", "<meter!>"),
    "meter!": ("meter m<digit> { <a> }", "meter ports { <a> <of> }", "meter m<digit> { limit rate 5/second }"),
    "digit": ("1", "2", "3", "4", "5", "6", "7", "8", "9"),
    "of": ("limit rate 10/second", "limit rate over 10 kbytes/second", "limit rate 3/minute burst 7 packets", "quota over 100 bytes", "counter", "<of!>"),
    "of!": ("limit name \"lim\"", "accept", "quota name \"quo\"", "log"),
    "acts!": ('counter name "no"', "limit rate 0/second", "limit rate 5", "log level loud", "meta mark set eth0", "ip ttl set 300"),
    "limit": ("limit rate 10/second", "limit rate 3/minute burst 7 packets", "limit rate over 400/hour", "limit rate 1/day", "limit rate 2/week",
              "limit rate <bytes>/second", "limit rate over <bytes>/minute burst <bytes>", "limit rate 500 bytes/hour burst 2000 bytes"),
    "bytes": ("10 kbytes", "500 bytes", "1 mbytes", "1025 kbytes", "1024 bytes", "3072 kbytes", "<bytes!>"),
    "bytes!": ("0 bytes", "5 tbytes", "5", "-1 bytes"),
    "quota": ("quota <bytes>", "quota over <bytes>", "quota until <bytes>", "quota over <bytes> used <bytes>", 'quota name "quo"', "<quota!>"),
    "quota!": ('quota name "no"', "quota over", "quota 5 packets"),
    "mark": ("meta mark set <bits>", "mark set mark or <bits>", "meta mark set meta mark and <bits>", "meta mark set mark xor <bits>",
             "meta mark set meta mark & <bits> | <bits>", "ct mark set meta mark", "meta mark set ct mark", "ct mark set <bits>",
             "meta mark set ct mark and <bits>", "ct mark set ct mark or <bits>", "meta mark set (meta mark & <bits>) ^ <bits>", "<mapped>", "<mapped>"),
    "mapped": ("meta mark set <a> map @marks", "meta mark set tcp dport map { 80 : 1, 443-450 : 2 }", 'ct mark set iifname map { "eth0" : 0x10, "eth1" : 0x20 }',
               "meta mark set <a> map { <one> : 0x1, * : 0x5 }", "meta mark set numgen inc mod 3 offset 100", "ct mark set numgen random mod 2 map { 0 : 0x64, 1 : 0x65 }",
               "meta mark set jhash <a> mod 4 seed 0x5 offset 8", "meta mark set <a> . tcp dport map { <one> . 80 : 0x1 }", "ct mark set meta mark map { 0x1 : 0x2 }",
               "meta mark set ip dscp map { ef : 1, cs1 : 2 }", "<mapped!>"),
    "mapped!": ("meta mark set <a> map @vm", "meta mark set tcp dport map @marks", "meta mark set <a> map { <one> : accept }", "meta mark set <a>",
                "ct mark set tcp dport map { 80 : 1-2 }"),
    "bits": ("0x1", "0x4000", "0xff00", "0xffffffff", "0", "16384", "<bits!>"),
    "mask": ("0x4000", "0xff00", "0x1", "0xffff0000"),
    "bits!": ("0x100000000", "-1", "0xg", "x"),
    "match": ("<protocol>", "<port>", "<port>", "<address>", "<address>", "<interface>", "<state>", "<marked>", "<flags>", "<icmp>", "<fib>",
              "<concat>", "<number>", "<other>", "<marking>"),
    "protocol": ("meta l4proto <proto>", "meta l4proto != <proto>", "meta l4proto { tcp, udp }", "meta l4proto 47", "<hproto> <proto>"),
    "hproto": ("ip protocol", "ip6 nexthdr"),
    "proto": ("tcp", "udp", "sctp", "icmp", "icmpv6", "esp", "6", "<proto!>"),
    "proto!": ("tpc", "256", "TCP", "any"),
    "port": ("tcp dport <ports>", "udp dport <ports>", "tcp sport <ports>", "th dport <ports>", "sctp dport <ports>", "udplite sport <ports>",
             "dccp dport <ports>", "tcp dport @ports", "tcp dport != @ports"),
    "ports": ("80", "!= 80", "{ 22, 80 }", "1024-65535", "{ 22, 80-90, 85-100 }", "!= { 22, 23 }", "< 1024", ">= 1024", "> 80", "<= 80", "0",
              "65535", "{ 80 }", "!= 22-23", "0-65535", "{ 22,80 }", "{ 80-90, 91 }", "<ports!>"),
    "ports!": ("65536", "90-80", "ssh-http", "{ }", "80 90", "< 0", "> 65535", "{ 80, 80-90 ", "80,90", "{ 80 : accept }"),
    "interface": ('iifname "eth0"', 'oifname != "eth0"', 'iifname "veth*"', 'iifname { "eth0", "lo" }', 'iif "lo"', 'oif != "lo"',
                  'iifname { "veth*", "lo" }', "iifname eth0", 'iifname != { "a", "b" }', "iifname @names", "meta iifname \"x\"",
                  "<interface!>"),
    "interface!": ('iifname ""', 'iifname "abcdefghijklmnopq"', 'iif "nothere"', "iifname 5"),
    "state": ("ct state new", "ct state established,related", "ct state != invalid", "ct state { new, untracked }", "ct state ! new",
              "ct state & (established|related) != 0", "ct status dnat", "ct status snat,dnat", "ct status ! dnat", "ct direction original",
              "ct direction != reply", "ct status & dnat == dnat", "ct state & new == new", "<state!>"),
    "state!": ("ct state fresh", "ct state new related", "ct status", "ct direction both"),
    "marked": ("meta mark <bits>", "meta mark != <bits>", "meta mark & <mask> == <mask>", "mark and <mask> != 0", "ct mark <bits>",
               "ct mark & <mask> != <mask>", "meta mark { 1, 2, 0x5-0x9 }", "meta mark 5-9", "meta mark and <mask> { 1, 2 }",
               "meta mark { 0x10000/16, 5 }", "meta mark != { 0x10-0x1f, 5 }"),
    "flags": ("tcp flags syn", "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags != syn", "tcp flags == syn", "tcp flags syn,ack", "tcp flags ! syn",
              "tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin|syn) == (fin|syn)", "tcp flags & (fin|syn) == 0", "tcp flags & syn != 0",
              "tcp flags { syn, syn | ack }", "tcp flags != syn / syn,ack", "tcp flags 0x2", "tcp flags & 0x12 == 0x2", "<flags!>"),
    "flags!": ("tcp flags sin", "tcp flags & == syn", "tcp flags syn-ack", "tcp flags & 0x100 == 0"),
    "icmp": ("icmp type echo-request", "icmpv6 type { nd-neighbor-solicit, 134 }", "icmp type { 8, 0, 3 }", "icmp type != 8", "icmp code 1",
             "icmpv6 type nd-redirect", "icmp type 3 icmp code { 1, 3 }", "icmpv6 code 4", "icmp type < 5", "icmp type 8-10", "<icmp!>"),
    "icmp!": ("icmp type 256", "icmp type ping", "icmpv6 type echo"),
    "fib": ("fib daddr type local", "fib saddr type != local", "fib daddr type { local, broadcast }", "fib daddr . iif type local",
            "fib saddr . iif oif missing", "fib saddr oif exists", "fib saddr . mark . iif oif missing", "fib saddr . iif oif != 0", "fib saddr type unicast",
            "fib saddr . iif oif 0"),
    "class": ("ip dscp", "ip6 dscp"),
    "classed": ("cs1", "ef", "af41", "3", "0x2e", "0", "<classed!>"),
    "classed!": ("64", "ce", "ip dscp"),
    "marking": ("<class> <classed>", "<class> != <classed>", "<class> { cs1, 10 }", "<class> 8-16", "<class> > 10", "<class> != { ef, 0x2e }", "ip ecn ce", "ip6 ecn != ect0",
                "ip ecn { ect0, ect1 }", "meta pkttype host", "meta pkttype != broadcast", "pkttype { broadcast, multicast }", "meta pkttype unicast", "meta pkttype other",
                "<marking!>"),
    "marking!": ("ip ecn ef", "ip ecn 4", "meta pkttype frame", "meta pkttype 5", "ip dscp"),
    "number": ("numgen random mod 2 0", "numgen inc mod 10 < 3", "numgen random mod 4 { 0, 2 }", "numgen random mod 10 offset 5 7", "meta length > 100",
               "meta length 100-200", "meta skuid 1000", "meta skgid { 0, 5 }", "meta skuid != 0", "meta skuid 0-99", "numgen random mod 10 != 3", "numgen random mod 0 0",
               "jhash <a> mod 2 seed 0x1 0", "jhash tcp sport . <a> mod 3 seed 5 != 1"),
    "other": ("meta nfproto ipv4", "meta protocol ip", "meta nfproto != ipv6", "meta protocol { ip, ip6 }", "ip ttl 64", "ip6 hoplimit > 5", "ip ttl < 5", "ip length > 99",
              "socket transparent 1", "ct original ip daddr 10.0.0.1", "meta random & 2147483647 < 1073741824", "ct original proto-dst 80", "@th,16,16 80"),
    "concat": ("<a> . tcp dport { <one> . 80 }", "<a> . meta l4proto . th dport @conc", "<a> . <a> { <one> . <net> }", "tcp sport . tcp dport { 1 . 2, 3-5 . 6 }",
               "<a> . meta l4proto . th dport { <one> . tcp . 80, <one> . udp . 53 }", "<a> . tcp dport != { <one> . 80 }", "iifname . <a> { \"eth0\" . <one> }",
               "<a> . th dport @conc"),
    "looks": ("<a> vmap @vm", "tcp dport vmap { 22 : accept, 80-90 : drop }", "ct state vmap { new : jump c2, established : accept }",
              "meta l4proto vmap { tcp : accept, udp : goto c2 }", "numgen random mod 2 vmap { 0 : accept, 1 : drop }", "<a> vmap { <one> : accept, <net> : drop }",
              'iifname vmap { "eth0" : accept, "lo" : return }', "<a> . tcp dport vmap { <one> . 80 : accept }", "meta mark vmap { 1 : drop, 2-5 : accept }",
              "jhash <a> mod 2 seed 0x7 vmap { 0 : accept, 1 : drop }", "icmp type vmap { echo-request : accept }", "<looks!>",
              "<class> vmap { ef : accept, cs1 : drop }", "meta pkttype vmap { broadcast : drop, multicast : accept }",
              "tcp dport vmap { 22 : accept, * : drop }", "<a> vmap { <net> : accept, * : drop }", 'iifname vmap { "lo" : return, * : drop }',
              "<a> . tcp dport vmap { <one> . 80 : accept, * : jump c2 }"),
    "looks!": ("<a> vmap @s", "tcp dport vmap { 22 : frop }", "<a> vmap { }", "tcp dport vmap { 80 : accept, 80 : drop }", "<a> vmap @none"),
    "sets": ("add @dyn { <a> }", "update @dyn { <a> timeout 1h30m }", "delete @dyn { <a> }", "add @dyn { <a> timeout 10s }", "update @dyn { <a> counter }", "add @dyn { <a> <of> }",
             "update @dyn { <a> timeout 10s <of> }", "update @dyn { <a> <of> <of> } drop", "delete @dyn { <a> <of> }", "<sets!>"),
    "sets!": ("add @no { <a> }", "add @dyn { tcp dport }", "add @s { <a> }", "add @dyn <a>"),
    "reject": ("reject", "reject with tcp reset", "reject with icmp type host-prohibited", "reject with icmpv6 no-route", "reject with icmpx admin-prohibited",
               "reject with icmp admin-prohibited", "reject with icmpv6 addr-unreachable", "tcp dport 80 reject with tcp reset", "<reject!>"),
    "reject!": ("reject with icmp no-route", "reject with icmpx net-unreachable", "reject with reset", "udp dport 5 reject with tcp reset"),
    "nat": ("masquerade", "masquerade fully-random", "<dnat> to <one>", "tcp dport 80 <dnat> to <onep>", "tcp dport 80 redirect to :8080", "redirect",
            "<snat> to <one> random,persistent", "meta l4proto tcp masquerade to :1024-2000", "<dnat> to <a> map @am", "<dnat> to numgen random mod 2 map { 0 : <one>, 1 : <one> }",
            "tcp dport 80 <dnat> to :8080", "<dnat> to tcp dport map { 80 : <one> }", "meta l4proto tcp <snat> to <one>:1000-2000", "<dnatf> addr . port to tcp dport map @pm",
            "<dnatf> addr . port to tcp dport map { 80 : <one> . 8080 }", "udp dport 53 redirect to :5353 random",
            "<dnat> to <several>", "<snat> to <several>", "tcp dport 80 <dnat> to <onep>-8090", "tcp dport 80 <dnat> to :8080-8090", "tcp dport 80 <snat> to :1000-2000 random",
            "<dnat> to <a> map { <one> : <several> }", "udp dport 53 redirect to :5353-5400 random", "tcp dport 80 <snat> to <onep>-9000 persistent", "<nat!>"),
    "nat!": ("<dnat> to :80", "<snat> to <one>:80", "dnat to 10.0.0.300", "redirect to :99999", "masquerade to 1.2.3.4", "snat"),
}  # fmt: skip
_IPV4 = {
    "address": ("ip saddr <v4>", "ip daddr <v4>", "ip saddr @s", "ip daddr != @si"),
    "v4": ("10.0.0.1", "!= 10.0.0.0/8", "{ 10.0.0.1, 10.0.0.2 }", "{ 10.0.0.0/8, 192.0.2.1-192.0.2.9 }", "10.0.0.0/8", "192.0.2.0-192.0.2.255", "192.0.2.1-192.0.2.7",
           "!= { 10.0.0.0/8, 172.16.0.0/12 }", "{ 10.0.0.0/8, 10.1.0.0/16 }", "& 255.255.0.0 == 10.1.0.0", "0.0.0.0/0", "10.0.0.1/8", "> 10.0.0.0", "& 0.0.0.255 == 0.0.0.5",
           "{ 10.0.0.0/8 }", "10.0.0.1/32", "{ 10.0.0.0/9, 10.128.0.0/9 }", "<v4!>"),
    "v4!": ("10.0.0.256", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "fd00::1", "10.0.0", "{ 10.0.0.1, 10.0.0.1 "),
    "a": ("ip saddr", "ip daddr"), "one": ("192.0.2.1", "198.51.100.7"), "net": ("192.0.2.0/24", "198.51.100.0-198.51.100.9"), "onep": ("192.0.2.1:8080",),
    "dnat": ("dnat",), "snat": ("snat",), "dnatf": ("dnat ip",), "several": ("192.0.2.1-192.0.2.9", "198.51.100.7-198.51.100.7", "<several!>"), "several!": ("192.0.2.9-192.0.2.1",),
}  # fmt: skip
_IPV6 = {
    "address": ("ip6 saddr <v6>", "ip6 daddr <v6>", "ip6 saddr @s", "ip6 daddr != @si"),
    "v6": ("fd00::1", "!= fd00::/8", "{ fd00::1, fd00::2 }", "{ fd00::/8, fe80::/10 }", "fd00::/8", "fd00::1-fd00::9", "::1", "::/0", "fd00::1/64", "{ fd00::/8, fd01::1 }",
           "fd00::0:0", "::ffff:192.0.2.1", "<v6!>"),
    "v6!": ("fd00::g", "fd00::/129", "10.0.0.1", "fd00:::1", "fd00::9-fd00::1"),
    "a": ("ip6 saddr", "ip6 daddr"), "one": ("2001:db8::1", "2001:db8::7"), "net": ("2001:db8::/64", "2001:db8:1::-2001:db8:1::9"), "onep": ("[2001:db8::1]:8080",),
    "dnat": ("dnat",), "snat": ("snat",), "dnatf": ("dnat ip6",), "several": ("2001:db8::1-2001:db8::9", "2001:db8::7-2001:db8::7", "<several!>"), "several!": ("2001:db8::9-2001:db8::1",),
}  # fmt: skip
GRAMMARS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "ip": {**_COMMON, **_IPV4},
    "ip6": {**_COMMON, **_IPV6},
    "inet": {
        **_COMMON, **_IPV4, "v6": _IPV6["v6"], "v6!": _IPV6["v6!"],
        "address": ("ip saddr <v4>", "ip6 daddr <v6>", "ip saddr @s", "ip daddr != @si", "ip6 saddr <v6>"),
        "dnat": ("dnat ip", "dnat"), "snat": ("snat ip", "snat"),
    },
}  # fmt: skip
