"""Random rulesets, read by the model and by the machine's own iptables-restore.

None is accepted that the tool or the kernel refuses, and none is read otherwise than iptables-save prints it. The seeds
are fixed; ``make fuzz SUBJECT=rulesets`` draws new ones.
"""

from collections.abc import Iterator
from contextlib import closing

import pytest

from fuzz.ruleset_fuzzing import fuzz
from fuzz.ruleset_oracle import Oracle, RulesetTally, by_table, compare, read
from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.lab.tools.variants import Variant

pytestmark = pytest.mark.kernel
VARIANTS = pytest.mark.parametrize("variant", list(Variant))
FAMILIES = pytest.mark.parametrize("family", Family)
_SEEDS = range(8)


@pytest.fixture
def oracle(kernel: None, family: Family, variant: Variant) -> Iterator[Oracle]:
    with closing(Oracle(family, variant)) as made:
        yield made


@VARIANTS
@FAMILIES
def test_no_drawn_ruleset_is_accepted_that_linux_refuses_or_read_otherwise(oracle: Oracle) -> None:
    tally = RulesetTally()
    for seed in _SEEDS:
        fuzz([oracle], seed, tally)
    assert [str(found) for found in tally.found] == []
    assert tally.accepted > len(_SEEDS) * 10  # enough of what is drawn is right


#: each was accepted once although Linux refuses it, or read otherwise
FOUND = [
    "*filter\n-A INPUT -p tcp -m tcp --dport 010 -j ACCEPT\nCOMMIT\n",
    "*filter\n-A INPUT -p udp -m udp --dport 010:0100 -j ACCEPT\nCOMMIT\n",
    "*filter\n-A INPUT -m conntrack --ctorigdstport 010 -j ACCEPT\nCOMMIT\n",
    "*nat\n-A PREROUTING -p tcp -j DNAT --to-destination :0x50\nCOMMIT\n",
    "*filter\n-A INPUT -p 006 -j ACCEPT\nCOMMIT\n",
    "*filter\n-A INPUT -p 135 -j ACCEPT\nCOMMIT\n",
    "*raw\n-A PREROUTING -p tcp -m state -m conntrack --ctdir REPLY -j ACCEPT --state NEW\nCOMMIT\n",
    "*filter\n:A - [0:0]\n-A A -j NFLOG --nflog-range 100 --nflog-group 0\nCOMMIT\n",
    "*nat\n:A - [0:0]\n-A A -p tcp -j REDIRECT --random --to-ports 15001\nCOMMIT\n",
    "[1:2] # text\n*filter\nCOMMIT\n",
    "*filter\n:A - [0:0]\n-A OUTPUT -j A\n-A A -m physdev ! --physdev-is-in -m owner ! --socket-exists -j DROP\nCOMMIT\n",
    "*filter\n-A INPUT -m addrtype --src-type LOCAL --limit-iface-in -m addrtype ! --dst-type LOCAL -j DROP\nCOMMIT\n",
]


@VARIANTS
@FAMILIES
def test_what_was_found_stays_mended(oracle: Oracle) -> None:
    for text in FOUND:
        if isinstance(read(text, oracle.family), InputError):
            assert oracle.takes(text) is not None, text
        else:
            assert compare(oracle, text) is None, text


@VARIANTS
@pytest.mark.parametrize("family", [Family.IPV4])
def test_a_rule_for_each_address_stands_where_iptables_puts_it(oracle: Oracle) -> None:
    """K-20.7, also for rules that are inserted."""
    text = (
        "*filter\n-A INPUT -j DROP\n-I INPUT -s 10.0.0.1,10.0.0.2 -j ACCEPT\n-I INPUT 2 -d 10.0.0.3,10.0.0.4\n"
        ":A - [0:0]\n-I A -s 10.0.0.1,10.0.0.2 -j ACCEPT\nCOMMIT\n"
    )
    ours = read(text, oracle.family)
    assert isinstance(ours, str)
    assert oracle.takes(text) is None
    assert oracle.held() == by_table(ours)


#: a text, and what a wrong reader would make of it
PLANTED = [
    (
        "*filter\n-A INPUT -p tcp -m tcp --dport 010 -j ACCEPT\nCOMMIT\n",
        ("--dport 8", "--dport 10"),
        "the kernel holds",
    ),
    ("*filter\n-A INPUT -s 10.0.0.0/8 -j DROP\nCOMMIT\n", ("-s 10", "! -s 10"), "the kernel holds"),
    ("*filter\n:A - [0:0]\n-A A -j DROP\nCOMMIT\n", ("-A A -j DROP\n", ""), "the kernel holds"),
    ("*nat\n-A INPUT -j MASQUERADE\nCOMMIT\n", None, "the tool refuses it"),
    ("*filter\n-A INPUT -m nonsense\nCOMMIT\n", None, "the tool refuses it"),
]


@VARIANTS
@pytest.mark.parametrize("family", [Family.IPV4])
def test_a_wrong_reader_is_found_out(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, change, why in PLANTED:
        right = read(text, oracle.family) if change else text
        assert isinstance(right, str)
        wrong = right.replace(*change) if change else text
        monkeypatch.setattr("fuzz.ruleset_oracle.read", lambda *_, wrong=wrong: wrong)
        found = compare(oracle, text)
        monkeypatch.undo()
        assert found is not None and why in found.why, text
