"""What nft and the kernel refuse: rules in their chains, and documents. ``tests/kernel`` asks nft about the same."""

from fuzz.nft_oracle import Place

INET = Place("inet", "filter", "input")
#: each was accepted once although nft refuses it
REFUSED = [
    (INET, "masquerade"), (INET, "comment \"why\""), (INET, "accept counter"), (INET, "reject counter"),
    (INET, "meta l4proto { tcp, udp } tcp dport 5 accept"), (INET, "meta l4proto { tcp, udp } reject with tcp reset"),
    (INET, "ip saddr . th dport @conc accept"), (INET, "iif @names accept"), (INET, "log level loud"), (INET, "ip ttl set 300"),
    (INET, "ip saddr vmap { 192.0.2.1 : accept, 192.0.2.0/24 : drop }"), (INET, "meta nftrace set 5"),
    (INET._replace(hook="output"), "fib saddr oif exists accept"), (INET._replace(hook="postrouting"), "reject"),
    (INET._replace(hook="postrouting"), "fib daddr . iif type local accept"), (INET._replace(hook="forward"), "socket transparent 1 accept"),
    (Place("ip", "nat", "prerouting"), "masquerade"), (Place("ip", "nat", "postrouting"), "masquerade random fully-random"),
    (Place("ip", "nat", "postrouting"), "meta l4proto != tcp masquerade to :5-9"), (Place("ip", "nat", "input"), "dnat to 192.0.2.1"),
    (INET, 'iifname "*" accept'), (INET, 'iifname { "*", "eth0" } accept'), (INET, "iifname . tcp dport { th . 80 } accept"),
    (Place("inet", "nat", "postrouting"), "meta l4proto tcp masquerade to to :1000"),
    (INET, "iifname reject"), (INET, "iifname { accept } drop"), (Place("inet", "nat", "prerouting"), "tcp dport 80 dnat ip to :8080"),
    (Place("ip", "filter", "input"), "meta nfproto ipv4 accept"), (Place("ip", "nat", "prerouting"), "dnat to fd00::1"),
]  # fmt: skip

#: statements of chains of type filter or nat, and the hooks where the kernel takes them
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
TAKEN = [
    ("filter", "reject", "prerouting input forward output"), ("filter", "reject with icmp host-unreachable", "prerouting input forward output"),
    ("filter", "fib saddr . iif oif exists accept", "prerouting input forward"), ("filter", "fib saddr oif missing accept", "prerouting input forward"),
    ("filter", "socket transparent 1 accept", "prerouting input output"), ("filter", "fib daddr type local accept", "prerouting input forward output postrouting"),
    ("filter", "fib saddr . iif type local accept", "prerouting input forward"), ("filter", "fib daddr . iif type local accept", "prerouting input forward"),
    ("filter", "fib saddr . oif type local accept", "forward output postrouting"), ("filter", "fib daddr . oif type local accept", "forward output postrouting"),
    ("filter", "fib daddr . iif type . meta mark { local . 5 } accept", "prerouting input forward"),
    ("filter", "fib daddr . oif type vmap { local : accept }", "forward output postrouting"),
    ("filter", "ip saddr & 255.0.0.0 . fib saddr . oif type { 10.0.0.0 . local } accept", "forward output postrouting"),
    ("filter", "fib daddr . iif type . fib daddr . oif type { local . local } accept", "forward"), ("filter", "masquerade", ""),
    ("nat", "dnat ip to 10.0.0.1", "prerouting output"), ("nat", "redirect", "prerouting output"), ("nat", "snat ip to 10.0.0.1", "input postrouting"),
    ("nat", "masquerade", "postrouting"), ("nat", "reject", "prerouting input output"), ("nat", "fib saddr oif missing accept", "prerouting input"),
]  # fmt: skip

CHAINS = (
    "add table ip t\nadd chain ip t a\nadd chain ip t b\nadd chain ip t c { type filter hook input priority 0 ; }\n"
)
LOOP = "add rule ip t a jump b\nadd rule ip t b jump a\n"
TWICE = "add chain ip t d\nadd rule ip t d jump c{}\nadd rule ip t b jump d\n"  #: a second way to the nested chains


def nested(count: int) -> str:
    """A base chain and so many chains below it, each of which jumps to the next one."""
    chains = [f" chain c{number} {{\n jump c{number + 1}\n }}" for number in range(1, count)]
    base = " chain b {\n type filter hook input priority 0;\n jump c1\n }"
    return "\n".join(["table ip t {", *chains, f" chain c{count} {{\n }}", base, "}\n"])


DOCUMENTS = [
    (nested(15), True), (nested(16), False), (nested(15) + TWICE.format(2), True), (nested(15) + TWICE.format(1), False),
    (CHAINS + LOOP, True),
    (CHAINS + LOOP + "add rule ip t c jump a\n", False),
    ("table ip t {\n chain o {\n masquerade\n }\n chain c {\n type filter hook input priority 0;\n jump o\n }\n}\n", False),
    ("table ip t {\n map m {\n type ipv4_addr : verdict\n elements = { 1.2.3.4 : goto o }\n }\n chain o {\n reject\n }\n"
     " chain c {\n type filter hook postrouting priority 0;\n ip saddr vmap @m\n }\n}\n", False),
    ("table ip t {\n chain c {\n type nat hook prerouting priority -200;\n }\n}\n", False),
    ("table ip t {\n chain c {\n type nat hook forward priority 0;\n }\n}\n", False),
    ("table ip t {\n chain c {\n type route hook input priority 0;\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n elements = { 10.0.0.0/8 }\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n flags interval\n elements = { 10.0.0.0/8, 10.1.0.0/16 }\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n flags interval\n auto-merge\n elements = { 10.0.0.0/8, 10.1.0.0/16 }\n }\n}\n", True),
    ("table ip t {\n chain c {\n ip saddr 1.2.3.4 drop }\n}\n", False),
]  # fmt: skip

INPUT, FORWARD = INET, INET._replace(hook="forward")
#: a rule, and words of why it is refused
WHY = [
    (INPUT, "masquerade", "it translates, which only chains of type nat do, and c leads here (t/c rule 1)"),
    (Place("ip", "nat", "prerouting"), "masquerade", "it works at the hooks postrouting only"),
    (FORWARD, "socket transparent 1 accept", "it works at the hooks prerouting, input, output only"),
    (INPUT, "ip saddr . th dport @conc accept", "conc has keys of ipv4_addr . inet_proto . inet_service, not of ipv4_addr . inet_service"),
    (INPUT, "ip saddr @vm accept", "vm is a map: only vmap and map look into it"),
    (INPUT, "ip saddr vmap @s", "s is a set, not a map"),
    (INPUT, "update @vm { ip saddr }", "vm is a map: it takes a value too"),
    (INPUT, "ip saddr @none accept", "there is no set or map none in this table"),
    (INPUT, "limit name \"no\" accept", "there is no limit no in this table"),
    (INPUT, "counter name \"no\" accept", "there is no counter no in this table"),
    (INPUT, "tcp dport 90-80 accept", "a range upside down: 90-80"),
    (INPUT, "tcp dport 65536 accept", "not a number of 16 bits: 65536"),
    (INPUT, "tcp dport < 0 accept", "no value is < 0"),
    (INPUT, "ip saddr 10.0.0.0/33 accept", "not a prefix length: 33"),
    (INPUT, "meta mark 0x1/33 accept", "not a prefix length: 33"),
    (INPUT, "tcp dport { 80/5, 1 } accept", "no prefix of inet_service"),
    (INPUT, "ip saddr . tcp dport { 10.0.0.1 } accept", "1 parts where the key has 2 fields"),
    (INPUT, "tcp dport { } accept", "a set without elements"),
    (INPUT, "tcp dport vmap { 80 } accept", "a map's element is a key and a value"),
    (INPUT, "tcp dport vmap { 80 : 81 } accept", "not a verdict"),
    (INPUT, "ct state fresh accept", "not one of invalid, established, related, new, untracked: fresh"),
    (INPUT, "meta l4proto tpc accept", "not a protocol: tpc"),
    (INPUT, "numgen random mod 0 0 accept", "numgen needs a modulus"),
    (INPUT, "jhash ip saddr mod 0 0 accept", "jhash needs a modulus"),
    (INPUT, "reject with icmpx net-unreachable", "nft has no answer icmpx net-unreachable"),
    (Place("ip", "filter", "input"), "reject with icmpx port-unreachable", "icmpx answers are for inet tables"),
    (INPUT, "limit rate 0/second accept", "not a rate: 0/second"),
    (INPUT, "limit rate 5/fortnight accept", "not a rate: 5/fortnight"),
    (Place("inet", "nat", "prerouting"), "tcp dport 80 dnat to 10.0.0.1", "ip or ip6 must be specified with address for inet tables"),
    (Place("ip", "nat", "prerouting"), "tcp dport 80 dnat to 10.0.0.1:99999", "not a number of 16 bits"),
    (Place("ip", "nat", "prerouting"), "dnat to 10.0.0.1:80", "transport protocol mapping is only valid after transport protocol match"),
    (INPUT, "udp dport 5 reject with tcp reset", "conflicting protocols: tcp in a rule for udp packets"),
    (INPUT, "ip saddr 10.0.0.1 ip6 daddr ::1 accept", "conflicting protocols: IPv6 in a rule for IPv4 packets"),
    (INPUT, "ip saddr ! 10.0.0.1 accept", "! is for flags"),
    (INPUT, "iifname < eth0 accept", "not modelled: iifname < a value"),
]  # fmt: skip
