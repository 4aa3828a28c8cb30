"""Which endpoints the Services had in the course of a run, as their EndpointSlices say.

It only observes: a watcher of the API server that writes into the run log.
"""

from dataclasses import replace

from kpsim.addresses import join_host_port
from kpsim.objects import EndpointSlice, ObjectKey
from kpsim.simulation.apiserver import Change
from kpsim.simulation.runlog import EndpointSpell, RunLog

_Listed = tuple[str, str, str]  # service port, endpoint, node


class EndpointWatch:
    """Keeps the log's list of endpoints. An endpoint that two slices list is one endpoint."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._slices: dict[ObjectKey, frozenset[_Listed]] = {}
        self._holders: dict[_Listed, int] = {}  #: in how many slices an endpoint stands
        self._open: dict[_Listed, int] = {}  #: the place of its record in the log

    def on_change(self, change: Change) -> None:
        """Take in one write."""
        if not isinstance(change.event.object, EndpointSlice):
            return
        new = change.event.new
        after = frozenset(_ready(new)) if isinstance(new, EndpointSlice) else frozenset()
        before = self._slices.pop(change.key, frozenset())
        if after:
            self._slices[change.key] = after
        for listed in sorted(after - before):
            self._holders[listed] = self._holders.get(listed, 0) + 1
            if listed not in self._open:
                self._open[listed] = len(self._log.endpoints)
                self._log.endpoints.append(EndpointSpell(*listed, change.written_ns))
        for listed in sorted(before - after):
            self._holders[listed] -= 1
            if not self._holders[listed]:
                del self._holders[listed]
                place = self._open.pop(listed)
                self._log.endpoints[place] = replace(self._log.endpoints[place], until_ns=change.written_ns)


def _ready(item: EndpointSlice) -> list[_Listed]:
    service = f"{item.metadata.namespace}/{item.service_name}"
    return [
        (
            f"{service}:{port.name}" if port.name else service,
            join_host_port(address, port.port),
            endpoint.node_name or "",
        )
        for endpoint in item.endpoints
        if endpoint.ready is not False
        for address in endpoint.addresses[:1]
        for port in item.ports
        if port.port is not None
    ]
