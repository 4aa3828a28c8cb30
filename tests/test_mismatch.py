"""Which part of a rule a trace names: the first that was false, or that cannot be evaluated a second time."""

from typing import Any

import pytest

from kpsim.flowstate import Direction
from kpsim.maps import Map
from kpsim.packetpath.mismatch import mismatch
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import (
    PLAIN,
    BridgePort,
    Compare,
    Expression,
    Field,
    Hook,
    Lookup,
    Numgen,
    Quota,
    Set,
    SetFlags,
    SetReference,
    SetVerb,
    Statement,
    UpdateSet,
)
from tests.packets import ip, node, packet

TRUE, FALSE = (Compare(Field.DPORT, ((number, number),)) for number in (80, 81))
MARKED = Compare(Field.MARK, ((1, 1),), mask=1)
WRITTEN, DYNAMIC = (
    Set(Map({(ip("10.0.0.1"),): PLAIN}), name, flags=flags)
    for name, flags in (("written", SetFlags(0)), ("dynamic", SetFlags.DYNAMIC))
)
FOUND, PERHAPS = (Lookup((Field.SADDR,), SetReference(name)) for name in ("written", "dynamic"))
IPSET = Lookup((Field.SADDR,), SetReference("written", of_namespace=True))
DRAWN = Lookup((Numgen(2),), Set.of((1,)), negate=True)
UPDATED = UpdateSet(SetReference("dynamic"), (Field.SADDR,), SetVerb.ADD)
CASES: list[tuple[str, list[Expression | Statement], dict[str, Any], Expression | Statement | None]] = [
    ("all are true", [TRUE, FOUND], {}, None),
    ("one is false", [TRUE, FALSE, FOUND], {}, FALSE),
    ("a port of a bridge", [BridgePort("in"), FALSE], {"bridged": frozenset({"in"})}, FALSE),
    ("no port of a bridge", [BridgePort("in"), FALSE], {}, BridgePort("in")),
    ("a bit of the mark is not known", [MARKED, FALSE], {"unsure_mark": 1}, MARKED),
    ("another bit is not known", [MARKED, FALSE], {"unsure_mark": 2}, FALSE),
    ("packets may have changed the set", [PERHAPS, FALSE], {}, PERHAPS),
    ("an ipset has no such element", [FOUND, IPSET], {}, IPSET),
    ("a quota has counted since", [Quota(5), FALSE], {}, Quota(5)),
    ("a number was drawn", [DRAWN, FALSE], {}, DRAWN),
    ("a change of a set", [UPDATED, FALSE], {}, UPDATED),
]


@pytest.mark.parametrize(("parts", "options", "named"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_first_part_that_is_not_true_is_named(
    parts: list[Expression | Statement], options: dict[str, Any], named: Expression | Statement | None
) -> None:
    moment = Moment(
        packet("10.0.0.1", "10.0.0.2", 80, mark=1), frozenset(), None, Direction.ORIGINAL, Hook.INPUT, **options
    )
    sets = {each.name: each for each in (WRITTEN, DYNAMIC)}
    assert mismatch(parts, moment, node().routing, sets, {"written": Set()}) == named
