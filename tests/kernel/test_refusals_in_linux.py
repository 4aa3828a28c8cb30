"""How often Linux refuses packets, and where INVALID answers end, beside the model (K-3.2, K-3.4, K-6.5)."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
from labs import PODS, agreed, answered, number_of, passed, small_machine
from packets import CLIENT, CLUSTER_IP, NODE_PORT, OTHER_POD, REMOTE_POD, flags, packet
from proxiers import Rig, endpoint_slice, make_settings, port, service, slice_port

from kpsim.addresses import Family
from kpsim.config import Host
from kpsim.conntrack import tuple_of
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.lab.wires import Heard, Shot
from kpsim.netfilter import Disposition, Walk, walk
from kpsim.packet import Packet, Window
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.units import MILLISECOND_NS
from kpsim.verify.prediction import error_of
from kpsim.verify.twin import Twin

pytestmark = pytest.mark.kernel
Maker = Callable[..., Twin]
V4, V6 = Family.IPV4, Family.IPV6

# --- refusals are rate limited (K-3.4) --------------------------------------------------------------------------------

#: as a new namespace of Linux 6.18 has them; older kernels have 1000 for IPv6
_LIMITS = {
    "net.ipv4.icmp_ratemask": 6168, "net.ipv4.icmp_ratelimit": 1000, "net.ipv4.icmp_msgs_per_sec": 1000,
    "net.ipv4.icmp_msgs_burst": 50, "net.ipv6.icmp.ratelimit": 100,
}  # fmt: skip
NETWORK = {V4: "203.0.113.", V6: "2001:db8:71::"}


def clock_ns() -> int:
    return time.monotonic_ns()  # noqa: TID251 - Linux lives in real time


def limit_errors(twin: Twin) -> None:
    """To as many as Linux sends by default."""
    twin.linux.namespace.set_sysctls(_LIMITS)
    twin.model.memory.icmp_limiter = IcmpLimiter()
    client = number_of(f"{NETWORK[twin.family]}9")
    twin.linux.put_behind(
        "eth0", client
    )  # a route of his own: IPv6 of older kernels allows more to those behind wider ones


def in_a_row(twin: Twin, sent: Sequence[Packet]) -> list[tuple[Heard, Walk]]:
    """Packets as fast as they can be sent; in the model all at once."""
    heard, _ = twin.linux.transmit([Shot(each) for each in sent])
    now_ns, walks = clock_ns(), []
    for each in sent:
        chooser, local = SeededChooser(1, 1), not each.in_interface
        walks.append(walk(twin.model, each, now_ns=now_ns, chooser=chooser, local=local, trace=False))
        twin.model.commit(walks[-1].effects, now_ns)
    return list(zip(heard, walks, strict=True))


def refused(results: list[tuple[Heard, Walk]]) -> tuple[int, int]:
    """In Linux and in the model."""
    in_linux = sum(any(each.packet.related for each in heard.sightings) for heard, _ in results)
    return in_linux, sum(outcome.disposition is Disposition.REJECTED for _, outcome in results)


def from_clients(family: Family, numbers: Iterable[int], target: str) -> list[Packet]:
    """One packet of each, by eth0."""
    return [
        packet(f"{NETWORK[family]}{number}", target, protocol="udp", sport=1000 + place, came_by="eth0")
        for place, number in enumerate(numbers)
    ]


@pytest.mark.parametrize("family", [V4, V6], ids=lambda family: family.label)
def test_icmp_errors_are_limited_per_client_and_overall(twin_of: Maker, family: Family) -> None:
    target = PODS[family][0]
    twin = twin_of(f"*filter\n-A FORWARD -d {target}/{family.bits} -j REJECT\nCOMMIT\n", family)
    limit_errors(twin)
    refill_s = {V4: 1, V6: 0.1}[family]
    assert refused(in_a_row(twin, from_clients(family, [9] * 10, target))) == (6, 6)
    time.sleep(1.5 * refill_s)
    assert refused(in_a_row(twin, from_clients(family, [9] * 10, target))) == (1, 1)
    time.sleep(0.1)
    began_ns = clock_ns()
    linux, model = refused(in_a_row(twin, from_clients(family, [*range(10, 99), *range(110, 199)], target)))
    # at most so many, one a millisecond; in the model sending takes no time
    refilled = (clock_ns() - began_ns) // MILLISECOND_NS
    assert 50 <= linux < 178 and 50 <= model < 178
    assert abs(linux - model) <= 30 + refilled  # what an error costs Linux is drawn: none to two


def test_redirects_of_ipv6_spend_what_errors_may_cost(twin_of: Maker) -> None:
    """A packet that would leave by the link that it came by is redirected as well.

    That costs as much as ten errors, and a client who has done so once has as much as sixty: five redirects and ten
    errors. The model has no redirects.
    """
    target = "fd00:172::10"
    twin = twin_of(f"*filter\n-A FORWARD -d {target}/128 -j REJECT\nCOMMIT\n", V6)
    limit_errors(twin)
    linux, model = refused(in_a_row(twin, from_clients(V6, [9] * 20, target)))
    assert (linux, model) == (10, 6)


@pytest.mark.parametrize(
    ("family", "hook", "limited_overall"), [(V4, "OUTPUT", True), (V4, "INPUT", False), (V6, "OUTPUT", False)]
)
def test_what_a_process_of_the_node_hears(twin_of: Maker, family: Family, hook: str, limited_overall: bool) -> None:
    """It is told of a refusal in OUTPUT at once, every time, whatever becomes of the ICMP error."""
    own = {V4: "192.168.0.1", V6: "fd00:192::1"}[family]
    target = {"OUTPUT": PODS[family][0], "INPUT": own}[hook]
    twin = twin_of(f"*filter\n-A {hook} -d {target}/{family.bits} -p udp -j REJECT\nCOMMIT\n", family)
    limit_errors(twin)
    results = in_a_row(twin, [packet(own, target, protocol="udp", sport=1000 + number) for number in range(200)])
    expected = "EPERM" if hook == "OUTPUT" else ""
    assert {(heard.error, error_of(outcome)) for heard, outcome in results} == {(expected, expected)}
    linux, model = refused(results)
    if limited_overall:
        assert 25 <= linux < 200 and 50 <= model < 200  # a burst of 50, of which each costs none to two in Linux
    else:
        assert linux == model == 200


# --- INVALID (K-6.5) --------------------------------------------------------------------------------------------------


def kube_proxy_rules(*endpoints: str, liberal: bool = False) -> str:
    """What kube-proxy writes on n1 for a Service with cluster IP and node port."""
    host = Host(node_ips=("192.168.0.1",), nfacct=False, tcp_be_liberal=liberal)
    kube_proxy = Rig(make_settings(V4, host, cluster_cidr="10.180.0.0/16"))
    kube_proxy.apply(
        service("shop/web", [port(80, "http", "TCP", NODE_PORT)], cluster_ip=CLUSTER_IP, type="NodePort"),
        endpoint_slice("shop/web", endpoints, [slice_port(8080)]),
    )
    kube_proxy.sync()
    return render_ruleset(kube_proxy.proxier.held.ruleset, Style.SAVE)


_OUTSIDE = 2_000_000_000  # a sequence number outside every window


@pytest.mark.parametrize("liberal", [False, True])
@pytest.mark.parametrize(
    ("client", "interface", "destination"), [(CLIENT, "eth0", "192.168.0.1"), (OTHER_POD, "cni0", CLUSTER_IP)]
)
def test_an_invalid_answer_is_not_translated_back(
    twin_of: Maker, client: str, interface: str, destination: str, liberal: bool
) -> None:
    plain = small_machine(V4)
    machine = replace(plain, sysctls=replace(plain.sysctls, tcp_be_liberal=liberal))
    twin = twin_of(kube_proxy_rules(REMOTE_POD, liberal=liberal), machine=machine)
    masqueraded = client == CLIENT
    number = NODE_PORT if masqueraded else 80
    sent = packet(client, destination, number, came_by=interface, tcp_flags=flags("SYN"))
    answer = answered(twin.send(Shot(sent, 1000)))
    passed(twin.send(Shot(answer, 5000, 1001)))
    passed(twin.send(Shot(replace(sent, tcp_flags=flags("ACK")), 1001, 5001)))
    stray = replace(answer, tcp_flags=flags("PSH ACK"), window=Window.OUTSIDE)
    exchange = agreed(twin.send(Shot(stray, _OUTSIDE, 1001), canary=True))
    outcome = exchange.walk
    if liberal:
        assert outcome.ct_state == "ESTABLISHED"
        back = passed(exchange)
        assert (back.source, back.destination) == (destination, client)
        return
    assert outcome.ct_state == "INVALID"
    if not masqueraded:  # the rule against INVALID in FORWARD is for this
        assert outcome.disposition is Disposition.DROPPED
        assert outcome.rule is not None and outcome.rule.chain == "KUBE-FORWARD"
        return
    # the node takes it for its own, knows no such connection and resets the endpoint's
    assert (outcome.disposition, outcome.packet.destination) == (Disposition.DELIVERED, "192.168.0.1")
    [reset] = [s.packet for s in exchange.heard.sightings if s.packet.tcp_flags == flags("RST")]
    assert (reset.source, reset.sport, reset.destination, reset.dport) == (
        "192.168.0.1",
        answer.dport,
        REMOTE_POD,
        8080,
    )
    assert twin.linux.conntrack.get(tuple_of(sent)) is not None  # the connection on the node lives on
    assert twin.model.conntrack.lookup(tuple_of(sent), clock_ns()) is not None
