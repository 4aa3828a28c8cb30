"""Documents of nft: kube-proxy's table in three forms, files of real machines, what is wrong in them (NFT-10, NFT-13, NFT-14)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from nft_documents import only

from kpsim.addresses import Family
from kpsim.dialects import Form, dialect_of, dialect_reading
from kpsim.dialects.nft.commands import dump
from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.document_syntax import items_of
from kpsim.dialects.nft.json_form import json_text
from kpsim.dialects.nft.listing import rule_words
from kpsim.errors import InputError
from kpsim.explore.loading import load
from kpsim.explore.saved import read_machine
from kpsim.explore.site import rules_site
from kpsim.maps import Map
from kpsim.replay import START_NS
from kpsim.ruleset import (
    FOREIGN,
    Chain,
    Dispatch,
    Dnat,
    Hook,
    Log,
    Origin,
    Role,
    Rule,
    Ruleset,
    Space,
    Table,
    TableKey,
    Verdict,
)
from kpsim.tracing.explain import Depth
from kpsim.tracing.probes import first_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import trace_packet

HERE = Path(__file__).parent / "dialects"
FAMILIES = (Family.IPV4, Family.IPV6)


def document(family: Family, ending: str) -> str:
    """kube-proxy's table of the complete examples NFT-13 and NFT-14: as sent, as nft 1.0.6 lists it and prints it as JSON."""
    return (HERE / f"nft_kube_proxy_{family.label.lower()}{ending}").read_text()


def table_of(family: Family, ending: str) -> Table:
    return only(document(family, ending)).tables[TableKey(Space.of(family), "kube-proxy")]


def uncommented(table: Table) -> Table:
    """nft 1.0 leaves comments of tables and chains out of JSON."""
    chains = {name: Chain(name, chain.rules, chain.base) for name, chain in table.chains.items()}
    return replace(table, chains=Map(chains), comment="")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.label)
def test_what_is_sent_is_written_again_as_it_was(family: Family) -> None:
    """NFT-10.3. The recording's elements are in no order."""
    lines = document(family, "_sent.txt").splitlines()
    assert sorted(dump(table_of(family, "_sent.txt"))) == sorted(lines)


@pytest.mark.parametrize("ending", ["_listed.txt", ".json"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.label)
def test_the_forms_hold_the_same_table(family: Family, ending: str) -> None:
    """NFT-10.4: what the kernel lists is what it was sent."""
    assert uncommented(table_of(family, ending)) == uncommented(table_of(family, "_sent.txt"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.label)
def test_a_table_is_read_from_what_is_written_of_it(family: Family) -> None:
    ruleset = only(document(family, "_sent.txt"))
    assert only(DIALECT.render(ruleset, Form.LISTED)) == ruleset
    assert only(json_text(ruleset)) == ruleset
    assert only(DIALECT.render(ruleset, Form.SENT)) == ruleset


def test_the_listing_of_a_table_is_that_of_nft() -> None:
    """NFT-10.4 line by line, but for the order of chains and of elements in hash order."""
    for family in FAMILIES:
        listed = document(family, "_listed.txt")
        written = DIALECT.render(only(document(family, "_sent.txt")), Form.LISTED)
        assert _lines(written) == _lines(listed)


def _lines(listed: str) -> list[str]:
    elements = [line.removeprefix("elements = {").strip(" ,}") for line in map(str.strip, listed.splitlines())]
    return sorted(each for line in elements for each in line.split(", ") if each)


@pytest.mark.parametrize("ending", ["_sent.txt", "_listed.txt", ".json"])
def test_origins_come_back_from_names(ending: str) -> None:
    """NFT-2, NFT-6.5: names of chains say the service port, the element's comment says whom it refuses."""
    table = table_of(Family.IPV4, ending)
    api, web = ("shop/api:https", "TCP"), ("shop/web:http", "TCP")
    by_name = {name: [rule.origin for rule in chain.rules] for name, chain in table.chains.items()}
    assert by_name["local-F4VWTUNH-shop/api/tcp/https"] == [
        Origin(Role.AFFINITY, *api, "10.244.1.6:8443"),
        Origin(Role.BALANCE, *api),
    ]
    assert by_name["external-F4VWTUNH-shop/api/tcp/https"] == [
        Origin(Role.SHORT_CIRCUIT_POD, *api),
        Origin(Role.MASQUERADE_EXTERNAL, *api),
        Origin(Role.SHORT_CIRCUIT_LOCAL, *api),
        Origin(Role.EXTERNAL_POLICY, *api),
    ]
    assert by_name["firewall-F4VWTUNH-shop/api/tcp/https"] == [Origin(Role.SOURCE_RANGE_DROP, *api)]
    assert (
        by_name["endpoint-L3NRBLXW-shop/api/tcp/https__10.244.1.6/8443"]
        == [Origin(Role.ENDPOINT, *api, "10.244.1.6:8443")] * 2
    )
    assert by_name["service-KHN6ECMT-shop/web/tcp/http"] == [Origin(Role.BALANCE, *web)]
    assert by_name["cluster-ips-check"] == [Origin(Role.UNDEFINED_PORT), Origin(Role.UNALLOCATED_CLUSTER_IP)]
    assert by_name["masquerading"] == [Origin(Role.POSTROUTING), Origin(Role.HAIRPIN)]
    assert by_name["services"] == [Origin(Role.MASQUERADE_CLUSTER_IP), Origin(Role.SERVICES), Origin(Role.NODE_PORTS)]
    assert all(origin != FOREIGN for origins in by_name.values() for origin in origins)


def test_elements_have_origins_too() -> None:
    """A verdict out of a map is due to the element."""
    table = table_of(Family.IPV4, "_listed.txt")
    found = {(name, element.origin) for name, each in table.sets.items() for element in each.elements.values()}
    assert {
        ("service-ips", Origin(Role.CLUSTER_IP, "shop/web:http", "TCP")),
        ("service-ips", Origin(Role.LOAD_BALANCER, "shop/api:https", "TCP")),
        ("service-ips", Origin(Role.EXTERNAL_IP, "shop/api:https", "TCP")),
        ("service-nodeports", Origin(Role.NODE_PORT, "shop/edge:p", "TCP")),
        ("firewall-ips", Origin(Role.SOURCE_RANGE, "shop/api:https", "TCP")),
        ("no-endpoint-services", Origin(Role.NO_LOCAL_ENDPOINTS, "shop/agent", "TCP")),
        ("no-endpoint-nodeports", Origin(Role.NO_ENDPOINTS, "shop/dns:dns", "UDP")),
    } <= found  # fmt: skip
    [rule] = table.chains["service-KHN6ECMT-shop/web/tcp/http"].rules
    elements = rule.target.mapped.map.elements  # type: ignore[union-attr]
    assert [each.origin.endpoint for each in elements.values()] == ["10.244.1.5:8080", "10.244.2.7:8080"]


HTTP, SIG, DNS = ("ns1/svc1:http", "TCP"), ("ns1/svc1:sig", "SCTP"), ("ns1/svc2", "UDP")
TO_HTTP, TO_SIG = (
    ("[fd00:10:244:1::5]:8080", "[fd00:10:244:2::7]:8080"),
    ("[fd00:10:244:1::5]:5060", "[fd00:10:244:2::7]:5060"),
)


def test_every_rule_and_element_has_its_reason() -> None:
    """NFT-3.2, NFT-5, NFT-6."""
    table = table_of(Family.IPV6, "_listed.txt")
    jumps, told = (
        [Origin(Role.JUMP)],
        {name: [rule.origin for rule in chain.rules] for name, chain in table.chains.items()},
    )
    expected = {
        **{f"filter-{each}": jumps * 2 for each in ("forward", "input", "output")},
        **{f"filter-{each}-pre-dnat": jumps for each in ("output", "prerouting")},
        **{f"nat-{each}": jumps for each in ("output", "postrouting", "prerouting")},
        "cluster-ips-check": [Origin(Role.UNDEFINED_PORT), Origin(Role.UNALLOCATED_CLUSTER_IP)], "firewall-check": [Origin(Role.SOURCE_RANGE)],
        "masquerading": [Origin(Role.POSTROUTING), Origin(Role.HAIRPIN)],
        **{each: [Origin(Role.NO_ENDPOINTS)] for each in ("nodeport-endpoints-check", "service-endpoints-check", "reject-chain")},
        "services": [Origin(Role.MASQUERADE_CLUSTER_IP), Origin(Role.SERVICES), Origin(Role.NODE_PORTS)],
        "service-FZBRUHDI-ns1/svc2/udp/": [Origin(Role.BALANCE, *DNS)],
    }  # fmt: skip
    for port, service, (near, far) in (
        ("IRZ7C4BT-ns1/svc1/sctp/sig", SIG, TO_SIG),
        ("VTO5ESCN-ns1/svc1/tcp/http", HTTP, TO_HTTP),
    ):
        expected[f"external-{port}"] = [
            Origin(Role.MASQUERADE_EXTERNAL, *service),
            Origin(Role.EXTERNAL_POLICY, *service),
        ]
        expected[f"service-{port}"] = [
            *(Origin(Role.AFFINITY, *service, to) for to in (near, far)), Origin(Role.BALANCE, *service),
        ]  # fmt: skip
        *_, draw = table.chains[f"service-{port}"].rules
        assert isinstance(draw.target, Dispatch)
        elements = draw.target.map.elements.values()  # type: ignore[union-attr]
        assert [each.origin for each in elements] == [Origin(Role.BALANCE, *service, to) for to in (near, far)]
    endpoints = {name: told.pop(name) for name in [*told] if name.startswith("endpoint-")}
    assert told == expected
    assert (
        endpoints["endpoint-SKLCD6XU-ns1/svc1/tcp/http__fd00.10.244.1..5/8080"]
        == [Origin(Role.ENDPOINT, *HTTP, TO_HTTP[0])] * 2
    )
    assert {len(each) for each in endpoints.values()} == {2}
    [lookup] = table.chains["service-FZBRUHDI-ns1/svc2/udp/"].rules
    assert isinstance(lookup.target, Dnat)
    assert lookup.target.mapped is not None
    [to] = lookup.target.mapped.map.elements.values()  # type: ignore[union-attr]
    assert to.origin == Origin(Role.ENDPOINT, *DNS, "[fd00:10:244:2::9]:5353")
    reasons = {name: {each.origin for each in made.elements.values()} for name, made in table.sets.items()}
    assert {name: each for name, each in reasons.items() if each} == {
        "cluster-ips": {Origin(Role.CLUSTER_IP)}, "hairpin-connections": {Origin(Role.HAIRPIN)},
        "service-ips": {Origin(Role.CLUSTER_IP, *each) for each in (HTTP, SIG, DNS)},
        "service-nodeports": {Origin(Role.NODE_PORT, *each) for each in (HTTP, SIG)},
    }  # fmt: skip


def test_what_others_put_into_the_table_has_no_reason() -> None:
    """Nor has a table of that name in another space, or an element that leads to no Service's chain."""
    text = """table {space} kube-proxy {{
	map mine {{
		type inet_service : verdict
		elements = {{ 80 : drop }}
	}}
	map service-nodeports {{
		type inet_proto . inet_service : verdict
		elements = {{ tcp . 80 : drop, tcp . 81 : goto own }}
	}}
	chain own {{
		tcp dport vmap @mine
		ip saddr 10.0.0.1 drop
		tcp dport vmap {{ 80 : drop }}
	}}
	set client {{
		type ipv4_addr
	}}
	chain service-AAAAAAAA-shop/web/tcp/http {{
		ip saddr @client drop
		ip saddr @client goto own
		tcp dport 80 numgen random mod 2 vmap {{ 0 : goto own, 1 : drop }}
	}}
}}
"""
    table = only(text.format(space="ip")).tables[TableKey(Space.IP, "kube-proxy")]
    assert [rule.origin for rule in table.chains["own"].rules] == [FOREIGN] * 3
    assert [each.origin for each in table.sets["service-nodeports"].elements.values()] == [Origin(Role.NODE_PORT)] * 2
    *theirs, draw = table.chains["service-AAAAAAAA-shop/web/tcp/http"].rules
    assert len(draw.body) == 3
    assert {rule.origin[1:] for rule in theirs} == {("shop/web:http", "TCP", "")}
    assert isinstance(draw.target, Dispatch)
    assert {each.origin for each in draw.target.map.elements.values()} == {Origin(Role.BALANCE, "shop/web:http", "TCP")}  # type: ignore[union-attr]
    foreign, _ = DIALECT.parse(text.format(space="inet"))
    assert {
        rule.origin
        for chain in foreign.tables[TableKey(Space.INET, "kube-proxy")].chains.values()
        for rule in chain.rules
    } == {FOREIGN}


# --- documents of real machines ---------------------------------------------------------------------------------------

HOST = """# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		xt target "MASQUERADE"
	}
}
table inet host { # handle 3
	flags dormant
	comment "ours"
	counter seen { # handle 2
		packets 5 bytes 300
	}
	set clients { # handle 4
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 1m
		elements = { 192.0.2.1 expires 12s500ms, 192.0.2.2 timeout 5m expires 4m }
	}
	chain input { # handle 1
		type filter hook input priority filter - 5; policy drop;
		counter name "seen" tcp dport { 22, 80 } counter packets 3 bytes 180 accept # handle 7
		update @clients { ip saddr }
		ip saddr 192.0.2.0/24 jump {
			udp dport 53 accept
		}
	}
}
"""
SAVED = "# Generated by iptables-save v1.8.9\n*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"


def host(**options: object) -> tuple[Ruleset, ...]:
    return DIALECT.parse(HOST, elsewhere=[TableKey(Space.IP, "nat")], **options)  # type: ignore[arg-type]


def test_an_inet_table_stands_in_the_rulesets_of_both_families() -> None:
    key = TableKey(Space.INET, "host")
    first, second = host()
    assert (first.family, second.family) == FAMILIES
    assert first.tables[key] == second.tables[key]
    assert dict(first.tables).keys() == {key}
    table = first.tables[key]
    base = table.chains["input"].base
    assert base is not None
    assert (base.hook, base.priority, base.policy) == (Hook.INPUT, -5, Verdict.DROP)
    assert (table.dormant, table.comment) == (True, "ours")


def test_counts_and_handles_are_read_and_not_part_of_the_value() -> None:
    without = (
        HOST.replace(" counter packets 3 bytes 180", " counter")
        .replace(" # handle 7", "")
        .replace("packets 5 bytes 300", "packets 0 bytes 0")
    )
    assert DIALECT.parse(without, elsewhere=[TableKey(Space.IP, "nat")]) == host()


def test_members_that_packets_put_in_are_kept_apart_from_elements() -> None:
    """What a packet put into a set expires; what a tool put in without a time does not."""
    clients = host()[0].tables[TableKey(Space.INET, "host")].sets["clients"]
    assert not clients.elements
    assert clients.members == (((0xC0000201,), 12_500_000_000), ((0xC0000202,), 240_000_000_000))
    assert "elements = { 192.0.2.1 expires 12s, 192.0.2.2 expires 4m }\n" in DIALECT.render(host()[0], Form.LISTED)


def test_a_chain_without_name_is_written_in_its_rule_again() -> None:
    """nft lists it in place; the kernel gives it a name."""
    ruleset = host()[0]
    assert "ip saddr 192.0.2.0/24 jump {\n\t\t\tudp dport 53 accept\n\t\t}\n" in DIALECT.render(ruleset, Form.LISTED)


def test_tables_of_iptables_are_read_from_iptables_save(tmp_path: Path) -> None:
    """nft lists tables of iptables-nft in a translation that leaves words out, under a warning."""
    nft, saved = tmp_path / "all.nft", tmp_path / "nat.rules"
    nft.write_text(HOST)
    saved.write_text(SAVED)
    with pytest.raises(
        InputError, match="table ip nat is managed by iptables-nft: give the output of iptables-save as well"
    ):
        read_machine([nft], None, Family.IPV4)
    first, _ = read_machine([nft, saved], None, Family.IPV4)
    [rule] = first.ruleset.tables[TableKey(Space.IP, "nat")].chains["POSTROUTING"].rules
    assert dialect_of(TableKey(Space.IP, "nat"), rule).name == "iptables"
    assert TableKey(Space.INET, "host") in first.ruleset.tables


def test_json_of_iptables_tables_names_what_it_hides() -> None:
    """nft -j prints `{"xt": …}` for what iptables-nft wrote."""
    chain = (
        '{"chain": {"family": "ip", "table": "nat", "name": "P", "type": "nat", "hook": "postrouting", "prio": 100}}'
    )
    rule = '{"rule": {"family": "ip", "table": "nat", "chain": "P", "expr": [{"xt": {"type": "target", "name": "MASQUERADE"}}]}}'
    text = f'{{"nftables": [{{"table": {{"family": "ip", "name": "nat"}}}}, {chain}, {rule}]}}'
    with pytest.raises(
        InputError, match="not modelled: xt MASQUERADE, which iptables-nft wrote: give the output of iptables-save"
    ):
        DIALECT.parse(text)


def test_a_table_with_iptables_name_that_nft_wrote_is_nft() -> None:
    """People name tables filter and nat; their rules are not iptables'."""
    ruleset = only(
        "table ip filter {\n chain input {\n type filter hook input priority 0;\n ip saddr 10.0.0.1 drop\n }\n}\n"
    )
    key = TableKey(Space.IP, "filter")
    [rule] = ruleset.tables[key].chains["input"].rules
    assert dialect_of(key, rule).name == "nft"


def test_variables_are_put_in() -> None:
    """define holds a value, or a list; lists within lists are opened."""
    text = """define lan = 10.0.0.0/8
define more = { $lan, 192.168.0.0/16 }
table ip t {
	chain c {
		type filter hook input priority 0
		ip saddr { $more, 172.16.0.0/12 } accept
		ip daddr $lan drop
	}
}
"""
    plain = text.replace("define lan = 10.0.0.0/8\ndefine more = { $lan, 192.168.0.0/16 }\n", "").replace(
        "{ $more, 172", "{ 10.0.0.0/8, 192.168.0.0/16, 172").replace("$lan", "10.0.0.0/8")  # fmt: skip
    assert DIALECT.parse(text) == DIALECT.parse(plain)


def test_a_definition_stands_where_a_command_or_a_rule_may() -> None:
    """nft's default family is ip."""
    text = (
        "table t { define p = 80\n chain c { define q = 81; tcp dport $p accept\n tcp dport $q accept; define r = 82\n"
        " tcp dport $r drop\n }\n}\ndefine s = 83; add rule t c tcp dport $s drop\n"
    )
    rules = "".join(f"add rule ip t c tcp dport {each}\n" for each in ("80 accept", "81 accept", "82 drop", "83 drop"))
    assert DIALECT.parse(text) == DIALECT.parse(f"add table t\nadd chain t c\n{rules}")


def test_signs_in_quotes_end_no_definition() -> None:
    text = 'table ip t {\n chain c {\n  define a = ";"\n  define b = "{"; log prefix $a\n  log prefix $b\n }\n}\n'
    [one, other] = only(text).tables[TableKey(Space.IP, "t")].chains["c"].rules
    assert (one.body, other.body) == ((Log('prefix ";"', "log"),), (Log('prefix "{"', "log"),))


def test_words_of_a_variable_keep_their_distance() -> None:
    """``eth0 . lo`` are two interfaces, ``eth0.lo`` is one. nft 1.0.6 lists both rules alike."""
    rule = "table ip t {{\n\tchain c {{\n\t\tiifname . oifname {{ {} }} accept\n\t}}\n}}\n"
    defined = "define first = eth0 . lo\ndefine second = eth1\t.\tlo\ndefine both = {\n\t$first,\n\teth0.5 . $lo\n}\n"
    defined = "define lo = lo\n" + defined
    assert DIALECT.parse(defined + rule.format("$both, $second")) == DIALECT.parse(
        rule.format('"eth0" . "lo", "eth0.5" . "lo", "eth1" . "lo"')
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table ip t {\n chain c {\n  tcp dport ssh accept\n }\n}\n", "f:3: not a port: ssh. The port of a service's name depends on"),
        ("include \"x\"\ntable ip t {\n}\n", "f:1: include: another file"),
        ("table ip t {\n chain c {\n  ip saddr $x drop\n }\n}\n", "f:3: \\$x is not defined in this file"),
        ("table ip t {\n chain c {\n  ip saddr 1.2.3.4 frobnicate\n }\n}\n", "f:3: expected a statement, not 'frobnicate'"),
        ("table ip t {\n chain c {\n  ip saddr 1.2.3.4 jump d\n }\n}\n", "there is no chain d"),
        ("table ip t {\n chain c {\n  ip saddr @s drop\n }\n}\n", "f:3: there is no set or map s in this table"),
        ("table ip t {\n chain c {\n  ip saddr 1.2.3.4-1.2.3.1 drop\n }\n}\n", "f:3: a range upside down"),
        ("table ip t {\n chain c {\n  ip saddr fd00::1 drop\n }\n}\n", "f:3: not an IPv4 address: fd00::1"),
        ("table ip t {\n chain c {\n  ip6 saddr fd00::1 drop\n }\n}\n", "f:3: conflicting protocols: IPv6 in a rule for IPv4 packets"),
        ("table ip t {\n chain c {\n  type filter hook sideways priority 0;\n }\n}\n", "hook sideways is not modelled"),
        ("table ip t {\n chain c {\n  type filter hook input priority dstnat;\n }\n}\n", "priority dstnat is not known at hook input"),
        ("table bridge b {\n chain c {\n  type filter hook forward priority 0;\n  drop\n }\n}\n", "chains that see frames \\(c\\) are not modelled"),
        ("table ip t {\n chain c {\n  ip saddr", "f:3: expected a value, not the end of the line"),
        ("table ip t {\n chain c {\n  tcp", "f:3: expected a statement, not 'tcp'"),
        ('{"nftables": 3}', "not the output of nft -j list ruleset"),
        ('{"nftables": [{"rule": {"family": "ip"}}]}', "nftables\\[0\\]: rule: table is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DIALECT.parse(text, file="f")


def test_a_text_is_told_by_its_look() -> None:
    assert dialect_reading("table ip x {\n}\n").name == "nft"
    assert dialect_reading('{"nftables": []}').name == "nft"
    assert dialect_reading("add rule ip x y accept\n").name == "nft"
    assert dialect_reading("*filter\nCOMMIT\n").name == "iptables"


def test_members_of_a_listing_are_remembered_and_expire() -> None:
    """NFT-6.11: affinity of a client that a dump shows; its time runs from the listing on."""
    text = """table ip kube-proxy {
	set affinity-a {
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 3h
		elements = { 192.0.2.1 expires 10s }
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip saddr @affinity-a meta l4proto tcp dnat to 10.244.1.5:8080
	}
}
"""
    site = rules_site(*DIALECT.parse(text), node_ips=["192.0.2.254/24"])
    for src, seconds, reached in (("192.0.2.1", 9, True), ("192.0.2.1", 10, False), ("192.0.2.9", 1, False)):
        packet = first_packet("192.0.2.254:80", src=src)
        traced = trace_packet(site, packet, node="node", sender=Sender.EXTERNAL, now_ns=START_NS + seconds * 10**9)
        assert ("delivered to 10.244.1.5:8080" in traced.text(Depth.SUMMARY)) == reached


# --- recordings -------------------------------------------------------------------------------------------------------

RECORDED = Path(__file__).parent / "golden" / "nftables"


@pytest.mark.parametrize("name", ["faults-003", "large-001", "small-022"])
def test_recorded_tables_are_read_and_written_line_by_line(name: str) -> None:
    """NFT-10.3: the real kube-proxy's dumps after each sync, and each line of its transactions."""
    for line in (RECORDED / f"{name}.expected.jsonl").read_text().splitlines():
        recorded = json.loads(line).get("nftables", {})
        if text := recorded.get("ruleset", "").strip():
            [table] = only(text).in_order()
            assert sorted(dump(table)) == sorted(text.splitlines())
        for transaction in recorded.get("transactions", ()):
            assert len(items_of(transaction)) == len(transaction.splitlines())


@pytest.mark.parametrize("name", ["large-003", "special-003"])
def test_what_kube_proxy_wrote_comes_back_from_text_with_its_reasons(name: str) -> None:
    """Only whether an address is a load balancer's or an external IP cannot be told if it has no source ranges (NFT-6.5)."""
    cluster = load(RECORDED / f"{name}.recording.jsonl")
    assert cluster.replay is not None
    [family] = cluster.families
    held = cluster.ruleset(cluster.replay.recording.node_name, family)
    [table] = held.in_order()
    for form in Form:
        [again] = DIALECT.parse(DIALECT.render(held, form), family)
        assert again == held
        read = again.tables[table.key]
        assert _reasons(read) == _reasons(table)


def _reasons(table: Table) -> dict[object, Origin]:
    """Why each rule and each element exists; both kinds of external addresses as one."""
    found: dict[object, Origin] = {}
    for name, chain in table.chains.items():
        found |= {(name, number): rule.origin for number, rule in enumerate(chain.rules)}
    for name, each in table.sets.items():
        found |= {(name, key): element.origin for key, element in each.elements.items()}
    alike = {Role.LOAD_BALANCER: Role.EXTERNAL_IP}
    return {at: origin._replace(role=alike.get(origin.role, origin.role)) for at, origin in found.items()}


def test_leading_bits_of_a_mark_are_listed_as_a_prefix() -> None:
    """As nft 1.0.6 lists a masquerade bit of 31. kube-proxy sends the mask (NFT-5.5)."""
    [found] = DIALECT.parse(
        "add table ip t\nadd chain ip t c\nadd rule ip t c mark and 0x80000000 != 0 accept\n", Family.IPV4
    )
    listed = DIALECT.render(found, Form.LISTED)
    assert "meta mark != 0x00000000/1 accept" in listed
    [read] = DIALECT.parse(listed, Family.IPV4)
    assert read == found
    [table] = read.in_order()
    unspelled = Chain("c", (Rule(table["c"].rules[0].body),))
    [*_, rule] = dump(replace(table, chains=Map({"c": unspelled})))
    assert rule == "add rule ip t c mark and 0x80000000 != 0 accept"


def test_a_prefix_of_a_mark_is_cut_in_commands_and_stands_as_it_is_in_listings() -> None:
    """nft 1.0.6 sends 0x00010000 for 0x12345/16, and lists what the kernel holds of ``ct mark & 0xffff0000 != 0xff00`` as a prefix."""
    key = TableKey(Space.IP, "t")
    rules = "add rule ip t c meta mark 0x12345/16 accept\nadd rule ip t c ct mark & 0xffff0000 != 0xff00 accept\n"
    sent = only("add table ip t\nadd chain ip t c\n" + rules).tables[key].chains["c"].rules
    listing = (
        "table ip t {\n\tchain c {\n\t\tmeta mark 0x00010000/16 accept\n\t\tct mark != 0x0000ff00/16 accept\n\t}\n}\n"
    )
    assert only(listing).tables[key].chains["c"].rules == sent


def test_one_flag_is_listed_behind_its_mask_and_several_before() -> None:
    """As nft 1.0.6 lists them; it does not read ``rst / rst``."""
    words = (
        "tcp flags & rst == rst", "tcp flags & rst != rst", "tcp flags rst", "tcp flags ! rst", "tcp flags syn / fin,syn",
        "tcp flags != syn / fin,syn,rst,ack", "tcp flags fin,syn / fin,syn", "tcp flags == rst",
    )  # fmt: skip
    text = "".join(f"\t\t{each} accept\n" for each in words)
    [found] = DIALECT.parse(f"table ip t {{\n\tchain c {{\n{text}\t}}\n}}\n", Family.IPV4)
    [table] = found.in_order()
    unspelled = Chain("c", tuple(Rule(rule.body) for rule in table["c"].rules))
    listed = DIALECT.render(Ruleset.of(Family.IPV4, replace(table, chains=Map({"c": unspelled}))), Form.LISTED)
    assert text in listed
    sent = [rule_words(rule, Space.IP, Style.SENT) for rule in unspelled.rules]
    assert (sent[0], sent[4]) == ("tcp flags and rst == rst accept", "tcp flags and (fin | syn) == syn accept")
