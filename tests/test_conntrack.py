"""The connection table (CT-3, CT-7, K-1, K-6)."""

from packets import CLIENT, NODE, POD, REMOTE_POD, flow_entry, ip

from kpsim.addresses import Family
from kpsim.conntrack import ConntrackTable, Destroyed, Ending, Entry, FlowTuple, StatusBit, tuple_of
from kpsim.flowstate import (
    Direction,
    FlowState,
)
from kpsim.packet import Packet
from kpsim.units import SECOND_NS

ORIGINAL, REPLY = Direction.ORIGINAL, Direction.REPLY


# --- the table -------------------------------------------------------------------------------------------------------------


def udp_entry(sport: int = 40000, *, expires_s: int = 30, assured: bool = False, created_s: int = 0) -> Entry:
    entry = flow_entry(
        "udp", (CLIENT, sport, "172.30.0.10", 53), (POD, 5353, CLIENT, sport),
        created_ns=created_s * SECOND_NS, expires_ns=expires_s * SECOND_NS,
    )  # fmt: skip
    return entry._replace(assured=assured)


def test_an_entry_is_found_by_both_its_tuples():
    table = ConntrackTable()
    entry = udp_entry()
    assert table.insert(entry, 0)
    assert table.lookup(entry.original, 1) == (entry, ORIGINAL)
    answer = Packet(Family.IPV4, "udp", ip(POD), ip(CLIENT), 5353, 40000)
    assert table.lookup(tuple_of(answer), 1) == (entry, REPLY)
    assert table.lookup(entry.original.inverse(), 1) is None


def test_status_bits_follow_from_the_binding():
    assert udp_entry().status == {StatusBit.CONFIRMED, StatusBit.DST_NAT}
    masqueraded = flow_entry(
        "udp", (CLIENT, 40000, "172.30.0.10", 53), (REMOTE_POD, 53, NODE, 2000), created_ns=0, expires_ns=1
    )  # fmt: skip
    assert masqueraded.status == {StatusBit.CONFIRMED, StatusBit.DST_NAT, StatusBit.SRC_NAT}
    plain = flow_entry("udp", (CLIENT, 1, POD, 2), (POD, 2, CLIENT, 1), created_ns=0, expires_ns=1)
    assert plain._replace(seen_reply=True, assured=True).status == {
        StatusBit.CONFIRMED, StatusBit.SEEN_REPLY, StatusBit.ASSURED,
    }  # fmt: skip


def test_icmp_tuples_are_inverted_by_type():
    echo = FlowTuple(Family.IPV4, "icmp", ip(CLIENT), 7, ip(POD), 8 * 256)
    assert echo.inverse() == FlowTuple(Family.IPV4, "icmp", ip(POD), 7, ip(CLIENT), 0)
    assert echo.inverse().inverse() == echo
    plain = Entry(echo, echo.inverse(), FlowState.NONE, False, False, 0, 1)
    assert not plain.src_nat and not plain.dst_nat
    assert plain._replace(reply=plain.reply._replace(daddr=ip(NODE))).src_nat
    assert plain._replace(reply=plain.reply._replace(sport=8)).src_nat
    assert plain._replace(reply=plain.reply._replace(saddr=ip(REMOTE_POD))).dst_nat


def test_expired_entries_never_match_and_are_told_in_order():  # K-1.7
    table = ConntrackTable()
    late, early = udp_entry(1, expires_s=30), udp_entry(2, expires_s=20)
    table.insert(late, 0)
    table.insert(early, 0)
    assert table.lookup(early.original, 20 * SECOND_NS - 1) is not None
    assert table.lookup(early.original, 20 * SECOND_NS) is None
    table.update(late._replace(expires_ns=40 * SECOND_NS))
    assert [(gone.entry, gone.ending) for gone in table.expire(35 * SECOND_NS)] == [(early, Ending.EXPIRED)]
    assert [gone.entry.original for gone in table.expire(40 * SECOND_NS)] == [late.original]
    assert len(table) == 0
    assert table.expire(100 * SECOND_NS) == ()


def test_a_tuple_can_be_used_again_after_deletion_and_expires_anew():
    table = ConntrackTable()
    first = udp_entry(expires_s=30)
    table.insert(first, 0)
    assert table.delete(first.original, first.reply) == first
    again = udp_entry(expires_s=50)
    assert table.insert(again, 5 * SECOND_NS)
    assert table.expire(40 * SECOND_NS) == ()
    assert [gone.entry for gone in table.expire(50 * SECOND_NS)] == [again]


def test_deletion_needs_both_tuples_exactly():  # CT-2.4
    table = ConntrackTable()
    entry = udp_entry()
    table.insert(entry, 0)
    assert table.delete(entry.original, entry.reply._replace(sport=1)) is None
    assert table.delete(entry.original, entry.reply) == entry
    assert table.delete(entry.original, entry.reply) is None


def test_a_tuple_belongs_to_one_live_entry():
    table = ConntrackTable()
    table.insert(udp_entry(), 0)
    rival = flow_entry(
        "udp", (CLIENT, 40000, "172.30.0.11", 53), (POD, 5353, CLIENT, 40000), created_ns=0, expires_ns=1
    )
    assert not table.insert(rival, 0)
    assert table.insert(rival, 30 * SECOND_NS)  # the other has expired
    assert list(table) == [rival]


def test_udp_listing_is_of_one_family_and_protocol():
    table = ConntrackTable()
    for entry in (
        udp_entry(),
        flow_entry("tcp", (CLIENT, 1, POD, 2), (POD, 2, CLIENT, 1), created_ns=0, expires_ns=1),
        flow_entry(
            "udp", ("2001:db8::9", 1, "fd00::1", 2), ("fd00::1", 2, "2001:db8::9", 1), created_ns=0, expires_ns=1
        ),
    ):
        table.insert(entry, 0)
    assert table.udp_entries(Family.IPV4) == (udp_entry(),)
    assert [str(entry.original) for entry in table.udp_entries(Family.IPV6)] == ["udp [2001:db8::9]:1 → [fd00::1]:2"]


def test_a_masquerade_ends_with_its_interface():  # K-1.9
    table = ConntrackTable()
    borrowed, plain = udp_entry(1)._replace(masquerade_device="eth0"), udp_entry(2)
    table.insert(borrowed, 0)
    table.insert(plain, 0)
    assert table.interface_down("eth1") == ()
    assert [(gone.entry, gone.ending) for gone in table.interface_down("eth0")] == [(borrowed, Ending.INTERFACE_DOWN)]
    assert list(table) == [plain]


def test_a_masquerade_ends_with_the_address_it_borrowed():  # K-1.9
    table = ConntrackTable()
    borrowed = udp_entry(1)._replace(masquerade_device="eth0")
    [address] = {borrowed.reply.daddr}
    table.insert(borrowed, 0)
    assert table.address_removed("eth0", Family.IPV4, address + 1) == ()
    assert table.address_removed("eth0", Family.IPV6, address) == ()
    assert table.address_removed("eth1", Family.IPV4, address) == ()
    gone = table.address_removed("eth0", Family.IPV4, address)
    assert gone == (Destroyed(borrowed, Ending.ADDRESS_GONE),)
    assert len(table) == 0
