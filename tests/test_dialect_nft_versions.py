"""What nft dumps of other versions and of other programs hold: kube-proxy until 1.35, chains of frames, what is not modelled."""

import pytest
from nft_documents import only

from kpsim.addresses import Family
from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.errors import InputError
from kpsim.explore.site import rules_site
from kpsim.replay import START_NS
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    FOREIGN,
    Base,
    BridgePort,
    ChainType,
    Compare,
    Field,
    Hook,
    Lookup,
    Origin,
    Role,
    Ruleset,
    SetReference,
    Space,
    TableKey,
    Unknown,
    Unmodelled,
    named,
)
from kpsim.tracing.explain import Depth
from kpsim.tracing.probes import first_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import trace_packet

#: kube-proxy until 1.35: a chain for each endpoint, a chain that sets the mark
OLDER = """table ip kube-proxy {
	comment "rules for kube-proxy"
	set cluster-ips {
		type ipv4_addr
		elements = { 10.96.0.10 }
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . tcp . 80 : goto service-KHN6ECMT-shop/web/tcp/http,
				192.0.2.20 . tcp . 80 : goto external-KHN6ECMT-shop/web/tcp/http }
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority dstnat; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain masquerading {
		meta mark & 0x00004000 == 0x00000000 return
		meta mark set meta mark ^ 0x00004000
		masquerade fully-random counter packets 3 bytes 180
	}
	chain mark-for-masquerade {
		meta mark set meta mark | 0x00004000
	}
	chain external-KHN6ECMT-shop/web/tcp/http {
		jump mark-for-masquerade
		goto service-KHN6ECMT-shop/web/tcp/http
	}
	chain service-KHN6ECMT-shop/web/tcp/http {
		ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
		numgen random mod 1 vmap { 0 : goto endpoint-AAAAAAAA-shop/web/tcp/http__10.244.1.5/8080 }
	}
	chain endpoint-AAAAAAAA-shop/web/tcp/http__10.244.1.5/8080 {
		ip saddr 10.244.1.5 jump mark-for-masquerade
		meta l4proto tcp dnat to 10.244.1.5:8080
	}
}
"""


def test_the_older_generation_of_kube_proxy_is_recognised() -> None:
    table = only(OLDER).tables[TableKey(Space.IP, "kube-proxy")]
    web = ("shop/web:http", "TCP")
    roles = {name.partition("-")[0]: [rule.origin for rule in chain.rules] for name, chain in table.chains.items()}
    assert roles["external"] == [Origin(Role.MASQUERADE_EXTERNAL, *web), Origin(Role.EXTERNAL_POLICY, *web)]
    assert roles["service"] == [Origin(Role.MASQUERADE_CLUSTER_IP, *web), Origin(Role.BALANCE, *web)]
    assert roles["endpoint"] == [
        Origin(Role.HAIRPIN, *web, "10.244.1.5:8080"),
        Origin(Role.ENDPOINT, *web, "10.244.1.5:8080"),
    ]
    assert {origin.role for origin in roles["masquerading"]} == {Role.POSTROUTING}
    assert roles["mark"] == [Origin(Role.MARK_MASQ)]
    assert all(origin != FOREIGN for origins in roles.values() for origin in origins)


def test_packets_run_through_the_older_generation() -> None:
    """A client outside the pod network is masqueraded at the cluster IP, a pod is not."""
    site = rules_site(*DIALECT.parse(OLDER), node_ips=["192.0.2.254/24"], pod_cidrs=["10.244.1.0/24"])
    for src, sender, masqueraded in (("192.0.2.9", Sender.EXTERNAL, True), ("10.244.1.9", Sender.POD, False)):
        packet = first_packet("10.96.0.10:80", src=src)
        text = trace_packet(site, packet, node="node", sender=sender, now_ns=START_NS).text(Depth.SUMMARY)
        assert "delivered to 10.244.1.5:8080" in text
        assert ("masqueraded" in text.splitlines()[-2]) == masqueraded
        assert "rule 1: cluster IP of shop/web:http" in text
        assert "{ 10.96.0.10 . tcp . 80 : goto service-KHN6ECMT-shop/web/tcp/http }" in text


def test_what_stands_behind_the_end_of_a_rule_is_listed_and_does_nothing() -> None:
    """nft does not take it from a person; programs that speak to the kernel load it."""
    [rule] = only(OLDER).tables[TableKey(Space.IP, "kube-proxy")].chains["masquerading"].rules[2:]
    assert len(rule.body) == 1
    assert "masquerade fully-random counter packets 3 bytes 180" in DIALECT.render(only(OLDER), Form.LISTED)
    with pytest.raises(InputError, match="behind one that ends the rule has no effect"):
        DIALECT.parse("add table ip t\nadd chain ip t c\nadd rule ip t c masquerade counter\n")


FRAMES = """table netdev edge {
	chain in {
		type filter hook ingress device "eth0" priority -500; policy accept;
		ip saddr 192.0.2.66 drop
	}
}
table arp a {
	chain c {
		type filter hook input priority 0; policy drop;
	}
}
table bridge quiet {
	chain c {
		type filter hook forward priority 0; policy accept;
	}
}
"""


def test_chains_of_frames_are_refused_or_leave_their_packets_unknown() -> None:
    """A chain of netdev may drop any packet of its device; one of arp sees no IP packet; an empty one does nothing."""
    with pytest.raises(InputError, match=r"table netdev edge: chains that see frames \(in\) are not modelled"):
        DIALECT.parse(FRAMES)
    site = rules_site(*DIALECT.parse(FRAMES, unknown="keep"), node_ips=["192.0.2.254/24"], pod_cidrs=["10.244.1.0/24"])
    met = trace_packet(site, first_packet("10.244.1.5:80"), node="node", sender=Sender.EXTERNAL, now_ns=START_NS)
    assert "unknown: node met a rule that is not modelled: table netdev edge, chain in" in met.text(Depth.SUMMARY)
    passed = trace_packet(site, first_packet("192.0.2.9:80"), node="node", sender=Sender.POD, now_ns=START_NS)
    assert "unknown" not in passed.text(Depth.SUMMARY)


SEEING = """table netdev e {
	chain in {
		type filter hook ingress device "eth0" priority 0; policy accept;
		drop
	}
	chain out {
		type filter hook egress devices = { eth1, "eth0" } priority 0; policy drop;
	}
	chain idle {
		type filter hook ingress device "eth0" priority 5; policy accept;
	}
}
table bridge b {
	chain c {
		type filter hook forward priority 0; policy drop;
	}
}
table inet i {
	chain early {
		type filter hook ingress device "eth2" priority 0; policy accept;
		accept
	}
	chain late {
		type filter hook forward priority 0; policy accept;
		accept
	}
}
table arp a {
	chain c {
		type filter hook input priority 0; policy drop;
	}
}
"""


def test_frames_are_met_before_or_behind_all_packets() -> None:
    """Ingress comes before every chain of packets, egress behind them. A bridge forwards what came in by its ports."""
    first, second = DIALECT.parse(SEEING, unknown="keep")
    assert first.tables == second.tables
    found = {
        (key.name, name): (chain.base, [rule.body for rule in chain.rules])
        for key, table in first.tables.items()
        for name, chain in table.chains.items()
    }
    before, behind = (
        Base(ChainType.FILTER, hook, at) for hook, at in ((Hook.PREROUTING, -(2**31)), (Hook.POSTROUTING, 2**31 - 1))
    )
    assert found == {
        ("netdev e", "in"): (before, [(named(Field.IIFNAME, "eth0"), Unmodelled("table netdev e, chain in"))]),
        ("netdev e", "out"): (behind, [(named(Field.OIFNAME, "eth0", "eth1"), Unmodelled("table netdev e, chain out"))]),
        ("bridge b", "c"): (before, [(BridgePort("in"), Unmodelled("table bridge b, chain c"))]),
        ("inet i", "early"): (before, [(named(Field.IIFNAME, "eth2"), Unmodelled("table inet i, chain early"))]),
        ("i", "early"): (None, [(ACCEPT,)]), ("i", "late"): (Base(ChainType.FILTER, Hook.FORWARD, 0), [(ACCEPT,)]),
    }  # fmt: skip
    with pytest.raises(InputError) as refused:
        DIALECT.parse(SEEING, file="f")
    assert [str(problem) for problem in refused.value.problems] == [
        f"f:{line}: table {table}: chains that see frames ({chains}) are not modelled, and may drop IP packets; with --allow-unknown "
        "packets that pass them end unknown"
        for line, table, chains in ((1, "netdev e", "in, out"), (13, "bridge b", "c"), (18, "inet i", "early"))
    ]


def test_what_is_not_modelled_is_kept_on_request() -> None:
    """A match may be true or false, a statement may do anything; a rule that names a set of an unknown type too."""
    text = """table ip t {
	set macs {
		type ether_addr
	}
	chain c {
		type filter hook forward priority 0; policy accept;
		ip id 5 drop
		ip daddr 10.244.1.7 ether saddr @macs drop
		ip daddr 10.244.1.6 queue num 1
	}
}
"""
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert [str(problem) for problem in refused.value.problems] == [
        "f:2: set macs: not modelled: the type ether_addr",
        "f:7: not modelled: ip id (t/c rule 1)",
        "f:8: not modelled: ether saddr (t/c rule 2)",
        "f:9: not modelled: queue (t/c rule 3)",
    ]
    chain = only(text, unknown="keep").tables[TableKey(Space.IP, "t")].chains["c"]
    assert [str(part) for rule in chain.rules for part in rule.body if type(part) in (Unknown, Unmodelled)] == [
        "Unknown(words='ip id 5')",
        "Unknown(words='ether saddr @macs')",
        "Unmodelled(words='queue num 1')",
    ]
    assert "ip daddr 10.244.1.7 ether saddr @macs drop" in DIALECT.render(only(text, unknown="keep"), Form.LISTED)


LIMITED = """table inet t {
	set s {
		type ipv4_addr
		size 65535
		flags dynamic
		elements = { 10.0.0.1 limit rate 5/second, 10.0.0.2 last used 5s, 10.0.0.3 last used never, 10.0.0.4 counter packets 1 bytes 2 }
	}
	set p {
		type inet_service
		size 65535
		flags dynamic
		elements = { 80 quota 5 bytes used 3 bytes }
	}
	set q {
		type inet_service
		size 65535
		flags dynamic
		elements = { 80 ct count over 5 }
	}
	set n {
		type ipv4_addr
		last
		counter
		elements = { 10.0.0.1 counter packets 1 bytes 2 }
	}
	chain c {
		ip saddr @n accept
		tcp dport 80 ip saddr @s counter packets 1 bytes 2 drop comment "a"
		tcp dport @p ip saddr != @s drop
		tcp dport @q accept
	}
}
"""


def test_a_look_up_in_a_set_whose_elements_have_limits_is_a_condition_that_may_be_false() -> None:
    """The kernel asks the limit of the element then. nft 1.0.8 and later list when an element was last used."""
    with pytest.raises(InputError) as refused:
        DIALECT.parse(LIMITED, file="f")
    assert [str(problem) for problem in refused.value.problems] == [
        "f:28: not modelled: a look-up in s, whose elements have limits (t/c rule 2)",
        "f:29: not modelled: a look-up in p, whose elements have limits (t/c rule 3)",
        "f:29: not modelled: a look-up in s, whose elements have limits (t/c rule 3)",
        "f:30: not modelled: a look-up in q, whose elements have limits (t/c rule 4)",
    ]
    found = DIALECT.parse(LIMITED, unknown="keep")
    chain = found[0].tables[TableKey(Space.INET, "t")].chains["c"]
    tcp, ipv4 = named(Field.L4PROTO, "tcp"), named(Field.NFPROTO, "ipv4")
    assert [rule.body for rule in chain.rules] == [
        (ipv4, Lookup((Field.SADDR,), SetReference("n")), ACCEPT),
        (tcp, Compare(Field.DPORT, ((80, 80),)), ipv4, Unknown("ip saddr @s"), DROP),
        (tcp, Unknown("tcp dport @p"), ipv4, Unknown("ip saddr != @s"), DROP),
        (tcp, Unknown("tcp dport @q"), ACCEPT),
    ]
    listed = DIALECT.render(found[0], Form.LISTED)
    assert LIMITED[LIMITED.index("\tchain c") :] in listed


AS_ADDED = """table ip t {
	set s {
		type ipv4_addr . inet_service
		flags interval
		elements = { 10.0.0.0/8 . 80,
\t\t\t     10.1.0.0/16 . 81,
\t\t\t     9.0.0.0/8 . 5,
\t\t\t     10.0.0.0/8 . 70-90 }
	}

	chain c {
		jump {
			accept
		}
	}
}
"""


def test_intervals_of_several_fields_are_listed_as_they_were_added() -> None:
    """As nft 1.0.6 lists them, and a rule that is a chain alone."""
    assert DIALECT.render(only(AS_ADDED), Form.LISTED) == AS_ADDED


def test_a_set_that_is_not_modelled_is_named_by_the_rule_that_asks_it() -> None:
    text = "add table ip t\nadd set ip t s { type ipv4_addr ; quota 5 bytes ; }\nadd chain ip t c\nadd rule ip t c ip saddr @s drop\n"
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text)
    assert [problem.message for problem in refused.value.problems] == [
        "set s: not modelled: quota for each element of a set",
        "not modelled: set s (t/c rule 1)",
    ]


def test_a_chain_of_frames_may_be_declared_again() -> None:
    """With the same priority, in words or as a number that is not compared with them."""
    text = "add table inet t\n{0}\n{0}\n".format(
        'add chain inet t c { type filter hook ingress device "eth0" priority filter ; policy drop ; }'
    )
    assert [len(each.tables) for each in DIALECT.parse(text, unknown="keep")] == [2, 2]
    with pytest.raises(InputError, match="chain c exists with another type, hook or priority"):
        DIALECT.parse(text.replace("filter ; policy drop ; }\n", "5 ; }\n", 1), unknown="keep")


def test_the_families_of_a_text_are_those_of_its_tables() -> None:
    """Rules of inet tables are of both. Without a table a text is of both, too."""
    texts = (
        "add table ip t\n",
        "delete table ip t\nadd table ip6 t\n",
        "table inet t {\n}\n",
        "flush ruleset\n",
        "create table ip t\nadd table ip6 t\n",
    )
    ip, ip6 = (Family.IPV4,), (Family.IPV6,)
    assert [DIALECT.families(text) for text in texts] == [ip, ip6, ip + ip6, ip + ip6, ip + ip6]
    assert DIALECT.families('\ufeff{"nftables": [{"table": {"family": "ip6", "name": "t"}}]}') == ip6
    both = "add table ip t\nadd table ip6 u\n"
    assert [list(each.tables) for each in DIALECT.parse(both)] == [
        [TableKey(Space.IP, "t")],
        [TableKey(Space.IP6, "u")],
    ]
    assert [list(each.tables) for each in DIALECT.parse(both, Family.IPV6)] == [[TableKey(Space.IP6, "u")]]
    assert DIALECT.parse(texts[0], Family.IPV6) == (Ruleset(Family.IPV6),)
    assert DIALECT.reads('{"nftables": []}') and not DIALECT.reads('{"tables": []}')


OWNED = """# Warning: table ip raw is managed by iptables-nft, do not touch!
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
}
# Warning: table ip6 filter is managed by iptables-nft, do not touch!
table ip6 filter {
}
# Warning: table bridge nat is managed by iptables-nft, do not touch!
table bridge nat {
}
table ip mine {
}
"""


def test_tables_of_iptables_are_named_with_the_tool_that_saves_them() -> None:
    """iptables-nft writes the warning above each; a table that is given as its own tool saves it is not asked for."""
    said = "f:{}: table {} is managed by iptables-nft: give the output of {} as well, or --allow-unknown"
    ip, ip6 = said.format(3, "ip filter", "iptables-save"), said.format(6, "ip6 filter", "ip6tables-save")
    bridge = said.format(9, "bridge nat", "iptables-save")
    for elsewhere, wanted in (((), [ip, ip6, bridge]), ((TableKey(Space.IP, "filter"),), [ip6, bridge])):
        with pytest.raises(InputError) as refused:
            DIALECT.parse(OWNED, file="f", elsewhere=elsewhere)
        assert [str(problem) for problem in refused.value.problems] == wanted
    assert [[key.name for key in each.tables] for each in DIALECT.parse(OWNED, unknown="keep")] == [
        ["filter", "mine"],
        ["filter"],
    ]
