"""Documents of nft in three forms: commands or blocks as they are sent, the listing and the JSON of what the kernel then holds (NFT-10)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kpsim.addresses import Family
from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.json_form import json_text
from kpsim.dialects.nft.objects import type_words
from kpsim.errors import InputError
from kpsim.maps import Map
from kpsim.ruleset import Chain, Counter, DataType, Limit, Quota, SetFlags, Space, Table, TableKey
from tests.nft_documents import COMMANDS, Document, documents, in_some_order, listed_again, objects_of, tables_of


def but(*names: str) -> pytest.MarkDecorator:
    """All documents but those of these names."""
    chosen = [document for document in documents() if document.name not in names]
    return pytest.mark.parametrize("document", chosen, ids=lambda document: document.name)


all_documents = but()


@all_documents
def test_what_is_sent_and_what_is_listed_is_the_same(document: Document) -> None:
    """NFT-10.4: also after objects were changed, emptied and deleted again."""
    assert DIALECT.parse(document.sent) == DIALECT.parse(document.listed)


#: documents whose tables or objects nft lists as they were made
AS_MADE = ("sets", "maps", "objects", "again", "flushed", "families")


@all_documents
def test_what_was_sent_is_written_as_nft_lists_it(document: Document) -> None:
    written = listed_again(DIALECT.parse(document.sent))
    if document.name in AS_MADE:
        assert in_some_order(written) == in_some_order(document.listed)
    else:
        assert written == document.listed


#: objects whose elements nft orders by their bytes from the last one on
FROM_BEHIND = {"set names", "set pairs", "set triples", "map cvm"}


@all_documents
def test_an_object_is_listed_line_by_line_as_nft_lists_it(document: Document) -> None:
    """Order of elements, and how many stand on a line."""
    ours, recorded = (objects_of(listed) for listed in (listed_again(DIALECT.parse(document.sent)), document.listed))
    assert ours.keys() == recorded.keys()
    for of, lines in recorded.items():
        assert ours[of] == lines or of[1] in FROM_BEHIND


@but("dormant")
def test_json_holds_the_same(document: Document) -> None:
    """nft 1.0 leaves comments of tables and chains out of JSON, the flags dynamic and auto-merge, and the words behind typeof."""
    told = DIALECT.parse(document.printed)
    assert _plain(tables_of(told)) == _plain(tables_of(DIALECT.parse(document.sent)))


def test_flags_of_a_table_that_nft_prints_from_memory_are_refused() -> None:
    (dormant,) = [document for document in documents() if document.name == "dormant"]
    with pytest.raises(InputError, match=r"its flags are not legible \('t'\): give the output of nft list ruleset"):
        DIALECT.parse(dormant.printed)


def _plain(tables: Mapping[TableKey, Table]) -> dict[TableKey, Table]:
    return {key: _without_words(table) for key, table in tables.items()}


def _without_words(table: Table) -> Table:
    sets = {
        name: replace(each, type=replace(each.type, words=""), flags=each.flags & ~SetFlags.DYNAMIC, auto_merge=False)
        for name, each in table.sets.items()
        if each.type is not None
    }
    chains = {name: Chain(name, chain.rules, chain.base) for name, chain in table.chains.items()}
    return replace(table, sets=Map(sets), chains=Map(chains), comment="")


@but("blocks")
def test_what_was_sent_is_written_as_the_json_that_nft_prints(document: Document) -> None:
    """Where a rule has a chain without name, nft 1.0.6 prints text."""
    written = [
        entry for ruleset in DIALECT.parse(document.sent) for entry in json.loads(json_text(ruleset))["nftables"]
    ]
    assert _in_order(written) == _in_order(json.loads(document.printed)["nftables"])


def _in_order(entries: list[Any]) -> list[str]:
    """The objects of a JSON document, each of them once, without what nft 1.0.6 prints wrongly or not at all."""
    found = set()
    for entry in entries:
        ((kind, about),) = entry.items()
        absent = (
            ("comment", "flags")
            if kind in ("table", "chain")
            else ("auto-merge", "size" if about.get("size") == 65535 else "")
        )
        about = {name: value for name, value in about.items() if name not in ("handle", *absent)}
        if isinstance(about.get("map"), list):
            about["map"] = " . ".join(about["map"])
        if "elem" in about:
            about["elem"] = sorted(map(json.dumps, about["elem"]))
        if kind != "metainfo":
            found.add(json.dumps({kind: about}, sort_keys=True))
        else:
            assert about.pop("json_schema_version") == 1
    return sorted(found)


@all_documents
def test_a_document_is_read_from_what_is_written_of_it(document: Document) -> None:
    for ruleset in DIALECT.parse(document.sent):
        assert DIALECT.parse(DIALECT.render(ruleset, Form.LISTED), ruleset.family) == (ruleset,)
        assert _plain(tables_of(DIALECT.parse(json_text(ruleset), ruleset.family))) == _plain(ruleset.tables)


@pytest.mark.parametrize(("text", "message"), COMMANDS, ids=[text.splitlines()[-1] for text, _ in COMMANDS])
def test_commands_that_nft_does_not_take_are_refused(text: str, message: str) -> None:
    """Each complaint names the line of the last command."""
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert str(refused.value) == f"f:{len(text.splitlines())}: {message}"


DECLARED = """table ip t {
	limit l {
		rate 5/second
		comment "why"
	}
	counter n {
		packets 5 bytes 300
	}
	quota q {
		over 100 mbytes used 5 kbytes; comment "why"
	}
	ct helper h {
		type "ftp" protocol tcp
		l3proto ip
	}
	ct timeout o {
		protocol tcp
		policy = { established : 100, close : 4 }
	}
	ct expectation e {
		protocol tcp; dport 5; timeout 5s; size 8
	}
	flowtable f {
		hook ingress priority 0; devices = { eth0, eth1 }
	}
	secmark s {
		"system_u:object_r:ssh_server_packet_t:s0"
	}
	tunnel u {
		id 5
	}
	synproxy y {
		mss 1460 wscale 7; timestamp sack-perm
	}
	chain c {
		limit name "l" counter name "n" accept
	}
}
"""


def test_objects_that_are_only_declared_refuse_nothing() -> None:
    """Only a rule that names one does. Comments of objects say nothing."""
    (held,) = DIALECT.parse(DECLARED)
    assert dict(held.tables[TableKey(Space.IP, "t")].objects) == {
        ("limit", "l"): Limit(5, "sec", 5, name="l"),
        ("counter", "n"): Counter("n"),
        ("quota", "q"): Quota(100 << 20, over=True, used=5 << 10, name="q"),
    }
    assert DIALECT.parse(DECLARED.replace('comment "why"', "")) == (held,)


def test_a_command_makes_an_object_without_braces() -> None:
    (held,) = DIALECT.parse(
        "add table ip t\nadd quota ip t q over 3 kbytes\nadd counter ip t n packets 5 bytes 6\nadd limit ip t l rate 5/second\n"
    )
    assert dict(held.tables[TableKey(Space.IP, "t")].objects) == {
        ("limit", "l"): Limit(5, "sec", 5, name="l"),
        ("counter", "n"): Counter("n"),
        ("quota", "q"): Quota(3 << 10, over=True, name="q"),
    }


def test_what_is_destroyed_need_not_be_there() -> None:
    """nft 1.0.7 and later: delete without complaint."""
    made = "add table ip t\nadd chain ip t c\nadd set ip t s { type mark ; elements = { 5, 6 } ; }\nadd map ip t m { type mark : verdict ; }\n"
    gone = "destroy table ip u\ndestroy chain ip t d\ndestroy set ip t r\ndestroy map ip t n\ndestroy element ip t s { 7, 5 }\n"
    assert DIALECT.parse(made + gone) == DIALECT.parse(made.replace("5, 6", "6"))
    assert DIALECT.parse(made + "destroy chain ip t c\ndestroy set ip t s\ndestroy map ip t m\n") == DIALECT.parse(
        "add table ip t\n"
    )
    assert DIALECT.parse(made + "add table ip6 t\ndestroy table ip t\n") == DIALECT.parse("add table ip6 t\n")


def test_lines_keep_their_numbers_where_variables_are_put_in() -> None:
    text = "define a = {\n 80,\n 443\n}\ntable ip t {\n chain c {\n  tcp dport $a accept\n  frobnicate\n }\n}\n"
    with pytest.raises(InputError, match=r"^f:8: expected a statement, not 'frobnicate'$"):
        DIALECT.parse(text, file="f")


PORTS: dict[str, Any] = {"family": "ip", "table": "t", "name": "s", "type": "inet_service"}
OF = {"family": "ip", "table": "t", "chain": "c"}
#: as ``nft -j -f`` takes them, and the same in words
JSON_COMMANDS: list[tuple[dict[str, Any], str]] = [
    ({"add": {"table": {"family": "ip6", "name": "old"}}}, "add table ip6 old"), ({"flush": {"ruleset": None}}, "flush ruleset"),
    ({"add": {"table": {"family": "ip6", "name": "old"}}}, "add table ip6 old"), ({"flush": {"ruleset": {"family": "inet"}}}, "flush ruleset inet"),
    ({"flush": {"ruleset": {"family": "ip6"}}}, "flush ruleset ip6"), ({"metainfo": {"version": "1.0.6"}}, ""),
    ({"add": {"table": {"family": "ip", "name": "t", "flags": ["owner", "persist", "dormant"]}}}, "add table ip t { flags dormant ; }"),
    ({"create": {"set": PORTS | {"flags": ["interval", "timeout"], "timeout": 5, "gc-interval": 7, "size": 9, "auto-merge": True, "policy": "memory",
                                 "comment": "why", "elem": [5, {"range": [7, 9]}, {"elem": {"val": 80, "timeout": 3, "comment": "x"}}]}}},
     'add set ip t s { type inet_service ; flags interval,timeout ; timeout 5s ; gc-interval 7s ; size 9 ; auto-merge ; policy memory ; comment "why" ; '
     'elements = { 5, 7-9, 80 timeout 3s comment "x" } ; }'),
    ({"add": {"chain": {"family": "ip", "table": "t", "name": "c", "type": "filter", "hook": "input", "prio": -5, "policy": "drop"}}},
     "add chain ip t c { type filter hook input priority -5 ; policy drop ; }"),
    ({"add": {"chain": {"family": "ip", "table": "t", "name": "d", "comment": "why"}}}, 'add chain ip t d { comment "why" ; }'),
    ({"add": {"rule": OF | {"expr": [{"accept": None}], "comment": "last"}}}, 'add rule ip t c accept comment "last"'),
    ({"insert": {"rule": OF | {"expr": [{"goto": {"target": "d"}}]}}}, "insert rule ip t c goto d"),
    ({"add": {"rule": OF | {"chain": "d", "expr": [{"drop": None}]}}}, "add rule ip t d drop"), ({"flush": {"chain": OF | {"name": "d"}}}, "flush chain ip t d"),
    ({"add": {"element": {"family": "ip", "table": "t", "name": "s", "elem": [99, 100]}}}, "add element ip t s { 99, 100 }"),
    ({"delete": {"element": {"family": "ip", "table": "t", "name": "s", "elem": [100]}}}, "delete element ip t s { 100 }"),
    ({"quota": {"family": "ip", "table": "t", "name": "q", "bytes": 500, "used": 5, "inv": True}}, "add quota ip t q { over 500 bytes used 5 bytes ; }"),
    ({"limit": {"family": "ip", "table": "t", "name": "l", "rate": 5, "per": "second", "burst": 7, "inv": True}}, "add limit ip t l { rate over 5/second burst 7 packets ; }"),
    ({"map": {"family": "ip", "table": "t", "name": "m", "type": ["ipv4_addr", "inet_service"], "map": ["ipv4_addr", "inet_service"],
              "elem": [[{"concat": ["10.0.0.1", 80]}, {"concat": ["10.0.0.2", 81]}]]}},
     "add map ip t m { type ipv4_addr . inet_service : ipv4_addr . inet_service ; elements = { 10.0.0.1 . 80 : 10.0.0.2 . 81 } ; }"),
    ({"map": {"family": "ip", "table": "t", "name": "v", "type": {"typeof": {"meta": {"key": "mark"}}}, "map": {"typeof": {"payload": {"protocol": "ip", "field": "daddr"}}}}},
     "add map ip t v { typeof meta mark : ip daddr ; }"),
    ({"set": {"family": "ip", "table": "t", "name": "u", "type": {"typeof": [{"meta": {"key": "skuid"}}, {"ct": {"key": "mark"}}]}}},
     "add set ip t u { typeof meta skuid . ct mark ; }"),
    ({"map": {"family": "ip", "table": "t", "name": "y", "type": "uid", "map": "verdict"}}, "add map ip t y { type uid : verdict ; }"),
    ({"set": {"family": "ip", "table": "t", "name": "w", "type": "mark", "stmt": [{"counter": None}]}}, "add set ip t w { type mark ; counter ; }"),
    ({"set": {"family": "ip", "table": "t", "name": "x", "type": ["mark", "uid"], "flags": "constant"}}, "add set ip t x { type mark . uid ; flags constant ; }"),
]  # fmt: skip


def test_json_has_commands_too() -> None:
    """libnftables-json(5). A table belongs to whom it will, the model does not tell."""
    first = DIALECT.parse(json.dumps({"nftables": [entry for entry, _ in JSON_COMMANDS]}))
    assert first == DIALECT.parse("".join(f"{words}\n" for _, words in JSON_COMMANDS))
    [held] = first
    assert DIALECT.parse(json_text(held), Family.IPV4) == first
    listed = DIALECT.render(held, Form.LISTED)
    assert DIALECT.parse(listed, Family.IPV4) == first
    assert 'elements = { 5, 7-9, 80 timeout 3s comment "x", 99 }\n' in listed
    [table] = held.in_order()
    assert [len(chain.rules) for _, chain in sorted(table.chains.items())] == [2, 0]
    assert [type_words(each.type) for name, each in sorted(table.sets.items()) if name in "mvuxy" and each.type is not None] == [
        "type ipv4_addr . inet_service : ipv4_addr . inet_service", "type uid . mark", "type mark : ipv4_addr", "type mark . uid", "type uid : verdict",
    ]  # fmt: skip


def test_json_leaves_out_the_words_behind_typeof() -> None:
    """nft 1.0.6 prints ``typeof meta length`` and ``typeof numgen random mod 5 . ip saddr`` so."""
    made = [PORTS | {"type": "integer", "elem": [5]}, PORTS | {"name": "r", "type": ["integer", "ipv4_addr"]}]
    [held] = DIALECT.parse(
        json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}, *({"set": each} for each in made)]})
    )
    sets = held.tables[TableKey(Space.IP, "t")].sets
    assert [each.type.key for each in sets.values() if each.type] == [
        (DataType.NUMBER,),
        (DataType.NUMBER, DataType.IPV4_ADDRESS),
    ]
    assert list(sets["s"].elements) == [(5,)]
    assert [entry["set"]["type"] for entry in json.loads(json_text(held))["nftables"] if "set" in entry] == [
        "integer",
        ["integer", "ipv4_addr"],
    ]
