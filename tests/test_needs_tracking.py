"""Connections are tracked once a rule of the namespace asks for it, wherever it stands (K-1.5)."""

import pytest

from kpsim.packetpath.tracking import needs_tracking
from kpsim.ruleset import (
    ACCEPT,
    ALL_BITS,
    Assign,
    AssignFrom,
    Compare,
    Dispatch,
    Dnat,
    Expression,
    Field,
    Hashed,
    Lookup,
    Masked,
    Masquerade,
    Redirect,
    Set,
    SetReference,
    SetVerb,
    Snat,
    Statement,
    UpdateSet,
    named,
)

ONE, NAMED = Set.of((1,)), SetReference("m")
OF_CONNECTIONS: list[Expression | Statement] = [
    named(Field.CT_STATE, "NEW"), Compare(Field.CT_MARK, ((1, 1),)), Assign(Field.CT_MARK, 0, 5), Assign(Field.MARK, 0, 0, Field.CT_MARK, ALL_BITS),
    AssignFrom(Field.CT_MARK, (Field.SADDR,), NAMED), AssignFrom(Field.MARK, (Field.CT_MARK,), NAMED), AssignFrom(Field.MARK, (Field.SADDR, Field.CT_STATE), NAMED),
    Lookup((Field.SADDR, Field.CT_STATE), NAMED), Lookup((Masked(Field.CT_MARK, 255),), ONE), Lookup((Hashed((Field.SADDR, Field.CT_MARK), 2),), ONE),
    Dispatch((Field.CT_STATE,), NAMED), UpdateSet(NAMED, (Field.CT_MARK,), SetVerb.ADD), Dnat(1), Snat(1), Masquerade(), Redirect(),
]  # fmt: skip
OF_PACKETS: list[Expression | Statement] = [
    named(Field.L4PROTO, "tcp"), Assign(Field.MARK, 0, 5), AssignFrom(Field.MARK, (Field.SADDR,), NAMED), Lookup((Field.SADDR, Field.DPORT), NAMED),
    Lookup((Masked(Field.MARK, 255),), ONE), Lookup((Hashed((Field.SADDR,), 2),), ONE), Dispatch((Field.DPORT,), NAMED),
    UpdateSet(NAMED, (Field.SADDR,), SetVerb.ADD), ACCEPT,
]  # fmt: skip


@pytest.mark.parametrize("part", OF_CONNECTIONS, ids=str)
def test_what_reads_or_changes_connections_needs_them(part: Expression | Statement) -> None:
    assert needs_tracking(part)


@pytest.mark.parametrize("part", OF_PACKETS, ids=str)
def test_what_reads_packets_alone_does_not(part: Expression | Statement) -> None:
    assert not needs_tracking(part)
