"""Draws rules of other programs, which stand beside kube-proxy's: marks, connection marks, firewalls, untracked packets,
translations of their own.

Counterpart: what firewalls, network plugins, cloud agents and administrators put into the tables. A rule matches at
the edges of what it names, and its marks collide with kube-proxy's. Rules that end packets match little, so that most
packets still pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from kpsim.addresses import Family
from kpsim.verify.drawing.choices import Choices, chance, pick, several, weighted
from kpsim.verify.drawing.plan import POD_RANGE, Block

#: a table, a chain and a rule with places for words of a family
Written = tuple[str, str, str]

_BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}

#: marks that collide with the usual and the drawn bits of kube-proxy, or stand beside them
_MARKS = (
    "0x4000/0x4000",
    "0x8000/0x8000",
    "0x1/0x1",
    "0x80000000/0x80000000",
    "0xc000/0xc000",
    "0x10/0xff",
    "0x0/0x4000",
)


@dataclass(frozen=True)
class Foreign:
    """Rules of other programs, for both families.

    ``closed`` are the chains of ``filter`` whose policy is DROP. If they are all there is, it is known what is due.
    """

    rules: tuple[Written, ...] = ()
    closed: frozenset[str] = frozenset()

    @property
    def resets(self) -> bool:
        """Whether a rule refuses by a TCP reset."""
        return any("tcp-reset" in rule for _, _, rule in self.rules)

    def __bool__(self) -> bool:
        return bool(self.rules or self.closed)

    def text(self, family: Family) -> str:
        """The rules as iptables-save prints them; empty if there are none."""
        tables = [name for name in _BUILT_IN if any(table == name for table, _, _ in self.rules)]
        if self.closed and "filter" not in tables:
            tables.append("filter")
        return "".join(self._table(name, family) for name in tables)

    def _table(self, name: str, family: Family) -> str:
        own = [(chain, rule) for table, chain, rule in self.rules if table == name]
        chains = [
            f":{c} {'DROP' if name == 'filter' and c in self.closed else 'ACCEPT'} [0:0]" for c in _BUILT_IN[name]
        ]
        chains += [f":{chain} - [0:0]" for chain in dict.fromkeys(c for c, _ in own) if chain not in _BUILT_IN[name]]
        lines = [f"-A {chain} {rule.format_map(_words(family))}" for chain, rule in own]
        return "\n".join([f"*{name}", *chains, *lines, "COMMIT", ""])


@cache
def _words(family: Family) -> Mapping[str, str]:
    """The words of a family for the places in rules."""
    v4 = family is Family.IPV4
    bits = family.bits

    def client(number: int) -> str:
        return Block.CLIENT.at(family, 113, number)

    return {
        "pods": POD_RANGE[family], "pods1": Block.POD.network(family, 1), "pod": f"{Block.POD.at(family, 1, 10)}/{bits}",
        "clients": Block.CLIENT.network(family, 113, longer=1), "client": f"{client(7)}/{bits}", "nodes": Block.NODE.network(family, 0),
        "node": f"{Block.NODE.at(family, 0, 1)}/{bits}", "services": Block.CLUSTER_IP.network(family, 0),
        "service": f"{Block.CLUSTER_IP.at(family, 0, 1)}/{bits}", "balancers": Block.LOAD_BALANCER.network(family, 2),
        "externals": Block.EXTERNAL_IP.network(family, 100), "range": f"{client(7)}-{client(100)}",
        "endpoint": Block.POD.at(family, 1, 11), "egress": Block.NODE.at(family, 0, 1),
        "icmp": _ICMP[family], "echo": "-m icmp --icmp-type 8" if v4 else "-m icmp6 --icmpv6-type 128",
        "unreachable": "-m icmp --icmp-type 3" if v4 else "-m icmp6 --icmpv6-type 1",
        "exceeded": "-m icmp --icmp-type 11" if v4 else "-m icmp6 --icmpv6-type 3",
        "refusal": "icmp-admin-prohibited" if v4 else "icmp6-adm-prohibited",
        "host": "icmp-host-unreachable" if v4 else "icmp6-addr-unreachable",
        "ttl": "-j TTL --ttl-set 9" if v4 else "-j HL --hl-set 9", "old": "-m ttl --ttl-lt 2" if v4 else "-m hl --hl-lt 2",
    }  # fmt: skip


# --- matches -------------------------------------------------------------------------------------------------------------

#: whole matches; each row matches a fair part of the packets
_BROAD: tuple[str, ...] = (
    "", "-s {clients}", "! -s {clients}", "-s {pods}", "! -d {pods}", "-d {services}", "-p tcp", "-p udp", "! -p tcp",
    "-i eth0", "! -i eth+", "-p tcp -m tcp --dport 80", "-p tcp -m tcp --dport 30010:30030", "-p udp -m udp --sport 1024:65535",
    "-p tcp -m tcp ! --sport 1:1023", "-p tcp -m multiport --dports 80,443,8000:8080", "-m addrtype --dst-type LOCAL",
    "-m addrtype ! --src-type LOCAL", "-m mark --mark 0x4000/0x4000", "-m mark ! --mark 0x0/0xffff", "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack ! --ctstate NEW", "-m conntrack --ctstate DNAT",
    "-m conntrack --ctstate SNAT", "-m conntrack --ctdir ORIGINAL", "-m connmark --mark 0x10/0xff", "-m connmark ! --mark 0x10/0xff", "-m conntrack ! --ctorigdst {service}", "-m iprange --src-range {range}",
    "-p tcp -m tcp --tcp-flags SYN,ACK,FIN,RST SYN", "-p tcp -m tcp --tcp-flags RST RST", "-p {icmp}", "-d {externals}",
    "-d {balancers}", "-p sctp", "-p udp -m udp --dport 5300:5353", "-p tcp -m tcp ! --dport 81:8080",
)  # fmt: skip
#: whole matches that few packets fulfil: rules that end packets have one of these
_NARROW: tuple[str, ...] = (
    "-s {client} -p tcp", "-d {service} -p udp", "-s {pod} -p tcp -m tcp --dport 8080", "-p tcp -m tcp --dport 443",
    "-p tcp -m tcp --dport 30010:30011", "-p tcp -m tcp --sport 1:600", "-p {icmp} {echo}", "-p {icmp} {unreachable}",
    "-p {icmp} {exceeded}", "-m conntrack --ctstate INVALID", "{old}", "-s {node}", "-p sctp -m sctp --dport 9999",
    "-p udp -m multiport --ports 5353,80", "-m mark --mark 0x10/0xff", "-p tcp -m tcp --tcp-flags RST RST", "-d {endpoint} -p udp",
    "-m iprange --src-range {range} -p udp", "-p tcp -m tcp --tcp-flags FIN FIN", "-m conntrack --ctstate RELATED",
    "-m conntrack --ctorigdst {service} -p tcp", "-m conntrack --ctorigdstport 80 -p tcp", "-m addrtype --src-type LOCAL -p udp",
)  # fmt: skip
#: whole matches of packets that may go untracked: no resets, which must fare as what they answer
_UNTRACKED: tuple[str, ...] = (
    "-s {client} -p tcp", "-d {service} -p udp", "-p tcp -m tcp --dport 443", "-p tcp -m tcp --dport 30010:30011",
    "-p {icmp} {echo}", "-p {icmp} {unreachable}", "-p udp -m multiport --ports 5353,80", "-d {endpoint} -p udp", "-p sctp",
    "-m iprange --src-range {range} -p udp", "-s {node} -p udp",
)  # fmt: skip


def draw_foreign(choices: Choices) -> Foreign:
    """Rules of one to four programs, or policies of DROP alone."""
    if chance(choices, 25):
        return Foreign(closed=frozenset(pick(choices, (("FORWARD",), ("FORWARD", "INPUT"), ("INPUT",)))))
    programs = several(choices, (_marks, _connection_marks, _firewall, _raw, _nat, _odds, _resets), 4) or [_marks]
    rules = [rule for program in programs for rule in program(choices)]
    return Foreign(tuple(rules), frozenset({"FORWARD"}) if chance(choices, 20) else frozenset())


def _some(choices: Choices, options: Sequence[str], least: int, most: int) -> list[str]:
    return [pick(choices, options) for _ in range(least + choices.below(most - least + 1))]


def _rule(match: str, target: str) -> str:
    return f"{match} {target}".strip()


def _marks(choices: Choices) -> list[Written]:
    """Marks of packets, some of them kube-proxy's."""
    found: list[Written] = []
    for match in _some(choices, _BROAD, 1, 3):
        chain = pick(choices, ("PREROUTING", "OUTPUT", "FORWARD", "POSTROUTING"))
        match = _fitting(match, chain)
        how = weighted(
            choices,
            (4, "--set-xmark {}"),
            (1, "--and-mark 0xffffbfff"),
            (1, "--or-mark 0x8000"),
            (1, "--xor-mark 0x10"),
        )
        found.append(("mangle", chain, _rule(match, "-j MARK " + how.replace("{}", pick(choices, _MARKS)))))
    return found


def _connection_marks(choices: Choices) -> list[Written]:
    """Marks of connections: set, saved from packets, restored to them."""
    mask = pick(choices, ("0xffffffff", "0xff", "0x4000"))
    found: list[Written] = [("mangle", "PREROUTING", f"-j CONNMARK --restore-mark --nfmask {mask} --ctmask {mask}")]
    for match in _some(choices, _BROAD, 1, 2):
        chain = pick(choices, ("PREROUTING", "FORWARD", "POSTROUTING"))
        how = pick(
            choices,
            ("--set-xmark 0x10/0xff", f"--save-mark --nfmask {mask} --ctmask {mask}", "--set-xmark 0x4000/0x4000"),
        )
        found.append(("mangle", chain, _rule(_fitting(match, chain), f"-j CONNMARK {how}")))
    return found


def _firewall(choices: Choices) -> list[Written]:
    """A chain of its own, verdicts for few packets, and answers to known connections."""
    found: list[Written] = []
    hooks = several(choices, ("FORWARD", "INPUT", "OUTPUT"), 3) or ["FORWARD"]
    for hook in hooks:
        jump = pick(choices, ("-j", "-j", "-g"))
        found.append(("filter", hook, _rule(_fitting(pick(choices, _BROAD), hook), f"{jump} FIREWALL")))
    if chance(choices, 50):
        found.append(("filter", "FIREWALL", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"))
    for match in _some(choices, _NARROW, 1, 4):
        target = weighted(
            choices, (3, "-j DROP"), (2, "-j RETURN"), (2, "-j ACCEPT"), (2, "-j REJECT --reject-with {refusal}"),
            (1, "-j REJECT --reject-with {host}"),
        )  # fmt: skip
        if "-p tcp" in match and chance(choices, 40):
            target = "-j REJECT --reject-with tcp-reset"
        found.append(("filter", "FIREWALL", _rule(match, target)))
    return found


def _raw(choices: Choices) -> list[Written]:
    """Packets that are not tracked, dropped early, or came by a way that no answer would take."""
    found: list[Written] = []
    for match in _some(choices, _UNTRACKED, 1, 2):
        # the lab knows a node's own reset by its tuple: in OUTPUT it must be tracked as what it answers
        chain = "OUTPUT" if "tcp" not in match and chance(choices, 30) else "PREROUTING"
        target = weighted(choices, (2, "-j CT --notrack"), (1, "-j DROP"), (1, "-j MARK --set-xmark 0x4000/0x4000"))
        found.append(("mangle" if "MARK" in target else "raw", chain, _rule(match, target)))
    if chance(choices, 30):
        loose = pick(choices, ("", " --loose", " --validmark", " --accept-local"))
        found.append(("raw", "PREROUTING", f"-p tcp -m rpfilter --invert{loose} -j DROP"))
    return found


def _nat(choices: Choices) -> list[Written]:
    """Translations of other programs, behind kube-proxy's: egress, host ports, redirections."""
    options: tuple[Written, ...] = (
        ("nat", "POSTROUTING", "-s {pods} ! -d {pods} -j MASQUERADE"),
        ("nat", "POSTROUTING", "-s {pods1} ! -d {pods} -o eth0 -j SNAT --to-source {egress}"),
        ("nat", "POSTROUTING", "-p tcp -m mark --mark 0x10/0xff -j MASQUERADE --to-ports 600-1023"),
        ("nat", "PREROUTING", "-d {node} -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 2222"),
        ("nat", "PREROUTING", "-s {clients} -p udp -m udp --dport 99 -j DNAT --to-destination {endpoint}"),
        ("nat", "OUTPUT", "-d {service} -p udp -j RETURN"),
        ("nat", "POSTROUTING", "-s {clients} -j MASQUERADE --random-fully"),
    )  # fmt: skip
    return several(choices, options, 3) or [options[0]]


def _odds(choices: Choices) -> list[Written]:
    """Hops, and packets that end in mangle."""
    options: tuple[Written, ...] = (
        ("mangle", "PREROUTING", "-s {client} {ttl}"),
        ("mangle", "FORWARD", "-p udp {old} -j DROP"),
        ("mangle", "INPUT", "-p tcp -m tcp --dport 30010:30011 -j DROP"),
        ("mangle", "POSTROUTING", "-p tcp -m tcp --dport 443 -j DROP"),
        ("filter", "FORWARD", "-p tcp -m tcp --dport 8080 -m mark ! --mark 0x4000/0x4000 -j REJECT --reject-with tcp-reset"),
        ("filter", "INPUT", "-m conntrack --ctstate INVALID -j DROP"),
    )  # fmt: skip
    return several(choices, options, 3) or [options[0]]


def _resets(choices: Choices) -> list[Written]:
    """Refusals of TCP by a reset, which resets meet too: no reset answers a reset (K-3.2)."""
    hooks = several(choices, ("FORWARD", "INPUT", "OUTPUT"), 3) or ["FORWARD"]
    matches = ("-p tcp -m tcp --tcp-flags RST RST", "-p tcp -m tcp ! --tcp-flags SYN,ACK,RST SYN")
    return [("filter", hook, f"{pick(choices, matches)} -j REJECT --reject-with tcp-reset") for hook in hooks]


def _fitting(match: str, chain: str) -> str:
    """The match without what the chain's hook forbids: an input interface of packets that are made here or leave."""
    return "" if "-i " in match and chain in ("OUTPUT", "POSTROUTING") else match
