"""What a shell offers for a word that is typed: the Services, pods and nodes of the cluster on the line."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kpsim.errors import KpsimError

if TYPE_CHECKING:
    from kpsim.cluster import ClusterState
    from kpsim.explore import Cluster

_KINDS = ("pod", "node", "external", "peer")


def complete_service(context: typer.Context, incomplete: str) -> list[str]:
    """Return the Service ports that begin so. If there are none, shells offer files."""
    return sorted(name for name in _service_ports(context) if name.startswith(incomplete) and incomplete)


def complete_destination(context: typer.Context, incomplete: str) -> list[str]:
    """Return the Service ports, pods and nodes that begin so."""
    return sorted(name for name in (*_service_ports(context), *_machines(context)) if name.startswith(incomplete))


def complete_sender(context: typer.Context, incomplete: str) -> list[str]:
    """Return the kinds of senders, pods and nodes that begin so."""
    return [name for name in (*_KINDS, *sorted(_machines(context))) if name.startswith(incomplete)]


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """Return the nodes that begin so."""
    names = (name.removeprefix("node/") for name in _machines(context) if name.startswith("node/"))
    return sorted(name for name in names if name.startswith(incomplete))


def complete_node_of_config(context: typer.Context, incomplete: str) -> list[str]:
    """Return the Nodes beside a configuration that begin so."""
    from kpsim.manifests.proxy_start import read_proxy_start

    given = context.params.get("config") or tuple(map(Path, context.args))
    files = [path for path in given if path.exists()]
    with suppress(KpsimError, OSError):
        names = (node.metadata.name for node in read_proxy_start(files).nodes)
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def complete_service_name(context: typer.Context, incomplete: str) -> list[str]:
    """Return the Services that begin so."""
    names = (f"{s.metadata.namespace}/{s.metadata.name}" for state in _states(context) for s in state.services)
    return sorted(name for name in names if name.startswith(incomplete))


def complete_workload(context: typer.Context, incomplete: str) -> list[str]:
    """Return the controllers of pods and the Services that begin so."""
    names = set(complete_service_name(context, incomplete))
    for cluster in _clusters(context):
        for item in cluster.controllers:
            metadata = item.json["metadata"]
            names.add(f"{metadata.get('namespace') or 'default'}/{metadata['name']}")
    return sorted(name for name in names if name.startswith(incomplete))


def _service_ports(context: typer.Context) -> Iterator[str]:
    for state in _states(context):
        for service in state.services:
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            yield from (f"{name}:{port.name or port.port}" for port in service.ports)


def _machines(context: typer.Context) -> Iterator[str]:
    for state in _states(context):
        yield from (f"node/{node.metadata.name}" for node in state.nodes)
        yield from (f"pod/{pod.metadata.namespace}/{pod.metadata.name}" for pod in state.pods)


def _states(context: typer.Context) -> "Iterable[ClusterState]":
    return (cluster.state for cluster in _clusters(context))


def _clusters(context: typer.Context) -> "Iterable[Cluster]":
    """The cluster of the files on the line; none if they cannot be read: a shell shows no errors."""
    from kpsim.explore import load

    # while an option waits for its value, the words before it are not yet arguments
    given = context.params.get("cluster") or tuple(map(Path, context.params.get("scenario") or context.args))
    files = [path for path in given if path.exists()]
    with suppress(KpsimError, OSError):
        if files:
            return (load(files),)
    return ()
