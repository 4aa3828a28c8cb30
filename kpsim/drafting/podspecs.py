"""What a Pod's specification says about how its application starts, becomes ready and ends, and where it may run.

Counterpart: v1.PodSpec, in a Pod or in the template of a Deployment. It reads leniently: fields that mean nothing here are passed over,
and a value of a wrong type is an InputError with its path.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.objects import ContainerPort, JsonReader, Node
from kpsim.units import SECOND_NS, format_duration

DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe, in seconds, with the API's defaults."""

    initial_delay_s: int = 0
    period_s: int = 10
    timeout_s: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """A topologySpreadConstraint."""

    key: str
    max_skew: int
    when_unsatisfiable: str


@dataclass(frozen=True, slots=True)
class Repelling:
    """A term of required podAntiAffinity: no new pod comes to a domain of ``key`` that has a pod which the term selects."""

    key: str
    labels: Mapping[str, str]
    expressions: tuple[tuple[str, str, tuple[str, ...]], ...]
    namespaces: tuple[str, ...]  #: empty: the pod's own
    selector: bool = True  #: False: it has none, and selects nothing

    def selects(self, own: str, namespace: str, labels: Mapping[str, str]) -> bool:
        """Return whether it is about pods of a namespace with these labels. ``own`` is the namespace of the pod that has the term."""
        return (
            self.selector
            and namespace in (self.namespaces or (own,))
            and all(labels.get(key) == value for key, value in self.labels.items())
            and all(holds(labels, *each) for each in self.expressions)
        )


@dataclass(frozen=True, slots=True)
class PreStop:
    """A preStop hook. ``sleeps_ns`` None: the dump does not tell how long it runs. ``words`` say what it does."""

    sleeps_ns: int | None
    words: str
    exact: bool = True  #: False: it also does something else than sleep


@dataclass(frozen=True, slots=True)
class PodSpec:
    """The parts of a Pod's specification that a scenario can hold, or that it should say it does not."""

    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    host_ports: Mapping[tuple[int, str], int] = field(default_factory=dict)  #: by container port and protocol
    grace_s: int = DEFAULT_GRACE_S
    pre_stop: PreStop | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)  #: by kind: startup, readiness, liveness
    gates: tuple[str, ...] = ()  #: types of the conditions of its readiness gates
    spread: tuple[Spread, ...] = ()
    repelling: tuple[Repelling, ...] = ()
    unmodelled: tuple[str, ...] = ()  #: what decides about its pods and is not in the scenario, in words
    node_selector: Mapping[str, str] | None = None
    node_terms: tuple[tuple[tuple[str, str, tuple[str, ...]], ...], ...] = ()  #: required node affinity: any of, all of
    tolerations: tuple[tuple[str, str, str, str], ...] = ()  #: key, operator, value, effect

    @property
    def holds_host_ports(self) -> bool:
        """Return whether its pods hold ports of their nodes, so that two of them cannot be on one node.

        The API server makes every container port of a pod on the host network a host port.
        """
        return bool(self.host_ports) or (self.host_network and bool(self.ports))

    def may_run_on(self, node: Node) -> bool:
        """Return whether a new pod may be placed on the node: by its labels, its taints, and whether it is cordoned."""
        labels = node.metadata.labels
        if any(labels.get(key) != value for key, value in (self.node_selector or {}).items()):
            return False
        if self.node_terms and not any(all(holds(labels, *each) for each in term) for term in self.node_terms):
            return False
        return all(self._tolerates(taint) for taint in taints_of(node))

    def _tolerates(self, taint: tuple[str, str, str]) -> bool:
        key, value, effect = taint
        return any(
            (wanted in ("", key)) and (operator == "Exists" or (bool(wanted) and given == value)) and of in ("", effect)
            for wanted, operator, given, of in self.tolerations
        )


def taints_of(node: Node) -> Iterator[tuple[str, str, str]]:
    """Yield the taints that keep new pods away: key, value, effect. A cordoned node has the one of its cordon."""
    spec = node.json.get("spec") or {}
    for taint in JsonReader(spec, ".spec").children("taints"):
        if taint.text("effect") in ("NoSchedule", "NoExecute"):
            yield taint.text("key"), taint.text("value"), taint.text("effect")
    if spec.get("unschedulable"):
        yield "node.kubernetes.io/unschedulable", "", "NoSchedule"


def holds(labels: Mapping[str, str], key: str, operator: str, values: tuple[str, ...]) -> bool:
    """Return whether labels fulfil an expression of a selector."""
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:  # Gt and Lt compare numbers
            bound, given = values[0] if values else "", labels.get(key, "")
            if not (bound.isdecimal() and given.isdecimal()):
                return False
            return int(given) > int(bound) if operator == "Gt" else int(given) < int(bound)


def pod_spec(json: Json, path: str = ".spec") -> PodSpec:
    """Read a Pod's specification. InputError for a value of a wrong type."""
    reader = JsonReader(json, path)
    containers = list(reader.children("containers"))
    sidecars = [each for each in reader.children("initContainers") if each.text("restartPolicy") == "Always"]
    ports = _ports([*containers, *sidecars])
    main = next((each for each in containers if each.obj.get("ports")), containers[0] if containers else None)
    affinity = reader.child("affinity")
    return PodSpec(
        ports=ports,
        host_network=bool(reader.optional_flag("hostNetwork")),
        host_ports=dict(_host_ports([*containers, *sidecars])),
        grace_s=natural(reader, "terminationGracePeriodSeconds", DEFAULT_GRACE_S),
        pre_stop=_pre_stop(main) if main is not None else None,
        probes=dict(_probes(main)) if main is not None else {},
        gates=tuple(gate.text("conditionType") for gate in reader.children("readinessGates")),
        spread=tuple(_spread(each) for each in reader.children("topologySpreadConstraints")),
        repelling=tuple(_repelling(affinity)),
        unmodelled=tuple(_unmodelled(affinity)),
        node_selector=reader.labels("nodeSelector"),
        node_terms=tuple(_terms(affinity)),
        tolerations=tuple(
            (each.text("key"), each.text("operator") or "Equal", each.text("value"), each.text("effect"))
            for each in reader.children("tolerations")
        ),
    )


def natural(reader: JsonReader, key: str, default: int) -> int:
    """Return a number of zero or more, such as seconds. InputError for another value."""
    value = reader.optional_integer(key)
    if value is not None and value < 0:
        raise InputError(Problem(f"expected zero or more, got {value}", path=f"{reader.path}.{key}"))
    return default if value is None else value


def _spread(reader: JsonReader) -> Spread:
    when = reader.text("whenUnsatisfiable") or "DoNotSchedule"
    if when not in ("DoNotSchedule", "ScheduleAnyway"):
        words = f"expected DoNotSchedule or ScheduleAnyway, got {when!r}"
        raise InputError(Problem(words, path=f"{reader.path}.whenUnsatisfiable"))
    return Spread(reader.text("topologyKey"), natural(reader, "maxSkew", 1), when)


def _ports(containers: Sequence[JsonReader]) -> tuple[ContainerPort, ...]:
    found = (
        ContainerPort(port.text("name"), port.text("protocol") or "TCP", port.integer("containerPort"))
        for container in containers
        for port in container.children("ports")
    )
    return tuple(dict.fromkeys(found))


def _host_ports(containers: Sequence[JsonReader]) -> Iterator[tuple[tuple[int, str], int]]:
    for port in (port for container in containers for port in container.children("ports")):
        if number := port.optional_integer("hostPort"):
            yield (port.integer("containerPort"), port.text("protocol") or "TCP"), number


def _probes(container: JsonReader) -> Iterator[tuple[str, Probe]]:
    default = Probe()
    for kind in ("startup", "readiness", "liveness"):
        probe = container.optional_child(f"{kind}Probe")
        if probe is not None:
            yield (
                kind,
                Probe(
                    natural(probe, "initialDelaySeconds", 0),
                    natural(probe, "periodSeconds", 0) or default.period_s,
                    natural(probe, "timeoutSeconds", 0) or default.timeout_s,
                    natural(probe, "successThreshold", 0) or default.success_threshold,
                    natural(probe, "failureThreshold", 0) or default.failure_threshold,
                ),
            )


_SLEEP = re.compile(r"(?:^|[\s;&|/])sleep((?:\s+\d+(?:\.\d+)?[smh]?)+)(?=$|[\s;&|)])")
_FACTORS = {"s": 1, "m": 60, "h": 3600}
_ONLY_SLEEPS = re.compile(r"\s*(\S*/)?sleep(\s+\d+(\.\d+)?[smh]?)+\s*;?\s*")


def _pre_stop(container: JsonReader) -> PreStop | None:
    hook = container.child("lifecycle").optional_child("preStop")
    if hook is None:
        return None
    if (sleep := hook.optional_child("sleep")) is not None:
        seconds = natural(sleep, "seconds", 0)
        return PreStop(seconds * SECOND_NS, f"sleep of {seconds} s")
    if (command := hook.optional_child("exec")) is not None:
        return _command(command.texts("command"))
    kind = next((name for name in ("httpGet", "tcpSocket") if hook.obj.get(name) is not None), "a hook")
    return PreStop(None, kind)


def _command(words: Sequence[str]) -> PreStop:
    """Read how long a command sleeps: ``sleep 10``, or a shell that sleeps among other things."""
    shell = len(words) > 2 and words[0].rpartition("/")[2] in ("sh", "bash", "ash", "dash") and words[1].startswith("-")
    text = words[2] if shell else " ".join(words)
    times = [time for found in _SLEEP.finditer(text) for time in found[1].split()]
    if not times:
        return PreStop(None, f"command {_short(text)}")
    slept = sum(round(float(time.rstrip("smh")) * _FACTORS.get(time[-1], 1) * SECOND_NS) for time in times)
    exact = _ONLY_SLEEPS.fullmatch(text) is not None
    return PreStop(slept, f"command {_short(text)}", exact=exact)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return f"`{flat[:60]}…`" if len(flat) > 60 else f"`{flat}`"


def _terms(affinity: JsonReader) -> Iterator[tuple[tuple[str, str, tuple[str, ...]], ...]]:
    required = affinity.child("nodeAffinity").child(_REQUIRED)
    for term in required.children("nodeSelectorTerms"):
        yield tuple(
            (each.text("key"), each.text("operator"), each.texts("values"))
            for each in term.children("matchExpressions")
        )


_REQUIRED, _PREFERRED = (f"{each}DuringSchedulingIgnoredDuringExecution" for each in ("required", "preferred"))


def _repelling(affinity: JsonReader) -> Iterator[Repelling]:
    for term in affinity.child("podAntiAffinity").children(_REQUIRED):
        selector = term.child("labelSelector")
        yield Repelling(
            term.text("topologyKey"),
            selector.labels("matchLabels"),
            tuple(
                (each.text("key"), each.text("operator"), each.texts("values"))
                for each in selector.children("matchExpressions")
            ),
            term.texts("namespaces"),
            term.obj.get("labelSelector") is not None,
        )


def _unmodelled(affinity: JsonReader) -> Iterator[str]:
    """Yield what decides about pods of this specification and has no place in a scenario."""
    if affinity.obj.get("podAffinity"):
        yield "podAffinity"
    if affinity.child("podAntiAffinity").obj.get(_PREFERRED):
        yield "preferred podAntiAffinity"
    if affinity.child("nodeAffinity").obj.get(_PREFERRED):
        yield "preferred nodeAffinity"


def seconds(value: float) -> str:
    """Return a number of seconds as a duration of the scenario file."""
    return format_duration(round(value * SECOND_NS))
