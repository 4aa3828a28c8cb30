"""Translations to ranges of addresses and ports, prefixes and maps of them, in the model and in Linux."""

from collections.abc import Callable

import pytest
from labs import shot
from nft_twin import SPACES, NftTwin, arrivals, out

from kpsim.addresses import Family

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6
_RANGES = {
    V4: {"last": "10.180.0.6", "first": "10.180.0.5", "snat": "192.168.3.10-192.168.3.200", "prefix": "10.180.1.0/24", "frame": ("ip", "{}:{}")},
    V6: {"last": "fd00:180::6", "first": "fd00:180::5", "snat": "fd00:9:0:1::10-fd00:9:0:3::200", "prefix": "fd00:180:0:1::/120", "frame": ("ip6", "[{}]:{}")},
}  # fmt: skip
_TRANSLATIONS = """
table {space} t {{
    chain p {{
        type nat hook prerouting priority -100; policy accept;
        tcp dport 1000 dnat to {first}-{last}
        tcp dport 1001 dnat to {first}-{last} persistent
        tcp dport 1002 dnat to {open}{first}{close}:1000-1005
        tcp dport 1006 dnat to {open}{first}{close}:1010-1012
        tcp dport 1007 dnat to :1020-1021
        tcp dport 1008 dnat {space} prefix to {prefix}
        tcp dport 1009 dnat to tcp dport map {{ 1009 : {first} }}:2009
        tcp dport 1010 dnat to {open}{last}{close}:tcp dport map {{ 1010 : 2010 }}
        tcp dport 1011 dnat {space} to tcp dport map {{ 1011 : {first}-{last} }}
        tcp dport 1012 dnat to {last}
    }}
    chain s {{
        type nat hook postrouting priority 100; policy accept;
        tcp dport 1100 snat to {snat}
        tcp dport 1101 snat to {snat} persistent
        tcp dport 1102 snat {space} to {space} daddr map {{ {first} : {snat} }}
        tcp dport 1103 snat to :600-1023
    }}
}}
"""


@pytest.mark.parametrize("family", Family)
def test_ranges(kernel: None, made: Callable[[Family], NftTwin], family: Family) -> None:
    """K-24.3: which address it is depends on the two ends of the flow alone; K-24.4: the port stays if it may."""
    linux, about = made(family), _RANGES[family]
    brackets = ("", "") if family is V4 else ("[", "]")
    names = {name: about[name] for name in ("first", "last", "snat", "prefix")}
    linux.load(_TRANSLATIONS.format(space=SPACES[family], open=brackets[0], close=brackets[1], **names))
    to = [about["first"], about["last"]]
    pods = ["10.180.0.5", "10.180.0.6"] if family is V4 else ["fd00:180::5", "fd00:180::6"]
    walks = linux.agree(
        *(
            shot(family, "client", end, port, sport=40000 + number)
            for number, end in enumerate(pods)
            for port in (*range(1000, 1013), 1100, 1101, 1102, 1103)
        )
    )
    first = dict(zip((*range(1000, 1013), 1100, 1101, 1102, 1103), walks, strict=False))
    assert to == pods
    assert [first[port].packet.dport for port in (1002, 1006, 1007, 1009, 1010)] == [
        1002,
        1010,
        1020,
        2009,
        2010,
    ]
    assert first[1008].packet.destination == ("10.180.1.5" if family is V4 else "fd00:180:0:1::5")
    assert 600 <= first[1103].packet.sport <= 1023


def test_a_source_that_was_translated_before_keeps_its_address(linux: NftTwin) -> None:
    """K-24.3: a flow of a port that another flow of the range has takes the same address, whatever its destination."""
    linux.load("""
table ip t {
    chain s { type nat hook postrouting priority 100; policy accept; tcp dport 1000-1010 snat to 192.168.3.10-192.168.3.200; }
}
""")
    pods = ["10.180.0.5", "10.180.0.6", "10.180.1.7"]
    apart = [
        linux.agree(shot(V4, "client", end, 1000, sport=sport))[0].packet.source
        for end, sport in zip(pods, (41000, 41001, 41002), strict=True)
    ]
    again = [linux.agree(shot(V4, "client", end, 1001, sport=41000))[0].packet.source for end in pods]
    assert len(set(apart)) == 3
    assert again == [apart[0]] * 3


def test_ports_that_are_taken(linux: NftTwin) -> None:
    linux.load("""
table ip t {
    chain p { type nat hook prerouting priority -100; policy accept; tcp dport 1000-1001 dnat to 10.180.0.5:2000-2002; }
}
""")
    found = [
        arrivals(linux.agree(out(1000, to=end, sport=42000)))[0][1]
        for end in ("10.180.0.5", "10.180.0.6", "10.180.1.7")
    ]
    assert found == [2000, 2001, 2002]
