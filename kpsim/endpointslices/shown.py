"""Pods as EndpointSlices show them: for clusters whose Pods were not given.

A slice of the controller shows of a Pod its name, addresses, node, whether it serves and terminates, and the numbers of the named ports
that its Service asks for (CP-3.4). It does not show labels, and no port that no Service asks for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kpsim.objects import ContainerPort, EndpointSlice, Metadata, Pod, Service, SliceEndpoint


@dataclass(slots=True)
class _Shown:
    """One Pod: what all slices of a namespace show of it."""

    name: str
    service: Service  #: the first that selects it
    endpoint: SliceEndpoint  #: its first
    labels: dict[str, str] = field(default_factory=dict)  #: those that its Services select by
    ips: dict[str, None] = field(default_factory=dict)
    families: set[str] = field(
        default_factory=set
    )  #: those of which all its addresses are known, also that it has none
    ports: dict[tuple[str, str], int | None] = field(
        default_factory=dict
    )  #: by name and protocol; None: it has no such port
    ready_known: bool = True

    def pod(self) -> Pod:
        """Return the Pod as far as it is shown."""
        ready = self.endpoint.ready is not False  # absent conditions have their meaning (O-6.3)
        target = self.endpoint.target_ref
        return Pod(
            Metadata(self.service.metadata.namespace, self.name, self.labels, uid=target.uid if target else ""),
            {},
            node_name=self.endpoint.node_name or "",
            ips=tuple(self.ips),
            ready=ready if self.endpoint.serving is None else self.endpoint.serving,
            terminating=bool(self.endpoint.terminating),
            hostname=self.endpoint.hostname or "",
            subdomain=self.service.metadata.name,
            container_ports=tuple(
                ContainerPort(name, protocol, number)
                for (name, protocol), number in self.ports.items()
                if number is not None
            ),
        )


class ShownPods:
    """The Pods of one namespace, read from the slices of its Services as the controller wrote them."""

    def __init__(self, slices: Iterable[tuple[Service, Iterable[EndpointSlice]]]) -> None:
        """Read the slices of each Service. The Services are those for which the controller wrote the slices."""
        self._pods: dict[str, _Shown] = {}
        self._selected: dict[frozenset[tuple[str, str]], dict[str, None]] = {}
        for service, own in slices:
            self._read(service, list(own))

    def _read(self, service: Service, slices: list[EndpointSlice]) -> None:
        families = {item.address_type for item in slices}
        named = [port for port in service.ports if isinstance(port.target_port, str)]
        selected = self._selected.setdefault(frozenset(service.selector.items()), {})
        for item in slices:
            numbers = {(port.name or "", port.protocol): port.port for port in item.ports}
            found = {(str(port.target_port), port.protocol): numbers.get((port.name, port.protocol)) for port in named}
            for endpoint in item.endpoints:
                name = _name_of(endpoint)
                shown = self._pods.get(name)
                if shown is None:
                    shown = self._pods[name] = _Shown(name, service, endpoint)
                shown.labels |= service.selector
                shown.ips.update(dict.fromkeys(endpoint.addresses))
                shown.families |= families
                shown.ports |= found
                if endpoint.serving is None and endpoint.ready and service.publish_not_ready_addresses:
                    shown.ready_known = False  # it is published as ready, whatever it is (CP-3.4.2)
                selected[name] = None

    def all(self) -> list[Pod]:
        """Return every Pod as far as it is shown, in the order of the slices. Its labels are those that Services select by."""
        return [shown.pod() for shown in self._pods.values()]

    def selected_by(self, service: Service) -> tuple[list[Pod], str]:
        """Return the Pods that the Service selects, fit for its ports and families; else what is not known of them, in words."""
        names = self._selected.get(frozenset(service.selector.items()))
        if names is None:
            return [], "which Pods its selector selects"
        wanted = {(port.target_port, port.protocol) for port in service.ports if isinstance(port.target_port, str)}
        pods = []
        for shown in (self._pods[name] for name in names):
            if unknown := sorted(str(name) for name, protocol in wanted if (name, protocol) not in shown.ports):
                return [], f"which number the port {unknown[0]} has"
            if not shown.families.issuperset(service.ip_families):
                (family, *_) = sorted(set(service.ip_families) - shown.families)
                return [], f"which {family} addresses its Pods have"
            if not (shown.ready_known or service.publish_not_ready_addresses):
                return [], "which of its Pods are ready"
            pods.append(shown.pod())
        return pods, ""


def _name_of(endpoint: SliceEndpoint) -> str:
    """Return the Pod's name. A slice that was trimmed by hand may lack it: then the address stands for it."""
    target = endpoint.target_ref
    return target.name if target and target.kind == "Pod" and target.name else endpoint.addresses[0]
