"""The connection table of ip_vs (IPVS-11 to IPVS-13), after the specification; no kernel at hand has ip_vs."""

from dataclasses import replace

import pytest
from ipvs_nodes import virtual
from packets import CLIENT, CLUSTER_IP, OTHER_POD, POD, REMOTE_POD, ip

from kpsim.addresses import Family
from kpsim.ipvs.connections import (
    HELD_NS,
    AnswerKey,
    Connection,
    ConnectionKey,
    Counters,
    IpvsTable,
    TemplateId,
    Touch,
    template_key,
)
from kpsim.ipvs.schedulers import Candidate, Request, pick
from kpsim.ipvs.servers import VirtualServerFlags, VirtualServerKey
from kpsim.ipvs.states import State
from kpsim.units import SECOND_NS

V4 = Family.IPV4
VIRTUAL = (ip(CLUSTER_IP), 80)
KEY = VirtualServerKey(*VIRTUAL, "tcp")
A, B, C = ((ip(each), 8080) for each in (POD, REMOTE_POD, OTHER_POD))
PERSISTENT = VirtualServerFlags.PERSISTENT


def key(port=40000, client=CLIENT, *, family=V4):
    return ConnectionKey(family, "tcp", (ip(client), port), VIRTUAL)


def connection(port=40000, server=A, state=State.ESTABLISHED, *, at_s=0, lives_s=900, control=None, **more):
    lives_ns = lives_s * SECOND_NS
    made_ns = at_s * SECOND_NS
    return Connection(key(port, **more), server, state, made_ns, made_ns + lives_ns, lives_ns, control)


TEMPLATE = ConnectionKey(V4, "tcp", (ip(CLIENT), 0), VIRTUAL, template=True)


def template(lives_s=10, *, at_s=0, server=A):
    return Connection(TEMPLATE, server, State.NONE, at_s * SECOND_NS, (at_s + lives_s) * SECOND_NS, lives_s * SECOND_NS)


def table(*connections, at_s=0):
    made = IpvsTable()
    made.commit(Touch(connections), at_s * SECOND_NS)
    return made


def find(of, at_s, which=None):
    return of.find(which or key(), at_s * SECOND_NS)


def counters(of, server=A, at_s=0):
    return of.counters(V4, KEY, server, at_s * SECOND_NS)


# --- look-ups ---------------------------------------------------------------------------------------------------------


def test_a_connection_is_found_by_client_and_virtual_server_until_its_time_is_over():  # IPVS-11.1
    made = table(connection(lives_s=60))
    assert find(made, 0) == find(made, 59.999) == connection(lives_s=60)
    assert find(made, 60) is None
    assert find(made, 0, key(40001)) is None
    assert find(made, 0, key()._replace(protocol="udp")) is None
    assert find(made, 0, key()._replace(virtual=(VIRTUAL[0], 81))) is None


def test_an_answer_finds_its_connection_by_server_and_client():
    made = table(connection(lives_s=60), connection(40001, B))
    answers = AnswerKey(V4, "tcp", A, (ip(CLIENT), 40000))
    assert made.find_answers(answers, 0) == connection(lives_s=60)
    assert made.find_answers(answers, 60 * SECOND_NS) is None
    assert made.find_answers(answers._replace(server=B), 0) is None


def test_of_two_connections_of_one_server_and_client_the_newest_is_found_by_answers():
    """A client may reach a server from one port by two virtual servers, without masquerading."""
    other = connection()._replace(key=key()._replace(virtual=(VIRTUAL[0], 81)), expires_ns=50 * SECOND_NS)
    made = table(connection(), other)
    answers = connection().answers
    assert made.find_answers(answers, 0) == other
    assert made.find_answers(answers, 50 * SECOND_NS) == connection()
    made.commit(Touch(gone=(key(),)), 0)
    assert made.find_answers(answers, 0) == other
    made.expire(50 * SECOND_NS)
    assert made.find_answers(answers, 0) is None


def test_a_later_version_replaces_a_connection():
    made = table(connection(state=State.SYN_RECV, lives_s=60))
    made.commit(Touch((connection(lives_s=900),)), 0)
    assert len(made) == 1 and find(made, 800).state is State.ESTABLISHED
    assert counters(made) == (1, 0)
    moved = connection(server=B, at_s=1)
    made.commit(Touch((moved,), (key(),)), SECOND_NS)
    assert counters(made, A, 1) == (0, 0) and counters(made, B, 1) == (1, 0)
    assert made.find_answers(connection().answers, SECOND_NS) is None
    made.commit(Touch((connection(server=C, at_s=1),)), SECOND_NS)  # without being removed first
    assert (counters(made, B, 1), counters(made, C, 1), len(made)) == ((0, 0), (1, 0), 1)
    assert [made.find_answers(connection(server=each).answers, SECOND_NS) is None for each in (B, C)] == [True, False]


# --- counters ---------------------------------------------------------------------------------------------------------


def test_counters_tell_active_from_inactive_connections():  # IPVS-12.1
    states = (State.SYN_RECV, State.ESTABLISHED, State.FIN_WAIT, State.TIME_WAIT, State.CLOSE)
    made = table(
        *(connection(number, state=state) for number, state in enumerate(states)), connection(9, B), template()
    )
    assert counters(made) == Counters(active=2, inactive=3)
    assert counters(made, B) == (1, 0) and counters(made, C) == (0, 0)
    assert made.counters(V4, KEY._replace(port=81), A, 0) == made.counters(Family.IPV6, KEY, A, 0) == (0, 0)
    servers = virtual([POD, OTHER_POD, REMOTE_POD]).servers
    assert [each[1:] for each in made.candidates(V4, KEY, servers, 0)] == [(2, 3), (0, 0), (1, 0)]


def test_counters_do_not_count_what_has_expired():
    made = table(connection(1, lives_s=10), connection(2, state=State.CLOSE, lives_s=20), connection(3, lives_s=30))
    assert [counters(made, at_s=each) for each in (9, 10, 19, 20, 30)] == [(2, 1), (1, 1), (1, 1), (1, 0), (0, 0)]
    longer = connection(1, lives_s=25)  # put off: its first timer is void
    made.commit(Touch((longer,)), 0)
    assert [counters(made, at_s=each) for each in (10, 20, 24, 25)] == [(2, 1), (2, 0), (2, 0), (1, 0)]
    assert made.expire(20 * SECOND_NS) == (connection(2, state=State.CLOSE, lives_s=20),)
    assert counters(made, at_s=20) == (2, 0)
    assert made.expire(100 * SECOND_NS) == (longer, connection(3, lives_s=30))
    assert not made and counters(made) == (0, 0)


def test_what_has_expired_and_is_not_cleared_yet_counts_once_and_where_it_was():
    """Templates, other servers' connections, and timers of connections that are gone or end earlier than they did."""
    made = table(template(10), connection(1), connection(2, B, lives_s=10), connection(3, lives_s=10))
    assert (counters(made, at_s=10), counters(made, B, 10)) == ((1, 0), (0, 0))
    made.commit(Touch(gone=(key(3), key(77))), 0)
    made.commit(Touch((connection(4, lives_s=20),)), 0)
    made.commit(Touch((connection(4, lives_s=15),)), 0)
    assert [counters(made, at_s=each) for each in (14, 20)] == [(2, 0), (1, 0)]
    assert connection(4, lives_s=15) in made.expire(15 * SECOND_NS)


# --- persistence ------------------------------------------------------------------------------------------------------


def test_templates_are_of_networks():  # IPVS-11.4
    assert template_key(key(), virtual([POD])) is None
    assert template_key(key(), virtual([POD], flags=PERSISTENT)) == TEMPLATE
    network = template_key(key(), virtual([POD], flags=PERSISTENT, netmask=24))
    assert network.client == (ip("203.0.113.0"), 0) and network.template
    assert find(table(template()), 9, TEMPLATE) == template()
    assert find(table(template()), 10, TEMPLATE) is None
    assert find(table(template()), 0) is None


def controlled(port=40000, **more):
    return connection(port, control=TemplateId(TEMPLATE, 0), **more)


def test_a_template_is_held_while_one_of_its_connections_exists():  # IPVS-11.4: looked at each 60 s
    made = table(template(10), controlled(lives_s=100))
    held = template(10)._replace(timeout_ns=HELD_NS)
    # looked at after 10, 70 and 130 s; the connection ends after 100 s
    assert [find(made, each, TEMPLATE) for each in (9, 10, 69, 129)] == [template(10), held, held, held]
    assert find(made, 130, TEMPLATE) is None
    assert made.expire(129 * SECOND_NS) == (controlled(lives_s=100),)
    kept = find(made, 129, TEMPLATE)
    assert (kept.expires_ns, kept.timeout_ns) == (130 * SECOND_NS, 60 * SECOND_NS)
    assert [each.key for each in made.expire(130 * SECOND_NS)] == [TEMPLATE]


def test_at_one_instant_a_connection_ends_before_its_template_is_looked_at():
    made = table(template(10), controlled(lives_s=10))
    assert find(made, 10, TEMPLATE) is None
    assert [each.key.template for each in made.expire(10 * SECOND_NS)] == [False, True]


def test_a_template_is_held_by_its_own_connections_alone():
    made = table(template(10), connection(lives_s=900))
    assert find(made, 10, TEMPLATE) is None
    later = template(10, at_s=5, server=B)
    made = table(template(10), controlled(lives_s=900))
    made.commit(Touch((later,)), 5 * SECOND_NS)  # another template of the same client
    assert find(made, 14, TEMPLATE) == later
    assert find(made, 15, TEMPLATE) is None
    made.expire(15 * SECOND_NS)
    assert len(made) == 1


def test_a_template_ends_when_the_last_of_its_connections_has_ended():
    made = table(template(10), controlled(1, lives_s=30), controlled(2, lives_s=80), connection(3, lives_s=900))
    assert find(made, 129, TEMPLATE) and not find(made, 130, TEMPLATE)
    made.commit(Touch(gone=(key(2),)), SECOND_NS)
    assert find(made, 69, TEMPLATE) and not find(made, 70, TEMPLATE)
    made.commit(Touch((controlled(1, lives_s=80),)), SECOND_NS)
    assert find(made, 129, TEMPLATE) and not find(made, 130, TEMPLATE)


# --- changes of servers -----------------------------------------------------------------------------------------------


def retain(made, before, after, **more):
    return made.retain(V4, {KEY: before} if before else {}, {KEY: after} if after else {}, **more)


@pytest.mark.parametrize("after", [virtual([REMOTE_POD]), virtual([REMOTE_POD, POD], port=81), None])
def test_connections_and_templates_of_a_deleted_server_end(after):  # IPVS-13.2, IPVS-13.5
    made = table(template(), controlled(), connection(9, B))
    gone = retain(made, virtual([POD, REMOTE_POD]), after)
    assert controlled() in gone and find(made, 0) is None and find(made, 0, TEMPLATE) is None
    assert (find(made, 0, key(9)) is None) is (after is None or after.servers[0].port == 81)
    assert TEMPLATE not in [each.key for each in gone]


def test_a_server_of_weight_0_keeps_its_connections():  # IPVS-13.1
    made = table(template(), controlled())
    assert retain(made, virtual([POD]), virtual([(POD, 0)])) == ()
    assert find(made, 0) and find(made, 0, TEMPLATE)
    assert retain(made, virtual([(POD, 0)]), virtual([POD])) == ()


def test_without_expire_nodest_conn_connections_outlive_their_server():
    made = table(connection())
    assert retain(made, virtual([POD]), None, expires_connections=False) == ()
    assert find(made, 0) == connection()


def test_other_families_are_left_alone():
    six = Connection(key(family=Family.IPV6), A, State.ESTABLISHED, 0, 900 * SECOND_NS, 0)
    made = table(six)
    made.commit(Touch(cursors=(((Family.IPV6, KEY), B),)), 0)
    assert retain(made, virtual([POD]), None) == ()
    assert len(made) == 1 and made.cursor(Family.IPV6, KEY) == B


def test_cursors_follow_servers():
    def after(cursor, before, now):
        made = IpvsTable()
        made.commit(Touch(cursors=(((V4, KEY), cursor),)), 0)
        retain(made, before, now)
        return made.cursor(V4, KEY)

    two = virtual([POD, REMOTE_POD])
    assert after(B, two, virtual([POD])) == A
    assert after(B, two, virtual([OTHER_POD, POD, REMOTE_POD])) == B
    assert after(B, two, virtual([POD, REMOTE_POD], timeout_s=5)) == B
    assert after(B, two, virtual([POD, REMOTE_POD], "lc")) is None
    assert after(B, two, None) is None and after(B, None, two) is None
    weighed = pick(
        "wrr", [Candidate(each) for each in two.servers], Request(V4, (1, 1), 2), None, lambda limit: 0
    ).cursor
    assert after(weighed, replace(two, scheduler="wrr"), virtual([POD, REMOTE_POD], "wrr", timeout_s=5)) == weighed
    assert IpvsTable().cursor(V4, KEY) is None


def test_only_rr_knows_by_itself_how_it_goes_on():
    made = IpvsTable(known=False)
    assert not made.knows(V4, KEY, "rr") and IpvsTable().knows(V4, KEY, "lc")
    made.commit(Touch(cursors=(((V4, KEY), A),)), 0)
    assert bool(made)
    assert made.knows(V4, KEY, "rr") and not made.knows(V4, KEY, "lc") and not made.knows(Family.IPV6, KEY, "rr")


# --- copies -----------------------------------------------------------------------------------------------------------


def test_copies_go_their_own_ways():
    made = table(template(), controlled())
    made.commit(Touch(cursors=(((V4, KEY), A),)), 0)
    other = made.copy()
    other.commit(Touch((connection(2, B),), (key(),), (((V4, KEY), B),)), 0)
    assert (len(made), counters(made), counters(made, B), made.cursor(V4, KEY)) == (2, (1, 0), (0, 0), A)
    assert (counters(other), counters(other, B), other.cursor(V4, KEY)) == ((0, 0), (1, 0), B)
    assert made.find_answers(controlled().answers, 0) and not other.find_answers(controlled().answers, 0)
    made.expire(10 * SECOND_NS)
    assert find(made, 69, TEMPLATE) and not find(other, 10, TEMPLATE)
    assert IpvsTable(known=False).copy().known is False
    assert bool(made) and not IpvsTable()


def test_a_copy_may_leave_connections_or_templates_out():
    made = table(template(), controlled())
    made.commit(Touch(cursors=(((V4, KEY), A),)), 0)
    bare, without_templates = made.copy(connections=False), made.copy(templates=False)
    assert [each.key.template for each in bare] == [True] and [each.key.template for each in without_templates] == [
        False
    ]
    assert (counters(bare), counters(without_templates)) == ((0, 0), (1, 0))
    assert bare.cursor(V4, KEY) == without_templates.cursor(V4, KEY) == A
    assert not find(bare, 10, TEMPLATE) and len(made.copy(connections=False, templates=False)) == 0
    assert bool(table(connection())) and len(made) == 2


def test_expired_connections_are_found_wherever_their_timers_stand():
    lives = [(number * 7) % 23 + 1 for number in range(23)]
    made = table(*(connection(number, lives_s=lives_s) for number, lives_s in enumerate(lives)))
    for at_s in range(25):
        assert counters(made, at_s=at_s).active == sum(lives_s > at_s for lives_s in lives)


def test_a_server_that_comes_ends_nothing():
    made = table(connection())
    assert (
        retain(made, virtual([POD]), virtual([POD])) == retain(made, virtual([POD]), virtual([REMOTE_POD, POD])) == ()
    )
    assert find(made, 0) == connection()


def test_a_template_is_held_by_each_of_its_connections():
    made = table(template(10), controlled(1, lives_s=500), controlled(2, lives_s=500), controlled(3, lives_s=500))
    made.commit(Touch(gone=(key(1),)), 0)
    made.commit(Touch(gone=(key(2),)), 0)
    assert find(made, 69, TEMPLATE)
    made.commit(Touch(gone=(key(3),)), 0)
    assert not find(made, 10, TEMPLATE)
    assert made.expire(10 * SECOND_NS) == (template(10),)


def test_a_connection_that_takes_anothers_port_is_held_by_its_own_template():
    """The client's template was forgotten and made anew meanwhile; the first one's connection is gone."""
    made = table(template(10), controlled(lives_s=100))
    later = template(10, at_s=20)
    made.commit(Touch((later, connection(at_s=20, control=TemplateId(TEMPLATE, later.made_ns)))), 20 * SECOND_NS)
    assert find(made, 29, TEMPLATE) == later and find(made, 899, TEMPLATE)
    made.commit(Touch(gone=(key(),)), 20 * SECOND_NS)
    assert not find(made, 30, TEMPLATE)


def test_a_connection_in_words():
    assert str(connection()) == "tcp 203.0.113.9:40000 → 172.30.0.10:80 → 10.180.0.5:8080 ESTABLISHED"
