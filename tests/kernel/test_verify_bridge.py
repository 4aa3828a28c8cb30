"""A pod and its neighbours behind one bridge, with hairpin on or off, and with netfilter called or not (K-2.6).

Model and Linux agree in every combination. The expected fate of each packet is written here from the specification; the
comparison checks that both have it.
"""

from dataclasses import replace

import pytest
from labs import number_of

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot, Where
from kpsim.nodes import Machine, make_machine
from kpsim.packet import Packet
from kpsim.packetpath.routing import InterfaceKind, Routing
from kpsim.sysctls import Sysctls
from kpsim.verify.twin import Exchange, Twin

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
_POD, _NEIGHBOUR, _SERVICE, _OTHER = (
    {V4: "10.180.0.5", V6: "fd00:180::5"}, {V4: "10.180.0.6", V6: "fd00:180::6"},
    {V4: "172.30.0.10", V6: "fd00:172:30::10"}, {V4: "172.30.0.11", V6: "fd00:172:30::11"},
)  # fmt: skip
#: of the Service's endpoint is the pod itself; kube-proxy masquerades what goes back to its sender (I-7). The other's is the neighbour
_RULES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d {service} -p tcp -m tcp --dport 80 -j DNAT --to-destination {pod}:8080
-A PREROUTING -d {other} -p tcp -m tcp --dport 80 -j DNAT --to-destination {neighbour}:8080
{masquerade}COMMIT
"""


def machine(*, hairpin: bool, calls: bool) -> Machine:
    sysctls = Sysctls(bridge_nf_call_iptables=calls, bridge_nf_call_ip6tables=calls)
    made = make_machine(["192.168.0.1", "2001:db8:1::1"], ["10.180.0.0/24", "fd00:180::/64"], sysctls=sysctls)
    interfaces = [
        replace(each, hairpin=hairpin) if each.kind is InterfaceKind.BRIDGE else each
        for each in made.routing.interfaces.values()
    ]
    return replace(made, routing=Routing(interfaces, made.routing.routes))


def rules(family: Family, *, masquerades: bool) -> str:
    length, wrap = f"/{family.bits}", "[{}]" if family is V6 else "{}"
    back = f"-A POSTROUTING -s {_POD[family]}{length} -d {_POD[family]}{length} -j MASQUERADE\n"
    return _RULES.format(
        service=_SERVICE[family] + length, other=_OTHER[family] + length, pod=wrap.format(_POD[family]),
        neighbour=wrap.format(_NEIGHBOUR[family]), masquerade=back if masquerades else "",
    )  # fmt: skip


def shot(family: Family, destination: dict[Family, str], dport: int, sport: int) -> Shot:
    ends = number_of(_POD[family]), number_of(destination[family])
    return Shot(Packet(family, "tcp", *ends, sport, dport, in_interface="cni0"))


def agreed(exchanges: list[Exchange]) -> list[tuple[Where, int, int] | None]:
    """Where each came out, at whom, with which time to live; None: nowhere. AssertionError if the two disagree."""
    assert [str(difference) for each in exchanges for difference in each.differences] == []
    seen = [each.heard.sightings for each in exchanges]
    return [(s[0].where, s[0].packet.daddr, s[0].packet.ttl) if s else None for s in seen]


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
@pytest.mark.parametrize("calls", [True, False], ids=["netfilter called", "not called"])
@pytest.mark.parametrize("hairpin", [True, False], ids=["hairpin", "no hairpin"])
def test_all_combinations(hairpin: bool, calls: bool, family: Family, variant: Variant) -> None:
    twin = Twin(machine(hairpin=hairpin, calls=calls), family, variant)
    pod, neighbour = number_of(_POD[family]), number_of(_NEIGHBOUR[family])
    try:
        for masquerades in (True, False):
            assert twin.load(parse(rules(family, masquerades=masquerades), family)) is None
            twin.forget()
            sent = [
                shot(family, _SERVICE, 80, 40001), shot(family, _OTHER, 80, 40002), shot(family, _NEIGHBOUR, 8080, 40003),
            ]  # fmt: skip
            exchanges = twin.exchange(sent)
            itself, other, direct = agreed(exchanges)
            # switched packets keep their time to live, routed ones spend a hop
            hops = 64 if calls else 63
            # without the call the node routes packets to the Service back out by the bridge, and a bridge checks ports
            # only when it switches
            back = (Where.POD, pod, hops)
            assert itself == (back if hairpin or not calls else None)
            assert other == (Where.POD, neighbour, hops)
            assert direct == (Where.POD, neighbour, 64)
            answers = [Shot(answer) for each in exchanges if (answer := each.answer())]
            assert len(answers) == (3 if itself else 2)
            agreed(twin.exchange(answers))
    finally:
        twin.close()


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
def test_answers_between_neighbours_that_netfilter_does_not_see_are_not_translated_back(family: Family) -> None:
    """The known trap of bridge-nf-call-iptables = 0: an address that the client never called answers it (K-2.6)."""
    for calls in (True, False):
        twin = Twin(machine(hairpin=True, calls=calls), family)
        try:
            assert twin.load(parse(rules(family, masquerades=False), family)) is None
            twin.linux.add_pods([number_of(_NEIGHBOUR[family])])
            exchanges = twin.exchange([shot(family, _OTHER, 80, 40002)])
            assert agreed(exchanges)
            answer = exchanges[0].answer()
            assert answer is not None
            [heard] = twin.exchange([Shot(answer)])
            assert agreed([heard]) == [(Where.POD, number_of(_POD[family]), 64)]
            source = (_OTHER if calls else _NEIGHBOUR)[family]
            assert heard.heard.sightings[0].packet.saddr == number_of(source)
        finally:
            twin.close()
