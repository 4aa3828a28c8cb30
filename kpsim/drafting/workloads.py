"""Writes the workloads of a draft, with a comment at each guess."""

from collections.abc import Iterator
from statistics import median

from kpsim.cluster import ClusterState
from kpsim.drafting.groups import Group
from kpsim.drafting.part import TODO, Ledger, Part, listed
from kpsim.drafting.pods import FoundPod, Selectors
from kpsim.drafting.podspecs import DEFAULT_GRACE_S, PodSpec, Probe, seconds
from kpsim.drafting.rollouts import surges
from kpsim.objects import LABEL_HOSTNAME, LABEL_ZONE, Node
from kpsim.units import format_duration


def workload_part(group: Group, state: ClusterState, selectors: Selectors, ledger: Ledger) -> Part:
    """Return the workload as a scenario has it, with a comment at each guess."""
    part = Part({"name": group.name})
    part.head = _head(group)
    part.put("namespace", group.namespace)
    if group.is_stateful_set:
        part.put("kind", "StatefulSet")
        if group.controller is not None and group.controller.parallel:
            part.put("podManagementPolicy", "Parallel")
    if group.is_daemon_set:
        part.put("kind", "DaemonSet")
    part.put("labels", Part(dict(group.alike.labels) or {"kpsim.dev/role": group.name}, flow=True))
    _put_replicas(part, group, ledger)
    _put_placement(part, group, list(state.nodes), ledger)
    _put_ports(part, group, selectors, ledger)
    if group.alike.host_network:
        part.put("hostNetwork", True)
    _put_start(part, group, ledger)
    _put_end(part, group, ledger)
    if not group.is_daemon_set:
        _put_budget(part, group, ledger)
    elif group.budgets:
        ledger.leave_out("PodDisruptionBudgets of DaemonSets, as no drain evicts their pods", group.title)
    if group.pods:
        part.put("pods", [_pod_part(pod, group) for pod in group.pods])
    _note_unmodelled(group, ledger)
    return part


def _head(group: Group) -> str:
    kind = group.alike.owner[0]
    if group.static:
        return f"static pods of {group.title}, which the kubelets of their nodes keep"
    if group.bare:
        return f"pods of {group.title}, which no object keeps; a workload replaces them, a cluster does not"
    if not kind:
        return f"pods of {group.title}; what keeps them was not given"
    words = f"{kind} {group.title}"
    if group.siblings > 1:
        words += f": its pods differ in labels or ports, so they are {group.siblings} workloads"
    elif group.controller is None:
        words += ", which was not given"
    if kind == "StatefulSet" and not group.is_stateful_set:
        words += "; kept like a Deployment: new pods get names of their own"
    if kind == "DaemonSet" and not group.is_daemon_set:
        words += "; kept like a Deployment, as it does not have one pod on each of some nodes"
    if kind == "Job":
        words += "; a Job does not replace pods that end, a workload does"
    strategy = group.controller.strategy if group.controller is not None else None
    if strategy is not None:
        words += (
            f"; {strategy.words}"
            if strategy.recreates
            else f"; {strategy.words}: maxSurge {strategy.max_surge}, maxUnavailable {strategy.max_unavailable}"
        )
    return words


def _put_replicas(part: Part, group: Group, ledger: Ledger) -> None:
    if group.is_daemon_set:
        if group.assumed:
            ledger.guess("a pod runs and is ready on each node that may have one, as no Pods were given", group.title)
        return
    beside = ""
    wanted = group.controller.replicas if group.controller is not None else None
    if group.assumed:
        ledger.guess("all replicas run and are ready, as no Pods or EndpointSlices of theirs were given", group.title)
    elif wanted is not None and group.siblings == 1 and wanted != len(group.pods):
        beside = f"the {group.alike.owner[0]} wants {wanted}"
        ledger.leave_out(
            f"pods that {'are' if wanted > len(group.pods) else 'were'} wanted, but not there", group.title
        )
    part.put("replicas", group.replicas, beside=beside)


def _put_placement(part: Part, group: Group, nodes: list[Node], ledger: Ledger) -> None:
    """Say where later pods go: all nodes that selectors, affinity and taints allow, as evenly as the constraints ask for."""
    spec, every = group.spec, [node.metadata.name for node in nodes]
    own = sorted({pod.node for pod in group.pods})
    if (group.alike.owner[0] == "DaemonSet" or group.is_daemon_set) and own:
        allowed, why = own, "one pod on each of these nodes"
    elif spec is not None:
        allowed = [node.metadata.name for node in nodes if spec.may_run_on(node)]
        why = "the nodes that taints, cordons, nodeSelector and affinity leave"
        if not allowed:
            allowed, why = own, "no node takes new pods by its labels and taints; these have some"
    else:
        allowed = [node.metadata.name for node in nodes if PodSpec().may_run_on(node)]
        why = "the nodes without taints and cordons"
        if group.pods:
            ledger.guess("later pods go to any node without taints", group.title)
    placement = Part(flow=True)
    if allowed and sorted(allowed) != sorted(every):
        placement["nodes"] = allowed
    if not group.is_daemon_set and (spread := list(_spread(spec, group, ledger))):
        placement["topologySpread"] = spread
        placement.flow = False
    if not group.is_daemon_set and (apart := _apart(group, ledger)):
        placement["antiAffinity"] = apart
    if placement.flow and placement:
        part.put("placement", placement, beside=why)
    elif placement:
        if "nodes" in placement:
            placement.beside["nodes"] = why
        part.put("placement", placement)


_KEYS = (LABEL_HOSTNAME, LABEL_ZONE)


def _spread(spec: PodSpec | None, group: Group, ledger: Ledger) -> Iterator[Part]:
    for each in spec.spread if spec is not None else ():
        if each.key not in _KEYS:
            ledger.leave_out(f"topologySpreadConstraints over {each.key}", group.title)
            continue
        constraint = Part({"topologyKey": each.key}, flow=True)
        if each.when_unsatisfiable == "DoNotSchedule":
            if each.max_skew > 1:
                constraint["maxSkew"] = each.max_skew
        else:
            constraint["whenUnsatisfiable"] = each.when_unsatisfiable
        yield constraint


def _apart(group: Group, ledger: Ledger) -> list[str]:
    """Return the topology keys of the required podAntiAffinity of the pods to each other."""
    keys = group.kept_apart_over
    for key in keys:
        if key not in _KEYS:
            ledger.leave_out(f"podAntiAffinity over {key}", group.title)
    if group.spec is not None and len(group.spec.repelling) > len(keys):
        ledger.leave_out("podAntiAffinity to pods of other workloads", group.title)
    return [key for key in dict.fromkeys(keys) if key in _KEYS]


def _put_ports(part: Part, group: Group, selectors: Selectors, ledger: Ledger) -> None:
    """Give the ports that the pods declare, and those that Services lead to although no pod declares them."""
    ports = {(port.port, port.protocol): port.name for port in group.alike.ports}
    undeclared = {
        (port.target_port, port.protocol)
        for service in group.selected_by(selectors)
        for port in service.ports
        if isinstance(port.target_port, int) and port.target_port and (port.target_port, port.protocol) not in ports
    }
    declared = any(pod.spec is not None for pod in group.pods) or group.controller is not None
    beside = ""
    if undeclared and declared:
        numbers = listed(f"{number}/{protocol}" for number, protocol in sorted(undeclared))
        beside = f"no container declares {numbers}; taken to listen there"
        ledger.guess("pods listen on ports that Services lead to and no container declares", group.title)
    for key in sorted(undeclared):
        ports[key] = ""
    made = []
    held = group.spec.host_ports if group.spec is not None and not group.alike.host_network else {}
    for (number, protocol), name in ports.items():
        port = Part({"containerPort": number}, flow=True)
        if name:
            port["name"] = name
        if protocol != "TCP":
            port["protocol"] = protocol
        if (number, protocol) in held:
            port["hostPort"] = held[number, protocol]
        made.append(port)
    if made:
        part.put("ports", made, above=beside)


def _put_start(part: Part, group: Group, ledger: Ledger) -> None:
    spec = group.spec
    probes = spec.probes if spec is not None else {}
    first = probes.get("startup") or probes.get("readiness")  # the one that a new pod waits for
    took = [pod.start_s for pod in group.pods if pod.start_s is not None]
    if took:
        # of the time until Ready, half a period on average is the wait for the probe
        delay_s = max(median(took) - (first.period_s / 2 if first is not None else 0), 0.1)
        words = f"its pods took {seconds(median(took))} from creation to Ready (median of {len(took)})"
    elif first is not None and first.initial_delay_s:
        delay_s, words = float(first.initial_delay_s), "the probe's initialDelaySeconds"
        ledger.guess("new pods answer after their probe's initialDelaySeconds", group.title)
    else:
        delay_s, words = 1.0, f"{TODO}: how long a new pod takes until its application answers"
        ledger.guess("new pods answer after 1 s", group.title)
    part.put("startup", Part({"delay": seconds(delay_s)}, flow=True), beside=words)
    if spec is not None and spec.gates:
        words = f"{TODO}: when {listed(spec.gates)} {'is' if len(spec.gates) == 1 else 'are'} set"
        part.put("readiness", Part({"gates": ["0s"] * len(spec.gates)}, flow=True), beside=words)
        ledger.guess("readiness gates open at once", group.title)
    if spec is not None and first is None:
        ledger.guess(
            "new pods without readiness probe are ready when they answer; in a cluster when their containers run (CP-2.5)",
            group.title,
        )
    if probes:
        part.put("probes", Part({kind: _probe(probe) for kind, probe in probes.items()}, flow=True))
    if group.controller is not None and group.controller.min_ready_s:
        part.put("minReady", seconds(group.controller.min_ready_s))


def _probe(probe: Probe) -> Part:
    """Return a probe without what is default anyway."""
    part, default = Part({"period": seconds(probe.period_s)}, flow=True), Probe()
    for name in ("initial_delay_s", "timeout_s"):
        if (value := getattr(probe, name)) != getattr(default, name):
            part[to_camel(name.removesuffix("_s"))] = seconds(value)
    for name in ("success_threshold", "failure_threshold"):
        if (value := getattr(probe, name)) != getattr(default, name):
            part[to_camel(name)] = value
    return part


def to_camel(name: str) -> str:
    """Return the name of a field as the scenario file writes it."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _put_end(part: Part, group: Group, ledger: Ledger) -> None:
    spec = group.spec
    ending = Part()
    if spec is None:
        ending.put("preStop", "0s", beside=f"{TODO}: preStop hook")
        ledger.guess("no preStop hook, and SIGTERM ends the application at once", group.title)
    elif spec.pre_stop is not None and spec.pre_stop.sleeps_ns is None:
        ending.put("preStop", "0s", beside=f"{TODO}: how long the preStop hook ({spec.pre_stop.words}) runs")
        ledger.guess("preStop hooks of unknown length take no time", group.title)
    elif spec.pre_stop is not None:
        words = "" if spec.pre_stop.exact else f"{spec.pre_stop.words}: only its sleep counts"
        ending.put("preStop", format_duration(spec.pre_stop.sleeps_ns or 0), beside=words)
    if spec is not None and spec.grace_s != DEFAULT_GRACE_S:
        ending.put("grace", seconds(spec.grace_s))
    ending.put("afterSigterm", "0s", beside=f"{TODO}: how long it goes on answering after SIGTERM")
    part.put("termination", ending)


def _pod_part(pod: FoundPod, group: Group) -> Part:
    part = Part({"name": pod.name, "node": pod.node}, flow=True)
    if pod.ips and not group.alike.host_network:
        part["ips"] = list(pod.ips)
    if not pod.ready:
        part["ready"] = False
    return part


def _put_budget(part: Part, group: Group, ledger: Ledger) -> None:
    """Give the PodDisruptionBudget over the pods. With two of them the API refuses every eviction, so they are one that allows none."""
    if len(group.budgets) > 1:
        names = listed(f"{each.namespace}/{each.name}" for each in group.budgets)
        words = f"PodDisruptionBudgets {names} select the same pods, so every eviction is refused"
        part.put("disruptionBudget", Part({"maxUnavailable": 0}, flow=True), beside=words)
        ledger.guess("two PodDisruptionBudgets over the same pods are one that allows no eviction", group.title)
    if len(group.budgets) != 1:
        return
    (budget,) = group.budgets
    made = Part(flow=True)
    if budget.min_available is not None:
        made["minAvailable"] = budget.min_available
    else:
        made["maxUnavailable"] = 0 if budget.max_unavailable is None else budget.max_unavailable
    if budget.policy == "AlwaysAllow":
        made["unhealthyPodEvictionPolicy"] = budget.policy
    words = f"PodDisruptionBudget {budget.namespace}/{budget.name}"
    if group.siblings > 1:
        words += ", over each of the workloads by itself"
        ledger.guess("a PodDisruptionBudget over several workloads counts for each by itself", group.title)
    part.put("disruptionBudget", made, beside=words)


def _note_unmodelled(group: Group, ledger: Ledger) -> None:
    controller = group.controller
    if group.bare:
        ledger.guess("pods that no object keeps are replaced when they end, as a workload's are", group.title)
    if group.is_daemon_set and controller is not None and controller.spec.holds_host_ports and surges(group):
        words = "DaemonSets whose rollout does not get on: maxSurge wants a second pod on a node whose host ports the first holds"
        ledger.guess(f"{words} (kubernetes#106417)", group.title)
    for words in group.spec.unmodelled if group.spec is not None else ():
        ledger.leave_out(words, group.title)
