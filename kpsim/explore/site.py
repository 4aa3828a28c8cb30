"""Makes sites, to which packets are sent: the machines of a loaded cluster, or one machine with a saved ruleset.

``tracing.site`` explains what a site is. ``cluster`` says which rules kube-proxy writes on a machine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.config import HostInterface, ProxyConfig
from kpsim.errors import InputError
from kpsim.nodes import Machine, Peer, make_machine, node_address, outside_networks, pod_interface_of, sysctls_of
from kpsim.programmed import Programmed
from kpsim.ruleset import Role, Ruleset
from kpsim.sysctls import Sysctls
from kpsim.tracing.directory import Directory
from kpsim.tracing.site import Site


class RecordedNode(NamedTuple):
    """The machine that a recording was made on, as far as it was recorded."""

    name: str
    node_ips: Sequence[str]  #: empty: not recorded, so those of the Node object are used
    interfaces: Sequence[HostInterface] | None  #: at the end of the recording; None: not recorded


class ClusterMachines:
    """Makes the machines of a cluster at one moment, each when it is asked for.

    ``sysctls`` returns a node's kernel settings by the node's name. The ``recorded`` node has the recorded interfaces.
    """

    def __init__(
        self,
        state: ClusterState,
        config: ProxyConfig,
        node_names: Sequence[str],
        sysctls: Callable[[str], Sysctls],
        recorded: RecordedNode | None = None,
    ) -> None:
        self.directory = Directory.of(state)
        self._state = state
        self._config = config
        self._node_names = node_names
        self._sysctls = sysctls
        self._recorded = recorded

    def make(self, name: str) -> Machine:
        """The machine of a node. A node without Node object has no addresses and no pod networks."""
        node = self._state.node(name)
        recorded = self._recorded if self._recorded is not None and self._recorded.name == name else None
        node_ips = (recorded.node_ips if recorded else ()) or (node.ips if node else ())
        interfaces = None
        if recorded:
            interfaces = _loopback_and_uplink(node_ips) if recorded.interfaces is None else recorded.interfaces
        return make_machine(
            node_ips,
            node.pod_cidrs if node else (),
            interfaces=interfaces,
            pod_interface=pod_interface_of(self._config),
            pods=self._peers[name].pods if name in self._peers else (),
            peers=[peer for other, peer in self._peers.items() if other != name],
            sysctls=self._sysctls(name),
        )

    @cached_property
    def _peers(self) -> dict[str, Peer]:
        """Every node, as the routes of the other nodes see it."""
        peers = {}
        for name in self._node_names:
            node = self._state.node(name)
            pods = [(family, address) for family in Family for address in self.directory.pods_on(name, family)]
            addresses = tuple(node_address(text) for text in node.ips) if node else ()
            machine = make_machine((), node.pod_cidrs if node else ())
            stray = outside_networks(pods, machine.pod_networks)
            peers[name] = Peer(addresses, machine.pod_networks, stray)
        return peers


def _loopback_and_uplink(node_ips: Iterable[str]) -> tuple[HostInterface, HostInterface]:
    uplink = HostInterface("eth0", tuple(str(node_address(text)) for text in node_ips))
    return HostInterface("lo", ("127.0.0.1/8", "::1/128")), uplink


def rules_site(
    *rulesets: Ruleset,
    node_ips: Iterable[str] = (),
    pod_cidrs: Iterable[str] = (),
    interfaces: Sequence[HostInterface] = (),
    sysctls: Mapping[str, int] | None = None,
) -> Site:
    """One machine with saved rules, one ruleset for each family. It has ``interfaces`` in addition to lo and an uplink with ``node_ips``.

    The pods are behind the interface without addresses. ``sysctls`` are kernel settings by name; the others are as
    kube-proxy with its defaults sets them. InputError for a text that is not an address.
    """
    own = tuple(node_ips)
    pod_interface = next((interface.name for interface in interfaces if not interface.addresses), "")
    given = None
    if interfaces:
        given = [*_loopback_and_uplink(own), *(interface for interface in interfaces if interface.addresses)]
    # kube-proxy writes this rule and sets route_localnet together (I-1, I-5)
    localnet = any(Programmed.of(ruleset).has(Role.LOCALNET_FIREWALL) for ruleset in rulesets)
    held = {ruleset.family: ruleset for ruleset in rulesets}
    machine = make_machine(
        own,
        pod_cidrs,
        interfaces=given,
        pod_interface=pod_interface,
        sysctls=sysctls_of(ProxyConfig(), route_localnet=localnet, liberal=False).written(sysctls or {}),
    )

    def rules(_: str, family: Family) -> Ruleset:
        if family not in held:
            given = " and ".join(each.label for each in sorted(held))
            raise InputError(f"the rules are of {given}, the packet is of {family.label}")
        return held[family]

    return Site((), Directory(), lambda _: machine, rules)
