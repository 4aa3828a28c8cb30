"""Rules of nft, sent packets in the model and in Linux: every kind of set, map, number and chain at least once."""

import time
from collections.abc import Callable

import pytest
from labs import ENDS, PODS, number_of, shot
from nft_twin import SPACES, NftTwin, arrivals, ends, out
from packets import CLUSTER_IP, OTHER_POD, POD, REMOTE_POD

from kpsim.addresses import Family
from kpsim.lab.wires import Shot
from kpsim.packet import Packet
from kpsim.packetpath.memory import SetId
from kpsim.ruleset import Space, TableKey

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6


# --- sets and verdict maps ---------------------------------------------------------------------------------------------

_VERDICTS = """
table ip t {
    map m { type ipv4_addr . inet_proto . inet_service : verdict; }
    chain a { tcp dport 1005 drop; }
    chain b { tcp dport 1007 accept; }
    chain f {
        type filter hook forward priority 0; policy accept;
        ip daddr . meta l4proto . th dport vmap @m
        tcp dport { 1001, 1004, 1006, 1010 } drop
    }
}
"""


def test_every_verdict_of_a_map(linux: NftTwin) -> None:
    elements = ", ".join(
        f"{POD} . tcp . {1000 + number} : {verdict}"
        for number, verdict in enumerate(
            [
                "drop",
                "accept",
                "drop",
                "jump a",
                "jump a",
                "jump a",
                "goto b",
                "goto b",
                "return",
                "continue",
                "continue",
            ]
        )
    )
    linux.load(_VERDICTS.replace(": verdict;", f": verdict; elements = {{ {elements} }}"))
    ports = (1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011)
    dropped = {1000, 1002, 1004, 1005, 1010}
    walks = linux.agree(*map(out, ports), out(1000, to=OTHER_POD), shot(V4, "client", POD, protocol="udp", dport=1000))
    assert ends(walks) == ["dropped" if port in dropped else "forwarded" for port in ports] + ["forwarded"] * 2


_SETS = """
table ip t {
    set ports { type inet_service; flags interval; elements = { 1000-1009, 1020 } }
    set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.180.0.0/24 . 1100-1109, 10.180.0.5 . 1120 } }
    set names { type ifname; flags interval; elements = { "et*", "lo" } }
    chain f {
        type filter hook forward priority 0; policy accept;
        tcp dport @ports drop
        ip daddr . tcp dport @pairs drop
        tcp dport 1200 iifname @names drop
        tcp dport 1201 oifname != { "cni*", "lo" } drop
        tcp dport 1202 meta mark and 0xff00 vmap { 0 : drop }
        tcp dport != @ports tcp dport { 1300, 1310-1319 } drop
        th dport != @ports icmp type echo-request drop
    }
}
"""


def test_intervals_beginnings_of_names_and_concatenations(linux: NftTwin) -> None:
    linux.load(_SETS)
    dropped = [1000, 1009, 1020, 1100, 1109, 1120, 1200, 1202, 1300, 1310, 1319]
    kept = [999, 1010, 1019, 1021, 1099, 1110, 1119, 1201, 1309, 1320]
    walks = linux.agree(*map(out, [*dropped, *kept]))
    assert ends(walks) == ["dropped"] * len(dropped) + ["forwarded"] * len(kept)


def test_a_state_is_looked_up_as_one_name(linux: NftTwin) -> None:
    """NFT-3.3: chains in front of connection tracking see no state. DNAT is a bit of the status, not of the state."""
    linux.load("""
table ip t {
    chain r { type filter hook prerouting priority -300; policy accept; tcp dport 1000 ct state vmap { new : drop, invalid : accept }; }
    chain n { type nat hook prerouting priority -100; policy accept; tcp dport 1002 dnat to 10.180.0.5:2000; }
    chain f {
        type filter hook forward priority 0; policy accept
        tcp dport 1003 ct state vmap { established : accept, new : drop }
        ct status dnat tcp dport 2000 ct state vmap { new : drop }
    }
}
""")
    assert ends(linux.agree(*map(out, (1000, 1002, 1003)))) == ["forwarded", "dropped", "dropped"]


#: each drops the packet to its own port, or does not
_CONDITIONS = """
meta nfproto ipv4
meta nfproto ipv6
meta l4proto { tcp, udp }
ip protocol udp
ip saddr 203.0.113.0/24 ip daddr != 10.180.0.6
ip saddr . ip daddr . meta l4proto . th dport { 203.0.113.9 . 10.180.0.5 . tcp . 1000-1999 }
th sport 40000
tcp sport != { 1-39999, 50000 }
tcp flags syn
tcp flags & (fin|syn|rst|ack) == syn
tcp flags & (syn|ack) == ack
iifname "eth0" oifname "cni0"
iifname != "cni*"
oifname { "lo", "cni*" }
ct state new ct direction original
ct direction reply
ct status dnat
ct original ip daddr 10.180.0.5
ct mark 0
ct mark set 7 ct mark & 0x6 == 0x6
meta mark set 0x12 meta mark & 0xf0 == 0x10 meta mark & 0x0f != 0x01
meta mark set 0x1234 meta mark and 0xff00 vmap { 0x1200 : drop }
fib daddr type unicast
fib saddr type local
fib daddr . oif type local
ip ttl 63
ip ttl < 64
meta length > 39
ip length 40-60
numgen random mod 1 0
numgen inc mod 2 offset 5 5
jhash ip saddr mod 2 seed 0x7 0
ip daddr != @none
limit rate 1/hour burst 1 packets
"""


def test_conditions_hold_where_linux_says_so(linux: NftTwin) -> None:
    """Fields, masks and negations as nft writes them; Linux decides which packets are dropped."""
    conditions = _CONDITIONS.strip().splitlines()
    rules = [
        f"tcp dport {1500 + number} {condition}" + ("" if "vmap" in condition else " drop")
        for number, condition in enumerate(conditions)
    ]
    body = "\n        ".join(rules)
    linux.load(
        f"table inet t {{\n    set none {{ type ipv4_addr; }}\n    chain f {{\n"
        f"        type filter hook forward priority 0; policy accept\n        {body}\n    }}\n}}\n"
    )
    walks = linux.agree(*[out(1500 + number) for number in range(len(rules))])
    dropped = sum(str(each.disposition) == "dropped" for each in walks)
    assert len(rules) - 12 < dropped < len(rules) - 4  # both happen


# --- where chains stand ------------------------------------------------------------------------------------------------

_ORDER = """
table ip t {
    chain a { type filter hook forward priority 0; policy accept; tcp dport 1000 accept; tcp dport 1001 drop; }
    chain b { type filter hook forward priority 0; policy accept; meta mark set 1; tcp dport 1002 counter drop; }
    chain c { type filter hook forward priority 10; policy accept; tcp dport 1000 drop; }
    chain d { type filter hook forward priority -10; policy drop; ip saddr != 203.0.113.9 accept; tcp dport 1003 goto e; tcp dport 1004 return; tcp dport 1005 jump e; tcp dport != 1006 accept; }
    chain e { tcp dport 1 accept; }
}
table ip u {
    chain a { type filter hook forward priority 0; policy accept; tcp dport 1002 meta mark 1 accept; tcp dport 1007 meta mark 1 drop; }
}
table inet v {
    chain a { type filter hook forward priority 20; policy accept; tcp dport 1008 drop; }
}
table ip w {
    flags dormant
    chain a { type filter hook forward priority 20; policy accept; tcp dport 1009 drop; }
}
"""


def test_priorities_policies_families_and_dormant_tables(linux: NftTwin) -> None:
    """K-9.1. Table u is registered later, so it does not see the mark that table t sets at the same priority."""
    linux.load(_ORDER)
    dropped = {1000, 1001, 1002, 1003, 1004, 1006, 1008}
    ports = range(1000, 1011)
    assert ends(linux.agree(*map(out, ports))) == ["dropped" if port in dropped else "forwarded" for port in ports]


# --- translations -------------------------------------------------------------------------------------------------------

_NAT = """
table ip t {
    map to { type inet_service : ipv4_addr . inet_service; elements = { 1001 : 10.180.0.5 . 2001, 1002 : 10.180.1.7 . 2002 } }
    map alone { type inet_service : ipv4_addr; elements = { 1003 : 10.180.0.6 } }
    map from { type ipv4_addr : ipv4_addr; elements = { 203.0.113.9 : 192.168.7.1 } }
    chain first { type nat hook prerouting priority -110; policy accept; tcp dport 1006 accept; tcp dport 1007 dnat to 10.180.0.5:2007; }
    chain n {
        type nat hook prerouting priority 50; policy accept
        tcp dport 1000 dnat ip addr . port to numgen random mod 2 map { 0 : 10.180.0.5 . 2000, 1 : 10.180.0.6 . 2000 }
        ip daddr 172.30.0.10 dnat ip addr . port to tcp dport map @to
        tcp dport 1003 dnat to tcp dport map @alone
        tcp dport 1004 dnat to 10.180.0.5
        tcp dport 1005 redirect to :2005
        tcp dport { 1006, 1007 } dnat to 10.180.0.6:2006
        tcp dport 1008 dnat to :2008
        tcp dport 1009 dnat ip addr . port to jhash ip saddr . tcp sport mod 2 seed 0x1234 map { 0 : 10.180.0.5 . 2009, 1 : 10.180.0.6 . 2009 }
        tcp dport 1011 redirect to :tcp dport map { 1011 : 2111 }
        tcp dport 1010 dnat ip addr . port to numgen inc mod 3 map { 0 : 10.180.0.5 . 2010, 1 : 10.180.0.6 . 2010, 2 : 10.180.1.7 . 2010 }
    }
    chain seen { type filter hook prerouting priority -101; policy accept; tcp dport 2000-2999 drop; }
    chain mangled { type filter hook prerouting priority -99; policy accept; tcp dport 1000 drop; }
    chain p {
        type nat hook postrouting priority 100; policy accept
        tcp dport 2005 masquerade
        tcp dport 1100 masquerade
        tcp dport 1101 masquerade fully-random
        tcp dport 1102 snat to 192.168.7.1
        tcp dport 1103 snat to ip saddr map @from
        tcp dport 1104 snat to 192.168.7.1:7000-7009
        ct status dnat tcp dport 2002 masquerade
    }
    chain i { type nat hook input priority 100; policy accept; tcp dport 1105 snat to 203.0.113.77; }
}
"""


def test_translations_out_of_maps_and_without(linux: NftTwin) -> None:
    """NFT-5.5, 6.9, 6.10, K-2, K-9.1; a chain of type nat at 50 translates at −100."""
    linux.load(_NAT)
    walks = linux.agree(
        out(1000), out(1001, to=CLUSTER_IP), out(1002, to=CLUSTER_IP), out(1003), out(1004, to=CLUSTER_IP),
        out(1005, to="node"), out(1006), out(1007), out(1008), out(1009), out(1100), out(1102), out(1103), out(1104), out(1105, to="node"), out(1011, to="node"),
    )  # fmt: skip
    assert arrivals(walks)[1:9] == [
        (POD, 2001), (REMOTE_POD, 2002), (OTHER_POD, 1003), (POD, 1004), ("192.168.0.1", 2005), (OTHER_POD, 2006), (POD, 2007), (POD, 2008),
    ]  # fmt: skip
    assert [each.packet.source for each in walks[-6:-1]] == [
        "10.180.0.1", "192.168.7.1", "192.168.7.1", "192.168.7.1", "203.0.113.77",
    ]  # fmt: skip


def test_a_map_without_the_key_translates_nothing(linux: NftTwin) -> None:
    linux.load(_NAT)
    assert arrivals(linux.agree(out(1050, to=CLUSTER_IP))) == [(CLUSTER_IP, 1050)]


def test_counted_and_hashed_numbers(linux: NftTwin) -> None:
    linux.load(_NAT)
    walks = [linux.agree(out(1010, sport=41000 + number))[0] for number in range(4)]
    assert [host for host, _ in arrivals(walks)] == [POD, OTHER_POD, REMOTE_POD, POD]
    hashed = linux.agree(*[out(1009, sport=42000 + number) for number in range(16)])
    assert {host for host, _ in arrivals(hashed)} == {POD, OTHER_POD}


def test_answers_go_back_through_hooks_without_a_nat_chain(linux: NftTwin) -> None:
    """NFT-3.2: kube-proxy has no chain of type nat in INPUT, and answers to the node's own requests need it."""
    linux.load("""
table ip t {
    chain o { type nat hook output priority -100; policy accept; tcp dport 1000 dnat to 10.180.1.7:2000; }
}
""")
    twin = linux.twin
    twin.exchange([])
    first = twin.send(shot(V4, "node", CLUSTER_IP, 1000, by=""))
    assert first.differences == () and arrivals([first.walk]) == [(REMOTE_POD, 2000)]
    answer = first.answer()
    assert answer is not None
    back = twin.send(Shot(answer), canary=True)
    assert back.differences == () and (back.walk.packet.source, back.walk.packet.sport) == (CLUSTER_IP, 1000)


# --- refusals -----------------------------------------------------------------------------------------------------------

_REJECTS = """
table {space} t {{
    chain p {{
        type filter hook prerouting priority -110; policy accept
        tcp dport 1000 reject
        tcp dport 1001 reject with tcp reset
        udp dport 1002 reject
    }}
    chain i {{ type filter hook input priority 0; policy accept; tcp dport 1003 reject; udp dport 1004 reject; }}
    chain f {{ type filter hook forward priority 0; policy accept; tcp dport 1005 reject; tcp dport 1006 reject with tcp reset; {space} daddr {service} reject; }}
    chain o {{ type filter hook output priority 0; policy accept; tcp dport 1007 reject; udp dport 1008 reject; udp dport 1009 drop; }}
}}
"""


@pytest.mark.parametrize("family", Family)
def test_rejects_in_every_hook_that_takes_them(kernel: None, made: Callable[[Family], NftTwin], family: Family) -> None:
    """K-3.5: nft rejects in prerouting too."""
    linux = made(family)
    linux.load(_REJECTS.format(space=SPACES[family], service=ENDS[family]["service"]))
    node = "192.168.0.1" if family is V4 else "2001:db8:7::1"
    pod, ping = PODS[family][0], "icmp" if family is V4 else "icmpv6"
    sent = [
        *(shot(family, "client", pod, port, protocol=kind) for port, kind in ((1000, "tcp"), (1001, "tcp"), (1002, "udp"), (1005, "tcp"), (1006, "tcp"))),
        shot(family, "pod", "service", 1000 + 10),
        *(shot(family, "client", node, port, protocol=kind) for port, kind in ((1003, "tcp"), (1004, "udp"))),
        *(shot(family, "node", pod, port, by="", protocol=kind) for port, kind in ((1007, "tcp"), (1008, "udp"))),
    ]  # fmt: skip
    echo = Packet(family, ping, number_of(ENDS[family]["client"]), number_of(ENDS[family]["service"]), 77, icmp_type=8 if family is V4 else 128, in_interface="eth0")  # fmt: skip
    walks = linux.agree(*sent, Shot(echo), shot(family, "node", pod, 1009, by="", protocol="udp"))
    assert ends(walks) == ["rejected"] * 11 + ["dropped"]


# --- dynamic sets -------------------------------------------------------------------------------------------------------


def dynamic(rules: str, about: str = "size 100", flags: str = "dynamic") -> str:
    return f"""
table ip t {{
    set s {{ type inet_service; flags {flags}; {about}; }}
    chain f {{
        type filter hook forward priority 0; policy accept
        {rules}
    }}
}}
"""


def test_a_full_set_ends_the_rule(linux: NftTwin) -> None:  # K-9.2
    for verb in ("add", "update"):
        linux.load(
            dynamic(
                f"{verb} @s {{ tcp dport }} accept\nip saddr 203.0.113.9 drop", "size 3; timeout 1h", "dynamic,timeout"
            )
        )
        found = [linux.agree(out(1000 + number, sport=41000 + at))[0] for at, number in enumerate((0, 1, 2, 3, 0))]
        assert ends(found) == ["forwarded"] * 3 + ["dropped", "forwarded"]
        assert linux.members() == {"1000", "1001", "1002"}


def test_delete_does_not_end_the_rule(linux: NftTwin) -> None:
    linux.load(
        dynamic("tcp dport 1000-1001 delete @s { tcp dport } drop\ntcp dport @s drop", "elements = { 1000, 1002 }")
    )
    walks = linux.agree(*map(out, (1000, 1001, 1002, 1003)))
    assert (ends(walks), linux.members()) == (["dropped"] * 3 + ["forwarded"], {"1002"})
    assert ends(linux.agree(out(1000, sport=41000))) == ["dropped"]


def test_what_was_added_is_found_by_the_same_packet(linux: NftTwin) -> None:
    linux.load(dynamic("tcp dport 1000 add @s { tcp dport }\ntcp dport @s drop"))
    assert ends(linux.agree(out(1000), out(1001))) == ["dropped", "forwarded"]


def test_time_and_room_of_expired_members(kernel: None, linux: NftTwin) -> None:
    """An expired member is not found, takes up room until the collector comes, and does not fit again itself before."""
    tight = "update @s { tcp dport } accept\nip saddr 203.0.113.9 drop"
    linux.load(dynamic(tight, "size 2; timeout 300ms; gc-interval 30s", "dynamic,timeout"))
    assert ends(linux.agree(out(1000), out(1001), out(1002))) == ["forwarded", "forwarded", "dropped"]
    time.sleep(0.35)
    assert linux.members() == frozenset()
    assert ends(linux.agree(out(1000, sport=41000), out(1003))) == ["dropped", "dropped"]
    linux.load(dynamic("tcp dport @s drop\nadd @s { tcp dport }", "timeout 300ms", "dynamic,timeout"))
    assert ends(linux.agree(out(1000))) == ["forwarded"]
    assert ends(linux.agree(out(1000, sport=41000))) == ["dropped"]
    time.sleep(0.35)
    assert ends(linux.agree(out(1000, sport=42000))) == ["forwarded"]


def test_update_renews_and_add_does_not(linux: NftTwin) -> None:  # K-9.2
    for verb, renewed in (("update", True), ("add", False)):
        linux.load(
            dynamic(
                f"tcp dport 2000-2009 {verb} @s {{ tcp dport }}\ntcp dport @s tcp sport 45000 drop",
                "timeout 400ms",
                "dynamic,timeout",
            )
        )
        for sport in (41000, 42000):
            linux.agree(out(2000, sport=sport))
            time.sleep(0.25)
        if not renewed:
            assert linux.members() == frozenset()
        else:
            assert linux.members() == {"2000"}
        at = SetId(TableKey(Space.IP, "t"), "s")
        (member,) = linux.twin.model.memory.sets.members(
            at, linux.twin.model.rulesets[V4].table("t").sets["s"].generation
        ).values()
        assert member.lives(linux.twin.clock.now_ns()) is renewed
