"""Carries out the events of a scenario that concern kube-proxies and what they have told kernels.

Counterpart: people, other programs of the nodes, and kubelets, which start a kube-proxy that exits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from kpsim.addresses import Family
from kpsim.backends import Traits
from kpsim.scenario.beside import RulesBeside
from kpsim.scenario.event_schema import FailSyncs, ScenarioEvent, SyncPart
from kpsim.scenario.fault_schema import ClockSkew, CrashProxy, FlushRules, HoldLock
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import ClusterNodes
from kpsim.simulation.crashloop import BackOff
from kpsim.simulation.flushing import command_of, flush_of
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.runlog import FaultSpell, Happening, HappeningKind, RunLog
from kpsim.units import format_duration


class ProxyEvents:
    """Carries out the events of one scenario. ``loaded`` has the rules of each ``loadRules`` event, by its position."""

    def __init__(
        self,
        clock: Clock,
        nodes: ClusterNodes,
        proxies: Mapping[str, KubeProxy],
        loaded: Mapping[int, RulesBeside],
        families: Iterable[Family],
        skews: dict[str, int],
        traits: Traits,
        log: RunLog,
    ) -> None:
        self._clock = clock
        self._nodes = nodes
        self._proxies = proxies
        self._loaded = loaded
        self._families = tuple(families)
        self._skews = skews
        self._traits = traits
        self._clocks_set: Counter[str] = Counter()
        self._log = log
        self._back_ns: dict[str, int] = {}  #: when a stopped kube-proxy comes back, by node
        self._back_offs = {name: BackOff() for name in proxies}

    def happen(self, number: int, event: ScenarioEvent) -> None:
        """Carry out the event with this position now."""
        self._end_processes(event)
        if event.fail_syncs is not None:
            self._fail_syncs(event.fail_syncs)
        if event.hold_lock is not None:
            self._hold_lock(event.hold_lock)
        if event.load_rules is not None:
            self._load_rules(number)
        if event.flush_rules is not None:
            self._flush_rules(event.flush_rules)
        if event.clock_skew is not None:
            for name in event.clock_skew.nodes or self._nodes.names:
                self._skew(name, event.clock_skew)

    def _end_processes(self, event: ScenarioEvent) -> None:
        if event.restart_proxy is not None:
            for name in event.restart_proxy.nodes or self._nodes.names:
                self._restart(name, event.restart_proxy.down_ns)
        if event.crash_proxy is not None:
            for name in event.crash_proxy.nodes or self._nodes.names:
                self._exit(name, "crashProxy", event.crash_proxy, event.crash_proxy.count)
        if event.write_proxy_config is not None:
            for name in event.write_proxy_config.nodes or self._nodes.names:
                self._exit(name, "writeProxyConfig: its configuration was written", None, 1)

    # ------------------------------------------------------------------------------------------------------------- syncs

    def _fail_syncs(self, fail: FailSyncs) -> None:
        if fail.part is SyncPart.STALE_CHAINS and not self._traits.deletes_stale_chains:
            for name in fail.nodes or self._nodes.names:
                self._tell(HappeningKind.NO_EFFECT, name, "failSyncs: this mode looks for no stale chains")
            return
        what = "" if fail.part is SyncPart.RULES else " with their stale chains"
        for name in fail.nodes or self._nodes.names:
            faults = self._proxies[name].faults
            failing = faults.rules if fail.part is SyncPart.RULES else faults.stale
            if fail.lasting_ns is not None:
                self._spell(HappeningKind.SYNCS_FAIL, name, fail.lasting_ns)
                failing.until_ns = max(failing.until_ns, self._clock.now_ns + fail.lasting_ns)
                words = f"those that start within {format_duration(fail.lasting_ns)}"
            else:
                failing.left += fail.count or 0
                words = f"the next {fail.count} that start"
            self._tell(HappeningKind.SYNCS_FAIL, name, words + what)

    def _hold_lock(self, hold: HoldLock) -> None:
        """The lock goes with the machine: one that is off, or that boots, has none."""
        for name in hold.nodes or self._nodes.names:
            proxy = self._proxies[name]
            if self._nodes.is_down(name) or not self._traits.locked:
                why = "the node is down" if self._nodes.is_down(name) else "nothing in this mode waits for it"
                self._tell(HappeningKind.NO_EFFECT, name, f"holdLock: {why}")
                continue
            until_ns = self._clock.now_ns + hold.lasting_ns
            proxy.faults.locked_until_ns = max(proxy.faults.locked_until_ns, until_ns)
            self._last(HappeningKind.LOCK_HELD, name, hold.lasting_ns)
            proxy.disturb_canaries()

    # ----------------------------------------------------------------------------------------------------------- kernels

    def _load_rules(self, number: int) -> None:
        """Load rules beside kube-proxy's. A kernel that refuses them keeps what it has."""
        for name, proxy in self._proxies.items():
            loaded = {f: rules for f in Family if (rules := self._loaded[number].of(name, f)) is not None}
            if not loaded:
                continue
            if self._nodes.is_down(name):
                self._tell(HappeningKind.NO_EFFECT, name, "loadRules: the node is down")
                continue
            for family, rules in loaded.items():
                try:
                    proxy.tamper(family, lambda held, rules=rules: held.joined(rules))  # type: ignore[misc]
                except ValueError as problem:
                    self._tell(HappeningKind.NO_EFFECT, name, f"loadRules: {problem}")
                else:
                    tables = ", ".join(str(table.key) for table in rules.in_order())
                    self._tell(HappeningKind.RULES_LOADED, name, f"{family.label}: {tables}")

    def _flush_rules(self, event: FlushRules) -> None:
        flush, command = flush_of(event), command_of(event)
        for name in event.nodes or self._nodes.names:
            if self._nodes.is_down(name):
                self._tell(HappeningKind.NO_EFFECT, name, "flushRules: the node is down")
                continue
            changed = [family for family in self._families if self._proxies[name].tamper(family, flush)]
            if changed:
                self._tell(HappeningKind.RULES_FLUSHED, name, command)
            else:
                self._tell(HappeningKind.NO_EFFECT, name, f"flushRules: {command}: nothing to remove")

    def _skew(self, name: str, skew: ClockSkew) -> None:
        self._set_clock(name, skew.skew_ns)
        number = self._clocks_set[name]
        if skew.skew_ns and skew.lasting_ns is not None:
            self._spell(HappeningKind.CLOCK_SKEW, name, skew.lasting_ns)

        def right() -> None:
            if self._clocks_set[name] == number:  # no later event has set it
                self._set_clock(name, 0)

        if skew.lasting_ns is not None:
            self._clock.at(self._clock.now_ns + skew.lasting_ns, Rank.WORLD, f"node {name}", right)

    def _set_clock(self, name: str, skew_ns: int) -> None:
        self._clocks_set[name] += 1
        if self._skews.get(name, 0) == skew_ns:
            self._tell(HappeningKind.NO_EFFECT, name, "clockSkew: the clock is so already")
            return
        self._skews[name] = skew_ns
        words = f"{format_duration(abs(skew_ns))} {'ahead' if skew_ns > 0 else 'behind'}" if skew_ns else "right again"
        self._tell(HappeningKind.CLOCK_SKEW, name, words)

    # --------------------------------------------------------------------------------------------------------- processes

    def _restart(self, name: str, down_ns: int) -> None:
        """Stop kube-proxy and start it again. One that is stopped already comes back at the later of both times."""
        proxy, now_ns = self._proxies[name], self._clock.now_ns
        back_ns = now_ns + down_ns
        if self._nodes.is_down(name):
            self._tell(HappeningKind.NO_EFFECT, name, "restartProxy: the node is down")
            return
        if proxy.running:
            self._tell(HappeningKind.PROXY_STOPPED, name)
            proxy.stop()
        else:
            earlier_ns = self._back_ns.get(name, now_ns)
            words = f"restartProxy: kube-proxy is stopped already, and comes back at {format_duration(max(earlier_ns, back_ns))}"
            self._tell(HappeningKind.NO_EFFECT if back_ns <= earlier_ns else HappeningKind.PROXY_STOPPED, name, words)
            back_ns = max(earlier_ns, back_ns)
        self._start_at(name, back_ns)

    def _exit(self, name: str, why: str, again: CrashProxy | None, times: int) -> None:
        """Let kube-proxy exit. Its kubelet starts it again, and it may exit ``times`` in all."""
        proxy, now_ns = self._proxies[name], self._clock.now_ns
        if self._nodes.is_down(name) or not proxy.running:
            words = "the node is down" if self._nodes.is_down(name) else "kube-proxy is stopped already"
            self._tell(HappeningKind.NO_EFFECT, name, f"{why.partition(':')[0]}: {words}")
            return
        back_ns = self._back_offs[name].restart_ns(now_ns)
        wait = (
            f"started again after {format_duration(back_ns - now_ns)}" if back_ns > now_ns else "started again at once"
        )
        self._tell(HappeningKind.PROXY_CRASHED, name, "; ".join(filter(None, (why.partition(": ")[2], wait))))
        proxy.stop()

        def started() -> None:
            if again is not None and times > 1:
                process = proxy.process
                dies_ns = self._clock.now_ns + again.runs_ns
                self._clock.at(dies_ns, Rank.WORLD, f"node {name}", lambda: die(process))

        def die(process: int) -> None:
            if proxy.process == process:  # nothing else has ended it meanwhile
                self._exit(name, why, again, times - 1)

        self._start_at(name, back_ns, started)

    def _start_at(self, name: str, back_ns: int, then: Callable[[], None] = lambda: None) -> None:
        proxy = self._proxies[name]
        self._back_ns[name] = back_ns

        def start() -> None:
            if self._back_ns[name] == back_ns and not proxy.running and not self._nodes.is_down(name):
                self._tell(HappeningKind.PROXY_STARTED, name)
                proxy.start()
                then()

        self._clock.at(back_ns, Rank.WORLD, f"node {name}", start)

    def _last(self, kind: HappeningKind, name: str, lasting_ns: int) -> None:
        """Tell of a fault that lasts."""
        self._tell(kind, name, f"for {format_duration(lasting_ns)}")
        self._spell(kind, name, lasting_ns)

    def _spell(self, kind: HappeningKind, name: str, lasting_ns: int) -> None:
        now_ns = self._clock.now_ns
        self._log.faults.append(FaultSpell(kind, name, now_ns, now_ns + lasting_ns))

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
