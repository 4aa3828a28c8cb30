"""Subsets of Endpoints in their canonical form: ports that the same addresses have stand together (CP-4.1).

Counterpart: ``RepackSubsets`` of ``k8s.io/kubernetes/pkg/api/v1/endpoints``, which writers and readers of Endpoints apply.
"""

from collections.abc import Iterable

from kpsim.objects import EndpointAddress, EndpointSubset, SlicePort

_Key = tuple[str, str]  #: address and UID of the pod behind it: two pods may have one address for a while


def repacked(subsets: Iterable[EndpointSubset]) -> tuple[EndpointSubset, ...]:
    """Return the subsets with each port once.

    An address that is ready and not ready for a port counts as not ready. An address without any port keeps a subset without ports.
    """
    addresses: dict[_Key, EndpointAddress] = {}
    by_port: dict[SlicePort | None, dict[_Key, bool]] = {}
    for subset in subsets:
        for port in subset.ports or (None,):
            ready_by_key = by_port.setdefault(port, {})
            for group, ready in ((subset.addresses, True), (subset.not_ready, False)):
                for address in group:
                    key = _key(address)
                    addresses.setdefault(key, address)
                    ready_by_key[key] = ready and ready_by_key.get(key, True)
    ports_of: dict[frozenset[tuple[_Key, bool]], list[SlicePort | None]] = {}
    for port, ready_by_key in by_port.items():
        if ready_by_key:
            ports_of.setdefault(frozenset(ready_by_key.items()), []).append(port)
    found = []
    for members, ports in ports_of.items():
        ordered = sorted(members)
        found.append(
            EndpointSubset(
                tuple(addresses[key] for key, ready in ordered if ready),
                tuple(addresses[key] for key, ready in ordered if not ready),
                tuple(sorted((port for port in ports if port is not None), key=_port_order)),
            )
        )
    return tuple(sorted(found, key=lambda subset: (list(map(_port_order, subset.ports)), _first(subset))))


def count_addresses(subsets: Iterable[EndpointSubset]) -> int:
    """Return how many addresses the subsets list. One that stands in two subsets counts twice, as it does for the limit (CP-4.2)."""
    return sum(len(subset.addresses) + len(subset.not_ready) for subset in subsets)


def _key(address: EndpointAddress) -> _Key:
    target = address.target_ref
    return address.ip, target.uid if target else ""


def _port_order(port: SlicePort) -> tuple[str, int, str, str]:
    return port.name or "", port.port or 0, port.protocol, port.app_protocol or ""


def _first(subset: EndpointSubset) -> str:
    return min(address.ip for address in (*subset.addresses, *subset.not_ready))
