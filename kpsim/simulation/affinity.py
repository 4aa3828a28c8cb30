"""Why a client of a Service with session affinity did not get its former endpoint.

Counterpart: what an operator would find out from the kernel's affinity lists and from logs. The module looks for the
rules of the former endpoint by their origin, so it works for every proxy mode.
"""

from dataclasses import dataclass
from enum import StrEnum

from kpsim.ruleset import Origin, Role
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.machines import Machines
from kpsim.simulation.rulestimes import RulesTimes
from kpsim.units import SECOND_NS


class Break(StrEnum):
    """The cause of a break. NONE: first contact, or the client stayed."""

    NONE = ""
    ENDPOINT_GONE = "endpoint gone"
    HINTS = "zone hints"  #: the endpoint is ready, but its hints give this node's clients others (T-3)
    POLICY = "traffic policy"  #: the endpoint is ready, but a Local policy gives this node's clients others (T-2)
    OTHER_NODE = "other node"  #: the flow met another node, and each node keeps its own list (PP-9.3)
    OTHER_ADDRESS = "other address"  #: the node now sees another source address, which is the list's key (PP-9.1)
    TIMEOUT = "timeout"
    LIST_FULL = "list full"  #: another client took this client's place on the endpoint's list (K-4.1)
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class _Contact:
    at_ns: int
    node: str
    source_ip: str
    endpoint: str


class AffinityMemory:
    """Remembers the last new flow of each client to each service port.

    ``machines`` hold the endpoints' rules and lists, ``times`` knows the ready endpoints that a node keeps no rules for.
    """

    def __init__(self, machines: Machines, times: RulesTimes) -> None:
        self._machines = machines
        self._times = times
        self._last: dict[tuple[str, str], _Contact] = {}

    def judge(
        self,
        service_port: str,
        protocol: str,
        client: str,
        timeout_seconds: int,
        outcome: Attempt,
        now_ns: int,
        *,
        local_policy: bool = False,
    ) -> Break:
        """Return why this new flow did not go to the client's former endpoint.

        Call it once for each new flow, in order of time. A flow that finds no endpoint at all is no break, and is not
        remembered. ``local_policy`` says whether a Local policy applied to it.
        """
        if not outcome.endpoint:
            return Break.NONE
        former = self._last.get((service_port, client))
        contact = _Contact(now_ns, outcome.node, outcome.source_ip, outcome.endpoint)
        self._last[service_port, client] = contact
        if former is None or former.endpoint == outcome.endpoint:
            return Break.NONE
        origin = Origin(Role.ENDPOINT, service_port, protocol, former.endpoint)
        family = "IPv6" if former.endpoint.startswith("[") else "IPv4"
        rules = self._times.now(outcome.node, family, service_port, protocol)
        withheld = local_policy and rules.known and former.endpoint not in rules.local
        if withheld or not self._machines.has(outcome.node, origin):
            if former.endpoint not in rules.ready:
                return Break.ENDPOINT_GONE
            if former.node != outcome.node:
                return Break.OTHER_NODE
            return Break.POLICY if local_policy else Break.HINTS
        if former.node != outcome.node:
            return Break.OTHER_NODE
        if former.source_ip != outcome.source_ip:
            return Break.OTHER_ADDRESS
        if now_ns - former.at_ns >= timeout_seconds * SECOND_NS:
            return Break.TIMEOUT
        if not self._machines.remembers(outcome.node, origin, outcome.source_ip):
            return Break.LIST_FULL
        return Break.OTHER
