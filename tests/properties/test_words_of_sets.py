"""What people are told of sets of addresses and ports names exactly the set."""

import re
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsim.addresses import Family, parse_network
from kpsim.comparison.behaviour.spaces import Values, lacking, networks, unite
from kpsim.inputs import Json
from kpsim.migration.differences import Client, Differing, grouped
from kpsim.migration.page import _ports as ports_but
from kpsim.tracing.site import Sender

#: addresses of a small network, of which any set may be drawn
BASE = 0xAC1E0000
ADDRESSES = range(16)


def values(numbers: Iterable[int], base: int = BASE) -> Values:
    return unite([((base + each, base + each),) for each in numbers])


def named(cidrs: Iterable[str]) -> frozenset[int]:
    """The addresses of the small network that some CIDRs have."""
    found = [network for text in cidrs if (network := parse_network(text)) is not None]
    return frozenset(each for each in ADDRESSES if any(BASE + each in network for network in found))


sets = st.frozensets(st.sampled_from(ADDRESSES))


@given(sets)
def test_cidrs_have_exactly_the_addresses_of_a_set(some: frozenset[int]) -> None:
    assert named(str(each) for each in networks(Family.IPV4, values(some))) == some


@given(sets, sets)
def test_a_set_without_another(some: frozenset[int], gone: frozenset[int]) -> None:
    assert lacking(values(some), values(gone)) == values(some - gone)


class Pods:
    """The clients of each node."""

    def __init__(self, of: Mapping[str, frozenset[int]]) -> None:
        self.of = of

    def sources(self, family: Family, node: str, sender: Sender) -> Values:
        return values(self.of[node])


def from_pods(node: str, source: frozenset[int]) -> Differing:
    def answer(verdict: str) -> Json:
        return {"disposition": "delivered", "outcomes": [], "by": None, "exchange": {verdict: "1"}}

    return Differing(
        "shop/web:p", Family.IPV4, node, Sender.POD, "TCP", values(source), ((BASE, BASE),), ((80, 80),), answer("works"),
        answer("refused"), "reason", "NFT-5.7",
    )  # fmt: skip


@given(st.dictionaries(st.sampled_from(["node-1", "node-2"]), st.tuples(sets, sets), min_size=1))
def test_clients_of_a_migration(drawn: dict[str, tuple[frozenset[int], frozenset[int]]]) -> None:
    """A client is told by its sources, or as all of its node's but some: at each node these are exactly its sources."""
    pods = Pods({node: every for node, (every, _) in drawn.items()})
    found = {node: every & some for node, (every, some) in drawn.items() if every & some}
    if not found:
        return
    [group] = grouped([from_pods(node, sources) for node, sources in found.items()], pods)
    [client] = group.rows[0].clients
    assert client.sender == "pod"
    if client.sources:
        assert named(client.sources) == frozenset().union(*found.values())
    else:
        assert {node: pods.of[node] - named(client.all_but) for node in found} == found


def test_a_source_that_is_left_out_on_one_node_only_is_no_exception() -> None:
    pods = Pods(dict.fromkeys(("node-1", "node-2"), frozenset({1, 2, 3})))
    [group] = grouped([from_pods("node-1", frozenset({1, 2})), from_pods("node-2", frozenset({1, 2, 3}))], pods)
    assert group.rows[0].clients == (Client("pod", sources=("172.30.0.1/32", "172.30.0.2/31")),)


@pytest.mark.parametrize("last", [12, 65535])
@given(some=st.frozensets(st.sampled_from(range(1, 12)), max_size=8))
def test_ports(some: frozenset[int], last: int) -> None:
    """Ports are told one by one, as stretches, or as all but some; up to four of them."""
    ports = unite([values(some, 0), ((last, last),)]) if last == 12 else unite([values(some, 0), ((12, last),)])
    if len(ports) > 4:
        return
    text = ports_but(ports)
    told = {
        number
        for low, high in re.findall(r"(\d+)(?:–(\d+))?", text)
        for number in range(int(low), int(high or low) + 1)
    }
    if not text or "but" in text:
        told = set(range(1, 65536)) - told
    assert told == {number for low, high in ports for number in range(low, high + 1)}
