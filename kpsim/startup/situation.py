"""What is known when a kube-proxy starts on a node: its configuration, its Node object, the machine before and after."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.backends import Traits
from kpsim.backends.table import traits_of
from kpsim.config import Host, ProxierSettings, ProxyConfig, resolve
from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.manifests.places import value_at
from kpsim.manifests.proxy_config import with_defaults
from kpsim.manifests.proxy_start import Origin, ProxyStart
from kpsim.nodes import sysctls_of
from kpsim.objects import Node
from kpsim.sysctls import Sysctls
from kpsim.units import parse_duration_ns, parse_quantity

CORES = 4  #: of a machine of which nothing is known
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})")
MOST_CORES = 1 << 20

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Given:
    """What is said about the machines beside their Node objects. None: nothing is."""

    cores: int | None = None
    memory: int | None = None  #: bytes
    sysctls: Mapping[str, int] = field(default_factory=dict)  #: before kube-proxy starts, in the kernel's units
    family: Family | None = None  #: the only one that the machines support


@dataclass(frozen=True)
class Situation:
    """A kube-proxy that is about to start on a node. ``name`` is empty if no node is known.

    ``node`` is the Node that it takes for its own, ``machine`` the one on whose machine it runs; ``hostnameOverride`` can part them.
    """

    start: ProxyStart
    config: ProxyConfig
    name: str
    node: Node | None
    machine: Node | None
    given: Given

    @cached_property
    def traits(self) -> Traits:
        return traits_of(self.config.mode)

    @cached_property
    def document(self) -> Json:
        """The configuration after defaulting (CFG-2)."""
        return with_defaults({**self.start.json, "mode": str(self.config.mode)})

    def written(self, path: str) -> Any:
        """The value of a field as it is written, None if it is not."""
        return value_at(self.start.json, tuple(path.split(".")))

    def value(self, path: str) -> Any:
        """The value of a field after defaulting."""
        return value_at(self.document, tuple(path.split(".")))

    def duration_ns(self, path: str) -> int:
        """The duration of a field after defaulting, 0 if there is none."""
        return parse_duration_ns(str(self.value(path) or "0"))

    def origin(self, path: str) -> Origin | None:
        return self.start.origins.get(tuple(path.split(".")))

    @property
    def section(self) -> str:
        """The section of the configuration that carries the mode's own options."""
        return str(self.config.mode)

    # ------------------------------------------------------------------------------------------------------ the machine

    @cached_property
    def cores(self) -> int:
        """The processors that kube-proxy counts: as given, else as the Node says, else :data:`CORES`."""
        return self.given.cores or self._capacity("cpu") or CORES

    @property
    def cores_from(self) -> str:
        if self.given.cores:
            return "--cores"
        return f"capacity of Node {self.name}" if self._capacity("cpu") else "assumed: no Node says; --cores does"

    @cached_property
    def memory(self) -> int | None:
        """The machine's memory in bytes, None if nobody says."""
        return self.given.memory or self._capacity("memory") or None

    def _capacity(self, name: str) -> int:
        status = self.machine.json.get("status") if self.machine is not None else None
        capacity = status.get("capacity") if isinstance(status, Mapping) else None
        text = capacity.get(name) if isinstance(capacity, Mapping) else None
        try:
            found = int(parse_quantity(str(text))) if text is not None else 0
        except ValueError:
            raise InputError(f"Node {self.name}: .status.capacity.{name}: not a quantity: {text!r}") from None
        return min(found, MOST_CORES) if name == "cpu" else found

    @cached_property
    def kernel_text(self) -> str:
        """The version of the kernel as the Node says it, empty if it does not."""
        status = self.machine.json.get("status") if self.machine is not None else None
        info = status.get("nodeInfo") if isinstance(status, Mapping) else None
        return str(info.get("kernelVersion") or "") if isinstance(info, Mapping) else ""

    @property
    def kernel(self) -> Version | None:
        found = _VERSION.match(self.kernel_text)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def node_ips(self) -> tuple[str, ...]:
        return self.node.ips if self.node is not None else ()

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families that get a proxier: those that the machine supports (CFG-7.3), the primary one first."""
        if self.given.family is not None:
            return (self.given.family,)
        return (self.primary, *(family for family in Family if family is not self.primary))

    @property
    def primary(self) -> Family:
        """The family of a bind address that is not zero, else of the first node IP, else IPv4 (CFG-7.1)."""
        bound = parse_ip(self.config.bind_address) if self.config.bind_address else None
        if bound is not None and bound[1] != 0:
            return bound[0]
        first = next((found[0] for text in self.node_ips if (found := parse_ip(text))), None)
        return first or (bound[0] if bound is not None else Family.IPV4)

    @property
    def kind(self) -> tuple[object, ...]:
        """What conditions, risks and kernel settings depend on, of all that differs from node to node."""
        networks = (parse_network(text) for text in (self.node.pod_cidrs if self.node is not None else ()))
        pods = frozenset(network.family for network in networks if network is not None)
        hosts = (
            str(self.value(name)).rpartition(":")[0].strip("[]")
            for name in ("healthzBindAddress", "metricsBindAddress")
        )
        own = tuple(address in self.node_ips for address in (self.config.bind_address, *hosts))
        machine = self.cores, self.memory, self.kernel_text
        return self.node is None, *machine, self.families, bool(self.node_ips), pods, own

    @cached_property
    def settings(self) -> Mapping[Family, ProxierSettings]:
        """The settings with which each family's proxier is made."""
        host = Host(tcp_be_liberal=self.before.tcp_be_liberal)
        return {family: resolve(self.config, host, self.node, family) for family in self.families}

    @property
    def route_localnet(self) -> bool:
        return any(each.localhost_node_ports for each in self.settings.values())

    @cached_property
    def before(self) -> Sysctls:
        """The kernel's settings before: what is given, the rest as Linux has it on a large machine (CT-7.1)."""
        return Sysctls().written(self.given.sysctls)

    @cached_property
    def after(self) -> Sysctls:
        """The kernel's settings once kube-proxy has started, as the model has them (CFG-4, CFG-6)."""
        first = self.settings[self.families[0]]
        return sysctls_of(
            self.config,
            route_localnet=self.route_localnet,
            liberal=first.liberal,
            ipvs=first.uses_ipvs,
            cores=self.cores,
            before=self.before,
        )


def situations(start: ProxyStart, given: Given, name: str = "") -> tuple[Situation, ...]:
    """A situation for the node of this name; without a name for each Node that is known, at least one.

    InputError if there are Nodes and none has the name. The configuration must be one that kube-proxy takes.
    """
    config = start.config
    if config is None:
        raise ValueError("kube-proxy refuses the configuration")
    nodes = {node.metadata.name: node for node in start.nodes}
    identity = config.hostname_override
    if name and nodes and name not in nodes and name != identity:
        near = get_close_matches(name, nodes, n=3) or sorted(nodes)[:5]
        raise InputError(f"no node {name!r}; there is {', '.join(near)}")
    return tuple(
        Situation(
            start,
            replace(config, hostname_override=identity or each),
            each,
            nodes.get(identity or each),
            nodes.get(each),
            given,
        )
        for each in _names(name, identity, sorted(nodes))
    )


def _names(name: str, identity: str, known: Sequence[str]) -> Iterator[str]:
    """All kube-proxies with the same hostnameOverride take themselves for one node (CFG-2.1)."""
    if name or identity or not known:
        yield name or identity
    else:
        yield from known
