"""The connection table by itself: what it is asked and told, entry by entry (CT-3, CT-7, K-1)."""

from dataclasses import replace

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


def test_a_timer_that_was_shortened_runs_out_at_its_new_time():
    """A connection that is reset lives ten seconds more, not five days (CT-4.1); so does one in the place of a deleted one."""
    netns = node(TRACKED)
    sent = packet("192.168.0.1", "192.168.0.1", 40000)
    run(netns, sent, local=True)
    known, [entry] = netns.conntrack, netns.conntrack
    known.update(entry._replace(expires_ns=1000 * SECOND_NS))
    known.update(entry._replace(expires_ns=10 * SECOND_NS))
    assert [gone.entry.expires_ns for gone in known.expire(10 * SECOND_NS)] == [10 * SECOND_NS]
    assert not len(known)
    assert known.insert(entry._replace(expires_ns=500 * SECOND_NS), 11 * SECOND_NS)
    assert known.delete(entry.original, entry.reply)
    assert known.insert(entry._replace(expires_ns=20 * SECOND_NS), 12 * SECOND_NS)
    assert [gone.entry.expires_ns for gone in known.expire(30 * SECOND_NS)] == [20 * SECOND_NS]
    assert not known.expire(2000 * SECOND_NS)


def test_expired_entries_make_room_once_each():
    """However often their timers were changed (CT-7.2)."""
    netns = node(TRACKED)
    run(netns, packet("192.168.0.1", "192.168.0.1", 40000), local=True)
    known, [entry] = netns.conntrack, netns.conntrack
    for seconds in (50, 20, 50, 20, 10):
        known.update(entry._replace(expires_ns=seconds * SECOND_NS))
    run(netns, packet("192.168.0.1", "192.168.0.1", 40001), local=True)
    full = replace(netns.sysctls, nf_conntrack_max=2)
    assert known.pressure(9 * SECOND_NS, full) is not None
    assert known.pressure(10 * SECOND_NS, full) is None
    assert known.pressure(10 * SECOND_NS, replace(full, nf_conntrack_max=1)).candidates == 1
