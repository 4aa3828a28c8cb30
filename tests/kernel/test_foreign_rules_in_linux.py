"""Rules that a node has beside kube-proxy's, in the model and in Linux: their text, where kube-proxy's come to stand among them,
and what both together do to packets.

Every first packet is sent by every sender to everywhere; what comes out of Linux must be one of the model's outcomes. The answer
to what comes out goes back in and must leave as the model says.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from linux_lab import Lab
from shop import cluster_text

from kpsim.addresses import Family, join_host_port, parse_ip
from kpsim.backends import Transaction
from kpsim.cluster import Event, EventType, through_selector
from kpsim.config import Host
from kpsim.dialects.iptables import parse
from kpsim.dialects.saved import load_saved
from kpsim.explore import Cluster, load
from kpsim.netfilter import Cause, Disposition, Effects, Netns, Walk, expand, walk
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.routing import Address, Interface, Routing
from kpsim.packetpath.steps import RuleMatched
from kpsim.proxier import Proxier, make_backend
from kpsim.ruleset import Rule
from kpsim.units import SECOND_NS

#: how many rules of a file no packet here matches: neighbour discovery, DHCP and multicast, errors that are not sent here, and
#: what kube-proxy's own rules, which come first, decide already
UNTRIED = {
    "bridge_cni": 2, "docker": 4, "firewalld": 3, "flannel_and_kubelet": 5, "hand_written": 3, "marks": 1, "node_local_dns": 2,
    "strict6": 2, "ufw": 22, "ufw6": 14,
}  # fmt: skip
FOREIGN = sorted((Path(__file__).parents[1] / "foreign").glob("*.rules"))
NODE = "node-1"


def _family(file: Path) -> Family:
    return Family.IPV6 if file.stem.endswith("6") else Family.IPV4


def _tool(file: Path) -> str:
    return "ip6tables" if _family(file) is Family.IPV6 else "iptables"


@cache
def shop() -> Cluster:
    return replace(load(text=cluster_text()), host=Host(nfacct=False))  # not every kernel has it


def beside(file: Path) -> Cluster:
    return shop().with_rules_beside(*load_saved(file))


def _in_new_namespace(script: str) -> str:
    done = subprocess.run(
        ["unshare", "--net", "bash", "-euo", "pipefail", "-s"], input=script, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _tables(text: str) -> dict[str, list[str]]:
    """Lines by table: the tools list tables in orders of their own."""
    tables: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line, [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return tables


# --- text ------------------------------------------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize("file", FOREIGN, ids=lambda file: file.stem)
def test_the_tools_save_the_rules_as_they_stand_here(file: Path, kind: str) -> None:
    tool = f"{_tool(file)}-{kind}"
    if shutil.which(f"{tool}-restore") is None:
        pytest.skip(f"{tool} is not installed")
    text = file.read_text()
    assert _tables(_in_new_namespace(f"{tool}-restore <<'END'\n{text}END\n{tool}-save\n")) == _tables(text)


@pytest.mark.kernel
@pytest.mark.parametrize("file", FOREIGN, ids=lambda file: file.stem)
def test_kube_proxys_commands_on_top_leave_what_is_printed(file: Path) -> None:
    """I-3, I-13.4: what exists exists, jumps go to the top, chains that kube-proxy writes are refilled, others stay."""
    cluster, tool, family = beside(file), _tool(file), _family(file)
    done = _first_sync(cluster, family)
    script = [f"{tool}-restore <<'END'\n{file.read_text()}END\n"]
    script += [f"{tool} -t {table} -N KUBE-PROXY-CANARY\n" for table in ("mangle", "nat", "filter")]
    for command in done.commands:
        words, _, exists = command.partition(" # ")
        if " -I " in words:
            script.append(_check(f"{tool} {words.replace(' -I ', ' -C ')}", succeeds=bool(exists)))
        if not exists or " -N " in words:
            script.append(_check(f"{tool} {words}", succeeds=not exists))
    script += [f"{tool}-restore --noflush --counters <<'END'\n{document()}END\n" for document in done.documents]
    saved = _in_new_namespace("".join(script) + f"{tool}-save\n")
    assert _tables(saved) == _tables(cluster.rules(NODE, family=family))


def _first_sync(cluster: Cluster, family: Family) -> Transaction:
    settings = cluster.settings(NODE, family)
    backend = make_backend(settings, beside=cluster.rules_beside(NODE, family))
    proxier = Proxier(settings, backend, created_ns=0)
    for key in sorted(cluster.state.objects):
        if event := through_selector(Event(EventType.ADDED, None, cluster.state.objects[key]), NODE):
            proxier.on_event(event, 0)
    proxier.services_synced()
    proxier.slices_synced()
    return proxier.sync(0).transaction


def _check(command: str, *, succeeds: bool) -> str:
    return (
        f"{command}\n" if succeeds else f"if {command} 2>/dev/null; then echo unexpected: {command!r} >&2; exit 1; fi\n"
    )


# --- packets ---------------------------------------------------------------------------------------------------------------

_V4 = {
    "cluster IPs": ["172.30.0.10:80", "172.30.0.11:80", "172.30.0.12:80", "172.30.0.13:80", "172.30.0.14:80", "172.30.0.15:80", "172.30.0.16:8080"],
    "load balancers": ["192.0.2.10:80", "192.0.2.11:80", "192.0.2.15:80"],
    "node ports": [f"192.168.0.1:{port}" for port in (30080, 30081, 30082, 30084, 30085, 32011)],
    "the node": ["192.168.0.1:22", "192.168.0.1:445", "127.0.0.1:30080", "127.0.0.1:22", "192.168.0.1:10250", "192.168.0.1:8080", "192.168.0.1:8088", "192.168.0.1:9999"],
    "pods": ["10.180.0.5:8080", "10.180.0.20:8080", "10.180.1.5:8080", "10.180.2.5:22"],
    "outside": ["198.51.100.7:443", "198.51.100.7:80"],
}  # fmt: skip
_V4_UDP = [
    "172.30.0.16:53",
    "169.254.20.10:53",
    "192.168.0.1:33434",
    "192.168.0.1:5353",
    "10.180.1.5:53",
    "198.51.100.7:53",
]
_V4_PINGS = ["192.168.0.1", "10.180.0.5", "10.180.1.5", "198.51.100.7"]
_V6 = {
    "cluster IPs": ["[fd00:172:30::10]:80", "[fd00:172:30::10]:81"],
    "the node": ["[2001:db8:1::1]:22", "[2001:db8:1::1]:10250", "[2001:db8:1::1]:9999"],
    "pods": ["[fd00:180::5]:8080", "[fd00:180::20]:8080", "[fd00:180:0:1::5]:8080"],
    "outside": ["[2001:db8:51::7]:443", "[2001:db8:51::7]:80"],
}
_V6_UDP = ["[fd00:172:30::10]:53", "[2001:db8:1::1]:546", "[fd00:180:0:1::5]:53"]
_V6_PINGS = ["2001:db8:1::1", "fd00:180::5", "2001:db8:51::7"]
#: interface that a packet comes in by (empty: a process of the node sends it) and its source
_SENDERS = {
    Family.IPV4: [("eth0", "203.0.113.7"), ("eth0", "203.0.113.66"), ("eth0", "203.0.113.70"), ("eth0", "203.0.113.130"),
                  ("eth0", "192.168.0.2"), ("cni0", "10.180.0.5"), ("cni0", "10.180.0.10"), ("", "")],
    Family.IPV6: [("eth0", "2001:db8:cb::7"), ("eth0", "fd00:180:0:9::9"), ("eth0", "2001:db8:1::2"),
                  ("cni0", "fd00:180::5"), ("cni0", "fd00:180::a"), ("", "2001:db8:1::1")],
}  # fmt: skip


#: sources that do not come from where they pretend to, for rules that ask: a pod of the node, the node itself
_SPOOFED = {Family.IPV4: ["10.180.0.77", "192.168.0.1"], Family.IPV6: ["fd00:180::77", "2001:db8:1::1"]}


class Made(NamedTuple):
    """What another program has made beside its rules: an interface, who sends by it, and where to."""

    interface: Interface
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()


_MADE = {
    "docker": Made(Interface("docker0", (Address(Family.IPV4, 0xAC110001, 16),)), ("172.17.0.2", "172.17.0.3"), ("172.17.0.3:80",)),
    "node_local_dns": Made(
        Interface("nodelocaldns", (Address(Family.IPV4, 0xA9FE140A, 32), Address(Family.IPV4, 0xAC1E0010, 32))),
        destinations=("172.30.0.16:53",),
    ),
}  # fmt: skip
#: first packets that begin nothing properly
_ODD_FLAGS = [frozenset(flags.split()) for flags in ("FIN SYN", "", "ACK", "RST", "FIN ACK")]
_ODD_TTLS = [1, 2, 3]


class Seen(NamedTuple):
    """One thing that comes out of the node. ``sport`` None: drawn, or of no importance."""

    what: str
    source: str
    sport: int | None
    destination: str
    interface: str
    ttl: int | None = None  #: of what was forwarded


def seen(packet: Packet) -> Seen:
    """A packet that Linux sent."""
    where = join_host_port(packet.destination, packet.dport), packet.out_interface
    if packet.protocol == "tcp" and "RST" in packet.tcp_flags:
        return Seen("RST", packet.source, packet.sport, *where)
    if packet.protocol in ("icmp", "icmpv6"):
        what = f"{packet.protocol} {packet.icmp_type}/{packet.icmp_code}"
        ttl = packet.ttl if packet.icmp_type in (8, 128) else None
        return Seen(what, packet.source, packet.sport, packet.destination, packet.out_interface, ttl)
    return Seen(packet.protocol, packet.source, packet.sport, *where, packet.ttl)


def expected(sent: Packet, outcome: Walk) -> Seen | None:
    """What the model says comes out; None: nothing does, or what the node answers stays on it."""
    match outcome.disposition:
        case Disposition.FORWARDED:
            found = seen(outcome.packet)
            if sent.in_interface == outcome.packet.out_interface == "cni0" and found.ttl is not None:
                found = found._replace(ttl=found.ttl - 1)  # the lab routes what a bridge would switch
            return found._replace(sport=None) if outcome.source_port_drawn else found
        case Disposition.REJECTED if outcome.answer is not None and sent.in_interface:
            found = seen(outcome.answer)
            return found._replace(interface=sent.in_interface)
        case Disposition.DELIVERED if sent.in_interface:
            return _own_answer(sent)
        case _:
            return None


def _own_answer(sent: Packet) -> Seen | None:
    """Nothing listens on the node: its kernel refuses, and answers pings."""
    back = sent.source, sent.in_interface
    match sent.protocol:
        case "tcp" if "RST" in sent.tcp_flags:
            return None
        case "icmp" | "icmpv6" if sent.icmp_type not in (8, 128):
            return None
        case "tcp":
            return Seen("RST", sent.destination, sent.dport, join_host_port(sent.source, sent.sport), sent.in_interface)
        case "udp":
            unreachable = "icmp 3/3" if sent.family is Family.IPV4 else "icmpv6 1/4"
            return Seen(unreachable, sent.destination, None, *back)
        case _:
            reply = "icmp 0/0" if sent.family is Family.IPV4 else "icmpv6 129/0"
            return Seen(reply, sent.destination, sent.sport, *back)


def agree(said: Seen | None, came_out: list[Packet]) -> bool:
    if said is None:
        return not came_out
    if len(came_out) != 1:
        return False
    found = seen(came_out[0])
    if said.sport is None:
        return found._replace(sport=None) == said
    return found == said or (found.what.startswith("icmp") and found._replace(sport=said.sport) == said)


class Side:
    """Both sides of one node: what is sent to Linux is asked of the model."""

    def __init__(self, cluster: Cluster, family: Family, lab: Lab, machine: Machine) -> None:
        self.lab, self.family = lab, family
        self.netns = Netns(NODE, machine.routing, machine.sysctls)
        self.netns.load(cluster.ruleset(NODE, family))
        self.sport = 20000
        self.kinds: set[str] = set()
        self.matched: set[tuple[str, str, Rule]] = set()
        self.disagreements: list[str] = []

    def packet(self, interface: str, source: str, protocol: str, destination: str) -> Packet:
        """Of a flow of its own."""
        self.sport += 1
        address, port = _end(destination)
        saddr = _end(source)[0] if source else 0
        packet = Packet(self.family, protocol, saddr, address, self.sport, port, in_interface=interface)
        packet.icmp_type = {"icmp": 8, "icmpv6": 128}.get(protocol, 0)
        return packet

    def first_packet(self, packet: Packet) -> None:
        local = not packet.in_interface
        outcomes = expand(self.netns, packet, now_ns=0, local=local, trace=True)
        self._note(*(outcome for _, outcome in outcomes))
        if any(outcome.cause is Cause.HAIRPIN for _, outcome in outcomes):
            return  # the lab has no bridge
        came_out = self.lab.send(packet)
        agreeing = [o for _, o in outcomes if agree(expected(packet, o), came_out) and self._told(o, local=local)]
        if not agreeing:
            self._disagree(
                f"{packet.in_interface} {packet} {sorted(packet.tcp_flags)} {packet.ttl}", outcomes, came_out
            )
            return
        outcome = agreeing[0]
        begun = outcome.disposition is Disposition.FORWARDED and outcome.effects.created is not None
        if begun and packet.tcp_flags == {"SYN"}:
            self._answer(outcome, came_out[0])
        else:
            kept = Effects(recent=outcome.effects.recent, buckets=outcome.effects.buckets)
            self.netns.commit(kept, 0)  # the answer of the node's own kernel ends what was begun

    def _note(self, *outcomes: Walk) -> None:
        self.kinds |= {str(outcome.disposition) for outcome in outcomes}
        for outcome in outcomes:
            steps = (step for step in outcome.trace if isinstance(step, RuleMatched) and step.at.rule is not None)
            self.matched |= {(step.at.table, step.at.chain, step.at.rule) for step in steps}

    def _told(self, outcome: Walk, *, local: bool) -> bool:
        """K-3.2: the lab's raw socket is told of what ends in OUTPUT, and of nothing else."""
        return not (local and self.lab.refused) or outcome.disposition in (Disposition.DROPPED, Disposition.REJECTED)

    def _answer(self, outcome: Walk, out: Packet) -> None:
        """The other side answers: the packet goes back by the same interface and must be un-translated and let through."""
        created = outcome.effects.created
        assert created is not None
        if outcome.source_port_drawn and out.protocol in ("tcp", "udp"):
            created = created._replace(reply=created.reply._replace(dport=out.sport))
        elif outcome.source_port_drawn:
            return  # the id of a ping
        self.netns.commit(replace(outcome.effects, created=created), 0)
        back = Packet(out.family, out.protocol, out.daddr, out.saddr, out.dport, out.sport)
        back.in_interface, back.tcp_flags = out.out_interface, frozenset({"SYN", "ACK"})
        if out.protocol in ("icmp", "icmpv6"):
            back.icmp_type, back.sport, back.dport = (0 if out.protocol == "icmp" else 129), out.sport, 0
        answered = walk(self.netns, back, now_ns=0, chooser=SeededChooser(0, 0))
        self._note(answered)
        came_out = self.lab.send(back, sequence=(1, 1))
        said = expected(back, answered)
        if answered.disposition is Disposition.DELIVERED and came_out:
            said = seen(came_out[0])  # a process that never asked may say so, or not
        if not agree(said, came_out):
            self._disagree(f"answer {back}", [(Fraction(1), answered)], came_out)
        self.kinds.add(f"answer {answered.disposition}")
        self.netns.commit(answered.effects, 0)
        if out.protocol in ("tcp", "udp") and self.sport % 4 == 0:
            self._error(out)
            self._error(replace(out, dport=out.dport + 1))

    def _error(self, about: Packet) -> None:
        """A router on the way reports a packet that went out, or one that never did."""
        v4 = self.family is Family.IPV4
        error = Packet(self.family, "icmp" if v4 else "icmpv6", about.daddr, about.saddr, related=about)
        error.icmp_type, error.icmp_code = (3, 1) if v4 else (1, 3)
        error.in_interface = about.out_interface
        outcome = walk(self.netns, error, now_ns=0, chooser=SeededChooser(0, 0))
        self._note(outcome)
        came_out = self.lab.send(error)
        if not agree(expected(error, outcome), came_out):
            self._disagree(f"error {error} about {about}", [(Fraction(1), outcome)], came_out)
        self.kinds.add(f"error {outcome.disposition}")

    def _disagree(self, sent: str, outcomes: list[tuple[Fraction, Walk]], came_out: list[Packet]) -> None:
        said = sorted({f"{o.disposition} {o.rule or o.cause or o.packet}" for _, o in outcomes})
        self.disagreements.append(f"{sent}: {said}, but {[tuple(seen(packet)) for packet in came_out]}")


def _end(text: str) -> tuple[int, int]:
    host, _, port = text.rpartition(":") if "]" in text or text.count(":") == 1 else (text, "", "0")
    address = parse_ip(host.strip("[]"))
    assert address is not None
    return address[1], int(port)


def _machine(cluster: Cluster, file: Path) -> Machine:
    machine = cluster.site.machine(NODE)
    if file.stem not in _MADE:
        return machine
    routing = Routing([*machine.routing.interfaces.values(), _MADE[file.stem].interface], machine.routing.routes)
    return replace(machine, routing=routing)


@pytest.mark.kernel
@pytest.mark.parametrize("file", FOREIGN, ids=lambda file: file.stem)
def test_linux_does_what_the_model_says(file: Path) -> None:
    cluster, family = beside(file), _family(file)
    machine = _machine(cluster, file)
    lab = Lab(f"kpsimf{os.getpid()}", family)
    try:
        lab.build(machine, cluster.rules(NODE, family=family))
        side = Side(cluster, family, lab, machine)
        _send_everything(side, file)
    finally:
        lab.close()
    assert not side.disagreements, "\n".join(side.disagreements)
    assert {"forwarded", "delivered", "answer forwarded", "error forwarded"} <= side.kinds
    assert side.kinds & {"dropped", "rejected"} and side.kinds & {"error dropped", "error rejected", "error delivered"}
    assert _never_matched(side, file) <= UNTRIED[file.stem]


def _send_everything(side: Side, file: Path) -> None:
    tcp, udp, pings = (_V4, _V4_UDP, _V4_PINGS) if side.family is Family.IPV4 else (_V6, _V6_UDP, _V6_PINGS)
    ping = "icmp" if side.family is Family.IPV4 else "icmpv6"
    senders, ends = list(_SENDERS[side.family]), list(chain.from_iterable(tcp.values()))
    if made := _MADE.get(file.stem):
        senders += [(made.interface.name, source) for source in made.sources]
        ends += made.destinations
    if "rpfilter" in file.read_text():
        senders += [("eth0", source) for source in _SPOOFED[side.family]]
    for interface, source in senders:
        for protocol, destinations in (("tcp", ends), ("udp", udp), (ping, pings)):
            for destination in destinations:
                side.first_packet(side.packet(interface, source, protocol, destination))
        for destination in [some[0] for some in tcp.values()]:
            for flags in _ODD_FLAGS:
                packet = side.packet(interface, source, "tcp", destination)
                packet.tcp_flags = flags
                side.first_packet(packet)
            for ttl in _ODD_TTLS if interface != "cni0" else ():  # a bridge would leave it as it is
                packet = side.packet(interface, source, "tcp", destination)
                packet.ttl = ttl
                side.first_packet(packet)


def _never_matched(side: Side, file: Path) -> int:
    """How many of the foreign rules no packet met and matched."""
    [ruleset] = load_saved(file)
    rules = [
        (table.name, chain.name, r)
        for table in ruleset.tables.values()
        for chain in table.ordered()
        for r in chain.rules
    ]
    return sum(rule not in side.matched for rule in rules)


# --- what was asked of the kernel first ------------------------------------------------------------------------------------


@pytest.fixture
def lab(kernel: None) -> Iterator[tuple[Lab, Machine]]:
    """A node of the shop without any rule."""
    made, machine = Lab(f"kpsimf{os.getpid()}"), shop().site.machine(NODE)
    try:
        made.build(machine, "")
        yield made, machine
    finally:
        made.close()


def _loaded(made: Lab, machine: Machine, text: str) -> Netns:
    made.load(text)
    netns = Netns(NODE, machine.routing, machine.sysctls)
    netns.load(parse(text, Family.IPV4))
    return netns


@pytest.mark.kernel
def test_a_limit_is_a_bucket_that_fills_with_time(lab: tuple[Lab, Machine]) -> None:
    """A token half a second, two at most: what is over when the bucket is full is lost, what is left of a token counts."""
    made, machine = lab
    text = "*filter\n:FORWARD DROP\n-A FORWARD -p udp -m limit --limit 2/sec --limit-burst 2 -j ACCEPT\nCOMMIT\n"
    netns = _loaded(made, machine, text)
    passed, said, now_ns = [], [], 0
    for pause_ns, packets in ((0, 3), (750_000_000, 2), (500_000_000, 2)):
        time.sleep(pause_ns / SECOND_NS)
        now_ns += pause_ns
        for sport in range(packets):
            packet = Packet(Family.IPV4, "udp", _end("203.0.113.7")[0], _end("10.180.0.5")[0], 1000 + sport, 53)
            packet.in_interface = "eth0"
            passed.append(bool(made.send(packet)))
            outcome = walk(netns, packet, now_ns=now_ns, chooser=SeededChooser(0, 0))
            netns.commit(outcome.effects, now_ns)
            said.append(outcome.disposition is Disposition.FORWARDED)
    assert passed == said == [True, True, False, True, False, True, False]


@pytest.mark.kernel
def test_what_is_asked_of_a_packet_without_connection(lab: tuple[Lab, Machine]) -> None:
    """Beside ``--ctstate`` in one -m nothing more is asked of it; alone every question is answered with no."""
    made, machine = lab
    rules = {
        "-m conntrack --ctstate INVALID --ctorigdstport 9": True,
        "-m conntrack --ctorigdstport 9": False,
        "-m conntrack ! --ctorigdstport 9": False,
        "-m conntrack --ctstate INVALID --ctdir REPLY": True,
        "-m conntrack --ctstate INVALID ! --ctorigdst 192.168.0.1": True,
        "-m conntrack --ctstate INVALID -m conntrack --ctdir ORIGINAL": False,
        "-m connmark --mark 0": False,
        "-m connmark ! --mark 5": False,
    }
    text = "*filter\n" + "".join(f"-A INPUT {words}\n" for words in rules) + "COMMIT\n"
    netns = _loaded(made, machine, text)
    reset = Packet(Family.IPV4, "tcp", _end("203.0.113.7")[0], _end("192.168.0.1")[0], 1000, 22, frozenset({"RST"}))
    reset.in_interface = "eth0"
    made.send(reset)
    saved = made.in_node("iptables-save -c -t filter").splitlines()
    assert [line.startswith("[1:") for line in saved if "-A INPUT" in line] == list(rules.values())
    outcome = walk(netns, reset, now_ns=0, chooser=SeededChooser(0, 0))
    numbers = {step.at.number for step in outcome.trace if isinstance(step, RuleMatched)}
    assert [number in numbers for number in range(1, len(rules) + 1)] == list(rules.values())


@pytest.mark.kernel
def test_a_connection_over_lo_is_marked_in_input_though_confirmed_before(lab: tuple[Lab, Machine]) -> None:
    """K-1.4: its entry is in the table since POSTROUTING; the mark that INPUT gives it is there for the next packet."""
    made, machine = lab
    text = (
        "*mangle\n-A INPUT -i lo -p udp -j CONNMARK --set-xmark 0x7/0xffffffff\n"
        "-A OUTPUT -p udp -m connmark --mark 0x7 -j ACCEPT\nCOMMIT\n"
    )
    netns = _loaded(made, machine, text)
    counted = []
    own = _end("192.168.0.1")[0]
    for sent in range(1, 3):
        packet = Packet(Family.IPV4, "udp", own, own, 1000, 9)
        made.send(packet)
        saved = made.in_node("iptables-save -c -t mangle").splitlines()
        [matched] = [line.partition(":")[0] == "[1" for line in saved if "-A OUTPUT" in line]
        outcome = walk(netns, packet, now_ns=sent, chooser=SeededChooser(0, 0), local=True)
        netns.commit(outcome.effects, sent)
        chains = [step.at.chain for step in outcome.trace if isinstance(step, RuleMatched)]
        counted.append((matched, "OUTPUT" in chains))
    assert counted == [(False, False), (True, True)]
