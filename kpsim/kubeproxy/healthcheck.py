"""What kube-proxy answers to health probes: health check node ports of Services (CP-15), /healthz and /livez (CP-14).

Counterpart: ``pkg/proxy/healthcheck``. There are no sockets here: updates come in, answers go out. Times are
nanoseconds since 1970, because the bodies print them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kpsim.addresses import Family, format_ip
from kpsim.config import NodePortAddresses
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import Node
from kpsim.units import format_rfc3339

TAINT_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"

_ZERO_TIME = "0001-01-01T00:00:00Z"
_JSON_HEADERS = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
_ANY_ADDRESS = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """An HTTP answer. Status 0: no server listens, so there is neither header nor body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class ServiceServer:
    """The open health check server of one Service. ``local_endpoints`` is the count of the last successful sync."""

    service: ServiceKey
    port: int
    local_endpoints: int = 0


def listen_addresses(
    node_ports: NodePortAddresses, family: Family, interface_addresses: Iterable[int]
) -> tuple[str, ...]:
    """The addresses on which health check servers of a family listen (CP-15.1); there may be none.

    They are fixed when the proxier is made.
    """
    if node_ports.match_all:
        return (_ANY_ADDRESS[family],)
    return tuple(format_ip(family, address) for address in node_ports.matching(interface_addresses))


class ServiceHealth:
    """The health check servers of one family's proxier: which are open, and what they answer.

    Call ``sync_services``, then ``sync_endpoints``, at the end of a successful sync only (CP-15.3).
    """

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self._open: dict[ServiceKey, int] = {}  # port by service
        self._wanted: Mapping[ServiceKey, int] = {}
        self._refused: tuple[tuple[ServiceKey, int], ...] = ()
        self._counts: Mapping[ServiceKey, int] = {}
        self._new: frozenset[ServiceKey] = frozenset()  #: opened since the last counts; they answer 0 (CP-15.3)

    @property
    def servers(self) -> tuple[ServiceServer, ...]:
        """The open servers, sorted by namespace and name."""
        return tuple(map(self._server, sorted(self._open)))

    def _server(self, service: ServiceKey) -> ServiceServer:
        count = 0 if service in self._new else self._counts.get(service, 0)
        return ServiceServer(service, self._open[service], count)

    def sync_services(
        self, ports: Mapping[ServiceKey, int], ports_in_use: frozenset[int] = frozenset()
    ) -> tuple[tuple[ServiceKey, int], ...]:
        """Opens and closes servers so that they match ``ports`` (O-13.1).

        The caller must not change the mapping afterwards.

        Returns the (service, port) pairs that could not be opened because the host (``ports_in_use``) or another server
        has the port. Each of them is a Warning event FailedToStartServiceHealthcheck, and is tried again at the next
        call (CP-15.3). If two new servers want one port, the first by name gets it; upstream's choice is arbitrary.
        """
        if ports is self._wanted and not self._refused:
            return ()
        self._wanted = ports
        self._open = {key: port for key, port in self._open.items() if ports.get(key) == port}
        kept = frozenset(self._open)
        taken = {*ports_in_use, *self._open.values()}
        refused = []
        for service in sorted(ports.keys() - self._open.keys()):
            port = ports[service]
            if port in taken and self.addresses:  # without an address to listen on nothing can collide
                refused.append((service, port))
            else:
                self._open[service] = port
                taken.add(port)
        self._refused = tuple(refused)
        self._new = (self._new & self._open.keys()) | (self._open.keys() - kept)
        return self._refused

    def sync_endpoints(self, counts: Mapping[ServiceKey, int]) -> None:
        """Sets the number of local ready endpoint IPs by Service (O-13.2). A Service that is missing has none.

        The caller must not change the mapping afterwards.
        """
        self._counts = counts
        self._new = frozenset()

    def answer(self, service: ServiceKey, proxy_healthy: bool) -> HealthAnswer:
        """The answer of the Service's server on any path. KeyError if there is no open server.

        ``proxy_healthy`` is the result of ``ProxyHealth.healthy``. Whether the node is eligible does not matter
        (CP-15.2).
        """
        server = self._server(service)
        if not self.addresses:
            return HealthAnswer(0, (), "")
        body = {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": server.local_endpoints,
            "serviceProxyHealthy": proxy_healthy,
        }
        return HealthAnswer(
            status=200 if server.local_endpoints and proxy_healthy else 503,
            headers=(*_JSON_HEADERS, ("X-Load-Balancing-Endpoint-Weight", str(server.local_endpoints))),
            body=json.dumps(body, indent="\t", ensure_ascii=False),
        )


class ProxyHealth:
    """Whether kube-proxy itself keeps up, over both families, and whether its node takes new load (CP-14)."""

    def __init__(self, timeout_ns: int) -> None:
        """A pending update of age ``timeout_ns`` makes kube-proxy unhealthy: twice the sync period (CP-12 step 5)."""
        self.timeout_ns = timeout_ns
        self._last_updated_ns: dict[Family, int] = {}
        self._oldest_pending_ns: dict[Family, int] = {}
        self._node_eligible = False

    def updated(self, family: Family, now_ns: int) -> None:
        """Notes that a sync of the family succeeded, or that its sync loop started."""
        self._last_updated_ns[family] = now_ns
        self._oldest_pending_ns.pop(family, None)

    def queued_update(self, family: Family, now_ns: int) -> None:
        """Notes that a sync of the family was requested. Only the oldest unanswered request counts."""
        self._oldest_pending_ns.setdefault(family, now_ns)

    def node_changed(self, node: Node) -> None:
        """Notes that kube-proxy's own Node was added or updated.

        A deletion of the Node is not reported here: the last version stays in force (CP-14.2).
        """
        self._node_eligible = not node.metadata.deletion_timestamp and TAINT_TO_BE_DELETED not in node.taint_keys

    @property
    def node_eligible(self) -> bool:
        """Whether the Node is known, not being deleted, and not marked for removal by the cluster autoscaler."""
        return self._node_eligible

    def family_healthy(self, family: Family, now_ns: int) -> bool:
        """Whether no update of the family has been pending for as long as the timeout."""
        pending_ns = self._oldest_pending_ns.get(family)
        return pending_ns is None or now_ns - pending_ns < self.timeout_ns

    def healthy(self, now_ns: int) -> bool:
        """Whether all families that were ever updated are healthy."""
        return all(self.family_healthy(family, now_ns) for family in self._last_updated_ns)

    def turns_ns(self) -> int | None:
        """When kube-proxy becomes unhealthy if no sync succeeds before; None if nothing is pending.

        It may lie in the past.
        """
        pending = [at_ns for family, at_ns in self._oldest_pending_ns.items() if family in self._last_updated_ns]
        return min(pending) + self.timeout_ns if pending else None

    def healthz(self, now_ns: int) -> HealthAnswer:
        """The answer of /healthz: 200 if healthy and the node is eligible, else 503.

        ``healthy`` in the body ignores eligibility.
        """
        return self._answer(now_ns, self.healthy(now_ns) and self._node_eligible, {"nodeEligible": self._node_eligible})

    def livez(self, now_ns: int) -> HealthAnswer:
        """The answer of /livez: 200 if healthy, else 503."""
        return self._answer(now_ns, self.healthy(now_ns), {})

    def _answer(self, now_ns: int, good: bool, eligibility: Mapping[str, bool]) -> HealthAnswer:
        # A good answer says that everything is up to date now; a bad one says when it last was.
        updated_ns = now_ns if good else max(self._last_updated_ns.values(), default=None)
        body: dict[str, object] = {
            "lastUpdated": _ZERO_TIME if updated_ns is None else format_rfc3339(updated_ns),
            "currentTime": format_rfc3339(now_ns),
            **eligibility,
            "healthy": self.healthy(now_ns),
        }
        if self._last_updated_ns:
            body["status"] = {
                family.label: {
                    "lastUpdated": format_rfc3339(self._last_updated_ns[family]),
                    "healthy": self.family_healthy(family, now_ns),
                }
                for family in sorted(self._last_updated_ns)
            }
        return HealthAnswer(200 if good else 503, _JSON_HEADERS, json.dumps(body, separators=(",", ":")))
