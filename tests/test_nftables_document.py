"""The text of a transaction, operation by operation (NFT-10.1)."""

from dataclasses import replace

import pytest

from kpsim.backends.nftables.document import document, dump
from kpsim.maps import Map
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    Chain,
    Compare,
    DataType,
    Element,
    Field,
    Rule,
    Set,
    SetType,
    Space,
    Table,
    TableKey,
)
from kpsim.ruleset.operations import Entry, Operation, Verb

KEY = TableKey(Space.IP6, "kube-proxy")
PORTS = Set(name="ports", type=SetType((DataType.PORT,)))
FATES = Set(name="fates", type=SetType((DataType.PORT,), (DataType.VERDICT,)))
TABLE, CHAIN = Table(KEY, comment="rules for kube-proxy"), Chain("c", (), None, "why")
LINES = [
    (Operation(Verb.ADD, KEY, TABLE), 'add table ip6 kube-proxy { comment "rules for kube-proxy" ; }'),
    (Operation(Verb.FLUSH, KEY, TABLE), "flush table ip6 kube-proxy"),
    (Operation(Verb.DELETE, KEY, TABLE), "delete table ip6 kube-proxy"),
    (Operation(Verb.ADD, KEY, CHAIN), 'add chain ip6 kube-proxy c { comment "why" ; }'),
    (Operation(Verb.FLUSH, KEY, CHAIN), "flush chain ip6 kube-proxy c"),
    (Operation(Verb.DELETE, KEY, CHAIN), "delete chain ip6 kube-proxy c"),
    (Operation(Verb.ADD, KEY, PORTS), "add set ip6 kube-proxy ports { type inet_service ; }"),
    (Operation(Verb.FLUSH, KEY, PORTS), "flush set ip6 kube-proxy ports"),
    (Operation(Verb.DELETE, KEY, PORTS), "delete set ip6 kube-proxy ports"),
    (Operation(Verb.FLUSH, KEY, FATES), "flush map ip6 kube-proxy fates"),
    (Operation(Verb.ADD, KEY, Rule((ACCEPT,)), "c"), "add rule ip6 kube-proxy c accept"),
    (Operation(Verb.ADD, KEY, Entry((80,)), "ports"), "add element ip6 kube-proxy ports { 80 }"),
    (Operation(Verb.ADD, KEY, Entry((80,), Element(ACCEPT, "web")), "fates"),
     'add element ip6 kube-proxy fates { 80 comment "web" : accept }'),
    (Operation(Verb.DELETE, KEY, Entry((80,), Element(ACCEPT, "web")), "fates"), "delete element ip6 kube-proxy fates { 80 }"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "line"), LINES, ids=[line for _, line in LINES])
def test_an_operation_is_a_line(operation: Operation, line: str) -> None:
    assert document([operation], Map({"ports": PORTS, "fates": FATES})) == f"{line}\n"


def test_operations_stand_in_order_and_a_table_with_its_elements_sorted() -> None:
    """NFT-10.3: rules keep their order, elements have none."""
    assert document([LINES[3][0], LINES[10][0]], Map()) == f"{LINES[3][1]}\n{LINES[10][1]}\n"
    ports = replace(PORTS, elements=Map({(80,): Element(), (443,): Element(), (9,): Element()}))
    fates = replace(FATES, elements=Map({(9,): Element(DROP), (80,): Element(ACCEPT)}))
    of_ports = [
        Rule((Compare(Field.DPORT, ((port, port), (port + 5, port + 5))), verdict))
        for port, verdict in ((90, DROP), (80, ACCEPT))
    ]
    chain = Chain("c", (Rule((DROP,)), Rule((ACCEPT,)), *of_ports), None, "why")
    table = replace(TABLE, chains=Map({"c": chain}), sets=Map({"ports": ports, "fates": fates}))
    head, element = "add table ip6 kube-proxy", "add element ip6 kube-proxy"
    assert dump(table).splitlines() == [
        head + ' { comment "rules for kube-proxy" ; }', LINES[3][1], LINES[6][1], "add map ip6 kube-proxy fates { type inet_service : verdict ; }",
        "add rule ip6 kube-proxy c drop", "add rule ip6 kube-proxy c accept",
        "add rule ip6 kube-proxy c th dport { 90 , 95 } drop", "add rule ip6 kube-proxy c th dport { 80 , 85 } accept", f"{element} ports {{ 443 }}", f"{element} ports {{ 80 }}",
        f"{element} ports {{ 9 }}", f"{element} fates {{ 80 : accept }}", f"{element} fates {{ 9 : drop }}",
    ]  # fmt: skip
    assert dump(table).endswith(" }\n")
    assert dump(None) == ""
