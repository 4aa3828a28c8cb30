"""Rules of nft, read by the model and by the machine's own nft (NFT-10).

None is accepted that nft or the kernel refuses, and none is read otherwise than nft lists it and prints it as JSON. The seeds
are fixed; ``make fuzz SUBJECT=nft`` draws new ones.
"""

from collections.abc import Iterator
from contextlib import closing

import pytest

from fuzz.nft_fuzzing import fuzz
from fuzz.nft_oracle import NftOracle, NftTally, Place
from kpsim.addresses import Family
from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from tests.nft_forms import HERE
from tests.nft_refusals import DOCUMENTS, REFUSED

pytestmark = pytest.mark.kernel


@pytest.fixture
def oracle(kernel: None) -> Iterator[NftOracle]:
    with closing(NftOracle()) as made:
        yield made


def test_no_drawn_rule_is_accepted_that_linux_refuses_or_read_otherwise(oracle: NftOracle) -> None:
    tally = NftTally()
    fuzz(oracle, 1, tally, 12)
    assert [str(found) for found in tally.found] == []
    assert tally.accepted > 60  # enough of what is drawn is right


@pytest.mark.parametrize(("place", "rule"), REFUSED, ids=[rule for _, rule in REFUSED])
def test_nft_refuses_what_the_model_refuses(oracle: NftOracle, place: Place, rule: str) -> None:
    """Each was accepted by the model once."""
    assert oracle.complaint(place.document([rule])) is not None


@pytest.mark.parametrize(("text", "taken"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_nft_takes_the_documents_that_the_model_takes(oracle: NftOracle, text: str, taken: bool) -> None:
    """A chain that no base chain reaches may hold a loop; one that is reached may not."""
    assert (oracle.complaint(text) is None) == taken


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
@pytest.mark.parametrize("form", Form, ids=lambda form: form.name)
def test_kube_proxys_table_is_taken_in_each_form_and_lists_back(oracle: NftOracle, family: Family, form: Form) -> None:
    """What kpsim writes is what nft reads: NFT-13 and NFT-14 through the kernel and back."""
    [ruleset] = DIALECT.parse((HERE / f"nft_kube_proxy_{family.label.lower()}_sent.txt").read_text())
    assert oracle.complaint(DIALECT.render(ruleset, form)) is None
    listed = oracle.listed()
    assert listed is not None
    [again] = DIALECT.parse(listed)
    assert again == ruleset
