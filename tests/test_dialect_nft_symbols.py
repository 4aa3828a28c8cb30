"""Names of values in nft: which there are, which number each has, and which of two names of a number is written.

``tests/dialects/nft_symbols.txt`` holds what ``nft describe`` of 1.0.6 prints: expression, name, number.
"""

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from kpsim.dialects.nft.datatypes import TYPES

RECORDED = [
    line.split("\t") for line in (Path(__file__).parent / "dialects" / "nft_symbols.txt").read_text().splitlines()
]
#: the type of each expression
TYPE_OF = {
    "ct state": "ct_state", "ct status": "ct_status", "ct direction": "ct_dir", "fib daddr type": "fib_addrtype", "meta pkttype": "pkt_type",
    "tcp flags": "tcp_flag", "ip dscp": "dscp", "ip ecn": "ecn", "icmp type": "icmp_type", "icmp code": "icmp_code", "icmpv6 type": "icmpv6_type",
    "icmpv6 code": "icmpv6_code",
}  # fmt: skip


@pytest.mark.parametrize("expression", TYPE_OF)
def test_every_name_has_nfts_number(expression: str) -> None:
    kind = TYPES[TYPE_OF[expression]]
    names: dict[int, list[str]] = defaultdict(list)
    for of, name, number in RECORDED:
        if of == expression:
            names[int(number, 0)].append(name)
    assert names
    for number, same in names.items():
        for name in same:
            atom = kind.read(name)
            assert kind.order(atom) == number, name
            assert kind.write(atom) == same[0]  # of two names nft lists the first
    with pytest.raises(ValueError):
        kind.read("no-such-name")


@pytest.mark.kernel
@pytest.mark.parametrize("expression", TYPE_OF)
def test_nft_describes_the_names_like_this(expression: str) -> None:
    told = subprocess.run(["nft", "describe", *expression.split()], capture_output=True, text=True, check=True).stdout
    rows = [[word.strip() for word in line.split("\t")][1:] for line in told.splitlines() if line.count("\t") >= 2]
    assert rows == [[name, number] for of, name, number in RECORDED if of == expression]
