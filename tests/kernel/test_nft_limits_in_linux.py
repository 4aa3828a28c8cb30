"""Limits of bytes, quotas and limits of elements, in the model and in Linux (K-24.5 to K-24.7). No credit comes back in a test."""

import pytest
from labs import shot
from nft_twin import NftTwin, ends, out

from kpsim.addresses import Family

pytestmark = pytest.mark.kernel

_DROPS = """
table ip t {{
    quota half {{ over 100 bytes; }}
    set s {{ type ipv4_addr; size 9; flags dynamic; }}
    set p {{ type inet_service; size 9; flags dynamic,timeout; timeout 1h; }}
    chain f {{ type filter hook forward priority 0; policy accept; tcp dport 1000-1009 {condition} drop; }}
}}
"""


@pytest.mark.parametrize(
    ("condition", "dropped"),
    [
        ("limit rate 100 bytes/week", [0, 1]),
        ("limit rate 100 bytes/week burst 40 bytes", [0, 1, 2]),
        ("limit rate over 1 kbytes/week burst 40 bytes", [26]),
        ("limit rate 120 bytes/week", [0, 1, 2]),
        ("quota 120 bytes", [0, 1, 2]),
        ("quota 119 bytes", [0, 1]),
        ("quota over 120 bytes", list(range(3, 27))),
        ("quota over 120 bytes used 60 bytes", list(range(1, 27))),
        ('quota name "half"', list(range(2, 27))),
    ],
)
def test_bytes(linux: NftTwin, condition: str, dropped: list[int]) -> None:
    """The packets have 40 bytes in Linux, and in the model too."""
    linux.load(_DROPS.format(condition=condition))
    sent = [out(1000 + number % 10, sport=40000 + number) for number in range(27)]
    for each in sent:
        each.packet.length = 40
    found = ends(linux.agree(*sent))
    assert [number for number, end in enumerate(found) if end == "dropped"] == dropped


@pytest.mark.parametrize(
    ("condition", "dropped"),
    [
        ("add @s { ip saddr limit rate over 1/week burst 2 packets }", [2, 3, 6, 7]),
        ("update @s { ip saddr limit rate 1/week burst 1 packets }", [0, 4]),
        ("add @s { ip saddr quota over 100 bytes }", [2, 3, 6, 7]),
        ("add @s { ip saddr quota over 100 bytes used 30 bytes }", [1, 2, 3, 5, 6, 7]),
        ("add @s { ip saddr limit rate over 1/week burst 1 packets quota over 60 bytes }", [2, 3, 6, 7]),
        ("add @s { ip saddr quota over 60 bytes limit rate over 1/week burst 1 packets }", [2, 3, 6, 7]),
        ("add @s { ip saddr quota 60 bytes limit rate over 1/week burst 1 packets }", []),
        ("update @p { tcp dport timeout 1m limit rate over 1/week burst 1 packets }", [2, 3, 4, 5, 6, 7]),
        ("meter m { ip saddr . tcp dport limit rate over 1/week burst 1 packets }", [2, 3, 6, 7]),
        ("meter m { ip saddr & 255.255.255.0 limit rate over 1/week burst 3 packets }", [3, 4, 5, 6, 7]),
        ("meter m size 1 { ip saddr limit rate 1/week burst 9 packets }", [0, 1, 2, 3]),
    ],
)
def test_limits_of_elements(linux: NftTwin, condition: str, dropped: list[int]) -> None:
    linux.load(_DROPS.format(condition=condition))
    sent = [
        shot(Family.IPV4, source, "pod", 1000 + number % 2, sport=40000 + number)
        for source in ("203.0.113.9", "203.0.113.10")
        for number in range(4)
    ]
    for each in sent:
        each.packet.length = 40
    found = ends(linux.agree(*sent))
    assert [number for number, end in enumerate(found) if end == "dropped"] == dropped
