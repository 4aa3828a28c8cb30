"""How many endpoints of each Service a node has itself, as its kube-proxy knows them: what health checks ask (CP-15)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.proxier import Proxier, SyncResult


@dataclass(frozen=True, slots=True)
class LocalEndpoints:
    """A Service's endpoints on this node as of the running process's last successful sync."""

    ready: int = 0  #: what the health check counts (O-13.2)
    usable: int = 0  #: endpoints that Local traffic is sent to: ready ones, else terminating ones that serve (T-2)
    serves_health_check: bool = False  #: the Service has a health check node port here


def count_local(
    proxier: Proxier, known: Mapping[ServiceKey, LocalEndpoints], result: SyncResult
) -> dict[ServiceKey, LocalEndpoints]:
    """Return the local endpoints of every Service after a sync that succeeded. ``known`` are those before.

    A Service that the sync did not plan keeps its counts. Its health check server may still have opened or closed,
    because servers may open late (CP-15.3).
    """
    maps = proxier.maps
    servers = {server.service for server in proxier.service_health.servers}
    found = {} if result.full else {key: local for key, local in known.items() if key in maps.ports_of}
    for service, plans in result.plans.items():
        if plans:
            usable = {endpoint.ip for plan in plans for endpoint in plan.local}
            ready = maps.local_ready_endpoints.get(service, 0)
            found[service] = LocalEndpoints(ready, len(usable), service in servers)
    for service, local in found.items():
        if local.serves_health_check != (service in servers):
            found[service] = replace(local, serves_health_check=service in servers)
    return found
