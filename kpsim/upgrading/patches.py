"""Writes the objects that a remedy changes, as YAML documents for kubectl: each holds only what changes, and how to apply it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kpsim.drafting.part import Part
from kpsim.inputs import Json
from kpsim.objects import LABEL_EXCLUDE_BALANCERS
from kpsim.upgrading.remedies import LEAVES_S, Again, Allow, Apart, Change, Leave, Policy, Sleep
from kpsim.upgrading.subjects import Behind

_RESOURCES = {"Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}


def patch_of(changes: Sequence[Change]) -> str:
    """Return the YAML documents of changes, with comments; empty if there are none."""
    return "".join(documents(changes))


def documents(changes: Iterable[Change]) -> Iterator[str]:
    """Yield a document for each object that changes. Changes of one object are one document."""
    merged: dict[tuple[str, str, str], Json] = {}
    words: dict[tuple[str, str, str], list[str]] = {}
    loose: dict[str, None] = {}
    for change in changes:
        made = list(_objects(change))
        for obj in made:
            key = obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]
            merged[key] = _joined(merged[key], obj) if key in merged else obj
            words.setdefault(key, []).append(change.words)
        for line in _lines(change, made):
            loose[line] = None
    for key, obj in merged.items():
        yield f"---\n{_comment(key, dict.fromkeys(words[key]))}{_yaml(obj)}"
    if loose:
        yield "---\n" + "".join(f"# {line}\n" for line in loose)


def _comment(key: tuple[str, str, str], words: Iterable[str]) -> str:
    kind, namespace, name = key
    told = "".join(f"# {each}\n" for each in words)
    resource = _RESOURCES.get(kind, "service" if kind == "Service" else "")
    if resource:
        return f"{told}# kubectl patch {resource} {name} -n {namespace} --patch-file FILE\n"
    return f"{told}# kubectl apply --server-side --force-conflicts -f FILE\n"


def _yaml(obj: Json) -> str:
    from kpsim.drafting.writing import yaml_text

    return yaml_text(Part(dict(obj)))


def _joined(one: Any, other: Any) -> Any:
    """Join two objects of the same name: fields of both, and lists of named items item by item."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _joined(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key)) for key in {**one, **other}}  # fmt: skip
    return other


def _objects(change: Change) -> Iterator[Json]:
    match change:
        case Sleep():
            if (found := _sleeping(change)) is not None:
                yield found
        case Allow():
            yield _budget(change.behind, change.budget)
        case Apart():
            constraint = {
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": dict(change.behind.selector)},
            }  # fmt: skip
            template = {"spec": {"topologySpreadConstraints": [constraint]}}
            spec = {"replicas": change.replicas, "template": template}
            yield _object("apps/v1", change.behind.kind, change.behind.namespace, change.behind.owner, spec)
            yield _budget(change.behind, {"maxUnavailable": 1})
        case Policy():
            namespace, _, name = change.subject.title.partition("/")
            yield _object("v1", "Service", namespace, name, {change.field: change.value})
        case _:
            return


def _object(version: str, kind: str, namespace: str, name: str, spec: Json) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _sleeping(change: Sleep) -> Json | None:
    own = change.behind
    container = _container(own)
    if own.kind not in _RESOURCES or container is None:
        return None
    hook = _hook(container, change.seconds, own.sleeps_s)
    patched = {"name": container.get("name", ""), "lifecycle": {"preStop": hook}}
    template: Json = {"containers": [patched]}
    if change.grace_s != own.spec.grace_s:
        template = {"terminationGracePeriodSeconds": change.grace_s, **template}
    return _object("apps/v1", own.kind, own.namespace, own.owner, {"template": {"spec": template}})


def _container(own: Behind) -> Json | None:
    """The container whose hook counts: the first with ports, else the first."""
    containers = own.template.get("containers") or []
    return next((each for each in containers if each.get("ports")), containers[0] if containers else None)


def _hook(container: Json, seconds: int, sleeps_s: float) -> Json:
    """Return the hook. One that runs a command runs it after the sleep."""
    before = (container.get("lifecycle") or {}).get("preStop") or {}
    command = (before.get("exec") or {}).get("command")
    if command:
        return {
            "exec": {"command": ["sh", "-c", f'sleep {max(1, round(seconds - sleeps_s))}; exec "$0" "$@"', *command]}
        }
    made: dict[str, Any] = {"sleep": {"seconds": seconds}}
    made.update((name, None) for name in ("httpGet", "tcpSocket") if name in before)
    return made


def _budget(own: Behind, share: Json) -> Json:
    """Return the budget. One that is there keeps its name, its selector, and the field that it has."""
    one = own.budgets[0] if len(own.budgets) == 1 else None
    if one is None:
        spec = {**share, "selector": {"matchLabels": dict(own.selector)}}
        return _object("policy/v1", "PodDisruptionBudget", own.namespace, own.owner, spec)
    return _object("policy/v1", "PodDisruptionBudget", one.namespace, one.name, share)


def _lines(change: Change, made: Sequence[Json]) -> Iterator[str]:
    match change:
        case Leave():
            yield f"before the drain of each node: kubectl label node NODE {LABEL_EXCLUDE_BALANCERS}=true; then wait {LEAVES_S} s"
            yield f"when it is Ready again: kubectl label node NODE {LABEL_EXCLUDE_BALANCERS}-; then wait {change.pause_s} s before the next"
        case Again():
            yield f"no object to patch: {change.words} (a connect timeout of 2 s, 8 retries from 500 ms to 5 s apart)"
        case Sleep() if not made:
            yield f"{change.words}: the object that keeps these pods was not given, so there is no patch"
        case Allow() | Apart() if len(change.behind.budgets) > 1:
            names = " and ".join(f"{each.namespace}/{each.name}" for each in change.behind.budgets)
            yield f"{names} select the same pods: delete all but one"
        case _:
            return
