"""Where packets set out."""

import enum
from typing import NamedTuple


class After(enum.Enum):
    """What packets met before they set out."""

    NOTHING = ""
    PASSED = "another node passed them on as they are, and their sender's node knows the connection"
    STRANGE = "another node passed them on, whose process made them with an address that is not the node's"


class Start(NamedTuple):
    """Where packets set out: the node that they meet first, whose process makes them or by which interface they come in."""

    node: str
    protocol: str  #: lower case; ``icmpv6`` for IPv6
    interface: str = ""  #: empty: a process of the node makes them
    after: After = After.NOTHING  #: what happened to them before
    ttl: int = 64

    @property
    def local(self) -> bool:
        return not self.interface
