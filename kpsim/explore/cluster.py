"""A cluster at one moment, and the questions that it answers: a node's settings and rules, traces and probes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, reduce
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.cluster import ClusterState, Event, EventType, through_selector
from kpsim.config import Host, ProxierSettings, ProxyConfig, resolve
from kpsim.effort import permit
from kpsim.errors import InputError, Problem, preformatted
from kpsim.inputs import Json
from kpsim.kubeproxy.healthcheck import ProxyHealth
from kpsim.nodes import make_machine, overwritten, pod_interface_of, sysctls_of
from kpsim.objects import EndpointSlice
from kpsim.programmed import Programmed, united
from kpsim.proxier import Proxier, SyncResult
from kpsim.recording import Recording, SyncStep
from kpsim.replay import START_NS, Replay, effort_of
from kpsim.ruleset import Ruleset
from kpsim.sysctls import Sysctls

if TYPE_CHECKING:  # the packet path is loaded when a packet is sent: `kpsim rules` starts faster without it
    from kpsim.conntrack import Entry
    from kpsim.drafting import Draft
    from kpsim.explore.site import RecordedNode
    from kpsim.manifests.admission import Item
    from kpsim.tracing.names import Names
    from kpsim.tracing.probes import Answer
    from kpsim.tracing.site import Site
    from kpsim.tracing.traces import Trace


class TraceOptions(TypedDict, total=False):
    """The options of :meth:`Cluster.trace`, for functions that pass them on."""

    sender: str
    src: str
    protocol: str
    seed: int
    expand: bool


class RulesText(str):
    """Rules as their tool saves them. A notebook shows them in a monospaced font."""

    def _repr_html_(self) -> str:
        return preformatted(self)


@dataclass(frozen=True, repr=False)
class Cluster:
    """A cluster at one moment, from manifests or from a recording (its state after the last sync).

    ``notes`` say in words what was defaulted, allocated, derived or skipped while loading.
    """

    state: ClusterState
    config: ProxyConfig
    host: Host = field(default_factory=Host)
    notes: tuple[str, ...] = ()
    replay: Replay | None = None  #: a finished replay, if the cluster came from a recording
    #: what a node (empty name: every node) was told before kube-proxy started
    beside: Mapping[tuple[str, Family], Programmed] = field(default_factory=dict)
    sysctls: Sysctls = field(default_factory=Sysctls)  #: kernel settings of every node before kube-proxy started
    connections: Mapping[str, "tuple[Entry, ...]"] = field(
        default_factory=dict
    )  #: by node, beside those of a recording
    #: the configurations of nodes whose kube-proxies have one of their own, as in the middle of a change
    node_configs: Mapping[str, ProxyConfig] = field(default_factory=dict)
    document: Json = field(default_factory=dict)  #: the KubeProxyConfiguration as it was given; empty: there was none
    controllers: "tuple[Item, ...]" = ()  #: Deployments and other objects that make Pods, as they were given
    name: str = "cluster"  #: of the first file that it was loaded from

    def print_notes(self, write: Callable[[str], None]) -> None:
        for note in self.notes:
            write(note)

    @cached_property
    def node_names(self) -> tuple[str, ...]:
        """The names of the Node objects; if there is no Node, the node names in EndpointSlices. Sorted."""
        named = {node.metadata.name for node in self.state.nodes}
        if self.replay is not None:
            named.add(self.replay.recording.node_name)
        if not named:
            slices: Sequence[EndpointSlice] = tuple(self.state.endpoint_slices)
            named = {e.node_name for s in slices for e in s.endpoints if e.node_name}
        return tuple(sorted(named))

    def check_node(self, name: str) -> None:
        """Raises InputError with similar names if the cluster does not have this node."""
        if name in self.node_names:
            return
        if not self.node_names:
            from kpsim.manifests.assumed import without_nodes

            raise InputError(without_nodes(name))
        near = sorted(get_close_matches(name, self.node_names, n=3)) or list(self.node_names[:5])
        assume = "" if self.replay is not None else f" (--assume-node {name} adds one of this name)"
        raise InputError(f"no node {name!r}; there is {', '.join(near)}{assume}")

    def identity(self, node: str) -> str:
        """The name that kube-proxy takes for its own on a node: ``hostnameOverride`` if it is set (CFG-2.1).

        A recording is of one kube-proxy; the others have their nodes' names.
        """
        return node if self.replay is not None else self.config.hostname_override or node

    def default_node(self, assumed: str | None = None) -> str:
        """The node that is meant if none is named: the assumed one, else the one of ``hostnameOverride``.

        InputError if there is none.
        """
        only = self.node_names[0] if assumed is not None and len(self.node_names) == 1 else ""
        name = assumed or only or self.config.hostname_override
        if not name:
            known = f"; there is {', '.join(self.node_names[:5])}" if self.node_names else ""
            raise InputError(f"--node is missing{known}")
        return name

    def settings(self, node: str, family: Family) -> ProxierSettings:
        """The settings with which the proxier of this node and family starts."""
        name = self.identity(node)
        config = replace(self.config_of(node), hostname_override=name)
        elsewhere = self.replay is not None and self.replay.recording.node_name != node
        # a recording describes one machine only; the other nodes are known only from their Node objects
        host = Host() if elsewhere else self.host
        host = replace(host, tcp_be_liberal=host.tcp_be_liberal or self.sysctls.tcp_be_liberal)
        if self.replay is None or elsewhere:
            host = self._with_interfaces(host, node)
        return resolve(config, host, self.state.node(name), family)

    def _with_interfaces(self, host: Host, node: str) -> Host:
        """A machine that is known from its Node object, with its interfaces: also the bridge of its pods has an address.

        They are the node's own, whatever name its kube-proxy goes by (I-9.3).
        """
        own = self.state.node(node)
        if host.interfaces is not None or own is None:
            return host
        machine = make_machine(own.ips, own.pod_cidrs, pod_interface=pod_interface_of(self.config))
        return replace(host, interfaces=machine.host_interfaces)

    def kernel_settings(self, node: str) -> Sysctls:
        """The kernel settings of a node after its kube-proxy has started."""
        found = self.settings(node, Family.IPV4)
        return sysctls_of(
            self.config_of(node),
            route_localnet=found.localhost_node_ports,
            liberal=found.liberal,
            ipvs=found.uses_ipvs,
            before=self.sysctls,
        )

    def with_sysctls(self, values: Mapping[str, int]) -> "Cluster":
        """The cluster as it would be if every node had these kernel settings before kube-proxy started.

        ``values`` are by name, in the kernel's unit. InputError for a setting that cannot be written or that kube-proxy
        overwrites. A recording also refuses be_liberal, because the recorded rules depend on it.
        """
        changed = replace(self, sysctls=self.sysctls.written(values))
        if self.replay is not None and changed.sysctls.tcp_be_liberal != self.sysctls.tcp_be_liberal:
            raise InputError(
                "nf_conntrack_tcp_be_liberal decides about kube-proxy's rules: a recording says itself what it was"
            )
        if not self.node_names:
            return changed
        kept = overwritten(values, changed.kernel_settings(self.node_names[0]))
        if problems := [Problem(f"{name}: {words}") for name, words in kept]:
            raise InputError(problems)
        return changed

    def with_edits(self, *edits: str) -> "Cluster":
        """The cluster as it would be after edits of its objects, such as ``service/shop/web.spec.trafficDistribution=PreferSameZone``.

        An edit is ``KIND/NAMESPACE/NAME.path=value`` (``node/NAME.path=value``) with a value in YAML; null removes the field, or without
        a path the object. EndpointSlices that the slice controller would then write otherwise are written again (CP-3), and ``notes``
        tell which. InputError names every edit that is wrong. A recording holds what happened, and is not edited.
        """
        from kpsim.manifests.edits import edited

        if self.replay is not None:
            raise InputError("a recording holds what happened in its cluster: edits go with manifests")
        state, notes = edited(self.state, edits)
        return replace(self, state=state, notes=(*self.notes, *notes))

    def proxier(self, node: str, family: Family) -> Proxier:
        """A node's kube-proxy of one family, after its first sync of this state or a recording's last sync."""
        self.check_node(node)
        if self.replay is not None and self._recorded(node, family):
            return self.replay.proxier
        return self.started(node, family)[0]

    def started(self, node: str, family: Family) -> tuple[Proxier, SyncResult]:
        """A node's kube-proxy of one family that has just started in this state, and its first sync."""
        settings = self.settings(node, family)
        held = self.told_beside(node, family)
        proxier = Proxier(settings, make_backend(settings), created_ns=START_NS, held=held)
        for key in sorted(self.state.objects):
            seen = through_selector(Event(EventType.ADDED, None, self.state.objects[key]), self.identity(node))
            if seen is not None:
                proxier.on_event(seen, START_NS)
        proxier.services_synced()
        proxier.slices_synced()
        return proxier, proxier.sync(START_NS)

    def _recorded(self, node: str, family: Family) -> bool:
        assert self.replay is not None
        recording = self.replay.recording
        return recording.node_name == node and recording.family is family

    def told_beside(self, node: str, family: Family) -> Programmed | None:
        """What the node was told for the family before kube-proxy started; None if that was nothing."""
        found = [self.beside[key] for key in (("", family), (node, family)) if key in self.beside]
        return reduce(united, found) if found else None

    def with_rules_beside(self, *programmed: Programmed | Ruleset, node: str = "") -> "Cluster":
        """The cluster as it would be if ``node``, or every node, had these rules before kube-proxy started.

        Without more than rules, a ruleset will do. kube-proxy puts its jumps before these rules (I-3). If an earlier kube-proxy left rules among them, it takes
        those over or cleans them up. InputError for an unknown node, or if a node would have a table or an ipset twice.
        """
        if node:
            self.check_node(node)
        beside = dict(self.beside)
        for each in programmed:
            told = each if isinstance(each, Programmed) else Programmed.of(each)
            key = (node, told.family)
            try:
                beside[key] = united(beside[key], told) if key in beside else told
                for (other, family), theirs in beside.items():
                    if family is told.family and other != node and "" in (other, node):
                        united(theirs, told)
            except ValueError as problem:
                raise InputError(f"rules beside kube-proxy's: {problem}") from None
        changed = replace(self, beside=beside)
        if self.replay is None:
            return changed
        recording = self.replay.recording
        again = replayed(recording, changed.told_beside(recording.node_name, recording.family))
        return replace(changed, replay=again)

    def with_connections(self, node: str, path: Path | str = "", *, text: str = "") -> "Cluster":
        """The cluster as it would be if ``node`` had these connections now.

        ``path`` is a file with the output of ``conntrack -L``, or ``/proc/net/nf_conntrack``; ``text`` is used in its
        place. InputError for an unknown node, and for each line that is no connection.
        """
        from kpsim.explore.connections import parse_connections, read_connections

        self.check_node(node)
        found = parse_connections(text, self.now_ns) if text else read_connections(path, self.now_ns)
        entries = (*self.connections.get(node, ()), *found.entries)
        return replace(self, connections={**self.connections, node: entries}, notes=(*self.notes, *found.notes))

    def config_of(self, node: str) -> ProxyConfig:
        """The configuration of a node's kube-proxy."""
        return self.node_configs.get(node, self.config)

    def with_config(self, config: ProxyConfig, node: str = "") -> "Cluster":
        """The cluster as it would be with another configuration of kube-proxy. A recording is replayed with it.

        With ``node`` only that node's kube-proxy has it. InputError for an unknown node.
        """
        if node:
            self.check_node(node)
            if self.replay is not None:
                raise InputError("a recording is of one kube-proxy: it has one configuration")
            return replace(self, node_configs={**self.node_configs, node: config})
        changed = replace(self, config=config)
        if self.replay is None:
            return changed
        recording = replace(self.replay.recording, config=config)
        again = replayed(recording, self.told_beside(recording.node_name, recording.family))
        return replace(changed, state=again.cluster, replay=again)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that have rules: both, as in a dual-stack kube-proxy; for a recording, its own."""
        return (self.replay.recording.family,) if self.replay is not None else tuple(Family)

    def told(self, node: str, family: Family) -> Programmed:
        """What the kernel of one node was told for one family."""
        return self.proxier(node, family).held

    def ruleset(self, node: str, family: Family) -> Ruleset:
        """All rules of one family on one node."""
        return self.told(node, family).ruleset

    def rules(self, node: str, *, family: Family | None = None) -> RulesText:
        """A node's rules as the mode's own tool saves them (I-17), each family under a comment that names it."""
        families = self.families if family is None else (family,)
        proxiers = ((each, self.proxier(node, each)) for each in families)
        return RulesText("".join(f"# {each.label}\n{proxier.backend.save(proxier.held)}" for each, proxier in proxiers))

    def scenario(self, *services: str, rollout: str = "") -> "Draft":
        """Drafts a scenario of the cluster: ``text`` is the YAML file with comments, ``notes`` say what was taken, guessed and left out.

        With ``services`` (``namespace/name``) only of these and the workloads behind them. ``rollout`` names a workload, or a Service in front
        of it, that is rolled out. InputError for names that the cluster does not have.
        """
        from kpsim.drafting import Given, draft

        given = Given(self.state, self.config, self.document, self.controllers, self.name)
        return draft(given, services=services, rollout=rollout)

    def __str__(self) -> str:
        counts = Counter(key.kind for key in self.state.objects)
        parts = ", ".join(f"{kind} {counts[kind]}" for kind in sorted(counts)) or "empty"
        return f"cluster of {len(self.node_names)} nodes in {self.config.mode} mode: {parts}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<p>{escape(str(self))}</p>" + (f"<ul>{notes}</ul>" if notes else "")

    @property
    def now_ns(self) -> int:
        """The time of the state, in nanoseconds since 1970; for a recording, the time at its end."""
        return START_NS if self.replay is None else self.replay.now_ns

    @cached_property
    def site(self) -> "Site":
        """The nodes as machines that packets can be sent to. InputError if there are none."""
        if not self.node_names:
            from kpsim.manifests.assumed import without_nodes

            raise InputError(without_nodes(""))
        site = self.site_with()
        for node, entries in self.connections.items():
            site.remember(node, entries)
        if self.replay is not None:
            from kpsim.explore.connections import recorded_connections

            node = self.replay.recording.node_name
            site.remember(node, recorded_connections(self.replay.flows, self.now_ns, self.kernel_settings(node)))
        return site

    def site_with(self, told: Callable[[str, Family], Programmed] | None = None) -> "Site":
        """The same machines, told something else than kube-proxy says. ``told`` returns it by node and family."""
        from kpsim.explore.site import ClusterMachines, NodeProxies
        from kpsim.tracing.site import Site

        proxies = NodeProxies(self.proxier, self._proxy_health, self.now_ns)
        state = self.state
        own = None if self.replay is None else self.replay.recording.node
        if own is not None and state.node(own.metadata.name) is None:  # kube-proxy reads it, before it watches any
            _, state = state.put(own)
        machines = ClusterMachines(state, self.config, self.node_names, self.kernel_settings, self._recorded_machine())
        return Site(
            self.node_names, machines.directory, machines.make, told or proxies.told, machines.listening(proxies.servers),
            proxies.why_left, self.now_ns,
        )  # fmt: skip

    def _proxy_health(self, proxier: Proxier) -> ProxyHealth:
        """The health of a whole kube-proxy, over all families (CP-14). A recording has one family's proxier only."""
        if self.replay is not None:
            return proxier.proxy_health
        health = ProxyHealth(proxier.proxy_health.timeout_ns)
        for family in self.families:
            health.updated(family, START_NS)
        if (node := self.state.node(proxier.settings.node_name)) is not None:
            health.node_changed(node)
        return health

    def _recorded_machine(self) -> "RecordedNode | None":
        """The machine of the recording with its interfaces at the end; None if the cluster came from manifests."""
        from kpsim.explore.site import RecordedNode

        if self.replay is None:
            return None
        recording = self.replay.recording
        recorded = [
            step.interfaces for step in recording.steps if isinstance(step, SyncStep) and step.interfaces is not None
        ]
        interfaces = recorded[-1] if recorded else self.host.interfaces
        return RecordedNode(recording.node_name, self.host.node_ips, interfaces)

    @cached_property
    def names(self) -> "Names":
        """What the names of Services, pods and nodes mean in this cluster."""
        from kpsim.tracing.names import Names

        return Names(self.state, self.site)

    def traces(
        self, service: str, *, sender: str = "", via: str = "", node: str = "", seed: int = 0, expand: bool = False
    ) -> "list[Trace]":
        """Follows a first packet on every way of a client to a Service port, ``namespace/name:port``.

        ``sender`` is a kind or names a client: ``pod/namespace/name``, ``node/name``; empty: the client that the Service
        is meant for. ``via`` is lb, externalIP, nodePort, clusterIP or all; empty: what such a client dials. InputError for
        a name that the cluster does not have, and for a Service that only DNS answers for.
        """
        from kpsim.tracing.traces import trace_packet

        names = self.names
        if said := names.answered_by_dns(service):
            raise InputError(said)
        client = names.placed(sender, node) if sender else names.usual_client(service)._replace(node=node)
        return [
            trace_packet(
                self.site, way.packet, node=way.node, sender=way.sender, seed=seed, expand=expand, now_ns=self.now_ns,
                any_port=True,
            )
            for way in names.ways(service, client, via, self.families)
        ]  # fmt: skip

    def trace(
        self,
        node: str,
        dst: str,
        *,
        sender: str = "external",
        src: str = "",
        protocol: str = "TCP",
        seed: int = 0,
        expand: bool = False,
    ) -> "Trace":
        """Follows a first packet that ``node`` meets. ``dst`` and ``src`` are IP:PORT; without ``src`` one is chosen.

        ``sender`` is pod, node, external or peer. ``expand`` adds every outcome with its exact odds. InputError names
        an argument that is wrong.
        """
        from kpsim.tracing.probes import first_packet, names_port, sender_of
        from kpsim.tracing.traces import trace_packet

        packet = first_packet(dst, src=src, protocol=protocol, families=self.families)
        return trace_packet(
            self.site, packet, node=node, sender=sender_of(sender), seed=seed, expand=expand, now_ns=self.now_ns,
            any_port=not names_port(src),
        )  # fmt: skip

    def probe(self, node: str, dst: str, *, sender: str = "external", src: str = "", protocol: str = "TCP") -> "Answer":
        """Every outcome of a first packet that ``node`` meets, with its exact odds. Arguments as for :meth:`trace`."""
        from kpsim.tracing.probes import Probe, Prober, first_packet, names_port, sender_of

        packet = first_packet(dst, src=src, protocol=protocol, families=self.families)
        self.check_node(node)
        asked = Probe(dst, node, sender_of(sender), packet, any_port=not names_port(src))
        return Prober(self.site, self.now_ns).answer(asked)


def replayed(recording: Recording, beside: Programmed | None = None) -> Replay:
    """A finished replay of a recording. The node was told ``beside`` before kube-proxy started."""
    permit(effort_of(recording), long=False)
    replay = Replay(recording, beside=beside)
    for _ in replay.outcomes():
        pass
    return replay
