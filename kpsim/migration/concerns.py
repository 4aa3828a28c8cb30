"""Whom a remark concerns: names of Services or nodes; no name for the whole cluster; None for nobody."""

from collections.abc import Iterable

from kpsim.addresses import Family
from kpsim.migration.facts import Situation
from kpsim.objects import Service

_BEFORE_LIBERAL = (6, 1)  #: since this Linux, replies outside the window are translated (MODE-1)


def whole_cluster(_: Situation) -> tuple[str, ...]:
    return ()


def services_with_affinity(situation: Situation) -> tuple[str, ...] | None:
    return _named(service for service in situation.cluster.state.services if service.session_affinity == "ClientIP")


def has_node_ports(situation: Situation) -> bool:
    """Whether any Service has a node port."""
    return any(port.node_port for service in situation.cluster.state.services for port in service.ports)


def services_with_health_check(situation: Situation) -> tuple[str, ...] | None:
    return _named(service for service in situation.cluster.state.services if service.health_check_node_port)


def unless_rules_are_known(situation: Situation) -> tuple[str, ...] | None:
    """The nodes whose own rules were not given."""
    cluster = situation.cluster
    unknown = [name for name in cluster.node_names if not _rules_given(situation, name)]
    if len(unknown) == len(cluster.node_names):
        return ()
    return tuple(unknown) or None


def _rules_given(situation: Situation, node: str) -> bool:
    return any((name, family) in situation.cluster.beside for name in ("", node) for family in Family)


def unless_liberal(situation: Situation) -> tuple[str, ...] | None:
    """The nodes whose kernel is old or not known; nobody if connection tracking is liberal."""
    cluster = situation.cluster
    if cluster.config.conntrack_tcp_be_liberal or cluster.sysctls.tcp_be_liberal:
        return None
    return _or_none([n.name for n in situation.nodes if not n.windows and (n.kernel or (0, 0)) < _BEFORE_LIBERAL])


def _named(services: Iterable[Service]) -> tuple[str, ...] | None:
    return _or_none([f"{service.metadata.namespace}/{service.metadata.name}" for service in services])


def _or_none(names: list[str]) -> tuple[str, ...] | None:
    return tuple(names) or None
