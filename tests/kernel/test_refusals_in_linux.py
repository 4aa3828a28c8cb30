"""How often Linux refuses, and where INVALID answers end, beside the model (K-3.4, K-6.5)."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from linux_lab import inside
from linux_pair import CLIENT, OTHER_POD, POD, REMOTE_POD, V4, V6, Pair, answer_of, clock_ns, let_out, told
from packets import CLUSTER_IP, NODE_PORT, flags, packet
from proxiers import Rig, endpoint_slice, make_settings, port, service, slice_port

from kpsim.addresses import Family
from kpsim.config import Host
from kpsim.conntrack import tuple_of
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.netfilter import Disposition, walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.reject import IcmpLimiter

pytestmark = pytest.mark.kernel
Maker = Callable[..., Pair]
_SO_RCVBUFFORCE = 33


# --- refusals are rate limited (K-3.4) --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [V4, V6], ids=lambda family: family.label)
def test_icmp_errors_are_limited_per_client_and_overall(pair_of: Maker, family: Family) -> None:
    service_ip = {V4: "172.30.0.10", V6: "fd00:172::10"}[family]
    rules = f"*filter\n-A INPUT -m conntrack --ctstate NEW\n-A FORWARD -d {service_ip} -j REJECT\nCOMMIT\n"
    pair = pair_of(rules, family)
    _default_icmp_sysctls(pair)
    pair.model.icmp_limiter = IcmpLimiter()

    def refused(clients: list[str]) -> tuple[int, int]:
        """How many of packets sent in a row are refused, in Linux and in the model."""
        sent = [packet(client, service_ip, protocol="udp", came_by="cni0") for client in clients]
        at_ns = [clock_ns() for _ in pair.linux.flood(sent)]
        seen = sum(each.related is not None for each in pair.linux.received())
        known = 0
        for each, now_ns in zip(sent, at_ns, strict=True):
            outcome = walk(pair.model, each, now_ns=now_ns, chooser=SeededChooser(1, 1), trace=False)
            pair.model.commit(outcome.effects, now_ns)
            known += outcome.disposition is Disposition.REJECTED
        return seen, known

    prefix = {V4: "10.180.0.", V6: "fd00:180::"}[family]
    refill_s = {V4: 1, V6: 0.1}[family]
    assert refused([f"{prefix}9"] * 10) == (6, 6)
    time.sleep(1.5 * refill_s)
    assert refused([f"{prefix}9"] * 10) == (1, 1)
    time.sleep(0.1)
    linux, model = refused([f"{prefix}{n}" for n in range(10, 99)] + [f"{prefix}{n}" for n in range(110, 199)])
    assert 50 <= linux < 178 and 50 <= model < 178
    assert abs(linux - model) <= 30  # Linux refills every 20 ms, and what an error costs is drawn: none to two


def _default_icmp_sysctls(pair: Pair) -> None:
    """As a new namespace of Linux 6.18 has them; older kernels have 1000 for IPv6."""
    pair.linux.in_node(
        "sysctl -qew net.ipv4.icmp_ratemask=6168 net.ipv4.icmp_ratelimit=1000 net.ipv4.icmp_msgs_per_sec=1000 "
        "net.ipv4.icmp_msgs_burst=50 net.ipv6.icmp.ratelimit=100"
    )


@pytest.mark.parametrize(
    ("family", "hook", "limited_overall"), [(V4, "OUTPUT", True), (V4, "INPUT", False), (V6, "OUTPUT", False)]
)
def test_what_a_process_of_the_node_hears(pair_of: Maker, family: Family, hook: str, limited_overall: bool) -> None:
    own = {V4: "192.168.0.1", V6: "fd00:192::1"}[family]
    target = {"OUTPUT": {V4: POD, V6: "fd00:180::5"}[family], "INPUT": own}[hook]
    rules = f"*filter\n-A {hook} -d {target} -p udp -j REJECT\nCOMMIT\n"
    pair = pair_of(rules, family)
    _default_icmp_sysctls(pair)
    pair.model.icmp_limiter = IcmpLimiter()
    with inside(pair.linux.node):
        kind = socket.AF_INET if family is V4 else socket.AF_INET6
        errors = socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_ICMP if family is V4 else socket.IPPROTO_ICMPV6)
        process = socket.socket(kind, socket.SOCK_DGRAM)
    errors.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 22)
    errors.setblocking(False)
    process.bind((own, 40000))
    eperm = told_by_model = eperm_in_model = 0
    time.sleep(0.1)
    with errors, process:
        for _ in range(200):
            now_ns = clock_ns()
            try:
                process.sendto(b"x", (target, 80))
            except ConnectionRefusedError:
                pass  # of an earlier one
            except PermissionError:
                eperm += 1
            sent = packet(own, target, protocol="udp")
            outcome = walk(pair.model, sent, now_ns=now_ns, chooser=SeededChooser(1, 1), local=True, trace=False)
            pair.model.commit(outcome.effects, now_ns)
            told_by_model += outcome.disposition is Disposition.REJECTED
            eperm_in_model += outcome.local_error == "EPERM"
        heard = _errors_heard(errors, family)
    assert eperm == eperm_in_model == (200 if hook == "OUTPUT" else 0)
    if not limited_overall:
        assert heard == told_by_model == 200
    else:
        assert (
            25 <= heard < 200 and 50 <= told_by_model < 200
        )  # a burst of 50, of which each costs none to two in Linux


def _errors_heard(errors: socket.socket, family: Family) -> int:
    heard = 0
    while True:
        try:
            data = errors.recv(4096)
        except BlockingIOError:
            return heard
        heard += (data[20] == 3) if family is V4 else (data[0] == 1)


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
    return render_ruleset(kube_proxy.proxier.backend.ruleset, Style.SAVE)


_OUTSIDE = 2_000_000_000  # a sequence number that nobody expects


@pytest.mark.parametrize("liberal", [False, True])
@pytest.mark.parametrize(
    ("client", "interface", "destination"), [(CLIENT, "eth0", "192.168.0.1"), (OTHER_POD, "cni0", CLUSTER_IP)]
)
def test_an_invalid_answer_is_not_translated_back(
    pair_of: Maker, client: str, interface: str, destination: str, liberal: bool
) -> None:
    pair = pair_of(kube_proxy_rules(REMOTE_POD, liberal=liberal))
    pair.linux.in_node(f"sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal={int(liberal)}")
    pair.model.sysctls = replace(pair.model.sysctls, tcp_be_liberal=liberal)
    masqueraded = client == CLIENT
    number = NODE_PORT if masqueraded else 80
    sent = packet(client, destination, number, came_by=interface, tcp_flags=flags("SYN"))
    _, [at_endpoint] = pair.send(sent, (1000, 0))
    pair.send(answer_of(at_endpoint), (5000, 1001))
    pair.send(replace(sent, tcp_flags=flags("ACK")), (1001, 5001))
    stray = answer_of(at_endpoint, "PSH ACK")
    now_ns = clock_ns()
    came_out = pair.linux.send(stray, (_OUTSIDE, 1001))
    outcome = pair.walk(replace(stray, window=type(stray.window).OUTSIDE), came_out, now_ns)
    if liberal:
        assert outcome.ct_state == "ESTABLISHED"
        assert list(map(told, came_out)) == let_out(outcome)
        assert (came_out[0].source, came_out[0].destination) == (destination, client)
        return
    assert outcome.ct_state == "INVALID"
    if not masqueraded:  # the rule against INVALID in FORWARD is for this
        assert (outcome.disposition, came_out) == (Disposition.DROPPED, [])
        assert outcome.rule is not None and outcome.rule.chain == "KUBE-FORWARD"
        return
    # the node takes it for its own, knows no such connection and resets the endpoint's
    assert (outcome.disposition, outcome.packet.destination) == (Disposition.DELIVERED, "192.168.0.1")
    [reset] = came_out
    assert reset.tcp_flags == flags("RST")
    assert (reset.source, reset.sport, reset.destination, reset.dport) == (
        "192.168.0.1", at_endpoint.sport, REMOTE_POD, 8080,
    )  # fmt: skip
    of_the_node = replace(reset, in_interface="", out_interface="")
    way = walk(pair.model, of_the_node, now_ns=now_ns, chooser=SeededChooser(1, 1), local=True, trace=False)
    assert (let_out(way), way.ct_state) == ([told(reset)], "INVALID")
    assert way.effects.updated is None  # the connection on the node lives on
    assert pair.table.get(tuple_of(sent)) is not None
