"""What a sync in ipvs mode has the tools and ip_vs do (IPVS-9)."""

from collections.abc import Iterator, Mapping, Sequence

from kpsim.backends import RuleCount
from kpsim.backends.iptables.tables import RestoreDocument
from kpsim.backends.iptables.work import restored
from kpsim.backends.ipvs import rules
from kpsim.backends.ipvs.ipsets import SETS
from kpsim.backends.work import Act, Call, Calls, Tool
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.programmed import Programmed

Servers = Mapping[VirtualServerKey, VirtualServer]


def calls_of(document: RestoreDocument, counts: Sequence[RuleCount], before: Programmed, after: Programmed) -> Calls:
    """Return the calls of one sync that works. kube-proxy's addresses on kube-ipvs0 are not among them."""
    return tuple(_calls(document, counts, before, after))


def _calls(
    document: RestoreDocument, counts: Sequence[RuleCount], before: Programmed, after: Programmed
) -> Iterator[Call]:
    checks = sum(map(len, rules.CHAINS.values())) + len(rules.BUILT_IN_JUMPS)
    yield Call(Tool.IPTABLES, Act.CHECK, times=checks, held=sum(count.total for count in counts))
    names = [declared.named(after.family) for declared in SETS]
    yield Call(Tool.IPSET, Act.CHECK, times=len(names))
    changed = held = 0
    for name in names:
        old, new = (of.ipsets[name].elements if name in of.ipsets else {} for of in (before, after))
        held += len(old)
        changed += 0 if old is new else len(old.keys() ^ new.keys())
    yield Call(Tool.IPSET, Act.READ, times=len(names), held=held)
    yield Call(Tool.IPSET, Act.WRITE, times=changed, written=changed)  # a process for each entry (IPVS-7.5)
    yield Call(Tool.IP_VS, Act.READ, held=_servers(before.virtual_servers))
    yield Call(
        Tool.IP_VS,
        Act.WRITE,
        times=0,
        written=_changed_servers(before.virtual_servers, after.virtual_servers),
        held=_servers(after.virtual_servers),
    )
    yield restored(document, counts, after.ruleset)


def _servers(servers: Servers) -> int:
    """Return the number of virtual and real servers."""
    return len(servers) + sum(len(virtual.servers) for virtual in servers.values())


def _changed_servers(before: Servers, after: Servers) -> int:
    """Return how many virtual and real servers were added, changed or deleted."""
    found = 0
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if old is not new:
            servers = (set(() if each is None else each.servers) for each in (old, new))
            first, second = servers
            found += len(first ^ second) + (old is None or new is None)
    return found
