"""Documents of nft in three forms: commands or blocks as they are sent, the listing and the JSON of what the kernel then holds (NFT-10)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.json_form import json_text
from kpsim.errors import InputError
from kpsim.maps import Map
from kpsim.ruleset import Chain, Counter, Limit, Quota, SetFlags, Space, Table, TableKey
from tests.nft_documents import COMMANDS, Document, documents, in_some_order, listed_again, tables_of


def but(*names: str) -> pytest.MarkDecorator:
    """All documents but those of these names."""
    chosen = [document for document in documents() if document.name not in names]
    return pytest.mark.parametrize("document", chosen, ids=lambda document: document.name)


all_documents = but()


@all_documents
def test_what_is_sent_and_what_is_listed_is_the_same(document: Document) -> None:
    """NFT-10.4: also after objects were changed, emptied and deleted again."""
    assert DIALECT.parse(document.sent) == DIALECT.parse(document.listed)


@all_documents
def test_what_was_sent_is_written_as_nft_lists_it(document: Document) -> None:
    assert in_some_order(listed_again(DIALECT.parse(document.sent))) == in_some_order(document.listed)


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


def test_lines_keep_their_numbers_where_variables_are_put_in() -> None:
    text = "define a = {\n 80,\n 443\n}\ntable ip t {\n chain c {\n  tcp dport $a accept\n  frobnicate\n }\n}\n"
    with pytest.raises(InputError, match=r"^f:8: expected a statement, not 'frobnicate'$"):
        DIALECT.parse(text, file="f")
