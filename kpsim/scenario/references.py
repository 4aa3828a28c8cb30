"""Checks the references between the parts of a scenario: every name exists, and every time lies in the run."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpsim.addresses import Family, Network, format_ip, parse_network
from kpsim.endpointslices import CONTROL_PLANE_LABELS
from kpsim.manifests.places import Finding, Path
from kpsim.objects import LABEL_EXCLUDE_BALANCERS, LABEL_ZONE, Service
from kpsim.packetpath.routing import OwnAddress
from kpsim.scenario.clients import Clients, outside_clients
from kpsim.scenario.document import Document
from kpsim.scenario.event_schema import Rollout, ScenarioEvent
from kpsim.scenario.load_balancer_schema import Check, Distribution
from kpsim.scenario.node_schema import NamedNode
from kpsim.scenario.nodes import cluster_nodes, joining
from kpsim.scenario.problems import suggestion
from kpsim.scenario.schema import ScenarioSpec
from kpsim.scenario.service_names import qualified
from kpsim.scenario.traffic_schema import MOST_CLIENTS, Origin, Traffic, Via
from kpsim.scenario.workload_schema import Kind, Workload
from kpsim.units import format_duration

#: labels of Nodes that decide where packets go (T-5.1, CP-3.4.3, CP-3.8.2, CP-14.3)
DECIDING_LABELS = (LABEL_ZONE, *CONTROL_PLANE_LABELS, LABEL_EXCLUDE_BALANCERS)


@dataclass(frozen=True, slots=True)
class _Names:
    nodes: frozenset[str]
    zones: frozenset[str]
    workloads: frozenset[str]
    services: frozenset[str]


def check_references(
    spec: ScenarioSpec, services: Mapping[str, Service], created: Mapping[str, Service], document: Document
) -> list[Finding]:
    """Return what is wrong in ``spec``.

    ``services`` are those at the start, ``created`` those that events make, both by ``namespace/name``.
    """
    nodes = {node.name: node.zone for node in cluster_nodes(spec.nodes)}
    names = _Names(
        frozenset(nodes),
        frozenset(zone for zone in nodes.values() if zone is not None),
        frozenset(workload.name for workload in spec.workloads),
        frozenset(services) | frozenset(created),
    )
    found = [
        *_duplicates([node.name for node in cluster_nodes(spec.nodes)], ("nodes", "list"), "node"),
        *_duplicates([workload.name for workload in spec.workloads], ("workloads",), "workload"),
        *_duplicates([traffic.name for traffic in spec.traffic], ("traffic",), "traffic source"),
        *_address_problems(spec),
        *_service_problems(spec, services, created),
        *_delay_problems(spec, names),
        *(
            each
            for n, rules in enumerate(spec.beside)
            for each in _known(rules.nodes, names.nodes, ("beside", n, "nodes"), "node")
        ),
        *_workload_problems(spec, names),
        *_event_problems(spec, names),
        *_traffic_problems(spec, names, {**created, **services}),
        *_balancer_problems(spec, {**created, **services}),
    ]
    return [document.finding(message, path) for path, message in found]


_Found = Iterator[tuple[Path, str]]


def silent_traffic(spec: ScenarioSpec) -> list[str]:
    """Return remarks on traffic sources of which the file alone says that they send nothing."""
    scaled = {event.scale.workload for event in spec.events if event.scale is not None and event.scale.replicas}
    empty = {w.name for w in spec.workloads if not w.replicas and w.name not in scaled}
    return [
        f"traffic source {traffic.name} sends nothing: its workload {traffic.workload} has no replicas, and no event scales it"
        for traffic in spec.traffic
        if traffic.workload in empty
    ]


def idle_labels(spec: ScenarioSpec) -> list[str]:
    """Return remarks on labels of Nodes that decide nothing."""
    names = {name for event in spec.events if event.label_node is not None for name in event.label_node.labels}
    if unread := sorted(names.difference(DECIDING_LABELS)):
        return [
            f"labelNode: {', '.join(unread)} decides nothing; of a Node's labels {' and '.join(DECIDING_LABELS)} are read"
        ]
    return []


def idle_balancing(spec: ScenarioSpec, services: Sequence[Service]) -> list[str]:
    """Return remarks on settings of load balancers that decide nothing."""
    given = spec.load_balancer.model_fields_set
    if not given:
        return []
    if not any(service.type == "LoadBalancer" for service in services):
        return ["loadBalancer decides nothing: no Service has the type LoadBalancer"]
    outside = [t for t in spec.traffic if t.via is Via.LOAD_BALANCER and t.origin is Origin.OUTSIDE]
    lasting = [t for t in spec.traffic if t.via is Via.LOAD_BALANCER and (t.long or t.keep_alive)]
    remarks = [
        f"loadBalancer.{field} decides nothing: no connection through a load balancer stays open (long, keepAlive)"
        for field, name in (
            ("tracking", "tracking"),
            ("unhealthyConnections", "unhealthy_connections"),
            ("deregistrationDelay", "deregistration_delay_ns"),
        )
        if name in given and not lasting
    ]
    if spec.load_balancer.distribution is Distribution.LEAST_CONNECTIONS and not lasting:
        remarks.append(
            "loadBalancer.distribution: no connection stays open, so all nodes have equally few, and a hash decides"
        )
    remarks += [
        f"loadBalancer.preset: Service {name} has no TCP port to probe, so its load balancer asks serviceHealth"
        for name in _unprobed(spec, services)
    ]
    if "preserve_client_ip" in given and not outside:
        remarks.append("loadBalancer.preserveClientIP decides nothing: no traffic from outside dials a load balancer")
    return remarks


def idle_timeouts(spec: ScenarioSpec) -> list[str]:
    """Return remarks on timeouts of probes that no probe of the run takes."""
    late = {
        "readiness": {event.readiness.workload for event in spec.events if event.readiness and event.readiness.late},
        "liveness": {event.liveness.workload for event in spec.events if event.liveness and event.liveness.late},
    }
    return [
        f"probes.{kind}.timeout of workload {workload.name} decides nothing: only events with late: true let probes go unanswered"
        for workload in spec.workloads
        for kind in ("startup", "readiness", "liveness")
        if (probe := getattr(workload.probes, kind)) is not None
        and "timeout_ns" in probe.model_fields_set
        and workload.name not in late.get(kind, ())
    ]


def _duplicates(names: Iterable[str], path: Path, what: str) -> _Found:
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            yield (*path, number, "name"), f"a second {what} called {name!r}"
        seen.add(name)


def _known(names: Iterable[str], known: frozenset[str], path: Path, what: str) -> _Found:
    for number, name in enumerate(names):
        if name not in known:
            yield (*path, number), f"there is no {what} {name!r}{suggestion(name, known)}"


def _one_known(name: str, known: frozenset[str], path: Path, what: str) -> _Found:
    if name not in known:
        yield path, f"there is no {what} {name!r}{suggestion(name, known)}"


def _address_problems(spec: ScenarioSpec) -> _Found:
    """Check that no two nodes share an address or a pod network."""
    networks: list[Network] = []
    ips: set[str] = set()
    families = spec.nodes.ip_families
    for number, named in enumerate(spec.nodes.named or ()):
        cidrs = [_family_label(text) for text in named.pod_cidrs]
        if len(set(cidrs)) != len(cidrs) or not set(cidrs) <= set(families):
            yield ("nodes", "list", number, "podCIDRs"), f"expected at most one of each family of {', '.join(families)}"
        yield from _interface_problems(named, families, ("nodes", "list", number))
    for number, node in enumerate(cluster_nodes(spec.nodes)):
        for network in filter(None, map(parse_network, node.pod_cidrs)):
            others = [other for other in networks if other.family is network.family]
            if any(network.base in other or other.base in network for other in others):
                yield ("nodes", "list", number, "podCIDRs"), "overlaps the pod CIDR of an earlier node"
            networks.append(network)
        own = {text.partition("/")[0] for link in node.links for text in link.addresses}
        if shared := sorted(ips & own):
            yield ("nodes", "list", number), f"an earlier node has the address {shared[0]}"
        ips |= own


def _family_label(text: str) -> str:
    return (Family.IPV6 if ":" in text else Family.IPV4).label


def _interface_problems(named: NamedNode, families: Collection[str], path: Path) -> _Found:
    """Check that a node's addresses fit each other and the families of the cluster."""
    strange = [ip for ip in named.ips if _family_label(ip) not in families]
    if strange or len(set(named.ips)) != len(named.ips):
        yield (*path, "ips"), f"expected each address once, and only of {', '.join(families)}"
    yield from _duplicates((each.name for each in named.interfaces), (*path, "interfaces"), "interface")
    own = [text.partition("/")[0] for each in named.interfaces for text in each.addresses]
    if len(set(own)) != len(own):
        yield (*path, "interfaces"), "expected each address once"
    if not named.interfaces:
        return
    for family in families:
        if family not in map(_family_label, own):
            yield (*path, "interfaces"), f"no interface has an address of {family}, a family of the cluster"
    for number, ip in enumerate(named.ips):
        if ip not in own:
            yield (*path, "ips", number), f"no interface has the address {ip}"


def _service_problems(spec: ScenarioSpec, services: Mapping[str, Service], created: Mapping[str, Service]) -> _Found:
    for name, service in {**services, **created}.items():
        strange = [family for family in service.ip_families if family not in spec.nodes.ip_families]
        if strange:
            yield (
                ("objects",),
                f"Service {name} is {' and '.join(strange)}, the cluster only {spec.nodes.ip_families[0]}",
            )
    clients = sum(each.count for each in outside_clients(spec.traffic) if each.network is None)
    if clients > MOST_CLIENTS:
        yield ("traffic",), f"expected at most {MOST_CLIENTS} outside addresses over all sources, got {clients}"
    for number, each in enumerate(outside_clients(spec.traffic)):
        if each.network is not None and (words := _misplaced(each, spec)):
            yield ("traffic", number, "clientNetwork"), words


def _misplaced(clients: Clients, spec: ScenarioSpec) -> str:
    """Say why clients cannot have the addresses of their network. Empty: they can."""
    network, addresses = clients.network, clients.addresses
    assert network is not None
    if addresses.stop > network.base + (1 << (network.family.bits - network.prefix)) - 1:
        return f"{network} has too few addresses for the clients of all its sources"
    for node in cluster_nodes(spec.nodes):
        pods = (found for text in node.pod_cidrs if (found := parse_network(text)) is not None)
        if any(pod.family is network.family and (pod.base in network or network.base in pod) for pod in pods):
            return f"it holds pods of {node.name}: clients outside need addresses of their own"
        own = (OwnAddress.parse(text) for link in node.links for text in link.addresses)
        taken = next((a for a in own if a.family is network.family and a.value in addresses), None)
        if taken is not None:
            return f"a client would have the address of {node.name}, {format_ip(taken.family, taken.value)}"
    return ""


def _delay_problems(spec: ScenarioSpec, names: _Names) -> _Found:
    for number, special in enumerate(spec.delays.on_nodes):
        yield from _known(special.nodes, names.nodes, ("delays", "onNodes", number, "nodes"), "node")


def _workload_problems(spec: ScenarioSpec, names: _Names) -> _Found:
    for number, workload in enumerate(spec.workloads):
        path: Path = ("workloads", number, "placement")
        yield from _known(workload.placement.zones, names.zones, (*path, "zones"), "zone")
        yield from _known(workload.placement.nodes, names.nodes, (*path, "nodes"), "node")
        if workload.kind is Kind.DAEMON_SET and (zones := workload.placement.zones):
            outside = {node.name for node in cluster_nodes(spec.nodes) if node.zone not in zones}
            for index, pod in enumerate(workload.pods):
                if pod.node in outside:
                    yield (
                        ("workloads", number, "pods", index, "node"),
                        f"{pod.node} is in none of the zones {', '.join(zones)}",
                    )
    yield from _pod_problems(spec, names)


def _pod_problems(spec: ScenarioSpec, names: _Names) -> _Found:
    """Check that pods that are there at the start have names and addresses of their own, on nodes that are there."""
    nodes, absent = cluster_nodes(spec.nodes), joining(spec.events)
    holders = {text.partition("/")[0]: node.name for node in nodes for link in node.links for text in link.addresses}
    named: set[tuple[str, str]] = set()
    for number, workload in enumerate(spec.workloads):
        for index, pod in enumerate(workload.pods):
            path: Path = ("workloads", number, "pods", index)
            yield from _one_known(pod.node, names.nodes, (*path, "node"), "node")
            if pod.node in absent:
                yield (*path, "node"), f"{pod.node} is not there at the start: an event adds it"
            if (workload.namespace, pod.name) in named:
                yield (*path, "name"), f"a second pod called {workload.namespace}/{pod.name}"
            named.add((workload.namespace, pod.name))
            families = [_family_label(ip) for ip in pod.ips]
            if len(set(families)) != len(families) or not set(families) <= set(spec.nodes.ip_families):
                yield (*path, "ips"), f"expected at most one of each family of {', '.join(spec.nodes.ip_families)}"
            for ip in pod.ips:
                if (holder := holders.setdefault(ip, f"pod {pod.name}")) != f"pod {pod.name}":
                    yield (*path, "ips"), f"{ip} is the address of {holder}"


def _event_problems(spec: ScenarioSpec, names: _Names) -> _Found:
    for number, event in enumerate(spec.events):
        path: Path = ("events", number)
        if event.at_ns >= spec.duration_ns:
            yield (*path, "at"), f"not before the end of the run ({format_duration(spec.duration_ns)})"
        yield from _action_problems(spec, event, names, path)


def _action_problems(spec: ScenarioSpec, event: ScenarioEvent, names: _Names, path: Path) -> _Found:
    inner = (*path, event.kind_in_file)
    for action in (event.rollout, event.scale, event.crash, event.delete_pods, event.readiness, event.liveness):
        if action is not None:
            yield from _one_known(action.workload, names.workloads, (*inner, "workload"), "workload")
    yield from _workload_action_problems(spec, event, inner)
    for placed in (
        event.crash,
        event.delete_pods,
        event.readiness,
        event.liveness,
        event.node_down,
        event.node_up,
        event.restart_proxy,
        event.fail_syncs,
        event.rolling_upgrade,
        event.load_rules,
        event.cut_off,
        event.close_watches,
        event.flush_rules,
        event.hold_lock,
        event.crash_proxy,
        event.write_proxy_config,
        event.set_conntrack_max,
        event.fill_conntrack,
        event.lose_packets,
        event.clock_skew,
    ):
        if placed is not None:
            yield from _known(placed.nodes, names.nodes, (*inner, "nodes"), "node")
    for single in (
        event.taint_node,
        event.untaint_node,
        event.add_node,
        event.delete_node,
        event.label_node,
        event.cordon,
        event.uncordon,
        event.drain,
        event.reboot,
    ):
        if single is not None:
            yield from _one_known(single.node, names.nodes, (*inner, "node"), "node")
    if event.delete_namespace is not None:
        known = {workload.namespace for workload in spec.workloads} | {
            name.partition("/")[0] for name in names.services
        }
        yield from _one_known(event.delete_namespace.namespace, frozenset(known), (*inner, "namespace"), "namespace")
    for change in (event.patch_service, event.delete_service, event.delete_endpoint_slice):
        if change is not None and change.service is not None:
            yield from _one_known(qualified(change.service), names.services, (*inner, "service"), "Service")
    if event.slow_load_balancer is not None:
        named = [qualified(name) for name in event.slow_load_balancer.services]
        yield from _known(named, names.services, (*inner, "services"), "Service")


def _workload_action_problems(spec: ScenarioSpec, event: ScenarioEvent, path: Path) -> _Found:
    """Check that a workload has what an event needs: probes, or the controller that reads a field."""
    workloads = {workload.name: workload for workload in spec.workloads}
    readiness, liveness, rollout = event.readiness, event.liveness, event.rollout
    scaled = workloads.get(event.scale.workload) if event.scale is not None else None
    if scaled is not None and scaled.kind is Kind.DAEMON_SET:
        yield (*path, "workload"), f"{scaled.name} is a DaemonSet, which has a pod on each node and no replicas"
    if readiness is not None and readiness.late and (found := workloads.get(readiness.workload)) is not None:
        if found.probes.readiness is None:
            yield (*path, "late"), f"workload {found.name} has no probes.readiness, whose timeout it takes"
    elif liveness is not None and (found := workloads.get(liveness.workload)) is not None:
        if found.probes.liveness is None:
            yield (*path, "workload"), f"workload {found.name} has no probes.liveness"
    elif rollout is not None and (found := workloads.get(rollout.workload)) is not None:
        of_set, given = found.kind is Kind.STATEFUL_SET, rollout.model_fields_set
        if of_set and "max_surge" in given:
            yield (*path, "maxSurge"), f"{found.name} is a StatefulSet, which has no pods beside those that it replaces"
        if not of_set and "partition" in given:
            yield (*path, "partition"), f"partition goes with a StatefulSet, and {found.name} is a {found.kind}"
        if found.kind is not Kind.DEPLOYMENT and rollout.recreate:
            yield (*path, "recreate"), f"recreate goes with a Deployment, and {found.name} is a {found.kind}"
        elif found.kind is Kind.DAEMON_SET:
            yield from _daemon_rollout_problems(found, rollout, path)


def _daemon_rollout_problems(found: Workload, rollout: Rollout, path: Path) -> _Found:
    """Check what the API server checks of a DaemonSet's rollingUpdate."""
    surge, unavailable = (int(str(share).removesuffix("%")) for share in rollout.shares(Kind.DAEMON_SET))
    if bool(surge) is bool(unavailable):
        yield (
            (*path, "maxUnavailable"),
            f"{found.name} is a DaemonSet: expected one of maxSurge and maxUnavailable above 0",
        )


def _traffic_problems(spec: ScenarioSpec, names: _Names, services: Mapping[str, Service]) -> _Found:
    for number, traffic in enumerate(spec.traffic):
        path: Path = ("traffic", number)
        if traffic.start_ns >= spec.duration_ns:
            yield (*path, "start"), f"not before the end of the run ({format_duration(spec.duration_ns)})"
        if traffic.workload is not None:
            yield from _one_known(traffic.workload, names.workloads, (*path, "workload"), "workload")
        if traffic.named is not None:
            yield from _named_sender(spec, traffic, names, (*path, "from"))
        yield from _known(traffic.nodes, names.nodes, (*path, "nodes"), "node")
        if traffic.address is not None and not any(
            node.link_with(traffic.address) for node in cluster_nodes(spec.nodes)
        ):
            yield (*path, "address"), f"no node has the address {traffic.address}"
        if traffic.interface is not None:
            yield from _interface_reached(spec, traffic, (*path, "interface"))
        service = services.get(qualified(traffic.service))
        if service is None:
            yield from _one_known(qualified(traffic.service), names.services, (*path, "service"), "Service")
        else:
            yield from _frontend_problems(traffic, service, path)


def _named_sender(spec: ScenarioSpec, traffic: Traffic, names: _Names, path: Path) -> _Found:
    """Check that the node exists, or that a workload may have a pod of this name."""
    named = traffic.named or ""
    if traffic.origin is Origin.NODES:
        yield from _one_known(named, names.nodes, path, "node")
        return
    owner, _, number = named.rpartition("-")
    owners = frozenset(f"{workload.namespace}/{workload.name}" for workload in spec.workloads)
    if named in {f"{workload.namespace}/{pod.name}" for workload in spec.workloads for pod in workload.pods}:
        return
    if owner not in owners or not number.isdecimal():
        yield (
            path,
            f"no workload has pods of this name; pods are called {', '.join(f'{o}-1' for o in sorted(owners)) or 'by workloads'}",
        )


def _interface_reached(spec: ScenarioSpec, traffic: Traffic, path: Path) -> _Found:
    """Check that each node that the traffic may dial or enter has the interface."""
    chosen = traffic.nodes if traffic.origin is Origin.OUTSIDE else ()
    for node in cluster_nodes(spec.nodes):
        names = [link.name for link in node.links]
        if (not chosen or node.name in chosen) and traffic.interface not in names:
            yield path, f"{node.name} has no interface {traffic.interface!r}; it has {', '.join(names)}"
            return


def _family_problems(traffic: Traffic, service: Service, path: Path) -> _Found:
    if traffic.ip_family is not None and traffic.ip_family not in service.ip_families:
        yield (*path, "ipFamily"), f"the Service has {', '.join(service.ip_families)}"
    if traffic.happy_eyeballs is not None and len(service.ip_families) < 2:
        yield (*path, "happyEyeballs"), f"the Service has one family only, {', '.join(service.ip_families) or 'IPv4'}"
    dialled = traffic.ip_family or (service.ip_families[0] if service.ip_families else "IPv4")
    for field, text in (("clientNetwork", traffic.client_network), ("address", traffic.address)):
        if text is not None and _family_label(text) != dialled:
            yield (*path, field), f"the clients dial {dialled} addresses"


def _not_for_datagrams(traffic: Traffic, protocol: str, path: Path) -> _Found:
    """Refuse what only clients of TCP do."""
    for field, value, message in (
        ("long", traffic.long, "long connections are TCP; for UDP let sourcePorts be re-used"),
        (
            "connectTimeout",
            traffic.connect_timeout_ns,
            f"only TCP clients repeat their first packet; the port is {protocol}",
        ),
        ("keepAlive", traffic.keep_alive, f"pools hold TCP connections; the port is {protocol}"),
        ("happyEyeballs", traffic.happy_eyeballs, f"only TCP clients hear of a connection; the port is {protocol}"),
    ):
        if value is not None:
            yield (*path, field), message


def _unprobed(spec: ScenarioSpec, services: Iterable[Service]) -> list[str]:
    """Return the names of Services whose load balancer would open a TCP connection, and which have no TCP port."""
    return sorted(
        f"{service.metadata.namespace}/{service.metadata.name}"
        for service in services
        if service.type == "LoadBalancer"
        and not service.health_check_node_port
        and not any(port.protocol == "TCP" for port in service.ports)
        and spec.load_balancer.resolved(local=service.external_traffic_policy == "Local").check is Check.TRAFFIC_PORT
    )


def _balancer_problems(spec: ScenarioSpec, services: Mapping[str, Service]) -> _Found:
    """Check that what load balancers ask of nodes exists. Where a preset asks for it, ``/healthz`` takes its place."""
    if "check" in spec.load_balancer.model_fields_set:
        for name in _unprobed(spec, services.values()):
            yield (
                ("loadBalancer", "check"),
                f"trafficPort is a TCP connection, and Service {name} has no TCP port: use serviceHealth",
            )


def _frontend_problems(traffic: Traffic, service: Service, path: Path) -> _Found:
    ports = service.ports
    listed = ", ".join(f"{port.name or '(no name)'} {port.port}/{port.protocol}" for port in ports)
    field = "port" if traffic.given_port is not None else "service"
    matching = [port for port in ports if traffic.port in (None, port.port, port.name)]
    if not matching:
        yield (*path, field), f"the Service has no port {traffic.port!r}; it has {listed}"
    elif len(matching) > 1:
        yield (*path, "port"), f"expected the name of one port of the Service; it has {listed}"
    elif matching[0].protocol != "TCP":
        yield from _not_for_datagrams(traffic, matching[0].protocol, path)
    yield from _family_problems(traffic, service, path)
    match traffic.via:
        case Via.EXTERNAL_IP:
            lacking = "" if service.external_ips else "spec.externalIPs"
        case Via.LOAD_BALANCER:
            if service.has_several_load_balancers:
                each = ", ".join(f"{i.ip} ({i.ip_mode or 'VIP'})" for i in service.ingress if i.ip)
                yield (
                    (*path, "via"),
                    f"the Service has several load balancers, {each}: not modelled; leave one in its status",
                )
            lacking = "" if service.type == "LoadBalancer" else "type LoadBalancer"
            if (
                not lacking
                and traffic.origin is not Origin.OUTSIDE
                and not any(ingress.ip for ingress in service.ingress)
            ):
                lacking = "a load balancer IP, which traffic from inside needs (host names are not resolved)"
        case Via.NODE_PORT:
            lacking = "" if service.type in ("NodePort", "LoadBalancer") else "type NodePort or LoadBalancer"
        case Via.CLUSTER_IP:
            lacking = ""
    if lacking:
        yield (*path, "via"), f"the Service lacks {lacking}"
