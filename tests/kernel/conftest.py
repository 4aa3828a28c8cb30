"""What kernel tests share: nodes of which there is one in the model and one in Linux."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from linux_pair import Pair

from kpsim.addresses import Family


@pytest.fixture
def pair_of(kernel: None) -> Iterator[Callable[..., Pair]]:
    """Makes pairs with these rules, as iptables-save prints them, for as long as the test runs."""
    with ExitStack() as made:
        yield lambda rules, family=Family.IPV4: made.enter_context(closing(Pair(rules, family)))
