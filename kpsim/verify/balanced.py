"""What a kernel without ip_vs can be asked of ipvs mode: rules and ipsets, but not what a virtual server does.

No kernel that tests run on has ip_vs. So both sides get the rules, the ipsets and the addresses that kube-proxy makes
local, and neither has virtual servers. Packets that a virtual server would take or refuse are left out, and counted.
"""

from dataclasses import replace
from typing import NamedTuple

from kpsim.ipvs.servers import ServerReference
from kpsim.maps import Map
from kpsim.netfilter import Netns, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.programmed import Programmed
from kpsim.ruleset import Compare, Field, Rule

_OF_IPVS = frozenset(field for field in Field if field.name.startswith("IPVS"))


class WithoutIpvs(NamedTuple):
    """What is loaded into both sides."""

    told: Programmed
    rules: int  #: how many rules it lacks: those that ask of ip_vs, which such a kernel does not load


def without_ipvs(told: Programmed) -> WithoutIpvs:
    """What a kernel without ip_vs can be told. The same value if that is all."""
    if not told.virtual_servers:
        return WithoutIpvs(told, 0)
    tables, lacking = told.ruleset.tables, 0
    for key, table in told.ruleset.tables.items():
        for name, chain in table.chains.items():
            kept = tuple(rule for rule in chain.rules if not _asks_of_ipvs(rule))
            if len(kept) < len(chain.rules):
                lacking += len(chain.rules) - len(kept)
                table = replace(table, chains=table.chains.set(name, type(chain)(name, kept, chain.base)))
                tables = tables.set(key, table)
    ruleset = replace(told.ruleset, tables=tables)
    return WithoutIpvs(replace(told, ruleset=ruleset, virtual_servers=Map()), lacking)


def _asks_of_ipvs(rule: Rule) -> bool:
    return any(isinstance(part, Compare) and part.field in _OF_IPVS for part in rule.body)


def taken_by(netns: Netns, packet: Packet) -> ServerReference | None:
    """The virtual server that decides about a first packet; None: it reaches none."""
    chooser = SeededChooser(0, "which virtual server")
    return walk(netns, packet, now_ns=0, chooser=chooser, local=not packet.in_interface, trace=False).server
