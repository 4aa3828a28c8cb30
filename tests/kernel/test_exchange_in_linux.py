"""What a client's own socket gets, in the model and in Linux: three nodes, their pods and a client, each with a real stack.

The rules are the same texts in both. Linux' verdict is read off the client's system calls, and off whether the request
came to its end.
"""

import errno
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
from three_nodes import V4, V6, Plan, dnat, number, packet, rules, world
from worlds import ask

from kpsim.addresses import Family
from kpsim.exchange import Exchange, Verdict
from kpsim.lab.namespace import Namespace
from kpsim.lab.node import sysctl_values
from kpsim.sysctls import Sysctls

PATIENCE_S = 0.4
#: A refusal that comes back within the call of connect finds the socket busy. IPv6 then tells it at the second SYN.
SECOND_SYN_S = 1.7
PORT, CLOSED = 8080, 8081
_SETTINGS = {
    "net.ipv4.icmp_ratemask": 0, "net.ipv6.icmp.ratelimit": 0, "net.ipv4.icmp_msgs_per_sec": 1_000_000,
    "net.ipv4.icmp_msgs_burst": 1_000_000, "net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv4.conf.default.rp_filter": 0, "net.ipv4.conf.all.rp_filter": 0,
}  # fmt: skip
_ROUTER = {
    "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}  # fmt: skip
#: A neighbour that does not answer is given up after three questions, so far apart.
_NEIGHBOURS = {f"net.{ip}.neigh.{name}.retrans_time_ms": 100 for ip in ("ipv4", "ipv6") for name in ("cni0", "eth0")}
_NET = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ALL_PROTOCOLS = 0x0300  #: ETH_P_ALL in network order


class Got(NamedTuple):
    """What a client's socket got: an errno's name, or empty; whether an answer; whether somebody got the request."""

    error: str
    answered: bool
    reached: bool

    @classmethod
    def of(cls, judged: Exchange) -> "Got":
        """What the model says that it gets."""
        return cls(judged.told.error, judged.verdict is Verdict.WORKS, judged.reached)


class Cluster:
    """The three nodes, the pods and the client in Linux. All servers listen at port 8080, of TCP and UDP."""

    def __init__(self, plan: Plan, opened: ExitStack) -> None:
        self.plan = plan
        self._opened = opened
        self._switch = self._namespace(_SETTINGS)
        self._switch.ip(["link add sw type bridge mcast_snooping 0", "link set sw up"])
        self.places: dict[str, Namespace] = {}
        self.nodes = [self._node(place) for place in range(3)]
        for node, address in ((0, plan.pod), (0, plan.neighbour), (1, plan.remote), (2, plan.third)):
            self._pod(node, address)
        self._client()
        self._servers = [self._serve(address, kind) for address in self.places for kind in _KIND.values()]

    def _namespace(self, settings: dict[str, int]) -> Namespace:
        made = self._opened.enter_context(closing(Namespace()))
        made.set_sysctls(settings)
        made.ip(["link set lo up"])
        return made

    def _node(self, place: int) -> Namespace:
        node, plan = self._namespace(_SETTINGS | _ROUTER), self.plan
        wide, network = 24 if plan.family is Family.IPV4 else 64, plan.networks[place]
        gateway = network.replace(".0/", ".1/") if plan.family is Family.IPV4 else network.replace("::/", "::1/")
        node.ip([
            f"link add eth0 type veth peer name port{place} netns {self._switch.path}", "link set eth0 up",
            "link add cni0 type bridge mcast_snooping 0", "link set cni0 up",
            f"addr add {plan.nodes[place]}/{wide} dev eth0{self._nodad}", f"addr add {gateway} dev cni0{self._nodad}",
            f"route add {'0.0.0.0/0' if plan.family is Family.IPV4 else '::/0'} dev eth0",
            *(f"route add {plan.networks[other]} via {plan.nodes[other]} dev eth0 onlink" for other in range(3) if other != place),
        ])  # fmt: skip
        node.set_sysctls(_NEIGHBOURS)
        self._switch.ip([f"link set port{place} up master sw"])
        self.places[plan.nodes[place]] = node
        return node

    @property
    def _nodad(self) -> str:
        return " nodad" if self.plan.family is Family.IPV6 else ""

    def _pod(self, node: int, address: str) -> None:
        pod, bits = self._namespace(_SETTINGS), 24 if self.plan.family is Family.IPV4 else 64
        port = f"v{len(self.places)}"
        self.nodes[node].ip([
            f"link add {port} type veth peer name eth0 netns {pod.path}", f"link set {port} up master cni0",
            f"link set {port} type bridge_slave hairpin on",
        ])  # fmt: skip
        network = self.plan.networks[node]
        gateway = network.replace(".0/24", ".1") if self.plan.family is Family.IPV4 else network.replace("::/64", "::1")
        pod.ip(
            ["link set eth0 up", f"addr add {address}/{bits} dev eth0{self._nodad}", f"route add default via {gateway}"]
        )
        self.places[address] = pod

    def _client(self) -> None:
        client, plan = self._namespace(_SETTINGS), self.plan
        bits = plan.family.bits
        client.ip([
            f"link add eth0 type veth peer name port9 netns {self._switch.path}", "link set eth0 up",
            f"addr add {plan.client}/{bits} dev eth0{self._nodad}",
            *(f"route add {node}/{bits} dev eth0" for node in plan.nodes),
            *(f"route add {network} via {node} dev eth0 onlink" for network, node in zip(plan.networks, plan.nodes, strict=True)),
        ])  # fmt: skip
        self._switch.ip(["link set port9 up master sw"])
        self.places[plan.client] = client

    def _serve(self, address: str, kind: socket.SocketKind) -> socket.socket:
        server = self._opened.enter_context(closing(self.places[address].socket(_NET[self.plan.family], kind, 0)))
        server.setblocking(False)
        server.bind((address, PORT))
        if kind is socket.SOCK_STREAM:
            server.listen(64)
        return server

    # --- rules and questions ------------------------------------------------------------------------------------------

    def load(self, texts: Sequence[str], *, bridge_nf: bool) -> None:
        tool = "iptables-restore" if self.plan.family is Family.IPV4 else "ip6tables-restore"
        settings = Sysctls(bridge_nf_call_iptables=bridge_nf, bridge_nf_call_ip6tables=bridge_nf)
        for node, text in zip(self.nodes, texts, strict=True):
            node.run([tool], stdin=text or rules(self.plan))
            node.set_sysctls(sysctl_values(settings, node.has_sysctl) | {"net.ipv4.conf.all.rp_filter": 0})

    def ask(self, source: str, destination: str, port: int, protocol: str, end: str, patience_s: float) -> Got:
        """Dial with a socket of ``source``. ``end`` is the address of who should get the request."""
        with ExitStack() as opened:
            family, kind = _NET[self.plan.family], _KIND[protocol]
            client = opened.enter_context(closing(self.places[source].socket(family, kind, 0)))
            ear = None
            if end in self.places:
                ear = opened.enter_context(closing(self.places[end].socket(socket.AF_PACKET, socket.SOCK_DGRAM, _ALL_PROTOCOLS)))  # fmt: skip
                ear.setblocking(False)
            client.setblocking(False)
            error, answered = self._dial(client, kind, destination, port, patience_s)
            return Got(error, answered, ear is not None and _heard(ear, self.plan.family, end))

    def _dial(
        self, client: socket.socket, kind: socket.SocketKind, destination: str, port: int, patience_s: float
    ) -> tuple[str, bool]:
        try:
            code = client.connect_ex((destination, port))
            if kind is socket.SOCK_STREAM:
                if code == errno.EINPROGRESS:
                    _, writable, _ = select.select([], [client], [], patience_s)
                    if not writable:
                        return "", False
                    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return errno.errorcode.get(code, ""), code == 0
            client.send(b"hello")
            self._echo()
            readable, _, _ = select.select([client], [], [], patience_s)
            return "", bool(readable) and client.recv(10) == b"hello"
        except OSError as refused:
            return errno.errorcode[refused.errno or 0], False

    def _echo(self) -> None:
        """Let every server of UDP answer what it got."""
        waiting = [server for server in self._servers if server.type is socket.SOCK_DGRAM]
        readable, _, _ = select.select(waiting, [], [], 0.1)
        for server in readable:
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)


def _heard(ear: socket.socket, family: Family, own: str) -> bool:
    """Whether a packet for this address came in, apart from those by which neighbours find each other."""
    start, size = (16, 4) if family is Family.IPV4 else (24, 16)
    while True:
        try:
            data, (_, ethertype, kind, *_) = ear.recvfrom(2000)
        except BlockingIOError:
            return False
        ports = data[:1] and (data[9] if family is Family.IPV4 else data[6]) in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
        outgoing = kind == socket.PACKET_OUTGOING
        if (
            ethertype in (0x0800, 0x86DD)
            and ports
            and not outgoing
            and data[start : start + size] == number(own).to_bytes(size)
        ):
            return True


@pytest.fixture(scope="module", params=[V4, V6], ids=["IPv4", "IPv6"])
def linux(request: pytest.FixtureRequest, kernel: None) -> Iterator[Cluster]:
    with ExitStack() as opened:
        yield Cluster(request.param, opened)


# --- cases -----------------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A question. Names of ends are fields of the plan; ``nat`` and ``filters`` are rules of n1, n2 and n3."""

    fact: str
    verdict: Verdict
    source: str = "pod"
    destination: str = "service"
    port: int = 80
    end: str = "remote"
    nat: tuple[str, str, str] = ("", "", "")
    filters: tuple[str, str, str] = ("", "", "")
    target: int = PORT
    bridge_nf: bool = True
    absent: str = ""
    protocols: tuple[str, ...] = ("tcp", "udp")
    patience_s: float = 0  #: 0: as long as the verdict needs


def _to(plan: Plan, end: str, **options: object) -> str:
    return "\n".join(dnat(plan, end, protocol=protocol, **options) for protocol in ("tcp", "udp"))  # type: ignore[arg-type]


def cases(plan: Plan) -> list[Case]:
    remote, third = _to(plan, plan.remote), _to(plan, plan.third)
    uplink, no_such = "-A POSTROUTING -o eth0 -j MASQUERADE", plan.remote.replace("7", "99")
    at_home = plan.pod.replace("5", "99")
    closed = _to(plan, plan.remote, target=CLOSED)
    port = _to(plan, plan.third, of=plan.nodes[1], port=30080)
    home = _to(plan, plan.remote, of=plan.nodes[1], port=30080)
    node, soft = plan.nodes[0], "icmp-host-unreachable" if plan.family is Family.IPV4 else "icmp6-addr-unreachable"
    hard = "icmp-admin-prohibited" if plan.family is Family.IPV4 else "icmp6-adm-prohibited"
    works, refused, lost, no_answer = Verdict.WORKS, Verdict.REFUSED, Verdict.REQUEST_LOST, Verdict.ANSWER_LOST
    return [
        Case("PP-11.2", works, nat=(remote, "", "")),
        Case("PP-11.3", works, source="node", nat=(remote, "", "")),
        Case("K-2.6", works, end="neighbour", nat=(_to(plan, plan.neighbour), "", "")),
        Case("K-2.6 without bridge-nf", no_answer, end="neighbour", nat=(_to(plan, plan.neighbour), "", ""), bridge_nf=False),
        Case("a closed port", refused, nat=(closed, "", ""), target=CLOSED),
        Case("a closed port, from a process", refused, source="node", nat=(closed, "", ""), target=CLOSED),
        Case("a closed port of a node", refused, destination="other node", port=CLOSED, end="other node", target=CLOSED),
        Case("REJECT", refused, filters=(f"-A FORWARD -d {plan.service} -j REJECT", "", "")),
        Case("REJECT in OUTPUT", refused, source="node", filters=(f"-A OUTPUT -d {plan.service} -j REJECT", "", "")),
        Case("REJECT by reset", refused, filters=(f"-A FORWARD -p tcp -d {plan.service} -j REJECT --reject-with tcp-reset", "", ""),
             protocols=("tcp",)),
        Case("K-3.1 a reset that leaves by the bridge's port", lost, end="neighbour", nat=(_to(plan, plan.neighbour), "", ""),
             filters=(f"-A FORWARD -p tcp -d {plan.neighbour} -j REJECT --reject-with tcp-reset", "", ""), protocols=("tcp",)),
        Case("REJECT of the second node", refused, nat=(remote, "", ""), filters=("", f"-A FORWARD -d {plan.remote} -j REJECT", "")),
        Case("a soft error", refused, nat=(remote, "", ""), filters=("", f"-A FORWARD -d {plan.remote} -j REJECT --reject-with {soft}", "")),
        Case("a hard error", refused, nat=(remote, "", ""), filters=("", f"-A FORWARD -d {plan.remote} -j REJECT --reject-with {hard}", "")),
        Case("DROP", lost, filters=(f"-A FORWARD -d {plan.service} -j DROP", "", "")),
        Case("DROP of the second node", lost, nat=(remote, "", ""), filters=("", f"-A FORWARD -d {plan.remote} -j DROP", "")),
        Case("DROP in OUTPUT", lost, source="node", filters=(f"-A OUTPUT -p tcp -d {plan.service} -j DROP", "", ""), protocols=("tcp",)),
        Case("DROP in OUTPUT", refused, source="node", filters=(f"-A OUTPUT -p udp -d {plan.service} -j DROP", "", ""), protocols=("udp",)),
        Case("the answer is dropped", no_answer, nat=(remote, "", ""), filters=(f"-A FORWARD -s {plan.remote} -j DROP", "", "")),
        Case("PP-1.6 without masquerade", no_answer, end="pod", nat=(_to(plan, plan.pod), "", "")),
        Case("PP-1.6", works, end="pod", nat=(f"{_to(plan, plan.pod)}\n-A POSTROUTING -s {plan.pod} -d {plan.pod} -j MASQUERADE", "", "")),
        Case("PP-5.5", no_answer, destination="other node", port=30080, end="third", nat=("", port, "")),
        Case("PP-5.5 at home", works, destination="other node", port=30080, nat=("", home, "")),
        Case("PP-11.12", no_answer, source="client", destination="node", port=30080, nat=(_to(plan, plan.remote, of=node, port=30080), "", "")),
        Case("PP-11.5", works, source="client", destination="node", port=30080,
             nat=(f"{_to(plan, plan.remote, of=node, port=30080)}\n{uplink}", "", "")),
        Case("a chain of node ports", works, end="third", nat=(_to(plan, plan.nodes[1], target=30080), f"{port}\n{uplink}", "")),
        Case("egress", works, destination="client", port=PORT, end="client", nat=(f"-A POSTROUTING -s {plan.pods} ! -d {plan.pods} -j MASQUERADE", "", "")),
        Case("K-1.6 no neighbour", refused, end="nobody", absent=no_such,
             nat=(_to(plan, no_such), "", ""), patience_s=1.5),
        Case("K-1.6 no neighbour of a process", refused, source="node", end="nobody", absent=at_home,
             nat=(_to(plan, at_home), "", ""), patience_s=1.5),
        Case("PP-11.2 to another", works, end="third", nat=(third, "", "")),
    ]  # fmt: skip


@pytest.mark.kernel
@pytest.mark.parametrize("place", range(len(cases(V4))), ids=[case.fact for case in cases(V4)])
def test_the_client_gets_what_the_model_says(linux: Cluster, place: int) -> None:
    plan, case = linux.plan, cases(linux.plan)[place]
    ends = plan._asdict() | {"node": plan.nodes[0], "other node": plan.nodes[1], "nobody": case.absent}
    texts = [rules(plan, nat, filters) for nat, filters in zip(case.nat, case.filters, strict=True)]
    linux.load(texts, bridge_nf=case.bridge_nf)
    facts: dict[str, object] = {"closed": [(number(ends[case.end]), CLOSED)]}
    if case.absent:
        facts["absent"] = [number(case.absent)]
    there = world(plan, *texts, bridge_nf=case.bridge_nf, **facts)
    for protocol in case.protocols:
        local = case.source == "node"
        sent = packet(plan, "" if local else ends[case.source], ends[case.destination], case.port, protocol)
        judged = ask(there, sent, "n1", local=local)
        patience_s = case.patience_s or (SECOND_SYN_S if case.verdict is Verdict.REFUSED else PATIENCE_S)
        got = linux.ask(ends[case.source], ends[case.destination], case.port, protocol, ends[case.end], patience_s)
        assert judged.verdict is case.verdict, case.fact
        reached = judged.reached and not case.absent
        assert got == Got.of(judged)._replace(reached=reached), (protocol, case.fact)
