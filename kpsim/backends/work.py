"""What a sync has its tools do, in numbers from which the time of the sync can be estimated.

Counterpart: the processes that kube-proxy starts, and its netlink calls to ip_vs. A backend counts only when it is asked.
"""

import enum
from typing import NamedTuple


class Tool(enum.StrEnum):
    """A tool that kube-proxy calls, or the part of the kernel that it calls itself."""

    IPTABLES = "iptables"  #: of either variant
    NFT = "nft"
    IPSET = "ipset"
    IP_VS = "ip_vs"


class Act(enum.StrEnum):
    """What a tool is called for."""

    WRITE = "write"  #: a document or a change
    READ = "read"  #: a listing
    CHECK = "check"  #: a single chain or rule is made unless it is there


class Call(NamedTuple):
    """Calls of one kind in one sync.

    ``pairs`` is what the time of some tools grows with beyond measure: chains refilled × chains held for iptables; for nft
    the maps and sets that the kernel walks to find each new one a place, and sets × sets in a listing.
    """

    tool: Tool
    act: Act
    times: int = 1  #: processes
    written: int = 0  #: lines or objects handed over, by all of them
    held: int = 0  #: kube-proxy's objects that the kernel holds and that the tool reads or exchanges
    pairs: int = 0


Calls = tuple[Call, ...]


def no_calls() -> Calls:
    """Return the calls of a sync whose backend does not count them."""
    return ()
