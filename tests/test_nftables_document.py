"""The text of a transaction, operation by operation (NFT-10.1)."""

import pytest

from kpsim.backends.nftables.document import document
from kpsim.maps import Map
from kpsim.ruleset import (
    ACCEPT,
    Chain,
    DataType,
    Element,
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
