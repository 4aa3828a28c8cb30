"""Limits of bytes, quotas and limits of elements without Linux: the rows that ``kernel/test_nft_limits_in_linux.py`` measures."""

import pytest
from packets import CLIENT, POD, node, packet, run

from kpsim.addresses import Family
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.errors import UnsupportedRule
from kpsim.netfilter import Disposition
from kpsim.units import SECOND_NS

_TABLE = """
table ip t {{
    quota half {{ over 100 bytes used 40 bytes; }}
    set s {{ type ipv4_addr; size 9; flags dynamic,timeout; timeout 10s; }}
    chain f {{ type filter hook forward priority 0; policy accept; {condition} drop; }}
}}
"""


def dropped(condition: str, times_s: list[float], length: int = 40) -> list[int]:
    """The numbers of the packets that are dropped, of one at each of these times."""
    (rules,) = DIALECT.parse(_TABLE.format(condition=condition), Family.IPV4)
    netns, found = node(rules), []
    for number, time_s in enumerate(times_s):
        sent = packet(CLIENT, POD, sport=40000 + number, length=length)
        outcome = run(netns, sent, now_ns=int(time_s * SECOND_NS))
        if outcome.disposition is Disposition.DROPPED:
            found.append(number)
    return found


@pytest.mark.parametrize(
    ("condition", "times_s", "expected"),
    [
        ("limit rate 40 bytes/second", [0, 0, 0.5, 1, 1.5, 2], [0, 3, 5]),
        ("limit rate 40 bytes/second burst 40 bytes", [0, 0, 0, 1], [0, 1, 3]),
        ("limit rate over 1 kbytes/hour", [0] * 27, [25, 26]),
        ("quota 100 bytes", [0, 0, 0, 9], [0, 1]),
        ('quota name "half"', [0, 0, 0], [1, 2]),
        ("add @s { ip saddr limit rate over 1/hour burst 1 packets }", [0, 1, 5, 11, 12], [1, 2, 4]),
        ("update @s { ip saddr limit rate over 1/hour burst 1 packets }", [0, 9, 18, 27.5, 38], [1, 2, 3]),
        ("add @s { ip saddr quota over 100 bytes }", [0, 1, 2, 3, 11, 12, 13], [2, 3, 6]),
        ("add @s { ip saddr quota 100 bytes }", [0, 1, 2, 11], [0, 1, 3]),
        ("add @s { ip saddr quota over 100 bytes used 30 bytes }", [0, 1, 2, 11, 12], [1, 2, 4]),
        ("add @s { ip saddr limit rate over 1/hour burst 1 packets quota over 60 bytes }", [0, 1, 2], [2]),
        ("add @s { ip saddr quota over 60 bytes limit rate over 1/hour burst 1 packets }", [0, 1, 2, 3], [2, 3]),
        ("quota over 100 bytes", [0, 1, 2, 3], [2, 3]),
        ("quota 80 bytes", [0, 1, 2], [0, 1]),
        ("quota over 80 bytes used 1 bytes", [0, 1], [1]),
        ("meter m { ip saddr timeout 4s limit rate over 1/hour burst 1 packets }", [0, 3, 6, 10], [1, 2]),
    ],
)
def test_what_is_left(condition: str, times_s: list[float], expected: list[int]) -> None:
    """K-24.5: a bucket of bytes has room for a second's and the burst; K-24.7: a new element begins anew."""
    assert dropped(condition, times_s) == expected


def test_a_look_up_in_a_set_whose_elements_have_limits_is_refused() -> None:
    """The kernel asks the limit of the element then, too."""
    text = _TABLE.format(condition="add @s { ip saddr limit rate over 1/hour } ip saddr @s")
    with pytest.raises(UnsupportedRule, match="a look-up in s, whose elements have limits"):
        DIALECT.parse(text, Family.IPV4)
