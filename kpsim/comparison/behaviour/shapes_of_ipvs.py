"""What of ipsets and virtual servers decides whether their elements may be exchanged."""

from collections.abc import Mapping
from itertools import pairwise

from kpsim.addresses import Family
from kpsim.comparison.behaviour.components import Address
from kpsim.comparison.behaviour.holes import Incomparable
from kpsim.ipvs.schedulers import SCHEDULERS
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.ruleset import Set


def computes_with_addresses(of: Set) -> bool:
    """Whether an ipset reads a part of addresses, or has exceptions from wider networks: then neighbours of an address matter."""
    assert of.ipset is not None
    return of.ipset.mask is not None or any(element.nomatch for element in of.elements.values())


def draws_among_equals(virtual: VirtualServer) -> bool:
    """Whether each real server has the same chance of a first connection (IPVS-14).

    Incomparable if the scheduler hashes addresses: which server a client gets says nothing of another's.
    """
    kind = SCHEDULERS.get(virtual.scheduler)
    if kind is None or kind.hashes_client or not kind.has_past:
        raise Incomparable
    weights = [server.weight for server in virtual.servers]
    return all(weight > 0 and weight == after for weight, after in pairwise([*weights, *weights[-1:]]))


def in_order(
    servers: Mapping[VirtualServerKey, VirtualServer], family: Family, places: Mapping[Address | int, int]
) -> list[tuple[VirtualServerKey, VirtualServer]]:
    """Virtual servers in an order that is the same for components that are alike: by the places of their constants.

    Constants that belong to no component come by themselves.
    """

    def rank(key: VirtualServerKey) -> tuple[tuple[bool, int], tuple[bool, int], str, VirtualServerKey]:
        address, port = places.get((family, key.address)), places.get(key.port)
        return (
            (address is None, key.address if address is None else address),
            (port is None, key.port if port is None else port), key.protocol, key,
        )  # fmt: skip

    return sorted(servers.items(), key=lambda each: rank(each[0]))
