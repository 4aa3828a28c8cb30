"""Asks a survey's questions of every variant of a cluster. What cannot differ between two variants is asked once.

A row depends on its Service's policies and EndpointSlices, and of the policies only on those for its kind of frontend: clients of a
cluster IP meet ``internalTrafficPolicy``, all others ``externalTrafficPolicy`` (PP-3, PP-4, PP-5). Session affinity changes nothing about
a first packet, since no node remembers a client (PP-9); only where the client's next connection goes depends on it. A Service that shares
a frontend with another, or whose endpoint is a frontend, is asked anew in each variant.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kpsim.addresses import Family, parse_ip
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.alike import alike
from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.objects import Service, ServicePortSpec
from kpsim.packetpath.chooser import TooManyWays
from kpsim.surveys.akin import Kinship
from kpsim.surveys.answers import Answerer, Known, Outcomes
from kpsim.surveys.pods import PlainPods
from kpsim.surveys.questions import FRONTENDS, Asked, Question, name_of, questions
from kpsim.surveys.rows import Places, Row, drawn_again, make_row
from kpsim.surveys.settings import Setting, Variant
from kpsim.tracing.directory import Address
from kpsim.tracing.names import Via
from kpsim.tracing.site import Sender

Port = tuple[Service, ServicePortSpec]  #: a Service and one of its ports
Progress = Callable[[int, int], None]

#: the policy that a frontend's clients do not meet
_UNMET = {Via.CLUSTER_IP: Setting.EXTERNAL}
_UNMET |= dict.fromkeys((Via.EXTERNAL_IP, Via.LOAD_BALANCER, Via.NODE_PORT), Setting.INTERNAL)

_KEPT = "ClientIP"  #: the affinity that remembers clients


@dataclass(frozen=True, slots=True)
class Found:
    """Rows in the order of Services, ports, frontends, clients, nodes and variants; and clients that have no address."""

    rows: tuple[Row, ...]
    mute: tuple[tuple[Sender, Family, str], ...]  #: by kind, family and node


def ask(
    ports: Sequence[Port],
    variants: Sequence[Variant],
    vary: Sequence[Setting],
    asked: Asked,
    progress: Progress | None,
    *,
    singly: bool = False,
) -> Found:
    """The rows of these Service ports under every variant that means something for them.

    ``singly``: each Service is asked about by itself, also those that are akin. It gives the same rows.
    """
    return _Asking(ports, variants, vary, asked, progress, singly=singly).found()


class _Side:
    """A variant that packets are sent in. Its nodes start when the first packet reaches them."""

    def __init__(self, cluster: Cluster, kept: "_Kept", *, grouped: bool) -> None:
        self._cluster = cluster
        self.site = cluster.site
        self.state = cluster.state
        self.answerer = Answerer(self.site, cluster.now_ns, kept.of(cluster))
        self.places = Places(cluster.state, self.site.directory)
        self._kinship: Kinship | None = None
        if grouped and kept.of(cluster) is not None:
            self._kinship = Kinship(alike((self.site,), (cluster.state,), cluster.families, cluster.now_ns))

    def outcomes(self, question: Question) -> Outcomes:
        """Every outcome of a question, as Services that are akin to its Service tell it, else followed."""
        packet = self.answerer.begin(question)
        if self._kinship is None:
            return self.answerer.outcomes(question, packet)
        known = self._kinship.answer(question, packet)
        if known is None:
            known = self.answerer.outcomes(question, packet)
            self._kinship.learn(question, packet, known)
        return known

    def mode(self, node: str) -> str:
        return str(self._cluster.config_of(node).mode)


class _Kept:
    """What is known about ways behind the choice of an endpoint, by the modes of the nodes."""

    def __init__(self) -> None:
        self._by_modes: dict[tuple[Mode, ...], Known] = {}

    def of(self, cluster: Cluster) -> Known | None:
        """None if something beside kube-proxy's rules decides about packets."""
        if cluster.beside or cluster.connections or cluster.replay is not None:
            return None
        modes = tuple(cluster.config_of(node).mode for node in cluster.node_names)
        if modes not in self._by_modes:
            self._by_modes[modes] = Known(PlainPods(cluster.site, cluster.config.cluster_cidr))
        return self._by_modes[modes]


class _Asking:
    def __init__(
        self,
        ports: Sequence[Port],
        variants: Sequence[Variant],
        vary: Sequence[Setting],
        asked: Asked,
        progress: Progress | None,
        *,
        singly: bool,
    ) -> None:
        self._ports, self._variants, self._vary, self._asked = ports, variants, vary, asked
        self._grouped = not singly and is_worth_grouping(ports, variants[0].cluster, asked)
        self._progress = progress
        self._kept = _Kept()
        self._sides: dict[int, _Side] = {}
        self._known: dict[Hashable, list[Row | None]] = {}
        self._entangled = _entangled(variants[0].cluster.state) if vary else frozenset[str]()
        self._slices = [_slices(variant.cluster.state) if vary else {} for variant in variants]
        self._mute: dict[tuple[Sender, Family, str], None] = {}

    def found(self) -> Found:
        """Asks variant by variant: those come first that serve most others, whose policies agree and that have affinity."""
        order = sorted(range(len(self._variants)), key=lambda number: (*self._later(number), number))
        rows: dict[int, dict[int, list[Row | None]]] = {place: {} for place in range(len(self._ports))}
        done, whole = 0, len(order) * len(self._ports)
        for number in order:
            for place, of_port in rows.items():
                if self._means_something(number, place):
                    of_port[number] = self._rows(number, place)
                done += 1
                if self._progress is not None:
                    self._progress(done, whole)
            self._sides.pop(number, None)
        return Found(tuple(_interleaved(rows.values())), tuple(sorted(self._mute)))

    def _later(self, number: int) -> tuple[bool, bool]:
        values = self._variants[number].values
        external = values.get(Setting.EXTERNAL)
        return external != values.get(Setting.INTERNAL, external), values.get(Setting.AFFINITY, _KEPT) != _KEPT

    def _means_something(self, number: int, place: int) -> bool:
        """Whether a variant is one for this Service: a setting that it cannot have is not varied."""
        service, values = self._ports[place][0], self._variants[number].values
        return all(
            value == setting.values[0] for setting, value in values.items() if setting.why_not(service)
        )  # fmt: skip

    def _rows(self, number: int, place: int) -> list[Row | None]:
        variant, (given, port) = self._variants[number], self._ports[place]
        service = variant.cluster.state.get(given.key)
        assert isinstance(service, Service)
        values = _InForce(service)
        found: list[Row | None] = []
        for kind in (each for each in FRONTENDS if each in self._asked.frontends):
            key = place, kind, self._decides(number, name_of(service), kind)
            if key not in self._known:
                self._known[key] = self._answered(number, service, port, kind, values)
                found += self._known[key]
            else:
                found += [row and _under(row, values) for row in self._known[key]]
        return found

    def _decides(self, number: int, name: str, kind: Via) -> Hashable:
        """What of a variant decides about the rows of a Service's frontends of a kind."""
        values = self._variants[number].values
        if name in self._entangled:
            return tuple(values.values())
        unmet = _UNMET[kind], Setting.DISTRIBUTION, Setting.AFFINITY
        met = tuple([value for setting, value in values.items() if setting not in unmet])
        return met, self._slices[number].get(name)

    def _answered(
        self, number: int, service: Service, port: ServicePortSpec, kind: Via, values: "_InForce"
    ) -> list[Row | None]:
        side = self._side(number)
        asked = self._asked._replace(frontends=(kind,))
        return [
            self._row(side, question, values.under(side.mode(question.node)))
            for question in questions(side.site, side.state, service, port, asked)
        ]

    def _row(self, side: _Side, question: Question, values: Mapping[Setting, str]) -> Row | None:
        """The row of a question; None: the client has no address to send from."""
        at = question.client, question.family, question.node
        if at in self._mute and not question.packet.saddr:
            return None
        try:
            outcomes = side.outcomes(question)
        except TooManyWays:
            raise
        except InputError:
            self._mute[at] = None
            return None
        return make_row(question, outcomes, values, side.places)

    def _side(self, number: int) -> _Side:
        if number not in self._sides:
            self._sides[number] = _Side(self._variants[number].cluster, self._kept, grouped=self._grouped)
        return self._sides[number]


def is_worth_grouping(ports: Sequence[Port], cluster: Cluster, asked: Asked) -> bool:
    """Whether so much is asked that it pays to find out which of all Services are akin, on all nodes."""
    services = len({service.key for service, _ in ports})
    return services > 1 and 4 * services * len(asked.nodes) >= sum(1 for _ in cluster.state.services) * len(
        cluster.node_names
    )


class _InForce:
    """The values that are in force for a Service. Rows share them: there may be millions."""

    def __init__(self, service: Service) -> None:
        self._values = {setting: setting.of(service) for setting in Setting}
        self._by_mode: dict[str, Mapping[Setting, str]] = {}

    def under(self, mode: str) -> Mapping[Setting, str]:
        """The values on nodes in a mode."""
        if mode not in self._by_mode:
            self._by_mode[mode] = {**self._values, Setting.MODE: mode}
        return self._by_mode[mode]


def _under(row: Row, values: _InForce) -> Row:
    """A row under other values that change nothing about its packet. Without affinity the next connection is drawn again."""
    now = values.under(row.values[Setting.MODE])
    forgets = now[Setting.AFFINITY] != _KEPT and row.values[Setting.AFFINITY] == _KEPT
    return replace(row, values=now, same_again=drawn_again(row.reached) if forgets else row.same_again)


def _interleaved(found: Iterable[Mapping[int, Sequence[Row | None]]]) -> Iterator[Row]:
    """The rows of each Service port: question by question, and of each question variant by variant."""
    for by_variant in found:
        for rows in zip(*(by_variant[number] for number in sorted(by_variant)), strict=True):
            yield from (row for row in rows if row is not None)


def _slices(state: ClusterState) -> Mapping[str, Hashable]:
    """What the EndpointSlices of each Service say, by the Service's name."""
    found: dict[str, list[Hashable]] = {}
    for each in state.endpoint_slices:
        name = f"{each.metadata.namespace}/{each.service_name}"
        found.setdefault(name, []).append((each.address_type, each.ports, each.endpoints))
    return {name: tuple(told) for name, told in found.items()}


def _entangled(state: ClusterState) -> frozenset[str]:
    """The Services whose rows may depend on the policies of others.

    They share a frontend with another, or an endpoint is a frontend of some Service or on a node's own address.
    """
    owners: dict[tuple[Address, int, str], set[str]] = {}
    for service in state.services:
        texts = {service.cluster_ip, *service.cluster_ips, *service.external_ips, *(i.ip for i in service.ingress)}
        for address in filter(None, map(parse_ip, texts)):
            for port in service.ports:
                owners.setdefault((address, port.port, port.protocol), set()).add(name_of(service))
    found = {name for names in owners.values() if len(names) > 1 for name in names}
    nodes = {address for node in state.nodes for address in map(parse_ip, node.ips)}
    for each in state.endpoint_slices:
        for address in filter(None, (parse_ip(text) for endpoint in each.endpoints for text in endpoint.addresses)):
            if address in nodes or any((address, port.port, port.protocol) in owners for port in each.ports):
                found.add(f"{each.metadata.namespace}/{each.service_name}")
    return frozenset(found)
