"""What each node's rules have said of the service ports since when.

It only observes the syncs. Reports say by it since when rules differ from what connection entries do.
"""

import enum
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass

from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.proxier import SyncResult


class Dialled(enum.Enum):
    """What clients dial, as far as traffic policies tell it apart. The nodes' own clients are no outside (PP-5)."""

    CLUSTER_IP = enum.auto()
    EXTERNAL_FROM_INSIDE = enum.auto()
    EXTERNAL = enum.auto()


@dataclass(frozen=True, slots=True)
class PortRules:
    """What a node's rules in force say of one service port, from an instant on."""

    from_ns: int
    known: bool = False  #: there are rules for the service port
    cluster: frozenset[str] = frozenset()  #: ``ip:port`` that clients under the Cluster policy are sent to
    local: frozenset[str] = frozenset()  #: those that clients under a Local policy are sent to
    ready: frozenset[str] = frozenset()  #: all ready endpoints that kube-proxy knows, on whatever node
    local_inside: bool = False  #: the Local policy is that of the cluster IP
    local_outside: bool = False  #: the Local policy is that of external addresses
    serving: frozenset[str] = (
        frozenset()
    )  #: those that serve, on whatever node: the clean-up keeps their flows (CT-2.2)

    def endpoints(self, dialled: Dialled) -> frozenset[str]:
        """Return the endpoints that clients are sent to."""
        local = {Dialled.CLUSTER_IP: self.local_inside, Dialled.EXTERNAL: self.local_outside}.get(dialled, False)
        return self.local if local else self.cluster

    def refuses(self, dialled: Dialled) -> bool:
        """Return whether clients are sent to no endpoint, although the rules know the service port."""
        return self.known and not self.endpoints(dialled)


_Loop = tuple[str, str]  # node, family: each has rules of its own
_Port = tuple[str, str]  # service port, protocol


class RulesTimes:
    """The history of the rules of some Services, by node and family."""

    def __init__(self, services: Collection[ServiceKey]) -> None:
        self._services = tuple(dict.fromkeys(services))
        self._history: dict[_Loop, dict[_Port, list[PortRules]]] = {}

    def synced(self, node: str, family: str, result: SyncResult, maps: ServiceMaps, now_ns: int) -> None:
        """Note the rules that a successful sync has put into force."""
        here = self._history.setdefault((node, family), {})
        for service in self._services:
            plans = result.plans.get(service)
            if plans is None and not result.full:
                continue
            seen = set()
            for plan in plans or ():
                known = maps.endpoints.get(plan.name, ())
                port = str(plan.name), plan.name.protocol
                seen.add(port)
                rules = PortRules(
                    now_ns,
                    known=True,
                    cluster=frozenset(endpoint.address for endpoint in plan.cluster),
                    local=frozenset(endpoint.address for endpoint in plan.local),
                    ready=frozenset(endpoint.address for endpoint in known if endpoint.ready),
                    local_inside=plan.port.internal_policy_local,
                    local_outside=plan.port.external_policy_local,
                    serving=frozenset(endpoint.address for endpoint in known if endpoint.serving),
                )
                _note(here.setdefault(port, []), rules)
            for port in here:
                if port not in seen and port[0].partition(":")[0] == str(service):
                    _note(here[port], PortRules(now_ns))

    def lost(self, node: str, now_ns: int, family: str | None = None) -> None:
        """Note that the node has no rules, of a family or (None) of any: it has booted, or somebody has removed them."""
        for (name, of), ports in self._history.items():
            for history in ports.values() if name == node and family in (None, of) else ():
                _note(history, PortRules(now_ns))

    # --------------------------------------------------------------------------------------------------------- reading

    def now(self, node: str, family: str, port: str, protocol: str) -> PortRules:
        """Return what the rules say of a service port."""
        history = self._history.get((node, family), {}).get((port, protocol))
        return history[-1] if history else PortRules(0)

    def since(self, node: str, family: str, port: str, protocol: str, holds: Callable[[PortRules], bool]) -> int | None:
        """Return since when something holds that holds now. None: it does not hold."""
        found = None
        for rules in reversed(self._history.get((node, family), {}).get((port, protocol), [])):
            if not holds(rules):
                break
            found = rules.from_ns
        return found


def _note(history: list[PortRules], rules: PortRules) -> None:
    if not history or _without_time(history[-1]) != _without_time(rules):
        history.append(rules)


def _without_time(rules: PortRules) -> tuple[object, ...]:
    return astuple(rules)[1:]
