"""Makes a case small: looks for the fewest steps, probes and objects with which the model and Linux still disagree.

Counterpart: delta debugging. The caller plays the cases and says which of them fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from fuzz.cases import Case, documents, manifest_of
from kpsim.errors import InputError
from kpsim.inputs import JsonObject

T = TypeVar("T")


def shrunk(case: Case, fails: Callable[[Case], bool], goes_on: Callable[[], bool] = lambda: True) -> Case:
    """A smaller case for which ``fails`` is true, too. The search ends when ``goes_on`` is false, or when nothing can
    be left out.
    """

    def still(smaller: Case) -> bool:
        if not goes_on():
            return False
        try:
            return fails(smaller)
        except InputError:  # what is left does not load
            return False

    before = None
    while case != before:
        before = case
        steps = fewest(case.steps, lambda some: still(replace(case, steps=tuple(some))))  # noqa: B023
        case = replace(case, steps=tuple(steps))
        probes = fewest(case.probes, lambda some: still(replace(case, probes=tuple(some))))  # noqa: B023
        case = replace(case, probes=tuple(probes))
        case = _with_fewest_objects(case, still, _owner)
        case = _with_fewest_objects(case, still, _slice)
        case = _with_plain_settings(case, still)
    return case


def _with_fewest_objects(case: Case, still: Callable[[Case], bool], name_of: Callable[[JsonObject, str], str]) -> Case:
    """The case without objects that it does not need. Objects that ``name_of`` names alike are kept or left out
    together.
    """
    found = documents(case.manifest)
    names = [name_of(document, case.node) for document in found]

    def with_named(kept: Sequence[str]) -> Case:
        left = [document for document, name in zip(found, names, strict=True) if name in ("", *kept)]
        return replace(case, manifest=manifest_of(left))

    every = [name for name in dict.fromkeys(names) if name]
    kept = fewest(every, lambda some: still(with_named(some)), least=0)
    return with_named(kept) if len(kept) < len(every) else case


def _slice(document: JsonObject, _: str) -> str:
    """The name of a slice; empty for other objects, which are kept."""
    return str(document["metadata"]["name"]) if document["kind"] == "EndpointSlice" else ""


def _owner(document: JsonObject, node: str) -> str:
    """The name of an object's group: a Service with its slices, or a node. Empty for the case's node and for the
    configuration.
    """
    kind, metadata = document["kind"], document.get("metadata", {})
    match kind:
        case "Service" | "Node":
            return "" if (kind, metadata["name"]) == ("Node", node) else f"{kind} {metadata['name']}"
        case "EndpointSlice":
            return f"Service {metadata['labels']['kubernetes.io/service-name']}"
        case _:
            return ""


def _with_plain_settings(case: Case, still: Callable[[Case], bool]) -> Case:
    """The case without keys of kube-proxy's configuration that it does not need, and without settings of its own."""
    found = documents(case.manifest)
    for place, document in enumerate(found):
        if document["kind"] != "KubeProxyConfiguration":
            continue
        for key in [key for key in document if key not in ("apiVersion", "kind", "mode")]:
            plain = {name: value for name, value in document.items() if name != key}
            smaller = replace(case, manifest=manifest_of([*found[:place], plain, *found[place + 1 :]]))
            if still(smaller):
                case, document = smaller, plain
                found[place] = plain
    for smaller in (replace(case, sysctls={}), replace(case, random_fully=True)):
        if smaller != case and still(smaller):
            case = smaller
    return case


def fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool], *, least: int = 1) -> Sequence[T]:
    """Return as few of the items as still fail, in order, and at least ``least``.

    No single further item can be left out.
    """
    size = len(items) // 2
    while size and len(items) > least:
        end = len(items)
        while end > 0:
            begin = max(0, end - size)
            smaller = [*items[:begin], *items[end:]]
            if len(smaller) >= least and fails(smaller):
                items = smaller
            end = begin
        size = min(size, len(items)) // 2
    if len(items) == 1 and least == 0 and fails(()):
        return ()
    return items
