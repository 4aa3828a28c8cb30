"""The addresses of kube-ipvs0 on a machine whose tools were asked for everything else.

kube-proxy in ipvs mode makes the addresses of Services the node's own (IPVS-3). Packets reach ip_vs at INPUT for no other
reason, and neither ``ipset save`` nor ``ipvsadm -S`` prints the addresses of a device.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.ipvs.servers import UNMODELLED
from kpsim.nodes import node_address
from kpsim.programmed import Programmed
from kpsim.ruleset import Role

_DEVICE = "kube-ipvs0"
_SETS = ("KUBE-IPVS-IPS", "KUBE-6-IPVS-IPS")  #: what kube-proxy wants on the device (IPVS-7.3), by family (IPVS-7.2)
_FEW = 5


def with_local_addresses(
    programmed: Iterable[Programmed], own: Iterable[str], note: Callable[[str], None]
) -> tuple[Programmed, ...]:
    """What a machine was told, with the addresses that kube-ipvs0 has if kube-proxy's last sync succeeded, and notes of them.

    The ipset KUBE-IPVS-IPS holds them, where rules or virtual servers are there besides: a clean-up leaves the set of IPv6
    behind (IPVS-9.3). Without the set they are the addresses of virtual servers that are not the machine's ``own``, as those
    of node ports are. InputError for an address that is none.
    """
    known = {(address.family, address.value) for address in map(node_address, own)}
    return tuple(_with_addresses(told, known, note) for told in programmed)


def unmodelled(programmed: Iterable[Programmed]) -> Iterator[str]:
    """What ip_vs does for some of the virtual servers that is not modelled, a note for each."""
    for told in programmed:
        for key in told.virtual_servers:
            if what := UNMODELLED.get((key.protocol, key.port)):
                yield f"virtual server {join_host_port(format_ip(told.family, key.address), key.port)}: {what}"


def _with_addresses(told: Programmed, own: set[tuple[Family, int]], note: Callable[[str], None]) -> Programmed:
    sets = (told.ipsets.get(name) for name in _SETS)
    wanted = next((of for of in sets if of is not None and of.ipset is not None and of.ipset.kind == "hash:ip"), None)
    if wanted is None:
        found = {key.address for key in told.virtual_servers if (told.family, key.address) not in own}
        source = "the addresses of the virtual servers"
    else:
        used = told.virtual_servers or told.has(Role.UNDEFINED_SERVICE_PORT)
        found = {address for address, *_ in wanted.elements if isinstance(address, int)} if used else set()
        source = f"the addresses in {wanted.name}"
    if not found:
        return told
    ordered = sorted(found)
    shown = ", ".join(format_ip(told.family, address) for address in ordered[:_FEW])
    more = f" and {len(ordered) - _FEW:,} more" if len(ordered) > _FEW else ""
    note(f"{_DEVICE} is taken to have {source}: {shown}{more}")
    return replace(told, local_addresses=told.local_addresses.update(dict.fromkeys(ordered, _DEVICE)))
