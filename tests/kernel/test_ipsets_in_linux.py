"""``-m set`` in the model and in Linux (K-21): every type of sets that this kernel has, directions, protocols, families.

A rule that matches adds a power of two to the time to live, so one packet tells of several rules at once.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from labs import ENDS, PODS, agreed, number_of, small_machine

from fuzz.ipset_fuzzing import BITS, compare, draw, make_twin
from kpsim.addresses import Family
from kpsim.dialects import ipset
from kpsim.dialects.iptables import parse
from kpsim.lab.wires import Shot
from kpsim.maps import Map
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.twin import Twin

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
_TARGETS = {V4: "TTL --ttl-inc", V6: "HL --hl-inc"}
_PINGS = {V4: ("icmp", 8), V6: ("icmpv6", 128)}


@pytest.fixture(scope="module", autouse=True)
def ipsets(kernel: None) -> None:
    """Skips where the kernel or the machine has no ipsets; in CI it must have them."""
    command = ["unshare", "--net", "ipset", "create", "probe", "hash:ip"]
    missing = shutil.which("ipset") is None
    probe = None if missing else subprocess.run(command, capture_output=True, text=True)
    if probe is not None and probe.returncode == 0:
        return
    reason = "needs ipset" if probe is None else f"no ipsets in a network namespace: {probe.stderr.strip()}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"kernel tests must run in CI: {reason}", pytrace=False)
    pytest.skip(f"kernel: {reason}")


@pytest.fixture(scope="module")
def twins() -> Iterator[Callable[[Family], Twin]]:
    made: dict[Family, Twin] = {}

    def make(family: Family) -> Twin:
        if family not in made:
            made[family] = Twin(small_machine(family), family)
            made[family].linux.add_pods(map(number_of, PODS[family]))
        return made[family]

    yield make
    for twin in made.values():
        twin.close()


def load(twin: Twin, sets: str, matches: Sequence[str], family: Family) -> None:
    """Loads sets, and one rule for each match; both hold then what they were told."""
    ipsets = Map({name: of for name, of in ipset.parse(sets).items() if of.ipset and of.ipset.family in (None, family)})
    rules = "".join(f"-A FORWARD {match} -j {_TARGETS[family]} {1 << bit}\n" for bit, match in enumerate(matches))
    told = Programmed.of(parse(f"*mangle\n{rules}COMMIT\n", family, ipsets=ipsets), ipsets)
    assert twin.load(told) is None


def agree(twin: Twin, packets: Sequence[Packet]) -> list[int]:
    """Sends packets through both. Returns what the rules added to each packet's time to live."""
    twin.forget()
    return [_added(agreed(each)) for each in twin.exchange([Shot(packet) for packet in packets])]


def _added(exchange) -> int:
    return 0 if exchange.arrival is None else exchange.arrival.packet.ttl - 63


def packet(
    family: Family, protocol: str = "tcp", dport: int = 80, *, sport: int = 40000, back: bool = False, **more
) -> Packet:
    """From the client to a pod, or ``back``."""
    ends = [number_of(ENDS[family]["client"]), number_of(PODS[family][0])]
    source, destination = reversed(ends) if back else ends
    made = Packet(family, protocol, source, destination, sport, dport, in_interface="cni0" if back else "eth0")
    for name, value in more.items():
        setattr(made, name, value)
    return made


def sent(family: Family) -> list[Packet]:
    """Packets of every protocol that the lab can send, in both directions."""
    ping, echo = _PINGS[family]
    return [
        *(packet(family, protocol, sport=40000 + number) for number, protocol in enumerate(("tcp", "udp", "sctp"))),
        packet(family, "tcp", 443, sport=80), packet(family, "udp", 53, back=True), packet(family, "tcp", 80, sport=4000, back=True),
        packet(family, ping, 0, sport=7, icmp_type=echo), packet(family, ping, 0, sport=8, icmp_type=echo, back=True),
    ]  # fmt: skip


def sets_of(family: Family) -> str:
    """One set of each type, with elements that fit some of the packets."""
    pod, client = PODS[family][0], ENDS[family]["client"]
    words = {V4: "inet", V6: "inet6"}[family]
    wide = {
        V4: ("203.0.0.0/16", "203.0.113.0/24", "10.180.0.0/16"),
        V6: ("2001:db8::/32", "2001:db8:cb00::/40", "fd00:180::/32"),
    }[family]
    icmp = {V4: "icmp:echo-request", V6: "ipv6-icmp:echo-request"}[family]
    return f"""\
create ip hash:ip family {words}
add ip {client}
create net hash:net family {words}
add net {wide[0]}
add net {wide[1]} nomatch
add net {wide[2]}
create port hash:ip,port family {words}
add port {pod},tcp:80
add port {pod},sctp:80
add port {pod},{icmp}
add port {pod},dccp:0
add port {client},udp:53
create pair hash:ip,port,ip family {words}
add pair {pod},tcp:80,{client}
add pair {pod},sctp:80,{client}
create from hash:ip,port,net family {words}
add from {pod},udp:80,{wide[0]}
add from {pod},tcp:443,{wide[1]} nomatch
add from {pod},tcp:443,{wide[0]}
create netport hash:net,port family {words}
add netport {wide[2]},tcp:80
add netport {wide[2]},{icmp}
create iface hash:net,iface family {words}
add iface {wide[0]},eth0
add iface {wide[2]},cni wildcard
create ports bitmap:port range 0-65535
add ports 80
add ports 53
add ports {0x0800}
create brief hash:ip family {words} timeout 600
add brief {client} timeout 500
"""


MATCHES = [
    "ip src", "ip dst", "ip src,dst", "net src", "net dst", "port dst,dst", "port dst,src", "port src,src", "port src,dst", "port dst",
    "port dst,dst,dst", "pair dst,dst,src", "pair src,src,dst", "pair dst,dst", "from dst,dst,src", "from src,src,dst", "netport dst,dst",
    "netport src,src", "iface src,src", "iface dst,dst", "iface src,dst", "iface dst,src", "ports dst", "ports src", "ports dst,src", "brief src",
    "brief dst",
]  # fmt: skip


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("negation", ["", "! "])
def test_what_a_set_finds(kernel: None, twins: Callable[[Family], Twin], family: Family, negation: str) -> None:
    """K-21.1, and what ipset save prints after loading is what was loaded."""
    twin, found = twins(family), set()
    for first in range(0, len(MATCHES), BITS):
        some = MATCHES[first : first + BITS]
        load(twin, sets_of(family), [f"-m set {negation}--match-set {match}" for match in some], family)
        found |= set(agree(twin, sent(family)))
    assert len(found) > 10  # the rules tell packets apart


def test_masks_of_addresses_and_bitmaps_of_addresses(kernel: None, twins: Callable[[Family], Twin]) -> None:
    sets = "create masked hash:ip netmask 24\nadd masked 203.0.113.200\ncreate bits bitmap:ip range 10.180.0.0/24\nadd bits 10.180.0.5\n"
    twin = twins(V4)
    load(
        twin,
        sets,
        [f"-m set --match-set {match}" for match in ("masked src", "masked dst", "bits src", "bits dst")],
        V4,
    )
    assert {1 + 8, 2 + 4} <= set(agree(twin, sent(V4)))


def test_a_set_that_is_filled_anew_and_one_that_is_made_anew(kernel: None, twins: Callable[[Family], Twin]) -> None:
    """The kernel keeps a set while a rule names it, so another type needs other rules first."""
    twin = twins(V4)
    for sets, expected in (
        ("create s hash:ip\nadd s 203.0.113.9\n", 1),
        ("create s hash:ip\nadd s 203.0.113.8\n", 0),
        ("create s hash:net\nadd s 203.0.113.0/24\n", 1),
    ):
        load(twin, sets, ["-m set --match-set s src"], V4)
        assert agree(twin, [packet(V4)]) == [expected]


# --- drawn sets, rules and packets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", Family)
def test_drawn_sets_rules_and_packets(kernel: None, family: Family) -> None:
    """The first seeds of ``make fuzz SUBJECT=ipsets``, and two that told of networks with interfaces (K-21.1)."""
    with closing(make_twin(family)) as twin:
        for seed in (0, 1, 117, 155):
            drawn = draw(SeededChoices(seed, "ipsets", family.label), family)
            assert compare(twin, drawn) == [], f"{drawn.sets}{drawn.matches}"
