"""Plays a scenario, given as the plain document of its file. All delays of the document are constants in nanoseconds.

Everything is one heap of (time, phase, order, number, action). Phases order what falls on one instant, as the clock's table does.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import Any, NamedTuple

from kpsim import rng

S = 1_000_000_000
WORLD, STORE, SEE, DELIVER, END, START, PROBE = range(7)
NEVER = 1 << 62

Endpoints = dict[str, tuple[bool, bool, bool]]  #: ready, serving, terminating by pod


def ns(text: Any) -> int:
    """Nanoseconds of ``17ns``, the only spelling that drawn scenarios use."""
    return int(str(text).removesuffix("ns"))


class Status(NamedTuple):
    """What matters of a pod's status: an address, Ready, and the whole second of its last change (None: no condition)."""

    address: bool = False
    ready: bool = False
    second: int | None = None


class Seen(NamedTuple):
    """One version of a pod in the API."""

    status: Status
    terminating: bool


class Pod:
    def __init__(self, name: str, workload: dict[str, Any], node: str, number: int) -> None:
        self.name, self.workload, self.node, self.number = name, workload, node, number
        self.kubelet = Status()
        self.api: Seen | None = None
        self.asked = False  # its deletion was asked for
        self.up = True  # its sandbox has power
        self.answers = self.shedding = self.quitting = False
        self.turn = 0  # plans of an earlier turn are void
        self.created = self.busy_until = 0
        self.power_lost = NEVER
        self.gone = False
        self.revision = 0

    @property
    def serves_api(self) -> bool:
        """Whether the API server has it as ready."""
        return self.api is not None and self.api.status.ready


class Bucket:
    """Tokens as exact fractions of a second's worth."""

    def __init__(self, rate: int, size: int) -> None:
        self.rate, self.size, self.debt, self.at = rate, size * S, 0, 0

    def wait(self, now: int) -> int:
        self.debt = max(self.debt - (now - self.at) * self.rate, 0) + S
        self.at = now
        short = self.debt - self.size
        return -(-short // self.rate) if short > 0 else 0


class Item:
    """A Service in the controller's queue, and what the controller knows of it."""

    def __init__(self) -> None:
        self.queued = self.active = self.dirty = False
        self.due: int | None = None
        self.failures = 0
        self.written = self.seen = 1  # generations of its slice: as written, as in the cache
        self.endpoints: Endpoints = {}
        self.remembered: dict[str, int] = {}


class Process:
    """One kube-proxy process, from its start to its end."""

    def __init__(self, now: int, limits: "Limits") -> None:
        self.limits = limits
        self.alive = True
        self.listed = False
        self.slices: dict[str, Endpoints] = {}  # as delivered
        self.local: dict[str, int] | None = None  # ready local endpoints in force; None before the first success
        self.pending: int | None = None  # oldest request that no success has answered
        self.eligible = True
        self.need_full = True
        # the runner
        self.request = False
        self.timer = now + limits.longest
        self.cool = now
        self.running = self.direct = False
        self.plan = 0


class Limits(NamedTuple):
    shortest: int
    retry: int
    longest: int


class Balancer(NamedTuple):
    service: str
    per_service: bool
    rotation: dict[str, bool]
    contrary: Counter[str]


class Twin:
    def __init__(self, document: dict[str, Any]) -> None:
        self.doc = document
        self.heap: list[tuple[int, int, int, int, Callable[[], None]]] = []
        self.count = 0
        self.now = 0
        self.end = ns(document["duration"])
        self.delays = {key: ns(value) for key, value in document["delays"].items() if isinstance(value, str)}
        self.nodes: list[str] = [node["name"] for node in document["nodes"]["list"]]
        self.zones = {node["name"]: node.get("zone") for node in document["nodes"]["list"]}
        self.cost = dict.fromkeys(self.nodes, ns(document["delays"]["sync"]["base"]))
        for own in document["delays"].get("onNodes", ()):
            for name in own["nodes"]:
                self.cost[name] = ns(own["sync"]["base"])
        self.workloads = {workload["name"]: workload for workload in document["workloads"]}
        self.wanted = {name: int(workload["replicas"]) for name, workload in self.workloads.items()}
        self.made: Counter[str] = Counter()
        self.revision: Counter[str] = Counter()
        self.shares: dict[str, tuple[Any, Any]] = {}
        self.services = {obj["metadata"]["name"]: obj["spec"] for obj in document["objects"]}
        # what is compared
        self.pod_versions: list[tuple[int, str, bool, bool | None, bool]] = []
        self.slice_writes: list[tuple[int, str, tuple[tuple[str, bool, bool, bool], ...], int | None]] = []
        self.syncs: list[tuple[str, int, int, bool, bool]] = []
        self.turns: list[tuple[int, str, str, bool]] = []
        self.pods: list[Pod] = []
        self.barred: dict[str, set[str]] = {name: set() for name in self.nodes}
        self.down_at: dict[str, int | None] = dict.fromkeys(self.nodes)
        self.taints: dict[str, set[str]] = {name: set() for name in self.nodes}
        self.items = {name: Item() for name in self.services}
        self.queue: list[str] = []
        controller = document["controller"]
        self.free = int(controller["workers"])
        self.client = Bucket(controller["qps"], controller["burst"])
        self.retries = Bucket(10, 100)
        self.cache: dict[str, tuple[Pod, Seen]] = {}
        self.store: dict[str, Endpoints] = {}
        self.back: dict[str, int] = {}
        self.fail_until = dict.fromkeys(self.nodes, 0)
        self.fail_left = dict.fromkeys(self.nodes, 0)
        proxy = document["proxy"]
        self.limits = Limits(ns(proxy["iptables"]["minSyncPeriod"]), ns(proxy["iptables"]["syncPeriod"]), 3600 * S)
        self.processes: dict[str, Process] = {}
        self.balancers: list[Balancer] = []

    # ---------------------------------------------------------------------------------------------------------- engine

    def at(self, time: int, phase: int, action: Callable[[], None], pod: "Pod | None" = None) -> None:
        """Of one instant and phase, pods of a workload that stands earlier in the file come first."""
        self.count += 1
        order = 0 if pod is None else 1 + list(self.workloads).index(pod.workload["name"])
        heapq.heappush(self.heap, (time, phase, order, self.count, action))

    def play(self) -> "Twin":
        self.set_up()
        for event in self.doc["events"]:
            self.at(ns(event["at"]), WORLD, lambda event=event: self.happen(event))  # type: ignore[misc]
        while self.heap and self.heap[0][0] < self.end:
            self.now, _, _, _, action = heapq.heappop(self.heap)
            action()
        return self

    def set_up(self) -> None:
        """A cluster that has run for an hour: everything is ready, written, programmed, in rotation."""
        for name in self.workloads:
            for _ in range(self.wanted[name]):
                pod = self.new_pod(name)
                assert pod is not None
                pod.kubelet = Status(True, True, -3600)
                pod.api = Seen(pod.kubelet, False)
                pod.answers = True
                self.cache[pod.name] = (pod, pod.api)
        for service, item in self.items.items():
            item.endpoints = self.store[service] = self.desired(service)
            item.remembered = {pod.name: -3600 for pod in self.pods if self.selects(service, pod)}
        for node in self.nodes:
            process = self.processes[node] = Process(0, self.limits)
            process.listed, process.need_full = True, False
            process.slices = dict(self.store)
            process.local = self.local_of(node, process.slices)
            self.syncs.append((node, 0, 0, True, True))
        for service, spec in self.services.items():
            if spec.get("type") == "LoadBalancer":
                balancer = Balancer(service, spec.get("externalTrafficPolicy") == "Local", {}, Counter())
                self.balancers.append(balancer)
                for node in self.nodes:
                    balancer.rotation[node] = self.passes(balancer, node)
                    interval = ns(self.doc["loadBalancer"]["interval"])
                    first = rng.below(interval, self.doc["seed"], "first probe", f"default/{service}", node)
                    self.at(first, PROBE, lambda b=balancer, n=node: self.probe(b, n))  # type: ignore[misc]

    # ------------------------------------------------------------------------------------------------------- workloads

    def fleet(self, workload: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.workload["name"] == workload and not pod.asked and not pod.gone]

    def new_pod(self, workload: str) -> Pod | None:
        taken = Counter(pod.node for pod in self.fleet(workload))
        fit = [node for node in self.nodes if not self.barred[node]]
        if not fit:
            return None
        node = min(fit, key=lambda name: (taken[name], self.nodes.index(name)))
        self.made[workload] += 1
        pod = Pod(f"{workload}-{self.made[workload]}", self.workloads[workload], node, self.made[workload])
        pod.revision = self.revision[workload]
        self.pods.append(pod)
        return pod

    def level(self, workload: str) -> None:
        """Take the next step of a Deployment: one ReplicaSet of the newest revision, and the pods of all older ones."""
        pods, wanted = self.fleet(workload), self.wanted[workload]
        crowd = Counter(pod.node for pod in pods)
        ranked = sorted(
            pods, key=lambda p: (p.serves_api, -crowd[p.node], -p.number)
        )  # a ReplicaSet's order of deletion
        new = [pod for pod in ranked if pod.revision == self.revision[workload]]
        old = [pod for pod in ranked if pod.revision != self.revision[workload]]
        doomed = new[: max(len(new) - wanted, 0)]
        missing = 0
        if not doomed:
            surge, unavailable = self.fenceposts(workload) if old else (0, 0)
            missing = max(min(wanted - len(new), wanted + surge - len(pods)), 0)
            if old:
                least = wanted - unavailable
                budget = max(len(pods) - least - sum(not pod.serves_api for pod in new), 0)
                broken = [pod for pod in old if not pod.serves_api][:budget]
                spare = min(budget - len(broken), sum(pod.serves_api for pod in pods) - least)
                doomed = broken + [pod for pod in old if pod.serves_api][: max(spare, 0)]
        for pod in doomed:
            self.ask_deletion(pod)
        for _ in range(missing):
            made = self.new_pod(workload)
            if made is not None:
                self.begin(made)

    def fenceposts(self, workload: str) -> tuple[int, int]:
        """maxSurge, rounded up, and maxUnavailable, rounded down; one of them is at least 1."""
        wanted = self.wanted[workload]
        surge, unavailable = (
            share if isinstance(share, int) else Fraction(int(share[:-1]), 100) * wanted
            for share in self.shares[workload]
        )
        found = ceil(surge), floor(unavailable)
        return found if any(found) else (0, 1)

    def store_pod(self, pod: Pod, version: Seen | None) -> None:
        """The API server takes a version of a pod (None: it is removed) and tells the controllers."""
        old, pod.api = pod.api, version
        if version is not None:
            ready = version.status.ready if version.status.second is not None else None
            self.pod_versions.append((self.now, pod.name, version.status.address, ready, version.terminating))
        self.at(self.now + self.delays["controllerWatch"], SEE, lambda: self.see_pod(pod, old, version))
        self.level(pod.workload["name"])

    # ------------------------------------------------------------------------------------------------------------ pods

    def later(self, pod: Pod, delay: int, action: Callable[[], None]) -> None:
        """Plan for this turn of the pod."""
        turn = pod.turn
        self.at(self.now + delay, WORLD, lambda: action() if pod.turn == turn else None, pod)

    def begin(self, pod: Pod) -> None:
        pod.created = pod.busy_until = self.now + self.delays["apiWrite"]
        self.at(pod.created, STORE, lambda: self.store_pod(pod, Seen(Status(), False)), pod)
        self.boot(pod)

    def boot(self, pod: Pod) -> None:
        pod.turn += 1
        startup = pod.workload["startup"]
        whole = ns(startup["delay"])
        early = ns(startup["address"]) if "address" in startup else whole
        if early < whole and not pod.kubelet.address:
            self.later(pod, early, lambda: self.address(pod))
        self.later(pod, whole, lambda: self.serve(pod))

    def address(self, pod: Pod) -> None:
        if not pod.kubelet.address:
            pod.kubelet = Status(True, False, self.now // S)
            self.report(pod)

    def serve(self, pod: Pod) -> None:
        ending = pod.workload["termination"]
        muted = pod.api is not None and pod.api.terminating and not ending.get("servesDuringPreStop", True)
        pod.up, pod.answers = True, not muted
        probe = ns(pod.workload["readiness"]["probeDelay"])
        if probe or pod.shedding or pod.quitting or muted:
            self.address(pod)
        self.later(pod, probe, lambda: self.ready(pod)) if probe else self.ready(pod)

    def ready(self, pod: Pod) -> None:
        if pod.answers and not pod.shedding and not pod.quitting and not pod.kubelet.ready:
            pod.kubelet = Status(True, True, self.now // S)
            self.report(pod)

    def unready(self, pod: Pod) -> None:
        if pod.kubelet.ready:
            pod.kubelet = Status(True, False, self.now // S)
            self.report(pod)

    def report(self, pod: Pod) -> None:
        status, send = pod.kubelet, self.now + self.delays["readinessToStatus"]

        def arrive() -> None:
            if pod.api is not None and send <= pod.power_lost:
                self.store_pod(pod, Seen(status, pod.api.terminating))

        self.after_reports(pod, send, arrive)

    def after_reports(self, pod: Pod, send: int, arrive: Callable[[], None]) -> None:
        pod.busy_until = max(pod.busy_until, send + self.delays["apiWrite"])
        self.at(pod.busy_until, STORE, arrive, pod)

    def ask_deletion(self, pod: Pod, force: bool = False) -> None:
        pod.asked = True
        time = max(self.now + self.delays["apiWrite"], pod.created)
        if force:
            self.at(time, WORLD, lambda: self.leave(pod, told=True), pod)
        else:
            self.at(time, STORE, lambda: self.terminate(pod), pod)

    def terminate(self, pod: Pod) -> None:
        if pod.api is None:
            return
        self.store_pod(pod, Seen(pod.api.status, True))
        if not pod.up:
            return
        ending = pod.workload["termination"]
        if not ending.get("servesDuringPreStop", True):
            pod.answers = False
        grace = ns(ending["grace"])
        term = min(ns(ending["preStop"]), grace)
        exit_ = min(term + ns(ending["afterSigterm"]), grace)
        if "unreadyAfterSigterm" in ending and term + ns(ending["unreadyAfterSigterm"]) < exit_:

            def quit_() -> None:
                pod.quitting = True
                self.unready(pod)

            self.later(pod, term + ns(ending["unreadyAfterSigterm"]), quit_)
        self.later(pod, exit_, lambda: self.leave(pod))

    def leave(self, pod: Pod, told: bool = False) -> None:
        pod.turn += 1
        pod.up = pod.answers = False
        if told:
            self.at(self.now, STORE, lambda: self.remove(pod), pod)
            return
        send = self.now + self.delays["readinessToStatus"]
        self.after_reports(pod, send, lambda: self.remove(pod) if send <= pod.power_lost else None)

    def remove(self, pod: Pod) -> None:
        if pod.api is not None:
            pod.gone = pod.asked = True
            self.store_pod(pod, None)

    def chosen(self, action: dict[str, Any], shedding: bool | None = None) -> list[Pod]:
        pods = [
            pod
            for pod in self.pods
            if pod.workload["name"] == action["workload"]
            and pod.answers
            and not pod.asked
            and pod.node in (action.get("nodes") or self.nodes)
            and shedding in (None, pod.shedding)
        ]
        return pods[: action.get("count", 1)]

    # ---------------------------------------------------------------------------------------------------------- events

    def happen(self, event: dict[str, Any]) -> None:
        ((kind, action),) = ((key, value) for key, value in event.items() if key != "at")
        getattr(self, f"on_{kind}")(action)

    def on_scale(self, action: dict[str, Any]) -> None:
        self.wanted[action["workload"]] = action["replicas"]
        self.level(action["workload"])

    def on_rollout(self, action: dict[str, Any]) -> None:
        self.revision[action["workload"]] += 1
        self.shares[action["workload"]] = action["maxSurge"], action["maxUnavailable"]
        self.level(action["workload"])

    def on_crash(self, action: dict[str, Any]) -> None:
        for pod in self.chosen(action):
            pod.turn += 1
            pod.answers = False
            notice = ns(pod.workload["readiness"]["probeDelay"])
            restart = ns(pod.workload["startup"]["delay"])
            again = action.get("restarts", True)
            self.later(pod, min(notice, restart) if again else notice, lambda pod=pod: self.unready(pod))  # type: ignore[misc]
            if again:
                self.later(pod, restart, lambda pod=pod: self.serve(pod))  # type: ignore[misc]

    def on_deletePods(self, action: dict[str, Any]) -> None:
        for pod in self.chosen(action):
            self.ask_deletion(pod, action.get("force", False))

    def on_readiness(self, action: dict[str, Any]) -> None:
        passes = action.get("ready", False)
        for pod in self.chosen(action, shedding=passes):
            self.shed(pod, not passes)
            if "for" in action:
                self.at(self.now + ns(action["for"]), WORLD, lambda pod=pod: self.shed(pod, passes))  # type: ignore[misc]

    def shed(self, pod: Pod, sheds: bool) -> None:
        if pod.shedding is sheds or not pod.up:
            return
        pod.shedding = sheds

        def notice() -> None:
            if pod.shedding is sheds:
                self.unready(pod) if sheds else self.ready(pod)

        self.later(pod, ns(pod.workload["readiness"]["probeDelay"]), notice)

    def on_nodeDown(self, action: dict[str, Any]) -> None:
        for node in action["nodes"]:
            if self.down_at[node] is None:
                self.power_off(node)

    def power_off(self, node: str) -> None:
        since = self.down_at[node] = self.now
        self.barred[node].add("off")
        self.stop(node)
        for pod in self.pods:
            if pod.node == node and not pod.gone:
                pod.turn += 1
                pod.up = pod.answers = False
                pod.power_lost = self.now

        def lost() -> None:
            if self.down_at[node] == since:
                for pod in self.pods:
                    if pod.node == node and pod.api is not None and pod.api.status.ready:
                        self.flip(pod)
                self.at(self.now + self.delays["unreachableToleration"], WORLD, evict)

        def evict() -> None:
            if self.down_at[node] == since:
                self.clear(node)

        self.at(self.now + self.delays["nodeMonitorGrace"], STORE, lost)

    def flip(self, pod: Pod) -> None:
        pod.kubelet = status = Status(True, False, self.now // S)

        def arrive() -> None:
            if pod.api is not None:
                self.store_pod(pod, Seen(status, pod.api.terminating))

        self.at(self.now + self.delays["apiWrite"], STORE, arrive, pod)

    def clear(self, node: str) -> None:
        for pod in [pod for pod in self.pods if pod.node == node and not pod.asked and not pod.gone]:
            self.ask_deletion(pod)

    def on_nodeUp(self, action: dict[str, Any]) -> None:
        for node in action["nodes"]:
            if self.down_at[node] is None:
                continue
            self.down_at[node] = None
            for pod in [pod for pod in self.pods if pod.node == node and not pod.gone]:
                pod.power_lost = NEVER
                if pod.asked:
                    self.leave(pod)
                    continue
                pod.up = True
                pod.kubelet = pod.api.status if pod.api is not None else Status()
                self.unready(pod)
                self.boot(pod)
            self.free_node(node, "off")
            self.start(node)

    def free_node(self, node: str, why: str) -> None:
        self.barred[node].discard(why)
        for workload in self.workloads:
            self.level(workload)

    def write_node(self, node: str, change: Callable[[], None]) -> None:
        """Someone changes the Node; its own kube-proxy hears of it."""

        def arrive() -> None:
            change()
            taints = set(self.taints[node])
            self.tell(node, lambda process: setattr(process, "eligible", MARK not in taints))

        self.at(self.now + self.delays["apiWrite"], STORE, arrive)

    def on_taintNode(self, action: dict[str, Any]) -> None:
        node, key = action["node"], action["key"]

        def change() -> None:
            self.taints[node].add(key)
            self.barred[node].add(key)

        self.write_node(node, change)

    def on_untaintNode(self, action: dict[str, Any]) -> None:
        node, key = action["node"], action["key"]

        def change() -> None:
            self.taints[node].discard(key)
            self.free_node(node, key)

        self.write_node(node, change)

    def on_cordon(self, action: dict[str, Any]) -> None:
        self.write_node(action["node"], lambda: self.barred[action["node"]].add("cordon"))

    def on_uncordon(self, action: dict[str, Any]) -> None:
        self.write_node(action["node"], lambda: self.free_node(action["node"], "cordon"))

    def on_drain(self, action: dict[str, Any]) -> None:
        def change() -> None:
            self.barred[action["node"]].add("cordon")
            self.clear(action["node"])

        self.write_node(action["node"], change)

    def on_patchService(self, action: dict[str, Any]) -> None:
        service = action["service"]

        def arrive() -> None:
            self.at(self.now + self.delays["controllerWatch"], SEE, lambda: self.add(service))
            for node in self.nodes:
                self.tell(node, lambda process: None, node_wants=True)

        self.at(self.now + self.delays["apiWrite"], STORE, arrive)

    def on_restartProxy(self, action: dict[str, Any]) -> None:
        for node in action.get("nodes") or self.nodes:
            if self.down_at[node] is not None:
                continue
            back = self.now + ns(action["down"])
            if self.processes[node].alive:
                self.stop(node)
            else:
                back = max(back, self.back[node])
            self.back[node] = back

            def begin(node: str = node, back: int = back) -> None:
                if self.back[node] == back and self.down_at[node] is None and not self.processes[node].alive:
                    self.start(node)

            self.at(back, WORLD, begin)

    def on_failSyncs(self, action: dict[str, Any]) -> None:
        for node in action.get("nodes") or self.nodes:
            if "for" in action:
                self.fail_until[node] = max(self.fail_until[node], self.now + ns(action["for"]))
            else:
                self.fail_left[node] += action["count"]

    # ------------------------------------------------------------------------------------------------------ controller

    def selects(self, service: str, pod: Pod) -> bool:
        return bool(self.services[service]["selector"] == {"app": pod.workload["name"]})

    def desired(self, service: str) -> Endpoints:
        """CP-3.4: every selected pod with an address."""
        return {
            name: (seen.status.ready and not seen.terminating, seen.status.ready, seen.terminating)
            for name, (pod, seen) in sorted(self.cache.items())
            if self.selects(service, pod) and seen.status.address
        }

    def see_pod(self, pod: Pod, old: Seen | None, new: Seen | None) -> None:
        if new is None:
            self.cache.pop(pod.name, None)
        else:
            self.cache[pod.name] = (pod, new)
        changed = (
            old is None
            or new is None
            or old.terminating
            or new.terminating
            or (old.status.address, old.status.ready) != (new.status.address, new.status.ready)
        )
        if changed:
            for service in sorted(self.services):
                if self.selects(service, pod):
                    self.add_after(service, self.delays["controllerBatch"])

    def add_after(self, service: str, delay: int) -> None:
        """CP-3.2: the earlier ready time of a delayed key stays."""
        if not delay:
            self.add(service)
            return
        item, due = self.items[service], self.now + delay
        if item.due is not None and item.due <= due:
            return
        item.due = due

        def ripe() -> None:
            if item.due == due:
                item.due = None
                self.add(service)

        self.at(due, SEE, ripe)

    def add(self, service: str) -> None:
        item = self.items[service]
        if item.active:
            item.dirty = True
        elif not item.queued:
            item.queued = True
            self.queue.append(service)
            self.at(self.now, SEE, self.work)

    def work(self) -> None:
        while self.free and self.queue:
            service = self.queue.pop(0)
            item = self.items[service]
            item.queued, item.active = False, True
            self.free -= 1
            if item.seen < item.written:  # CP-3.11
                shared = self.retries.wait(self.now)
                self.done(service)
                self.add_after(service, max(shared, min(S << item.failures, 1000 * S)))
                item.failures += 1
                continue
            self.sync_service(service, item)

    def sync_service(self, service: str, item: Item) -> None:
        times = {
            name: seen.status.second
            for name, (pod, seen) in self.cache.items()
            if self.selects(service, pod) and seen.status.second is not None
        }
        fresh = [second for name, second in times.items() if second > item.remembered.get(name, -NEVER)]
        item.remembered = times
        trigger = min(fresh, default=None)
        wanted = self.desired(service)
        if wanted == item.endpoints:
            item.failures = 0
            self.at(self.now, SEE, lambda: self.done(service))
            return

        def write() -> None:
            item.written += 1
            generation = item.written
            item.endpoints = self.store[service] = wanted
            rows = tuple((pod, *conditions) for pod, conditions in wanted.items())
            self.slice_writes.append((self.now, service, rows, trigger))
            self.at(self.now + self.delays["controllerWatch"], SEE, lambda: setattr(item, "seen", generation))
            for node in self.nodes:
                self.tell(node, lambda process: process.slices.__setitem__(service, wanted), node_wants=True)
            item.failures = 0
            self.at(self.now, SEE, lambda: self.done(service))

        self.at(self.now + self.client.wait(self.now) + self.delays["sliceWrite"], STORE, write)

    def done(self, service: str) -> None:
        item = self.items[service]
        item.active = False
        self.free += 1
        if item.dirty:
            item.dirty = False
            self.add(service)
        self.at(self.now, SEE, self.work)

    # ------------------------------------------------------------------------------------------------------ kube-proxy

    def tell(self, node: str, change: Callable[[Process], None], *, node_wants: bool = False) -> None:
        """Deliver a change to the node's process if it watches now; a list taken later contains it."""
        process = self.processes.get(node)
        if process is None or not process.alive or not process.listed:
            return

        def deliver() -> None:
            if process.alive:
                change(process)
                if node_wants:
                    self.ask(node, process)

        self.at(self.now + self.delays["watchDelivery"], DELIVER, deliver)

    def ask(self, node: str, process: Process) -> None:
        if process.pending is None:
            process.pending = self.now
        process.request = True
        self.arm(node, process)

    def arm(self, node: str, process: Process) -> None:
        if process.running:
            return
        process.plan += 1
        plan, due = process.plan, max(self.now if process.request else process.timer, process.cool, self.now)

        def due_now() -> None:
            # a sync outside the runner holds the lock; its end arms again
            if process.alive and process.plan == plan and not process.running and not process.direct:
                process.request, process.running = False, True
                self.sync(node, process, in_runner=True)

        self.at(due, START, due_now)

    def sync(self, node: str, process: Process, in_runner: bool) -> None:
        if not process.listed:  # the gate is closed: nothing happens, but it cools (CP-9.5)
            self.rest(node, process, ok=True)
            return
        start, full, slices = self.now, process.need_full, dict(process.slices)
        fails = self.now < self.fail_until[node]
        if not fails and self.fail_left[node]:
            self.fail_left[node] -= 1
            fails = True
        process.need_full = fails

        def finish() -> None:
            if not process.alive:
                return
            self.syncs.append((node, start, self.now, full, not fails))
            if not fails:
                process.pending = None
                process.local = self.local_of(node, slices)
            if in_runner:
                self.rest(node, process, ok=not fails)
            else:
                process.direct = False
                self.arm(node, process)

        self.at(self.now + self.cost[node], END, finish)

    def rest(self, node: str, process: Process, ok: bool) -> None:
        process.running = False
        process.cool = self.now + process.limits.shortest
        process.timer = self.now + (process.limits.longest if ok else process.limits.retry)
        self.arm(node, process)

    def stop(self, node: str) -> None:
        self.processes[node].alive = False

    def start(self, node: str) -> None:
        process = self.processes[node] = Process(self.now, self.limits)
        process.eligible = MARK not in self.taints[node]
        if self.zones[node]:
            self.ask(node, process)

        def lists() -> None:
            if process.alive:
                process.listed = True
                process.slices = dict(self.store)
                process.eligible = MARK not in self.taints[node]
                self.at(self.now, START, first)

        def first() -> None:
            if process.alive and not process.running:
                process.direct = True
                self.sync(node, process, in_runner=False)

        self.at(self.now + self.delays["initialList"], DELIVER, lists)

    def local_of(self, node: str, slices: dict[str, Endpoints]) -> dict[str, int]:
        where = {pod.name: pod.node for pod in self.pods}
        return {
            service: sum(ready for pod, (ready, _, _) in endpoints.items() if where[pod] == node)
            for service, endpoints in slices.items()
        }

    # --------------------------------------------------------------------------------------------------- load balancer

    def passes(self, balancer: Balancer, node: str) -> bool:
        process = self.processes[node]
        if not process.alive or self.down_at[node] is not None:
            return False
        healthy = process.pending is None or self.now - process.pending < 2 * process.limits.retry
        if not balancer.per_service:
            return healthy and process.eligible
        return healthy and process.local is not None and process.local[balancer.service] > 0

    def probe(self, balancer: Balancer, node: str) -> None:
        spec = self.doc["loadBalancer"]
        inside = balancer.rotation[node]
        if self.passes(balancer, node) == inside:
            balancer.contrary[node] = 0
        else:
            balancer.contrary[node] += 1
            if balancer.contrary[node] >= spec["unhealthyThreshold" if inside else "healthyThreshold"]:
                balancer.rotation[node] = not inside
                balancer.contrary[node] = 0
                self.turns.append((self.now, balancer.service, node, not inside))
        self.at(self.now + ns(spec["interval"]), PROBE, lambda: self.probe(balancer, node))


MARK = "ToBeDeletedByClusterAutoscaler"
