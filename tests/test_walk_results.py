"""What the result of a walk says of the destination: decided now, changed earlier, or refused."""

from typing import Any

import pytest

from kpsim.addresses import Family
from kpsim.ipvs.servers import RealServer, ServerReference, VirtualServer, VirtualServerKey
from kpsim.netfilter import Disposition, Walk
from kpsim.packetpath.traversal import NO_EFFECTS
from kpsim.ruleset import Rule, RuleReference, Space, TableKey
from tests.packets import flow_entry, ip, packet

RULE = RuleReference(TableKey(Space.IP, "nat"), "c", 1, Rule(()))
EMPTY = ServerReference(Family.IPV4, VirtualServerKey(ip("10.96.0.1"), 80, "tcp"), VirtualServer("rr", 32))
CHOSEN = EMPTY._replace(server=RealServer(ip("10.0.0.1"), 8080))
PLAIN, MOVED = (
    flow_entry("tcp", ("10.0.0.9", 5, "10.96.0.1", 80), (to, port, "10.0.0.9", 5), created_ns=0, expires_ns=1)
    for to, port in (("10.96.0.1", 80), ("10.0.0.1", 8080))
)
#: what is known of a walk → whether its destination was changed at all, and now; what refused it
CASES: list[tuple[dict[str, Any], bool, bool, object]] = [
    ({}, False, False, None), ({"entry": PLAIN}, False, False, None), ({"entry": MOVED}, True, False, None),
    ({"dnat_rule": RULE}, True, True, None), ({"server": CHOSEN}, True, True, None), ({"server": EMPTY}, False, False, EMPTY),
    ({"rule": RULE}, False, False, RULE), ({"rule": RULE, "server": CHOSEN}, True, True, RULE), ({"rule": RULE, "server": EMPTY}, False, False, RULE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "redirected", "binds", "refused_by"),
    CASES,
    ids=[" ".join(known) + str(at) for at, (known, *_) in enumerate(CASES)],
)
def test_what_was_done_to_the_destination(
    known: dict[str, Any], redirected: bool, binds: bool, refused_by: object
) -> None:
    """A rule that refuses comes before a virtual server without a real server."""
    walk = Walk(Disposition.REJECTED, packet("10.0.0.9", "10.96.0.1"), NO_EFFECTS, (), **known)
    assert (walk.redirected, walk.binds, walk.refused_by) == (redirected, binds, refused_by)
