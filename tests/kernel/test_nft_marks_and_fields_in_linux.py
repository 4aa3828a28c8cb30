"""Marks, fields and numbers that foreign rulesets of nft use, in the model and in Linux."""

import pytest
from nft_twin import NftTwin, ends, out

from kpsim.addresses import Family

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6

_MARKS = """
table ip t {
    map byport { type inet_service : mark; flags interval; elements = { 1000 : 0x1, 1001-1003 : 0x2, 1007 : 0x3 } }
    chain p {
        type filter hook prerouting priority -150; policy accept;
        meta mark set tcp dport map @byport
        tcp dport 1004 meta mark set ip saddr . tcp dport map { 203.0.113.9 . 1004 : 0x4 }
        tcp dport 1005 meta mark set ip saddr map { 198.51.100.1 : 0x4, * : 0x5 }
        tcp dport 1006 meta mark set 0x4 meta mark set ip saddr map { 198.51.100.1 : 0x6 } drop
        tcp dport 1007 ct mark set meta mark map { 0x3 : 0x9 }
        tcp dport 1008 meta mark set jhash tcp dport mod 1 seed 0x5 offset 8
    }
    chain f {
        type filter hook forward priority 0; policy accept;
        tcp dport 1000-1001 meta mark 0x1 drop
        tcp dport 1002-1003 meta mark 0x2 drop
        meta mark { 0x4, 0x5, 0x8 } drop
        ct mark 0x9 drop
    }
}
"""


def test_marks_out_of_maps(linux: NftTwin) -> None:
    """A key that the map lacks ends the rule, and leaves what was done before."""
    linux.load(_MARKS)
    ports = range(999, 1010)
    forwarded = {999, 1001, 1009}
    assert ends(linux.agree(*map(out, ports))) == ["forwarded" if port in forwarded else "dropped" for port in ports]


def test_marks_that_are_counted(linux: NftTwin) -> None:
    linux.load("""
table ip t {
    chain p { type filter hook prerouting priority -150; policy accept; tcp dport 1000-1005 meta mark set numgen inc mod 3 offset 5; }
    chain f { type filter hook forward priority 0; policy accept; meta mark 6 drop; }
}
""")
    assert ends(linux.agree(*map(out, range(1000, 1006)))) == ["forwarded", "dropped", "forwarded"] * 2
