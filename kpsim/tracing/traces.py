"""Traces of packets through a cluster, or through one saved ruleset: what ``kpsim trace`` and notebooks ask.

Counterpart: ovn-trace. It makes the site from what was loaded and sends the packet; how a trace reads is ``explain``'s.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from kpsim.addresses import Family
from kpsim.config import HostInterface, ProxyConfig
from kpsim.errors import InputError
from kpsim.fabric import Journey, send
from kpsim.netfilter import Walk
from kpsim.nodes import Machine, Peer, make_machine, node_address, outside_networks, pod_interface_of, sysctls_of
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser, SeededChooser, explore
from kpsim.recording import SyncStep
from kpsim.replay import START_NS
from kpsim.ruleset import Role, Ruleset
from kpsim.tracing.directory import Directory
from kpsim.tracing.explain import Depth, minimal, render_trace, sentence, trace_record
from kpsim.tracing.explain.verdict import Verdict
from kpsim.tracing.probes import Answer, summarise
from kpsim.tracing.site import Sender, Site
from kpsim.units import MILLISECOND_NS

if TYPE_CHECKING:
    from kpsim.explore import Cluster


@dataclass(frozen=True, repr=False)
class Trace:
    """One packet's way. ``answer`` holds every outcome with its odds, if that was asked for."""

    site: Site
    sender: Sender
    journey: Journey
    now_ns: int
    answer: Answer | None = None

    def text(self, depth: Depth | str = Depth.SUMMARY) -> str:
        """The explanation at one of three depths (minimal, summary, detailed), without a newline at the end."""
        depth = Depth(depth)
        if depth is Depth.MINIMAL:
            return minimal(self.journey, self.answer)
        return render_trace(self.journey, self.site, self.sender, depth=depth, answer=self.answer)

    @property
    def words(self) -> str:
        """The disposition in a sentence."""
        return sentence(self.journey, self.site.directory)

    def to_json(self) -> dict[str, Any]:
        return trace_record(self.journey, self.sender, self.site.directory, self.answer)

    def sightings(self) -> list[tuple[int, Packet]]:
        """What a capture on the way would hold: the packet as sent, as each node sends it on, and the answer to a rejection.

        A millisecond lies between two sightings.
        """
        packets = [self.journey.sent]
        for hop in self.journey.hops:
            if hop.walk.next_hop is not None:
                packets.append(hop.walk.packet)
            if hop.walk.answer is not None:
                packets.append(hop.walk.answer)
        return [(self.now_ns + number * MILLISECOND_NS, packet) for number, packet in enumerate(packets)]

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<trace of {self.journey.sent}: {self.words}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"


def trace_packet(
    site: Site,
    packet: Packet,
    *,
    node: str,
    sender: Sender,
    seed: int = 0,
    flow: int = 0,
    expand: bool = False,
    commit: bool = False,
    now_ns: int = START_NS,
) -> Trace:
    """Sends one packet. ``flow`` tells its draws from those of other packets; ``expand`` adds every outcome.

    InputError for an unknown node, or if no source can be chosen.
    """
    site.check_node(node)
    begun = site.begin(packet, node, sender)
    local = sender is Sender.NODE
    every = _every_outcome(site, begun, node, local=local, now_ns=now_ns) if expand else None
    chooser = SeededChooser(seed, flow)
    journey = send(site, begun, at_node=node, now_ns=now_ns, chooser=chooser, local=local, trace=True, commit=commit)
    return Trace(site, sender, journey, now_ns, every)


def _every_outcome(site: Site, packet: Packet, node: str, *, local: bool, now_ns: int) -> Answer:
    """All ways that a packet may take from node to node, as far as its endpoint is decided."""

    def once(chooser: Chooser) -> Walk:
        journey = send(
            site, packet, at_node=node, now_ns=now_ns, chooser=chooser, local=local, trace=True, commit=False,
            until_translated=True,
        )  # fmt: skip
        return Verdict.of(journey).hop.walk

    outcomes = list(explore(once, as_written=True))
    return summarise(outcomes, outcomes[0][1].trace)


# --- sites -----------------------------------------------------------------------------------------------------------------


def cluster_site(cluster: "Cluster", *, rules: Callable[[str, Family], Ruleset] | None = None) -> Site:
    """The machines of a loaded cluster. The recorded node of a recording has its real interfaces.

    ``rules`` gives the nodes other rules than the cluster's own.
    """
    machines = _ClusterMachines(cluster)
    return Site(cluster.node_names, machines.directory, machines.make, rules or cluster.ruleset)


class _ClusterMachines:
    """Builds a cluster's machines one by one."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self.directory = Directory.of(cluster.state)

    def make(self, name: str) -> Machine:
        cluster = self._cluster
        node = cluster.state.node(name)
        recorded = cluster.replay is not None and cluster.replay.recording.node_name == name
        node_ips = (recorded and cluster.host.node_ips) or (node.ips if node else ())
        pod_cidrs = node.pod_cidrs if node else ()
        return make_machine(
            node_ips,
            pod_cidrs,
            interfaces=_recorded_interfaces(cluster, node_ips) if recorded else None,
            pod_interface=pod_interface_of(cluster.config),
            pods=self._peers[name].pods if name in self._peers else (),
            peers=[peer for other, peer in self._peers.items() if other != name],
            sysctls=cluster.kernel_settings(name),
        )

    @cached_property
    def _peers(self) -> dict[str, Peer]:
        peers = {}
        for name in self._cluster.node_names:
            node = self._cluster.state.node(name)
            pods = [(family, address) for family in Family for address in self.directory.pods_on(name, family)]
            addresses = tuple(node_address(text) for text in node.ips) if node else ()
            machine = make_machine((), node.pod_cidrs if node else ())
            stray = outside_networks(pods, machine.pod_networks)
            peers[name] = Peer(addresses, machine.pod_networks, stray)
        return peers


def _recorded_interfaces(cluster: "Cluster", node_ips: Iterable[str]) -> Sequence[HostInterface]:
    """The machine's interfaces at the end of the recording; where none were recorded, lo and an uplink with the node IPs."""
    assert cluster.replay is not None
    steps = cluster.replay.recording.steps
    later = [step.interfaces for step in steps if isinstance(step, SyncStep) and step.interfaces is not None]
    found = later[-1] if later else cluster.host.interfaces
    return _loopback_and_uplink(node_ips) if found is None else found


def _loopback_and_uplink(node_ips: Iterable[str]) -> tuple[HostInterface, HostInterface]:
    uplink = HostInterface("eth0", tuple(str(node_address(text)) for text in node_ips))
    return HostInterface("lo", ("127.0.0.1/8", "::1/128")), uplink


def rules_site(
    ruleset: Ruleset,
    *,
    node_ips: Iterable[str] = (),
    pod_cidrs: Iterable[str] = (),
    interfaces: Sequence[HostInterface] = (),
    sysctls: Mapping[str, int] | None = None,
) -> Site:
    """One machine with a saved ruleset. ``interfaces`` come besides lo and an uplink with ``node_ips``.

    An interface without addresses is where the pods are. ``sysctls`` are kernel settings by name; those not given are as kube-proxy
    with its defaults leaves them. InputError for what is no address.
    """
    own = tuple(node_ips)
    pod_interface = next((interface.name for interface in interfaces if not interface.addresses), "")
    given = None
    if interfaces:
        given = [*_loopback_and_uplink(own), *(interface for interface in interfaces if interface.addresses)]
    localnet = any(
        rule.origin.role is Role.LOCALNET_FIREWALL
        for table in ruleset.tables.values()
        for chain in table.ordered()
        for rule in chain.rules
    )  # kube-proxy writes this rule and sets route_localnet together (I-1, I-5)
    machine = make_machine(
        own,
        pod_cidrs,
        interfaces=given,
        pod_interface=pod_interface,
        sysctls=sysctls_of(ProxyConfig(), route_localnet=localnet, liberal=False).written(sysctls or {}),
    )

    def rules(_: str, family: Family) -> Ruleset:
        if family is not ruleset.family:
            raise InputError(f"the rules are of {ruleset.family.label}, the packet is of {family.label}")
        return ruleset

    return Site((), Directory(), lambda _: machine, rules)
