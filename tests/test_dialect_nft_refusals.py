"""What nft and the kernel refuse, the reader refuses, and says why. ``tests/kernel/test_rules_beside_nft.py`` asks nft."""

import pytest

from fuzz.nft_oracle import NftTally, Place, fuzz_place, read
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.errors import InputError
from tests.nft_refusals import CHAINS, DOCUMENTS, HOOKS, LOOP, REFUSED, TAKEN, WHY, nested


@pytest.mark.parametrize(("place", "rule"), REFUSED, ids=[rule for _, rule in REFUSED])
def test_what_nft_refuses_is_refused(place: Place, rule: str) -> None:
    """The reader is no laxer than nft."""
    assert isinstance(read(place, place.document([rule])), InputError)


def taken_at(of: str, statement: str) -> str:
    """The hooks where the reader takes a statement."""
    hooks = [hook for hook in HOOKS if (of, hook) != ("nat", "forward")]
    places = [Place("inet", of, hook) for hook in hooks]
    return " ".join(at.hook for at in places if not isinstance(read(at, at.document([statement])), InputError))


@pytest.mark.parametrize(("of", "statement", "hooks"), TAKEN, ids=[f"{of} {statement}" for of, statement, _ in TAKEN])
def test_where_a_statement_may_stand(of: str, statement: str, hooks: str) -> None:
    assert taken_at(of, statement) == hooks


@pytest.mark.parametrize(("text", "taken"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_documents_are_taken_as_nft_takes_them(text: str, taken: bool) -> None:
    """A chain that no base chain reaches may hold a loop; one that is reached may not."""
    try:
        DIALECT.parse(text)
    except InputError:
        assert not taken
    else:
        assert taken


@pytest.mark.parametrize(("place", "rule", "why"), WHY, ids=[rule for _, rule, _ in WHY])
def test_the_reason_is_said(place: Place, rule: str, why: str) -> None:
    found = read(place, place.document([rule]))
    assert isinstance(found, InputError)
    assert why in str(found)


CHAINS_REFUSED = [
    (CHAINS + LOOP + "add rule ip t c jump a\n", "f:2: its jumps lead back to itself (t/a)"),
    (nested(16), "f:49: its jumps nest deeper than 16 chains (t/b)"),
    (
        nested(5)
        + "add chain ip t e { type filter hook output priority 0 ; }\nadd rule ip t e jump c1\nadd rule ip t c5 jump c3\n",
        "f:8: its jumps lead back to itself (t/c3)",
    ),
]


@pytest.mark.parametrize(("text", "why"), CHAINS_REFUSED, ids=[why for _, why in CHAINS_REFUSED])
def test_a_chain_that_loops_or_nests_too_deeply_is_named_once(text: str, why: str) -> None:
    """However many base chains lead there."""
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert str(refused.value) == why


class Silent:
    """An oracle that takes everything and lists nothing."""

    def complaint(self, text: str) -> str | None:
        return None

    def listed(self, *options: str) -> str | None:
        return None


def test_drawing_is_a_function_of_the_seed_and_draws_right_and_wrong_rules() -> None:
    place = Place("inet", "filter", "input")
    tallies = [NftTally(), NftTally()]
    for tally in tallies:
        fuzz_place(Silent(), place, 3, tally, 30)  # type: ignore[arg-type]
    assert str(tallies[0]) == str(tallies[1])
    assert 5 < tallies[0].accepted < 25
