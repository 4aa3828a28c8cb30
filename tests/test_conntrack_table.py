"""The connection table by itself: what it is asked and told, entry by entry (CT-3, CT-7, K-1)."""

from packets import node, packet, rule, ruleset, run, table

from kpsim.conntrack import tuple_of
from kpsim.netfilter import Disposition
from kpsim.ruleset import ACCEPT, CtState
from kpsim.units import SECOND_NS

TRACKED = ruleset(table("filter", INPUT=(rule(CtState(("NEW",)), ACCEPT),)))


def test_a_port_that_talks_to_itself_has_a_connection_like_any_other():
    """Its two tuples are one and the same (CT-3.1): it is made, found and forgotten all the same."""
    netns = node(TRACKED)
    sent = packet("192.168.0.1", "192.168.0.1", 40000)
    assert run(netns, sent, local=True).disposition is Disposition.DELIVERED
    assert netns.conntrack.lookup(tuple_of(sent), SECOND_NS) is not None
    (gone,) = netns.conntrack.expire(121 * SECOND_NS)  # CT-4.1: SYN_SENT
    assert gone.entry.original == gone.entry.reply == tuple_of(sent)
    assert netns.conntrack.lookup(tuple_of(sent), SECOND_NS) is None
    assert not len(netns.conntrack)
