"""Takes Nodes, Pods and what makes Pods among a scenario's objects: they become nodes and workloads, as in a draft.

Without such objects a scenario's nodes and workloads are what its file says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from kpsim.cluster import ClusterState
from kpsim.config import ProxyConfig
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.manifests import Loaded, load_manifests
from kpsim.manifests.admission import Item, admit, typed_objects
from kpsim.manifests.kinds import MAKERS_OF_PODS, Sorted, makers_of_pods, sort_documents
from kpsim.manifests.places import problems_of
from kpsim.manifests.reading import Document as Read
from kpsim.objects import Node, ObjectKey, node_from_json
from kpsim.scenario.document import Document

if TYPE_CHECKING:  # drafting is loaded when there is something to take
    from kpsim.drafting.draft import Parts
    from kpsim.drafting.part import Ledger

KINDS = ("Node", "Pod", *MAKERS_OF_PODS)  #: what becomes nodes and workloads


@dataclass(frozen=True)
class Taken:
    """The document with the nodes and workloads that its objects became.

    ``loaded`` is what the manifests hold, ``slices`` the EndpointSlices whose endpoints became pods or are written by the slice controller.
    Both are empty if there was nothing to take.
    """

    document: Document
    loaded: Loaded | None = None
    active: bool = False
    slices: frozenset[ObjectKey] = frozenset()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=())


def take_objects(document: Document, file: str) -> Taken:
    """Take what the file's objects and manifests say about nodes and pods. InputError if it contradicts the file or cannot be read."""
    loaded, problems = _manifests(document, file)
    taken = Taken(document, loaded, problems=problems)
    found = _inline(document)
    items = (*(loaded.controllers if loaded is not None else ()), *makers_of_pods(found))
    state = loaded.cluster if loaded is not None else ClusterState()
    if not items and not any(item.kind in KINDS for item in found.items) and not _has(state):
        return taken
    state = _with_inline(state, found)
    if _has_nodes(state) and "nodes" in document.content:
        words = "the nodes are among the objects, too: leave nodes out, or the Nodes"
        raise InputError(document.problem(words, ("nodes",)))
    return _drafted(taken, state, items)


def _manifests(document: Document, file: str) -> tuple[Loaded | None, tuple[Problem, ...]]:
    names = document.content.get("manifests")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None, ()  # the schema says what is wrong
    try:
        return load_manifests([FilePath(file).parent / name for name in names]), ()
    except InputError as error:
        return None, error.problems


def _inline(document: Document) -> Sorted:
    given = document.content.get("objects")
    if not isinstance(given, list) or not all(isinstance(obj, Mapping) for obj in given):
        return Sorted()
    place = document.place.at("objects")
    return sort_documents(Read(place.at(number), obj) for number, obj in enumerate(given))


def _has(state: ClusterState) -> bool:
    return _has_nodes(state) or next(state.pods, None) is not None


def _has_nodes(state: ClusterState) -> bool:
    return next(state.nodes, None) is not None


def _with_inline(state: ClusterState, found: Sorted) -> ClusterState:
    admission = admit(found.items, [obj.json for obj in state.objects.values()])
    objects = typed_objects(admission)
    if findings := [*found.findings, *admission.findings]:
        raise InputError(problems_of(findings))
    for obj in objects:
        _, state = state.put(obj)
    return state


def _drafted(taken: Taken, state: ClusterState, items: tuple[Item, ...]) -> Taken:
    from kpsim.drafting import Given
    from kpsim.drafting.draft import find_parts
    from kpsim.drafting.listeners import listeners
    from kpsim.drafting.nodes import nodes_part
    from kpsim.drafting.part import Ledger
    from kpsim.drafting.services import hand_written

    document, content = taken.document, dict(taken.document.content)
    for node in _named_nodes(content):
        _, state = state.put(node)
    ledger = Ledger()
    parts = find_parts(Given(state, ProxyConfig(), controllers=items), ledger)
    if "nodes" not in content:
        content["nodes"] = nodes_part(parts.state, ledger)
    given = content.get("workloads")
    before = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    made = [*before, *_workloads(parts, before, ledger)]
    slices = list(hand_written(parts.state, parts.services, parts.found.shown, ledger))
    made += listeners(slices, parts.found.pods, parts.state, {str(each.get("name")) for each in made}).parts
    content["workloads"] = made
    kept = {item.key for item in slices}
    gone = frozenset(item.key for item in parts.state.endpoint_slices if item.key not in kept)
    new = [str(each["name"]) for each in made[len(before) :]]
    notes = (
        f"made of Nodes, Pods and what makes Pods among the objects: {len(list(parts.state.nodes)):,} nodes, and the workloads "
        f"{', '.join(new[:20])}{f' and {len(new) - 20:,} more' if len(new) > 20 else ''}",
        *(f"guessed: {words}" for words in ledger.guessed),
        *(f"left out: {words}" for words in ledger.left_out),
    )
    return replace(taken, document=replace(document, content=content), active=True, slices=gone, notes=notes)


def _named_nodes(content: Json) -> list[Node]:
    """Return the nodes that the file names itself, as far as placing pods needs them."""
    nodes = content.get("nodes")
    if not isinstance(nodes, Mapping):
        return []
    listed = nodes.get("list")
    count = nodes.get("count")
    names = [each.get("name") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    names += [f"node-{number + 1}" for number in range(count)] if isinstance(count, int) and count <= 1000 else []
    return [
        node_from_json({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        for name in names
        if isinstance(name, str)
    ]


def _workloads(parts: "Parts", before: list[Any], ledger: "Ledger") -> list[Any]:
    """Return the workloads that the file does not have itself."""
    from kpsim.drafting.workloads import workload_part

    given = {(each.get("namespace", "default"), each.get("name")) for each in before}
    names = {each.get("name") for each in before}
    made = []
    for group in parts.groups:
        if (group.namespace, group.alike.owner[1]) in given:
            ledger.leave_out("objects of workloads that the file has itself", group.title)
            continue
        if group.name in names:
            group.name = f"{group.namespace}-{group.name}"
        made.append(workload_part(group, parts.state, parts.selectors, ledger))
    return made
