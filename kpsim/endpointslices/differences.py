"""In what two lists of a Service's slices differ, as far as kube-proxy reads them. In which slice an endpoint stands does not matter."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kpsim.endpointslices.hints import auto_hints_wanted
from kpsim.endpointslices.reconciler import address_types
from kpsim.objects import LABEL_HEADLESS, EndpointSlice, Service, SliceEndpoint, SlicePort


class _Row(NamedTuple):
    """What slices say about an endpoint."""

    ports: frozenset[tuple[str, str, int | None]]
    conditions: tuple[bool, bool, bool]
    node: str
    zone: str
    hints: tuple[frozenset[str], frozenset[str]]


_Table = dict[tuple[str, tuple[str, ...]], frozenset[_Row]]


def differences(service: Service, given: Sequence[EndpointSlice], written: Sequence[EndpointSlice]) -> list[str]:
    """Return in words how the given slices differ from those that the controller writes for the Service. Empty: not at all."""
    return list(dict.fromkeys(_differences(service, given, written)))


def _differences(service: Service, given: Sequence[EndpointSlice], written: Sequence[EndpointSlice]) -> Iterator[str]:
    had, has = {item.address_type for item in given}, set(address_types(service))
    if has - had:
        yield f"there are none of {' and '.join(sorted(has - had))}, which the Service has"
    if had - has:
        yield "there are some of a family that the Service does not have"
    if set(map(id, given)) == set(map(id, written)):
        return
    if _headless(given) != _headless(written):
        yield "their label says whether the Service that they were written for was headless, and it was otherwise"
    ports = list(_port_differences(given, written))
    yield from ports
    before, after = _table(given), _table(written)
    if {key for key in before if key[0] in has} != {key for key in after if key[0] in had}:
        yield "the Pods make other endpoints"
    for key in sorted(before.keys() & after.keys()):
        yield from _row_differences(service, before[key], after[key], [] if ports else ["ports"])


def _headless(slices: Iterable[EndpointSlice]) -> set[bool]:
    return {LABEL_HEADLESS in item.metadata.labels for item in slices}


def _port_differences(given: Iterable[EndpointSlice], written: Iterable[EndpointSlice]) -> Iterator[str]:
    before, after = ({_port(port) for item in slices for port in item.ports} for slices in (given, written))
    names_before, names_after = ({port[:2] for port in ports} for ports in (before, after))
    if names_before - names_after:
        yield "they have a port that the Service does not have"
    if names_after - names_before:
        yield "they lack a port of the Service"
    if any(port[:2] in names_after for port in before - after):
        yield "they have another port number than targetPort"


def _port(port: SlicePort) -> tuple[str, str, int | None]:
    return port.name or "", port.protocol, port.port


def _table(slices: Iterable[EndpointSlice]) -> _Table:
    table: dict[tuple[str, tuple[str, ...]], set[_Row]] = {}
    for item in slices:
        ports = frozenset(map(_port, item.ports))
        for endpoint in item.endpoints:
            table.setdefault((item.address_type, endpoint.addresses), set()).add(_row(endpoint, ports))
    return {key: frozenset(rows) for key, rows in table.items()}


def _row(endpoint: SliceEndpoint, ports: frozenset[tuple[str, str, int | None]]) -> _Row:
    ready = endpoint.ready is not False  # absent conditions have their meaning (O-6.3)
    serving = ready if endpoint.serving is None else endpoint.serving
    return _Row(
        ports,
        (ready, serving, bool(endpoint.terminating)),
        endpoint.node_name or "",
        endpoint.zone or "",
        (endpoint.zone_hints, endpoint.node_hints),
    )


def _row_differences(
    service: Service, before: frozenset[_Row], after: frozenset[_Row], further: Sequence[str]
) -> Iterator[str]:
    if before == after:
        return

    def differ(column: str) -> bool:
        return {getattr(row, column) for row in before} != {getattr(row, column) for row in after}

    if differ("conditions"):
        published = service.publish_not_ready_addresses
        yield (
            "publishNotReadyAddresses makes every endpoint ready"
            if published
            else "the endpoints have other conditions"
        )
    if differ("node"):
        yield "the endpoints are on other Nodes"
    if differ("zone"):
        yield "they name other zones than the labels of the Nodes"
    if differ("hints"):
        asked = service.traffic_distribution
        if auto_hints_wanted(service):
            yield "topology mode Auto makes other hints"
        else:
            yield (
                f"trafficDistribution {asked} makes other hints"
                if asked
                else "without trafficDistribution there are no hints"
            )
    if any(map(differ, further)):
        yield "the endpoints have other ports"
