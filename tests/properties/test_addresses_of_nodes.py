"""The owners of addresses: the fabric's dictionaries answer what a scan over all nodes answers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kpsim.addresses import Family, Network
from kpsim.fabric import Arrival, Fabric, Place, Whose
from kpsim.netfilter import Netns
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, RouteKind, Routing

V4 = Family.IPV4
#: few addresses in one network, so that nodes share some and prefixes overlap
BASE = 0x0A_B4_00_00
PREFIXES = (0, 16, 27, 28, 29, 30, 31, 32)
values = st.integers(BASE, BASE + 15)


def networks() -> st.SearchStrategy[Network]:
    return st.builds(lambda value, prefix: Network.around(V4, value, prefix), values, st.sampled_from(PREFIXES))


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    own = st.lists(st.builds(OwnAddress, st.just(V4), values, st.sampled_from(PREFIXES[1:])), max_size=2)
    kinds = draw(st.lists(st.sampled_from(InterfaceKind), min_size=1, max_size=4))
    interfaces = [
        Interface(f"dev{number}", tuple(draw(own)), kind, up=draw(st.booleans())) for number, kind in enumerate(kinds)
    ]
    routes = []
    for network in draw(st.lists(networks(), max_size=4)):
        if draw(st.integers(0, 5)):
            device = draw(st.sampled_from(interfaces)).name
            routes.append(Route(network, device, metric=draw(st.integers(0, 1))))
        else:
            routes.append(Route(network, kind=RouteKind.BLACKHOLE))
    return Routing(interfaces, routes)


def scanned_place(fabric: Fabric, address: int) -> Place:
    for name, netns in fabric.nodes.items():
        interface = netns.routing.interface_of(V4, address)
        if interface is not None and interface.kind is not InterfaceKind.LOOPBACK:
            return Place(Whose.PROCESS, name)
    for name, netns in fabric.nodes.items():
        routing = netns.routing
        decision = routing.lookup(V4, address)
        carrier = routing.interfaces.get(decision.interface) if decision is not None and decision.route else None
        if carrier is not None and carrier.has_pods:
            return Place(Whose.POD, name, address)
    return Place(Whose.OUTSIDE)


def scanned_neighbour(fabric: Fabric, address: int) -> Arrival | None:
    for name, netns in fabric.nodes.items():
        interface = netns.routing.interface_of(V4, address)
        if interface is not None and interface.kind is InterfaceKind.LINK and interface.up:
            return Arrival(name, interface.name)
    return None


@settings(max_examples=200)
@given(st.lists(routings(), min_size=1, max_size=4), st.lists(st.tuples(st.integers(0, 3), routings()), max_size=2))
def test_dictionaries_answer_as_a_scan(at_first: list[Routing], changes: list[tuple[int, Routing]]) -> None:
    fabric = Fabric({f"n{number}": Netns(f"n{number}", routing) for number, routing in enumerate(at_first)})
    for number, routing in [(0, at_first[0]), *changes]:  # a node may get another routing at any time
        fabric.nodes[f"n{number % len(at_first)}"].routing = routing
        for address in (*range(BASE - 1, BASE + 17), 127 << 24 | 1):
            assert fabric.place_of(V4, address) == scanned_place(fabric, address)
            assert fabric.neighbour(V4, address) == scanned_neighbour(fabric, address)
