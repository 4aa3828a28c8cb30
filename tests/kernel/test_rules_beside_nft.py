"""Rules of nft, read by the model and by the machine's own nft (NFT-10).

None is accepted that nft or the kernel refuses, and none is read otherwise than nft lists it and prints it as JSON. The seeds
are fixed; ``make fuzz SUBJECT=nft`` draws new ones.
"""

from collections.abc import Iterator
from contextlib import closing

import pytest

from fuzz.nft_fuzzing import fuzz
from fuzz.nft_oracle import NftOracle, NftTally, Place, read
from kpsim.addresses import Family
from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.errors import InputError
from tests.nft_forms import HERE

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


INET = Place("inet", "filter", "input")
#: each was accepted once although nft refuses it
REFUSED = [
    (INET, "masquerade"), (INET, "comment \"why\""), (INET, "accept counter"), (INET, "reject counter"),
    (INET, "meta l4proto { tcp, udp } tcp dport 5 accept"), (INET, "meta l4proto { tcp, udp } reject with tcp reset"),
    (INET, "ip saddr . th dport @conc accept"), (INET, "iif @names accept"), (INET, "log level loud"), (INET, "ip ttl set 300"),
    (INET, "ip saddr vmap { 192.0.2.1 : accept, 192.0.2.0/24 : drop }"), (INET, "meta nftrace set 5"),
    (INET._replace(hook="output"), "fib saddr oif exists accept"), (INET._replace(hook="postrouting"), "reject"),
    (INET._replace(hook="postrouting"), "fib daddr . iif type local accept"), (INET._replace(hook="forward"), "socket transparent 1 accept"),
    (Place("ip", "nat", "prerouting"), "masquerade"), (Place("ip", "nat", "postrouting"), "masquerade random fully-random"),
    (Place("ip", "nat", "postrouting"), "meta l4proto != tcp masquerade to :5-9"), (Place("ip", "nat", "input"), "dnat to 192.0.2.1"),
    (INET, "iifname reject"), (INET, "iifname { accept } drop"), (Place("inet", "nat", "prerouting"), "tcp dport 80 dnat ip to :8080"),
    (Place("ip", "filter", "input"), "meta nfproto ipv4 accept"), (Place("ip", "nat", "prerouting"), "dnat to fd00::1"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "rule"), REFUSED, ids=[rule for _, rule in REFUSED])
def test_what_nft_refuses_is_refused(oracle: NftOracle, place: Place, rule: str) -> None:
    """The model's reader is no laxer than nft."""
    text = place.document([rule])
    assert oracle.complaint(text) is not None
    assert isinstance(read(place, text), InputError)


CHAINS = (
    "add table ip t\nadd chain ip t a\nadd chain ip t b\nadd chain ip t c { type filter hook input priority 0 ; }\n"
)
LOOP = "add rule ip t a jump b\nadd rule ip t b jump a\n"


def nested(count: int) -> str:
    """A base chain and so many chains below it, each of which jumps to the next one."""
    chains = [f" chain c{number} {{\n jump c{number + 1}\n }}" for number in range(1, count)]
    base = " chain b {\n type filter hook input priority 0;\n jump c1\n }"
    return "\n".join(["table ip t {", *chains, f" chain c{count} {{\n }}", base, "}\n"])


DOCUMENTS = [
    (nested(15), True), (nested(16), False),
    (CHAINS + LOOP, True),
    (CHAINS + LOOP + "add rule ip t c jump a\n", False),
    ("table ip t {\n chain o {\n masquerade\n }\n chain c {\n type filter hook input priority 0;\n jump o\n }\n}\n", False),
    ("table ip t {\n map m {\n type ipv4_addr : verdict\n elements = { 1.2.3.4 : goto o }\n }\n chain o {\n reject\n }\n"
     " chain c {\n type filter hook postrouting priority 0;\n ip saddr vmap @m\n }\n}\n", False),
    ("table ip t {\n chain c {\n type nat hook prerouting priority -200;\n }\n}\n", False),
    ("table ip t {\n chain c {\n type nat hook forward priority 0;\n }\n}\n", False),
    ("table ip t {\n chain c {\n type route hook input priority 0;\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n elements = { 10.0.0.0/8 }\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n flags interval\n elements = { 10.0.0.0/8, 10.1.0.0/16 }\n }\n}\n", False),
    ("table ip t {\n set s {\n type ipv4_addr\n flags interval\n auto-merge\n elements = { 10.0.0.0/8, 10.1.0.0/16 }\n }\n}\n", True),
    ("table ip t {\n chain c {\n ip saddr 1.2.3.4 drop }\n}\n", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "taken"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_documents_are_taken_as_nft_takes_them(oracle: NftOracle, text: str, taken: bool) -> None:
    """A chain that no base chain reaches may hold a loop; one that is reached may not."""
    assert (oracle.complaint(text) is None) == taken
    try:
        DIALECT.parse(text)
    except InputError:
        assert not taken
    else:
        assert taken


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
