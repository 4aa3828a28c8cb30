"""Fixtures that kernel tests share: namespaces, and nodes that exist in the model and in Linux."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from labs import PODS, number_of, small_machine
from nft_twin import NftTwin

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools.variants import Variant
from kpsim.nodes import Machine
from kpsim.verify.twin import Twin


@pytest.fixture
def namespace(kernel: None) -> Iterator[Namespace]:
    """A new, empty namespace."""
    with closing(Namespace()) as made:
        yield made


@pytest.fixture
def twin_of(kernel: None) -> Iterator[Callable[..., Twin]]:
    """Makes twins of a small node with two pods and these rules, as iptables-save prints them, for as long as the
    test runs.
    """
    with ExitStack() as made:

        def make(
            rules: str, family: Family = Family.IPV4, variant: Variant = Variant.NFT, *, machine: Machine | None = None
        ) -> Twin:
            twin = made.enter_context(closing(Twin(machine or small_machine(family), family, variant)))
            assert twin.load(parse(rules, family)) is None
            twin.linux.add_pods(map(number_of, PODS[family]))
            return twin

        yield make


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[Family], NftTwin]]:
    """Makes one twin for each family and keeps it for the module."""
    twins: dict[Family, NftTwin] = {}

    def make(family: Family) -> NftTwin:
        if family not in twins:
            twins[family] = NftTwin(Twin(small_machine(family), family))
            pods = PODS[family]
            twins[family].twin.linux.add_pods(map(number_of, pods))
        return twins[family]

    yield make
    for each in twins.values():
        each.twin.close()


@pytest.fixture
def linux(kernel: None, made: Callable[[Family], NftTwin]) -> NftTwin:
    """A node whose tables of nft a test loads."""
    return made(Family.IPV4)
