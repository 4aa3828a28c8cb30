"""Rules of other programs on a node, in the model and in Linux.

The tests compare the rules' text, where kube-proxy's rules stand among them, and what both together do to packets that
such rules ask for: odd flags and times to live, false sources, ports of the node, other programs' interfaces, ICMP
errors. ``test_verify_beside.py`` checks what foreign rules do to Services, at every frontend.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from labs import agreed, tables_of
from packets import packet_between
from shop import cluster_text

from kpsim.addresses import Family, split_host_port
from kpsim.backends import Transaction
from kpsim.backends.table import make_backend
from kpsim.cluster import Event, EventType, through_selector
from kpsim.config import Host
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.dialects.iptables.saved import load_saved
from kpsim.explore import Cluster, load
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, OwnAddress, Routing
from kpsim.packetpath.steps import RuleMatched
from kpsim.proxier import Proxier
from kpsim.units import SECOND_NS
from kpsim.verify.twin import Exchange, Twin

pytestmark = pytest.mark.kernel
FOREIGN = sorted((Path(__file__).parents[1] / "foreign").glob("*.rules"))
NODE = "node-1"
FILES = pytest.mark.parametrize("file", FOREIGN, ids=lambda file: file.stem)
VARIANTS = pytest.mark.parametrize("variant", list(Variant))
V4, V6 = Family.IPV4, Family.IPV6
Maker = Callable[..., Twin]


def _family(file: Path) -> Family:
    return V6 if file.stem.endswith("6") else V4


@cache
def shop() -> Cluster:
    return replace(load(text=cluster_text()), host=Host(nfacct=False))  # not every kernel has it


def beside(file: Path) -> Cluster:
    return shop().with_rules_beside(*load_saved(file))


# --- text ------------------------------------------------------------------------------------------------------------------


@VARIANTS
@FILES
def test_the_tools_save_the_rules_as_they_stand_here(namespace: Namespace, file: Path, variant: Variant) -> None:
    namespace.run([variant.tool(_family(file), "restore")], stdin=file.read_text())
    assert tables_of(namespace.run([variant.tool(_family(file), "save")])) == tables_of(file.read_text())


@VARIANTS
@FILES
def test_kube_proxys_commands_on_top_leave_what_is_printed(namespace: Namespace, file: Path, variant: Variant) -> None:
    """I-3, I-13.4: what exists exists, jumps go to the top, chains that kube-proxy writes are refilled, others stay."""
    cluster, family = beside(file), _family(file)
    tool, restore = variant.command(family), variant.tool(family, "restore")

    def succeeds(words: str) -> bool:
        try:
            namespace.run([tool, *shlex.split(words)])
        except LabError:
            return False
        return True

    namespace.run([restore], stdin=file.read_text())
    for table in ("mangle", "nat", "filter"):
        assert succeeds(f"-t {table} -N KUBE-PROXY-CANARY")
    done = _first_sync(cluster, family)
    for command in done.commands:
        words, _, exists = command.partition(" # ")
        if " -I " in words:
            assert succeeds(words.replace(" -I ", " -C ")) is bool(exists), words
        if not exists or " -N " in words:
            assert succeeds(words) is not bool(exists), words
    for document in done.documents:
        namespace.run([restore, "--noflush", "--counters"], stdin=document())
    saved = namespace.run([variant.tool(family, "save")])
    assert tables_of(saved) == tables_of(cluster.rules(NODE, family=family))


def _first_sync(cluster: Cluster, family: Family) -> Transaction:
    settings = cluster.settings(NODE, family)
    held = cluster.told_beside(NODE, family)
    proxier = Proxier(settings, make_backend(settings), created_ns=0, held=held)
    for key in sorted(cluster.state.objects):
        if event := through_selector(Event(EventType.ADDED, None, cluster.state.objects[key]), NODE):
            proxier.on_event(event, 0)
    proxier.services_synced()
    proxier.slices_synced()
    return proxier.sync(0).transaction


# --- packets ---------------------------------------------------------------------------------------------------------------

_SSH = 4  #: times, beside those with odd times to live: more than rules with a hit count let pass
#: where TCP goes to; to the first of each kind with odd flags, too
_TCP = {
    V4: {
        "Services": ["172.30.0.10:80", "172.30.0.16:8080", "192.0.2.11:80"],
        "node ports": ["192.168.0.1:30080", "192.168.0.1:30081"],
        "the node": [f"192.168.0.1:{port}" for port in (*[22] * _SSH, 445, 8080, 8088, 9999, 10250)] + ["127.0.0.1:30080", "127.0.0.1:8088"],
        "pods": ["10.180.0.5:8080", "10.180.0.20:8080", "10.180.1.5:8080"],
        "outside": ["198.51.100.7:443"],
    },
    V6: {
        "Services": ["[fd00:172:30::10]:80", "[fd00:172:30::10]:81"],
        "the node": [f"[2001:db8:1::1]:{port}" for port in (22, 9999, 10250)],
        "pods": ["[fd00:180::5]:8080", "[fd00:180::20]:8080", "[fd00:180:0:1::5]:8080"],
        "outside": ["[2001:db8:51::7]:443", "[2001:db8:51::7]:80"],
    },
}  # fmt: skip
_UDP = {
    V4: ["172.30.0.16:53", "169.254.20.10:53", *(f"192.168.0.1:{port}" for port in (68, 137, 5353, 33434)), "10.180.1.5:53", "10.180.1.5:68"],
    V6: ["[fd00:172:30::10]:53", "[2001:db8:1::1]:546", "[fd00:180:0:1::5]:53"],
}  # fmt: skip
_PINGS = {
    V4: ["192.168.0.1", "10.180.0.5", "10.180.1.5", "198.51.100.7"],
    V6: ["2001:db8:1::1", "fd00:180::5", "2001:db8:51::7"],
}  # fmt: skip
#: interface that a packet comes in by (empty: a process of the node sends it) and its source
_SENDERS = {
    V4: [("eth0", "203.0.113.7"), ("eth0", "203.0.113.66"), ("eth0", "203.0.113.70"), ("eth0", "203.0.113.130"),
         ("eth0", "192.168.0.2"), ("eth0", "10.180.1.9"), ("cni0", "10.180.0.5"), ("cni0", "10.180.0.10"), ("", "")],
    V6: [("eth0", "2001:db8:cb::7"), ("eth0", "fd00:180:0:9::9"), ("eth0", "2001:db8:1::2"),
         ("cni0", "fd00:180::5"), ("cni0", "fd00:180::a"), ("", "2001:db8:1::1")],
}  # fmt: skip
#: sources that do not come from where they pretend to, for rules that ask: a pod of the node, the node itself
_SPOOFED = {V4: ["10.180.0.77", "192.168.0.1"], V6: ["fd00:180::77", "2001:db8:1::1"]}
#: first packets that begin nothing properly, or do not get far
_ODDITIES: list[dict[str, Any]] = [
    *({"tcp_flags": frozenset(flags.split())} for flags in ("FIN SYN", "", "ACK", "RST", "FIN ACK")),
    *({"ttl": ttl} for ttl in (1, 2, 3)),
]


class Made(NamedTuple):
    """What another program has made beside its rules: an interface, who sends by it, and where to."""

    interface: Interface
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()


_MADE = {
    "docker": Made(Interface("docker0", (OwnAddress(V4, 0xAC110001, 16),)), ("172.17.0.2", "172.17.0.3"), ("172.17.0.3:80",)),
    "node_local_dns": Made(
        Interface("nodelocaldns", (OwnAddress(V4, 0xA9FE140A, 32), OwnAddress(V4, 0xAC1E0010, 32))), (), ("172.30.0.16:53",)
    ),
}  # fmt: skip
#: how many rules of a file no packet here matches: neighbour discovery, DHCP and multicast, ICMP errors in filter (those about a
#: connection are let through before, all others are INVALID), and what kube-proxy's own rules, which come first, decide already
UNTRIED = {
    "bridge_cni": 1, "docker": 4, "firewalld": 2, "flannel_and_kubelet": 3, "hand_written": 3, "marks": 0, "mesh_and_bridge_ports": 5, "node_local_dns": 2,
    "strict6": 2, "ufw": 17, "ufw6": 13,
}  # fmt: skip


def _machine(cluster: Cluster, file: Path) -> Machine:
    machine = cluster.site.machine(NODE)
    if file.stem not in _MADE:
        return machine
    routing = Routing([*machine.routing.interfaces.values(), _MADE[file.stem].interface], machine.routing.routes)
    return replace(machine, routing=routing)


def _first_packets(file: Path) -> Iterator[Packet]:
    """Each of a flow of its own."""
    family, numbers = _family(file), count(20000)
    tcp, senders, ping = _TCP[family], list(_SENDERS[family]), "icmp" if family is V4 else "icmpv6"
    ends = list(chain.from_iterable(tcp.values()))
    if other := _MADE.get(file.stem):
        senders += [(other.interface.name, source) for source in other.sources]
        ends += other.destinations
    if "rpfilter" in file.read_text():
        senders += [("eth0", source) for source in _SPOOFED[family]]

    plain = (
        [("tcp", end) for end in ends]
        + [("udp", end) for end in _UDP[family]]
        + [(ping, end) for end in _PINGS[family]]
    )
    asked: list[tuple[str, str, dict[str, Any]]] = [(*each, {}) for each in plain]
    asked += [("tcp", some[0], oddity) for some in tcp.values() for oddity in _ODDITIES]
    for interface, source in senders:
        for protocol, end, oddity in asked:
            address, dport = split_host_port(end) if protocol != ping else (end, 0)
            sport = next(numbers)
            made = packet_between(protocol, source, address, sport=sport, dport=dport, in_interface=interface)
            yield replace(made, **oddity)


def _errors(passed: Sequence[Exchange]) -> Iterator[Packet]:
    """A router on the way reports a packet that went out, or one that never did."""
    for exchange in passed:
        arrival = exchange.arrival
        if arrival is None or arrival.packet.protocol not in ("tcp", "udp") or arrival.packet.sport % 4:
            continue
        for about in (arrival.packet, replace(arrival.packet, dport=arrival.packet.dport + 1)):
            protocol, kind, code = ("icmp", 3, 1) if about.family is V4 else ("icmpv6", 1, 3)
            yield Packet(
                about.family, protocol, about.daddr, about.saddr, icmp_type=kind, icmp_code=code, related=about,
                in_interface=arrival.name,
            )  # fmt: skip


@VARIANTS
@FILES
def test_linux_does_what_the_model_says(twin_of: Maker, file: Path, variant: Variant) -> None:
    cluster, family = beside(file), _family(file)
    twin = twin_of(cluster.rules(NODE, family=family), family, variant, machine=_machine(cluster, file))
    requests = twin.exchange([Shot(packet) for packet in _first_packets(file)])
    answers = twin.exchange([Shot(answer) for each in requests if (answer := each.answer())])
    errors = twin.exchange([Shot(error) for error in _errors(requests)])
    assert [
        f"{each.shot.packet}: {each.differences}" for each in (*requests, *answers, *errors) if each.differences
    ] == []
    fates = [{str(each.walk.disposition) for each in some} for some in (requests, answers, errors)]
    assert fates[0] >= {"forwarded", "delivered"} and fates[0] & {"dropped", "rejected"}
    assert "forwarded" in fates[1]
    assert "forwarded" in fates[2] and fates[2] & {"dropped", "rejected", "delivered"}
    assert len(_never_matched(twin, file)) <= UNTRIED[file.stem]


def _never_matched(twin: Twin, file: Path) -> list[str]:
    """The foreign rules that counted no packet in Linux."""
    [ruleset] = load_saved(file)
    counted = tables_of(twin.linux.iptables.saved(counters=True))
    found = []
    for table, lines in tables_of(render_ruleset(ruleset, Style.SAVE)).items():
        matched = {line.partition("] ")[2] for line in counted[table] if not line.startswith("[0:")}
        found += [f"{table} {line}" for line in lines if line.startswith("-A") and line not in matched]
    return found


# --- what was asked of the kernel first ------------------------------------------------------------------------------------


def _counted(twin: Twin, chain: str) -> list[int]:
    """Packets that each rule of a chain counted in Linux, the canaries' left out."""
    lines = twin.linux.iptables.without_guards(twin.linux.iptables.saved(counters=True)).splitlines()
    return [int(line[1:].partition(":")[0]) for line in lines if f"] -A {chain} " in line]


def _matched(exchange: Exchange, chain: str) -> set[int]:
    """Numbers of the rules that the packet matched in the model."""
    return {step.at.number for step in exchange.walk.trace if isinstance(step, RuleMatched) and step.at.chain == chain}


def _datagrams(number: int, first_sport: int) -> list[Shot]:
    return [
        Shot(packet_between("udp", "203.0.113.7", "10.180.0.5", sport=first_sport + n, dport=53, in_interface="eth0"))
        for n in range(number)
    ]


@VARIANTS
def test_a_limit_is_a_bucket_that_fills_with_time(twin_of: Maker, variant: Variant) -> None:
    """A token half a second, two at most: what is over when the bucket is full is lost, what is left of a token counts."""
    twin = twin_of(
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n"
        "-A FORWARD -p udp -m limit --limit 2/sec --limit-burst 2 -j ACCEPT\nCOMMIT\n",
        variant=variant,
    )
    passed = []
    for number, (pause_ns, packets) in enumerate(((0, 3), (750_000_000, 2), (500_000_000, 2))):
        time.sleep(pause_ns / SECOND_NS)
        exchanges = [agreed(each) for each in twin.exchange(_datagrams(packets, 1000 * (number + 1)))]
        passed += [each.arrival is not None for each in exchanges]
    assert passed == [True, True, False, True, False, True, False]


@VARIANTS
def test_who_fills_the_bucket_of_a_limit_anew(twin_of: Maker, variant: Variant) -> None:
    """ip_tables replaces a table as a whole: whatever is changed in it, all its buckets are full again, as after each
    sync of kube-proxy.

    nf_tables leaves the rules alone that stay, and so does the model. Tables are apart in both.
    """
    rules = (
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -m limit --limit 1/hour --limit-burst 3 -j ACCEPT\nCOMMIT\n"
    )
    linux = twin_of(rules, variant=variant).linux
    numbers = count(1)

    def passed() -> int:
        heard, _ = linux.transmit(_datagrams(5, 1000 * next(numbers)))
        return sum(bool(each.sightings) for each in heard)

    command, restore = variant.command(V4), variant.tool(V4, "restore")
    assert passed() == 3
    linux.namespace.run([command, *["-t", "nat", "-A", "OUTPUT", "-s", "198.51.100.1", "-j", "ACCEPT"]])
    assert passed() == 0
    full_again = 3 if variant is Variant.LEGACY else 0
    linux.namespace.run([command, *["-A", "OUTPUT", "-s", "198.51.100.1", "-j", "ACCEPT"]])
    assert passed() == full_again
    document = "*filter\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j ACCEPT\nCOMMIT\n"
    linux.namespace.run([restore, "--noflush", "--counters"], stdin=document)
    assert passed() == full_again
    linux.iptables.load_text(rules)
    assert passed() == 3


@pytest.mark.parametrize(
    ("limit", "burst", "nft", "legacy"),
    [("1/day", 5, 5, None), ("1/hour", 1200, 1200, 6), ("11/min", 5, 5, 4), ("3/min", 10, 10, 10)],
)
def test_how_many_packets_a_burst_is(twin_of: Maker, limit: str, burst: int, nft: int, legacy: int | None) -> None:
    """xt_limit counts in 32 bits: what is rare loses some, or nearly all, of its burst, or is refused."""
    rules = f"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -m limit --limit {limit} --limit-burst {burst} -j ACCEPT\nCOMMIT\n"
    for variant, expected in ((Variant.NFT, nft), (Variant.LEGACY, legacy)):
        linux = twin_of("*filter\nCOMMIT\n", variant=variant).linux
        if expected is None:
            with pytest.raises(LabError, match="line 4 failed"):
                linux.iptables.load_text(rules)
            continue
        linux.iptables.load_text(rules)
        heard, _ = linux.transmit(_datagrams(burst + 5, 1000))
        assert sum(bool(each.sightings) for each in heard) == expected, variant


@VARIANTS
def test_what_is_asked_of_a_packet_without_connection(twin_of: Maker, variant: Variant) -> None:
    """Beside ``--ctstate`` in one -m nothing more is asked of it; alone every question is answered with no."""
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
    twin = twin_of("*filter\n" + "".join(f"-A INPUT {words}\n" for words in rules) + "COMMIT\n", variant=variant)
    reset = packet_between("tcp", "203.0.113.7", "192.168.0.1", sport=1000, dport=22, in_interface="eth0")
    exchange = agreed(twin.send(Shot(replace(reset, tcp_flags=frozenset({"RST"}))), trace=True))
    assert [bool(packets) for packets in _counted(twin, "INPUT")] == list(rules.values())
    assert [number in _matched(exchange, "INPUT") for number in range(1, len(rules) + 1)] == list(rules.values())


@VARIANTS
def test_a_connection_over_lo_is_marked_in_input_though_confirmed_before(twin_of: Maker, variant: Variant) -> None:
    """K-1.4: its entry is in the table since POSTROUTING; the mark that INPUT gives it is there for the next packet."""
    twin = twin_of(
        "*mangle\n-A INPUT -i lo -p udp -j CONNMARK --set-xmark 0x7/0xffffffff\n"
        "-A OUTPUT -p udp -m connmark --mark 0x7 -j ACCEPT\nCOMMIT\n",
        variant=variant,
    )
    sent = Shot(packet_between("udp", "192.168.0.1", "192.168.0.1", sport=1000, dport=9))
    for times_seen in range(2):
        exchange = agreed(twin.send(sent, trace=True))
        assert _counted(twin, "OUTPUT") == [times_seen]
        assert len(_matched(exchange, "OUTPUT")) == times_seen
