"""What a walk may read of the node that a packet passes.

Hooks read it; only its owner ``netfilter.Netns`` changes it.
"""

from collections.abc import Callable, Sequence

from kpsim.addresses import Family
from kpsim.conntrack import ConntrackTable
from kpsim.maps import Map
from kpsim.packetpath.index import CompiledChain, compiled
from kpsim.packetpath.memory import Memory
from kpsim.packetpath.routing import Routing
from kpsim.packetpath.sockets import Socket
from kpsim.ruleset import Chain, Set
from kpsim.sysctls import Sysctls


class NodeFacts:
    """One node's routes, kernel settings, connections, and what else its kernel remembers about packets."""

    def __init__(self, name: str, routing: Routing, sysctls: Sysctls | None = None) -> None:
        self.name = name
        self.routing = routing
        self.sysctls = sysctls or Sysctls()
        self.conntrack = ConntrackTable()
        self.memory = Memory()
        self.ipsets: dict[Family, Map[str, Set]] = dict.fromkeys(
            Family, Map()
        )  #: those that rules of a family may name
        self.sockets: Sequence[Socket] | None = None  #: that wait for packets; None: not known
        #: another object after every change: what was learnt about the node before is then known to be old
        self.version = object()
        #: makes a chain ready to run. A node that is watched has one that also notes what the rules ask of a packet
        self.ready: Callable[[Chain], CompiledChain] = compiled
