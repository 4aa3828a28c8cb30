"""Planted bugs: one small mistake at a time in a copy of kpsim. ``kpsim verify --random`` must find each.

A row names a mistake, the file that it is planted in, and the text that it replaces; the text stands in the file
exactly once. ``HELD_OUT`` was written before the drawing of ``kpsim verify`` was improved with ``BUGS`` in view, so it
says what ``verify`` finds of mistakes that nobody thought of.

    python -m fuzz.planted [--probes 5000] [--seed 1] [--only NAME] [--held-out]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kpsim.verify.clock import Clock

ROOT = Path(__file__).parent.parent
_LIMIT_S = 900  #: seconds after which a run that found nothing is given up


class Bug(NamedTuple):
    """A mistake: ``old`` becomes ``new`` in ``file``, a path below ``kpsim``."""

    name: str
    file: str
    old: str
    new: str

    def plant(self, tree: Path) -> None:
        """Plants the mistake in a copy of the tree. ValueError unless ``old`` stands there exactly once."""
        file = tree / "kpsim" / self.file
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {text.count(self.old)} places in {self.file}, expected 1: {self.old!r}")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


_RULES = "backends/iptables/service_rules.py"
_STATIC = "backends/iptables/static_rules.py"
_PLAN = "kubeproxy/plan.py"
_TRACKERS = "kubeproxy/trackers.py"
_STALE = "kubeproxy/stale_flows.py"
_MATCHING = "packetpath/matching.py"
_NAT = "packetpath/nat.py"
_TRACKING = "packetpath/tracking.py"
_DELIVERY = "packetpath/delivery.py"
_ROUTING = "packetpath/routing.py"
_RECENT = "packetpath/memory/recent.py"
_TCP = "flowstate/tcp.py"
_FLOW = "flowstate/__init__.py"

HELD_OUT: tuple[Bug, ...] = (
    Bug("the last address of a network is missed", "addresses.py",
        "return (address ^ self.base) >> (self.family.bits - self.prefix) == 0",
        "return self.base <= address < self.last or self.base == address"),
    Bug("the mark is not cleared before masquerading", _STATIC,
        '"-j MARK=xor-mark", Assign(Field.MARK, ALL_BITS, mark)', '"-j MARK=or-mark", Assign(Field.MARK, ALL_BITS ^ mark, mark)'),
    Bug("a client's range is as wide as its neighbours'", _RULES,
        "sources = [_from_network(network) for network in ranges]",
        "sources = [_from_network(Network(n.family, n.base & n.family.mask(max(n.prefix - 1, 1)), max(n.prefix - 1, 1))) for n in ranges]"),
    Bug("local terminating endpoints need not serve", _PLAN,
        "return tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)",
        "return tuple(e for e in endpoints if not e.ready and e.terminating)"),
    Bug("an unset ready counts as not ready", _TRACKERS, "ready=source.ready is not False,", "ready=source.ready is True,"),
    Bug("flows of node ports are never stale", _STALE, "        frontends[None, port.node_port] = None", "        pass"),
    Bug("a node port at loopback is not masqueraded", _RULES,
        "rules.append(self.rule(Role.MASQUERADE_EXTERNAL, comment, local, _MARK_MASQ))", "pass"),
    Bug("a late answer makes a UDP stream after 3 s", _FLOW, "_STREAM_AFTER_NS = 2 * SECOND_NS", "_STREAM_AFTER_NS = 3 * SECOND_NS"),
    Bug("half-open connections live as long as SYNs", _TCP, "return sysctls.tcp_timeout_syn_recv_ns", "return sysctls.tcp_timeout_syn_sent_ns"),
    Bug("a reset of the server is ignored in FIN_WAIT", _TCP,
        "reply    RST       CL          CL          CL             CL ", "reply    RST       CL          CL          CL             =  "),
    Bug("the affinity is a second too short", _RECENT,
        "since_ns = now_ns - match.seconds * SECOND_NS", "since_ns = now_ns - (match.seconds - 1) * SECOND_NS"),
    Bug("the class of ports below 1024 begins at 512", _NAT, "return (600, 1023) if", "return (512, 1023) if"),
    Bug("an error about an answer keeps the address inside", _NAT, "        about.daddr = target.saddr\n", "        pass\n"),
    Bug("a masked mark is compared without its mask", _MATCHING,
        "return bool((found & mask == value) != negate)", "return bool((found == value) != negate)"),
    Bug("rp_filter lets every source in in loose mode", _DELIVERY,
        "    if back is None or back.kind not in (RouteKind.UNICAST, RouteKind.LOCAL):\n        return False",
        "    if back is None:\n        return node.sysctls.rp_filter == 2"),
    Bug("a reset answers a reset", "packetpath/reject.py",
        'if packet.protocol != "tcp" or "RST" in packet.tcp_flags:', 'if packet.protocol != "tcp":'),
    Bug("a masqueraded source comes from the route", _NAT,
        "address = borrowed", "address = (decision.source or borrowed) if decision is not None else borrowed"),
)  # fmt: skip

BUGS: tuple[Bug, ...] = (
    # rules and plans
    Bug("masqueradeAll also hits Local chains only", _RULES, "if not self.settings.config.masquerade_all:", "if True:"),
    Bug("clients outside are not masqueraded to cluster IPs", _RULES,
        "elsewhere = from_pods(self.settings.detector, negate=True)", "elsewhere = from_pods(self.settings.detector, negate=False)"),
    Bug("external traffic is not masqueraded", _RULES,
        "rules.append(self.rule(Role.MASQUERADE_EXTERNAL, comment, _ANYWHERE, _MARK_MASQ))", "pass"),
    Bug("pods are not short-circuited", _RULES, "rules.append(self.rule(Role.SHORT_CIRCUIT_POD, comment, pods, Jump(self.svc)))", "pass"),
    Bug("processes are not short-circuited", _RULES,
        "rules.append(self.rule(Role.SHORT_CIRCUIT_LOCAL, comment, local, Jump(self.svc)))", "pass"),
    Bug("a Local policy sends to all endpoints", _RULES,
        "chain = self.svl if self.port.external_policy_local else self.svc", "chain = self.svc if self.plan.cluster else self.svl"),
    Bug("source ranges hold only with a Local policy", _RULES,
        "self.use_fw = plan.has_any and", "self.use_fw = plan.has_any and self.port.external_policy_local and"),
    Bug("the node's own range does not admit the VIP", _RULES,
        "if any(self.settings.node_ip in network for network in ranges):", "if False:"),
    Bug("the firewall does not drop", _RULES, "where, DROP)))", "where, ACCEPT)))"),
    Bug("no hairpin mark", _RULES, "return hairpin, dnat\n", "return (dnat,)\n"),
    Bug("endpoints are drawn unevenly", _RULES, "len(targets) - number,\n", "len(targets) - number + (number > 0),\n"),
    Bug("affinity holds ten times as long", _RULES, "seconds=self.port.sticky_seconds,", "seconds=self.port.sticky_seconds * 10,"),
    Bug("affinity is not remembered", _RULES,
        "dnat = self.dnat.rule(origin, comment, Recent(name, \"set\"), _protocol(self.protocol), target)",
        "dnat = self.dnat.rule(origin, comment, Recent(name, \"rcheck\"), _protocol(self.protocol), target)"),
    Bug("external IPs are forgotten in filter", _RULES,
        "self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, where)", "pass"),
    Bug("node ports without endpoints are not refused", _RULES,
        "self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, to_local)", "pass"),
    Bug("health check ports are not accepted", _RULES, "self.filter.append((names.NODE_PORTS, rule))", "pass"),
    Bug("REJECT where DROP is due", _PLAN, "return Refusal.DROP if local_policy and not self.local else None",
        "return Refusal.REJECT if local_policy and not self.local else None"),
    Bug("hints of unready endpoints count", _PLAN, "mode = hint_mode(ready, node_name, zone)", "mode = hint_mode(endpoints, node_name, zone)"),
    Bug("zone hints win over node hints", _PLAN,
        "    if all(e.node_hints for e in ready) and any(node_name in e.node_hints for e in ready):\n        return HintMode.NODE\n", ""),
    Bug("no fallback to terminating endpoints", _PLAN, ") or _serving_terminating(endpoints)", ")"),
    Bug("INVALID is not dropped", _STATIC, "invalid, counter, DROP", "invalid, counter, RETURN"),
    Bug("marked packets are not accepted", _STATIC, "marked, ACCEPT, comment=comment", "marked, RETURN, comment=comment"),
    Bug("known connections are not accepted", _STATIC,
        'known = _marked(settings.masquerade_mark), named(Field.CT_STATE, "RELATED", "ESTABLISHED")',
        'known = _marked(settings.masquerade_mark), named(Field.CT_STATE, "ESTABLISHED")'),
    Bug("martians reach 127/8", _STATIC, 'named(Field.CT_STATE, "RELATED", "ESTABLISHED", "DNAT", negate=True)',
        'named(Field.CT_STATE, "RELATED", "ESTABLISHED", "NEW", negate=True)'),
    Bug("masquerading keeps ports", _STATIC, "flags = NatFlags.FULLY_RANDOM if settings.random_fully else NO_FLAGS", "flags = NO_FLAGS"),
    Bug("OUTPUT is not dispatched", _STATIC, '    built_in_jump("nat", "OUTPUT", names.SERVICES, _PORTALS),\n', ""),
    Bug("node ports at ::1 and 127.0.0.1", _STATIC, "if settings.localhost_node_ports or address not in loopback]", "]"),
    Bug("the last node port address is left out", _STATIC, "for ip in sorted(format_ip(family, address) for address in usable)",
        "for ip in sorted(format_ip(family, address) for address in usable)[:1]"),
    # trackers, maps, configuration
    Bug("ipMode Proxy is a VIP", _TRACKERS, 'if entry.ip_mode in (None, "VIP"))', 'if entry.ip_mode in (None, "VIP", "Proxy"))'),
    Bug("blanks spoil a source range", _TRACKERS, "parse_network(text.strip()) for text in texts", "parse_network(text) for text in texts"),
    Bug("a zero range restricts", _TRACKERS, "        return ()\n    return kept or None", "        pass\n    return kept or None"),
    Bug("terminating beats running", _TRACKERS, "or not endpoint.terminating:", "or endpoint.terminating:"),
    Bug("an unready endpoint that serves is used", _TRACKERS, "serving=source.serving is not False,", "serving=True,"),
    Bug("removed ports stay in the maps", "kubeproxy/service_maps.py", "                self.ports.pop(name, None)\n", "                pass\n"),
    Bug("a Service's removed ports keep their rules", "kubeproxy/service_maps.py", "        self.ports_of.pop(key, None)\n", ""),
    Bug("endpoints of removed ports stay", "kubeproxy/service_maps.py", "            self.endpoints.pop(name, None)\n", "            pass\n"),
    Bug("stale flows compare addresses only", _STALE, "CleanUp.STILL_SERVES if leads_to in serving else",
        "CleanUp.STILL_SERVES if any(end.rpartition(':')[0] == leads_to.rpartition(':')[0] for end in serving) else"),
    Bug("flows of external addresses are never stale", _STALE, "addresses = (port.cluster_ip, *port.load_balancer_ips,", "addresses = (port.cluster_ip,"),
    Bug("primary means everything", "config.py", "[] if node_ip == _LOOPBACK[family] or", "[] if node_ip or"),
    Bug("the second cluster CIDR is not read", "config.py", "_first_of_family(config.cluster_cidr.split(\",\"), family)",
        "_first_of_family(config.cluster_cidr.split(\",\")[:1], family)"),
    # the packet path
    Bug("ports end one early", _MATCHING, "any(low <= number <= high for low, high in among)", "any(low <= number < high or low == number for low, high in among)"),
    Bug("a negated comparison of an absent field is true", _MATCHING, "        if value is None:\n            return absent\n", "        if value is None:\n            return absent or negate\n"),
    Bug("RELATED is ESTABLISHED", _TRACKING, 'traversal.set_state("RELATED")', 'traversal.set_state("ESTABLISHED")'),
    Bug("errors to others are related", _TRACKING, "if found is None or packet.daddr != about.saddr or", "if found is None or"),
    Bug("an answer to a ping begins a flow", _FLOW, "if flow is None and packet.icmp_type not in ICMP_REQUESTS[packet.protocol]:", "if False:"),
    Bug("bad checksums are good", _FLOW, "return not packet.checksum_ok and packet.in_interface != \"\"", "return False and packet.in_interface != \"\""),
    Bug("a repeated SYN re-arms", _TCP, "            timeout_ns = None  # a client", "            timeout_ns = usual_ns  # a client"),
    Bug("TIME_WAIT does not restart", _TCP, "original SYN       SS          =           =              =           =             =           !",
        "original SYN       SS          =           =              =           =             =           ="),
    Bug("SYN FIN is valid", _TCP, "if flags - {\"PSH\"} not in _VALID_FLAGS:", "if flags - {\"PSH\", \"FIN\"} not in _VALID_FLAGS:"),
    Bug("mid-stream pick-up without tcp_loose", _TCP, "if not (picked_up and sysctls.tcp_loose) and", "if not picked_up and"),
    Bug("a picked up flow gets a day", _TCP, "sysctls.tcp_timeout_max_retrans_ns)\n    if picked_up:\n        timeout_ns = min(timeout_ns, sysctls.tcp_timeout_unacknowledged_ns)", "sysctls.tcp_timeout_established_ns)\n    if picked_up:\n        pass"),
    Bug("SCTP aborts leave the association", "flowstate/sctp.py",
        "original ABORT             CL        CL             CL               CL ", "original ABORT             CL        CL             CL               ES "),
    Bug("affinity lists hold 99", _RECENT, "LIST_SIZE = 100", "LIST_SIZE = 99"),
    Bug("the oldest is refreshed in place", _RECENT, "self._stamps[source] = (*self._stamps.pop(source, ()), now_ns)", "self._stamps[source] = (*self._stamps.get(source, ()), now_ns)"),
    Bug("expired entries match", "conntrack.py", "return found if found is not None and found.entry.ends_ns > now_ns else None", "return found if found is not None else None"),
    Bug("0.0.0.0 is an ordinary source", _ROUTING, "(address in self._broadcast or not address)", "address in self._broadcast"),
    Bug("the bridge spends a hop", _DELIVERY, "return _is_readdressed_on_bridge(traversal) or _is_neighbour(traversal, bridge)", "return _is_readdressed_on_bridge(traversal)"),
    Bug("hairpins leave the bridge", _DELIVERY, "if decision.next_hop == traversal.arrived.saddr and not hairpin:", "if False:"),
    Bug("a hop too many", _DELIVERY, "if traversal.packet.ttl <= 1:", "if traversal.packet.ttl < 1:"),
    Bug("masquerading takes the first address", _ROUTING, "            if next_hop in address.network:\n                return address.value\n", "            pass\n"),
    Bug("CONNMARK forgets a mask", "packetpath/chains.py", "before & statement.keep ^ source & statement.take", "before & statement.keep ^ source"),
    Bug("RETURN of a base chain ignores its policy", "packetpath/chains.py", "if result is None and chain.policy is Verdict.DROP:", "if result is None and chain.policy is Verdict.DROP and not chain.rules:"),
    Bug("the probability is cut, not rounded", "dialects/iptables/extensions.py", "int(float(text) * (1 << 31) + 0.5)", "int(float(text) * (1 << 31))"),
)  # fmt: skip


@contextmanager
def planted(bug: Bug | None) -> Iterator[Path]:
    """A copy of kpsim and its fuzzer with the mistake in it. It is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        tree = Path(name)
        for package in ("kpsim", "fuzz"):
            shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        if bug is not None:
            bug.plant(tree)
        yield tree


def hunt(bug: Bug | None, probes: int, seed: int) -> str:
    """What ``kpsim verify --random`` tells of a copy with the mistake, in a line; empty if it agrees with Linux."""
    with planted(bug) as tree:
        command = [sys.executable, "-m", "fuzz.planted", "--here", "--probes", str(probes), "--seed", str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"never ends (stopped after {_LIMIT_S} s)"
    if done.returncode == 0:
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1]


def here(probes: int, seed: int) -> int:
    """Verifies this very tree, up to the first disagreement. Returns the exit code."""
    from kpsim.verify.runs import PROBES_PER_CLUSTER, Question, random_clusters, verify
    from kpsim.verify.verification import Verification

    class _Found(Exception):
        pass

    def found(_: Question, verification: Verification) -> None:
        if verification.disagreements:
            first = verification.disagreements[0]
            raise _Found(f"{first.subject}: {first.packet}: {'; '.join(map(str, first.differences))}")

    try:
        report = verify(random_clusters(probes, max(1, probes // PROBES_PER_CLUSTER), seed), found=found)
    except _Found as first:
        print(first)
        return 1
    for told in (*(str(each) for _, each in report.unfair), *map(str, report.narrow)):
        print(told)
    return 0 if report.agrees else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if every planted bug is found."""
    parser = argparse.ArgumentParser(description="Plants bugs and lets `kpsim verify --random` look for them.")
    parser.add_argument("--probes", type=int, default=5000, metavar="N", help="for each bug (5000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is drawn (1)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="bugs whose name contains this")
    parser.add_argument("--held-out", action="store_true", help="those that verify was not improved with")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.here:
        return here(given.probes, given.seed)
    rows = HELD_OUT if given.held_out else BUGS
    rows = tuple(bug for bug in rows if not given.only or any(text in bug.name for text in given.only))
    clock, missed = Clock(), []
    for bug in rows:
        begun_s = clock.now_s()
        told = hunt(bug, given.probes, given.seed)
        if not told:
            missed.append(bug.name)
        print(f"{'found ' if told else 'MISSED'} {bug.name} ({clock.now_s() - begun_s:.0f} s) {told[:200]}", flush=True)
    print(f"{len(rows) - len(missed)} of {len(rows)} found" + (f"; missed: {'; '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
