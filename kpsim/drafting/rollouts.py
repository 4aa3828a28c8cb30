"""The rollouts of a draft: which workloads a name means, how their controllers replace pods, and how long that takes."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import ceil
from statistics import median

from kpsim.drafting.groups import Group, targeted
from kpsim.drafting.part import Ledger, Part, listed
from kpsim.drafting.pods import Selectors
from kpsim.errors import InputError
from kpsim.objects import Service
from kpsim.units import SECOND_NS

AT_S = 10  #: when a rollout that was asked for begins
_AFTER_S = 20  #: what a run watches after the expected end of a rollout
_LEAST_S, _MOST_S = 60, 1800
_GET_PODS = "kubectl get pods,deployments,statefulsets,daemonsets -A -o yaml gives them"


def rolled_out(
    name: str, groups: Sequence[Group], services: Sequence[Service], selectors: Selectors, ledger: Ledger
) -> list[Group]:
    """Return the workloads that a name means: those of a controller, else those that a Service selects. InputError if there is none."""
    if not name:
        return []
    own = [group for group in groups if name in (group.title, group.name)]
    targets = targeted(groups, selectors)
    found = own or [group for group in groups if group.name in targets.get(name, ())]
    if len(found) > 1:
        ledger.guess(
            f"the {len(found)} workloads behind {name} are rolled out at once", *(group.name for group in found)
        )
    if found:
        return found
    known = {f"{service.metadata.namespace}/{service.metadata.name}": service for service in services}
    if name in known:
        raise InputError(f"--rollout {name}: {_why_no_pods(known[name], groups)}")
    raise InputError(
        f"--rollout {name}: there is no such workload or Service{near(name, {*known, *(group.title for group in groups)})}"
    )


def _why_no_pods(service: Service, groups: Sequence[Group]) -> str:
    if service.type == "ExternalName":
        return "an ExternalName Service has no pods: DNS answers another name (O-4.2)"
    if not service.selector:
        return "this Service has no selector, so no workload is behind it"
    if not any(group.pods for group in groups):
        return f"no pods of this Service are among the objects ({_GET_PODS})"
    labels = ",".join(f"{key}={value}" for key, value in sorted(service.selector.items()))
    return f"none of the pods that were given has the labels that the Service selects by, {labels} ({_GET_PODS})"


def near(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` or, if no name is near, some of those that there are."""
    names = sorted(known)
    if found := get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean {found[0]}?"
    return f"; there is {listed(names)}" if names else ""


def rollout_part(group: Group) -> Part:
    """Return the event that replaces a workload's pods as its controller does."""
    strategy = group.controller.strategy if group.controller is not None else None
    part = Part({"workload": group.name}, flow=True)
    if group.is_stateful_set:
        part["maxUnavailable"] = strategy.max_unavailable if strategy is not None else 1
        if group.controller is not None and group.controller.partition:
            part["partition"] = group.controller.partition
        return Part({"at": f"{AT_S}s", "rollout": part})
    if group.is_daemon_set:
        if strategy is not None and surges(group):
            part["maxSurge"] = strategy.max_surge
        else:
            part["maxUnavailable"] = strategy.max_unavailable if strategy is not None else 1
        return Part({"at": f"{AT_S}s", "rollout": part})
    if strategy is not None and strategy.recreates and group.alike.owner[0] == "Deployment":
        part["recreate"] = True
        return Part({"at": f"{AT_S}s", "rollout": part})
    part["maxSurge"] = strategy.max_surge if strategy is not None else "25%"
    part["maxUnavailable"] = strategy.max_unavailable if strategy is not None else "25%"
    if part["maxSurge"] in (0, "0%") and part["maxUnavailable"] in (0, "0%"):
        part["maxUnavailable"] = 1  # the API server refuses two zeros
    return Part({"at": f"{AT_S}s", "rollout": part})


def surges(group: Group) -> bool:
    """Return whether its controller makes new pods before it takes old ones away."""
    strategy = group.controller.strategy if group.controller is not None else None
    return strategy is not None and strategy.max_surge not in (0, "0%")


def duration_s(rolled: Sequence[Group]) -> int:
    """Return how long a run lasts, in seconds: until the last rollout has probably ended, and a while more."""
    ends = [AT_S + _takes_s(group) + _AFTER_S for group in rolled]
    return min(max(_LEAST_S, *(10 * ceil(end / 10) for end in ends)) if ends else _LEAST_S, _MOST_S)


def _takes_s(group: Group) -> float:
    """Return about how long a rollout takes: for each step a pod starts, becomes ready, and an old one ends."""
    spec, part = group.spec, rollout_part(group)["rollout"]
    if part.get("recreate"):
        part = {"maxUnavailable": "100%"}
    surge = _pods(part.get("maxSurge", 0), group, up=True)
    unavailable = _pods(part.get("maxUnavailable", 0), group, up=group.is_daemon_set)
    started = [pod.start_s for pod in group.pods if pod.start_s is not None]
    step_s = 1 + (median(started) if started else 1.0)
    if spec is not None:
        step_s += sum(spec.probes[kind].period_s for kind in ("startup", "readiness") if kind in spec.probes)
        step_s += group.controller.min_ready_s if group.controller is not None else 0
        ends_s = (spec.pre_stop.sleeps_ns or 0) / SECOND_NS if spec.pre_stop is not None else 0
        # without surge a new pod waits for the old one to go
        step_s += min(ends_s, spec.grace_s) if not surge else 0
    return step_s * ceil(group.replicas / max(surge + unavailable, 1))


def _pods(share: int | str, group: Group, *, up: bool) -> int:
    if isinstance(share, int):
        return share
    hundredths = int(share.removesuffix("%") or 0) * group.replicas
    return -(-hundredths // 100) if up else hundredths // 100
