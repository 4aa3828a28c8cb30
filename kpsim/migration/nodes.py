"""What to check on the nodes: the versions in their Node objects against what the new mode asks for."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpsim.explore import Cluster
from kpsim.migration.facts import NodeVersions, Severity, Subject, Threshold, Version

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})")
_FIELDS = ("kernelVersion", "kubeProxyVersion", "kubeletVersion", "osImage")


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """What is said of one subject of a node. ``value`` is what the Node object says; empty: nothing."""

    severity: Severity
    subject: Subject
    value: str
    words: str
    see: str = ""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node and the findings about it, the most urgent first."""

    versions: NodeVersions
    findings: tuple[NodeFinding, ...]

    @property
    def name(self) -> str:
        return self.versions.name

    @property
    def severity(self) -> Severity:
        return self.findings[0].severity if self.findings else Severity.FINE


def node_versions(cluster: Cluster) -> tuple[NodeVersions, ...]:
    """The versions of every node of the cluster, in order of names."""
    return tuple(_versions_of(cluster, name) for name in cluster.node_names)


def _versions_of(cluster: Cluster, name: str) -> NodeVersions:
    node = cluster.state.node(name)
    status = node.json.get("status") if node is not None else None
    info = status.get("nodeInfo") if isinstance(status, dict) else None
    said = info if isinstance(info, dict) else {}
    texts = {field: str(said[field]) for field in _FIELDS if said.get(field)}
    # the kubelet, which does not know kube-proxy, writes its own version into kubeProxyVersion, or leaves it out
    proxy = texts.get("kubeProxyVersion") or texts.get("kubeletVersion", "")
    windows = said.get("operatingSystem") == "windows"
    return NodeVersions(name, _version(texts.get("kernelVersion", "")), _version(proxy), texts, windows)


def _version(text: str) -> Version | None:
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def node_reports(nodes: Iterable[NodeVersions], thresholds: Iterable[Threshold]) -> tuple[NodeReport, ...]:
    """The findings about every node that runs Linux."""
    by_subject: dict[Subject, list[Threshold]] = {}
    for threshold in thresholds:
        by_subject.setdefault(threshold.subject, []).append(threshold)
    return tuple(NodeReport(node, tuple(_findings(node, by_subject))) for node in nodes if not node.windows)


_ORDER = {severity: number for number, severity in enumerate(Severity)}


def _findings(node: NodeVersions, thresholds: dict[Subject, list[Threshold]]) -> list[NodeFinding]:
    found = [_finding(node, subject, rows) for subject, rows in thresholds.items()]
    return sorted(found, key=lambda finding: _ORDER[finding.severity])


def _finding(node: NodeVersions, subject: Subject, rows: list[Threshold]) -> NodeFinding:
    value, version = _value(node, subject), node.version(subject)
    if version is None:
        return NodeFinding(Severity.UNKNOWN, subject, value, f"the Node object does not tell the {subject} version")
    met = next(_most_urgent(row for row in rows if version < row.below), None)
    if met is None:
        return NodeFinding(Severity.FINE, subject, value, "")
    return NodeFinding(met.severity, subject, value, met.words, met.see)


def _most_urgent(rows: Iterable[Threshold]) -> Iterator[Threshold]:
    return iter(sorted(rows, key=lambda row: (_ORDER[row.severity], row.below)))


def _value(node: NodeVersions, subject: Subject) -> str:
    if subject is Subject.KERNEL:
        return node.texts.get("kernelVersion", "")
    return node.texts.get("kubeProxyVersion") or node.texts.get("kubeletVersion", "")
