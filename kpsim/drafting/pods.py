"""The pods of a cluster that Services lead to: the Pods that were given, and those that only EndpointSlices show."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kpsim.addresses import canonical_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.drafting.controllers import Controllers, owner_of
from kpsim.drafting.part import Ledger
from kpsim.drafting.podspecs import PodSpec, pod_spec
from kpsim.endpointslices import has_managed_slices, selects, slices_of
from kpsim.endpointslices.shown import ShownPods
from kpsim.manifests.remarks import counted
from kpsim.manifests.validation import is_dns_subdomain
from kpsim.objects import ContainerPort, EndpointSlice, Node, Pod, Service
from kpsim.units import MINUTE_NS, SECOND_NS, parse_rfc3339_ns

Labels = tuple[tuple[str, str], ...]  #: sorted

#: a Pod that took longer from its creation until its Ready condition changed has probably been not ready in between
_LONGEST_START_NS = 10 * MINUTE_NS

# the letters of names that Kubernetes generates
_GENERATED = "[bcdfghjklmnpqrstvwxz2456789]"
_OF_DEPLOYMENT = re.compile(rf"(.+)-{_GENERATED}{{6,10}}-{_GENERATED}{{5}}")
_OF_DAEMON_SET = re.compile(rf"(.+)-{_GENERATED}{{5}}")
_OF_STATEFUL_SET = re.compile(r"(.+)-\d+")


@dataclass(frozen=True, slots=True)
class FoundPod:
    """A pod that is an endpoint or may become one. ``labels`` are only those that Services of its namespace select by."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]
    ready: bool
    labels: Labels
    ports: tuple[ContainerPort, ...]
    host_network: bool
    owner: tuple[str, str]  #: kind and name of what keeps it; an empty kind is a guess by names
    spec: PodSpec | None = None  #: None: only a slice shows it
    start_s: float | None = None  #: from its creation until it was Ready
    all_labels: Mapping[str, str] = field(default_factory=dict, compare=False)  #: as far as they are known
    static: bool = False  #: its node's kubelet keeps it, from a file

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"


class Selectors:
    """The Services that select pods, indexed by their selectors."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._by_pair: dict[tuple[str, str, str], list[Service]] = {}
        self._keys: dict[str, set[str]] = {}
        for service in services:
            if has_managed_slices(service):
                namespace = service.metadata.namespace
                self._by_pair.setdefault((namespace, *min(service.selector.items())), []).append(service)
                self._keys.setdefault(namespace, set()).update(service.selector)

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> list[Service]:
        """Return the Services that select pods with these labels, sorted by name."""
        found = {
            service.metadata.name: service
            for pair in labels.items()
            for service in self._by_pair.get((namespace, *pair), ())
            if selects(service, labels)
        }
        return [found[name] for name in sorted(found)]

    def relevant(self, namespace: str, labels: Mapping[str, str]) -> Labels:
        """Return the labels that Services of the namespace select by."""
        keys = self._keys.get(namespace, set())
        return tuple(sorted((key, value) for key, value in labels.items() if key in keys))


@dataclass(frozen=True, slots=True)
class FoundPods:
    """The pods, and the namespaces of which the cluster tells which pods there are."""

    pods: tuple[FoundPod, ...]
    known: frozenset[str]  #: namespaces with Pods or slices of selecting Services
    shown: frozenset[tuple[str, str]]  #: namespaces and names of slices whose endpoints became pods


def find_pods(
    state: ClusterState, selectors: Selectors, services: Iterable[Service], controllers: Controllers, ledger: Ledger,
    keep: frozenset[tuple[str, str]] = frozenset(),
) -> FoundPods:  # fmt: skip
    """Return the pods that the Services select, sorted by name.

    ``keep`` are controllers (namespace and name) whose pods are found though no Service selects them.
    """
    nodes = {node.metadata.name: node for node in state.nodes}
    given: dict[tuple[str, str], FoundPod] = {}
    seen: set[tuple[str, str]] = set()
    left = _Left(ledger)
    for pod in state.pods:
        key = (pod.metadata.namespace, pod.metadata.name)
        seen.add(key)
        owner = _owner(pod, controllers)
        if not selectors.selecting(key[0], pod.metadata.labels) and (key[0], owner[1]) not in keep:
            left.unselected += 1
        elif why := _unfit(pod, nodes):
            left.pods(why, pod)
        else:
            given[key] = _given(pod, owner, selectors)
    shown, slices = _shown(state, list(services), seen, nodes, selectors, left)
    namespaces = {namespace for namespace, _ in seen} | {each.metadata.namespace for each in slices}
    left.tell()
    found = {**{(pod.namespace, pod.name): pod for pod in shown}, **given}
    return FoundPods(
        tuple(_with_own_addresses([found[key] for key in sorted(found)], nodes.values(), ledger)),
        frozenset(namespaces),
        frozenset((each.metadata.namespace, each.metadata.name) for each in slices),
    )


def _with_own_addresses(pods: Iterable[FoundPod], nodes: Iterable[Node], ledger: Ledger) -> Iterator[FoundPod]:
    """Yield the pods. One whose address a node or another pod has gets a free one when a run begins."""
    taken = {canonical_ip(ip) or ip for node in nodes for ip in node.ips}
    for pod in pods:
        if not pod.host_network and not taken.isdisjoint(pod.ips):
            ledger.guess("free addresses for pods whose address a node or another pod has", pod.title)
            pod = replace(pod, ips=())
        taken.update(pod.ips)
        yield pod


class _Left:
    """Counts what is left out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.unselected = 0
        self.of_slices: list[str] = []

    def pods(self, why: str, pod: Pod) -> None:
        self._ledger.leave_out(f"Pods {why}", f"{pod.metadata.namespace}/{pod.metadata.name}")

    def tell(self) -> None:
        if self.unselected:
            self._ledger.leave_out(f"{counted(self.unselected, 'Pod')} that no Service of the draft selects")
        if self.of_slices:
            self._ledger.guess(
                "pods that only EndpointSlices show (kubectl get pods -A -o yaml tells more)", *self.of_slices
            )


def _unfit(pod: Pod, nodes: Mapping[str, Node]) -> str:
    """Say why a pod is no pod of the scenario's start. Empty: it is one."""
    if pod.phase in ("Succeeded", "Failed"):
        return f"that have ended ({pod.phase})"
    if pod.terminating:
        return "that terminate: how long they will is not known"
    if not pod.node_name or not pod.ips:
        return "that have no node or address yet"
    if pod.node_name not in nodes:
        return "on nodes that were not given"
    return ""


def _given(pod: Pod, owner: tuple[str, str], selectors: Selectors) -> FoundPod:
    spec = pod_spec(pod.json.get("spec") or {})
    return FoundPod(
        pod.metadata.namespace,
        pod.metadata.name,
        pod.node_name,
        _canonical(pod.ips),
        pod.ready,
        selectors.relevant(pod.metadata.namespace, pod.metadata.labels),
        tuple(dict.fromkeys(pod.container_ports)),
        pod.host_network,
        owner,
        spec,
        _start_s(pod),
        pod.metadata.labels,
        static=(owner_of(pod.json) or ("", ""))[0] == "Node",
    )


def _canonical(ips: Iterable[str]) -> tuple[str, ...]:
    """Return one address of each family, as it is written usually."""
    found: dict[int, str] = {}
    for ip in ips:
        parsed = parse_ip(ip)
        if parsed is not None:
            found.setdefault(parsed[0], canonical_ip(ip) or ip)
    return tuple(found.values())


def _start_s(pod: Pod) -> float | None:
    """Return how long the pod took from its creation until it was Ready, in whole seconds of the API; None: not known."""
    created, changed = pod.metadata.creation_timestamp, pod.ready_changed
    if not pod.ready or not created or not changed:
        return None
    try:
        took_ns = parse_rfc3339_ns(changed) - parse_rfc3339_ns(created)
    except ValueError:
        return None
    return took_ns / SECOND_NS if 0 <= took_ns <= _LONGEST_START_NS else None


def _owner(pod: Pod, controllers: Controllers) -> tuple[str, str]:
    """Return what keeps a pod. Of a ReplicaSet it is the Deployment."""
    namespace, name = pod.metadata.namespace, pod.metadata.name
    owner = owner_of(pod.json)
    if owner is None:
        return "", base_name(name)
    if owner[0] == "Node":  # a static pod, which its kubelet mirrors
        return "", name.removesuffix(f"-{owner[1]}")
    if owner[0] == "ReplicaSet":
        if (top := controllers.top("ReplicaSet", namespace, owner[1])) is not None:
            return top
        made_by = pod.metadata.labels.get("pod-template-hash", "")
        if made_by and owner[1].endswith(f"-{made_by}"):
            return "Deployment", owner[1].removesuffix(f"-{made_by}")
    return owner


def base_name(name: str) -> str:
    """Return the name of what probably made a pod of this name, by the letters that Kubernetes generates names of."""
    for pattern in (_OF_DEPLOYMENT, _OF_DAEMON_SET, _OF_STATEFUL_SET):
        if (found := pattern.fullmatch(name)) is not None:
            return found[1]
    return name


# ------------------------------------------------------------------------------------------------- what only slices show


def _shown(
    state: ClusterState,
    services: Iterable[Service],
    given: set[tuple[str, str]],
    nodes: Mapping[str, Node],
    selectors: Selectors,
    left: _Left,
) -> tuple[list[FoundPod], list[EndpointSlice]]:
    """Return the pods that slices show and that were not given, and the slices that were read so."""
    own: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in state.endpoint_slices:
        own.setdefault((item.metadata.namespace, item.service_name), []).append(item)
    namespaces_given = {namespace for namespace, _ in given}
    given_ips = {(pod.metadata.namespace, ip) for pod in state.pods for ip in _canonical(pod.ips)}
    by_namespace: dict[str, list[tuple[Service, list[EndpointSlice]]]] = {}
    read: list[EndpointSlice] = []
    for service in services:
        key = (service.metadata.namespace, service.metadata.name)
        if not has_managed_slices(service) or key not in own:
            continue
        slices = slices_of(service, own[key])
        if not slices and key[0] not in namespaces_given:
            slices = own[key]  # written by hand in the controller's place
        slices = [item for item in slices if item.address_type != "FQDN"]
        by_namespace.setdefault(key[0], []).append((service, slices))
        read += slices
    found: list[FoundPod] = []
    for namespace, pairs in sorted(by_namespace.items()):
        named = {s.metadata.name: s for s, _ in pairs}
        for pod in ShownPods(pairs).all():
            named_by_ip = (namespace, pod.metadata.name) in given_ips  # the slice does not name the pod
            if (namespace, pod.metadata.name) not in given and not named_by_ip:
                found += _of_slice(pod, nodes, selectors, named, left)
    return found, read


def _of_slice(
    pod: Pod, nodes: Mapping[str, Node], selectors: Selectors, services: Mapping[str, Service], left: _Left
) -> Iterator[FoundPod]:
    if pod.terminating:
        left.pods("that terminate: how long they will is not known", pod)
        return
    ips = _canonical(pod.ips)
    node = pod.node_name or _node_with(ips, nodes)
    if node not in nodes:
        left.pods("on nodes that were not given" if node else "of slices that name no node", pod)
        return
    name, base = pod.metadata.name, base_name(pod.metadata.name)
    if parse_ip(name) is not None or not is_dns_subdomain(name):  # the slice names no pod
        base = next(iter(services)) if len(services) == 1 else _service_of(pod, selectors)
        name = f"{base}-{ips[0].replace(':', '-').strip('-') if ips else 'x'}"
    left.of_slices.append(f"{pod.metadata.namespace}/{name}")
    yield FoundPod(
        pod.metadata.namespace,
        name,
        node,
        ips,
        pod.ready,
        selectors.relevant(pod.metadata.namespace, pod.metadata.labels),
        tuple(dict.fromkeys(pod.container_ports)),
        bool(set(ips) & set(nodes[node].ips)),
        ("", base),
        all_labels=pod.metadata.labels,
    )


def _service_of(pod: Pod, selectors: Selectors) -> str:
    found = selectors.selecting(pod.metadata.namespace, pod.metadata.labels)
    return found[0].metadata.name if found else pod.subdomain


def _node_with(ips: Iterable[str], nodes: Mapping[str, Node]) -> str:
    """Return the node whose pod network holds an address; empty if none does."""
    for address in filter(None, map(parse_ip, ips)):
        for name, node in nodes.items():
            networks = filter(None, map(parse_network, node.pod_cidrs))
            if any(n.family is address[0] and address[1] in n for n in networks):
                return name
    return ""
