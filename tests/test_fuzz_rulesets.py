"""The drawing of rulesets: every option that kpsim has is drawn, the same seed draws the same, and a table names subjects."""

from importlib import import_module

from fuzz.__main__ import SUBJECTS, main
from fuzz.rule_words import MATCHES, TARGETS
from fuzz.ruleset_drawing import document, draw_document, draw_rule
from fuzz.ruleset_oracle import by_table, read
from kpsim.addresses import Family
from kpsim.dialects.iptables.options import (
    EXTENSIONS,
    FOREIGN_MATCHES,
    FOREIGN_TARGETS,
    OPTION_MODULES,
    OPTIONS,
    PORT_MODULES,
    Place,
)
from kpsim.errors import InputError
from kpsim.verify.drawing.choices import SeededChoices

#: with objects that a machine must have first; ipsets have a subject of their own
NEEDS_OBJECTS = {"--nfacct-name", "--timeout", "--expevents", "--match-set"}
#: of -m ipvs, which no kernel at hand has
NEEDS_IPVS = {"--ipvs", "--vproto", "--vaddr", "--vport", "--vdir", "--vmethod"}


def test_every_option_that_kpsim_reads_is_drawn() -> None:
    drawn = {option for options in (*MATCHES.values(), *TARGETS.values()) for option in options}
    single = {row.names[0] for row in OPTIONS if row.place is not Place.HEADER}
    grouped = {option for row in EXTENSIONS for option in row.options}
    assert (single | grouped) - drawn == NEEDS_OBJECTS | NEEDS_IPVS


def test_what_is_called_foreign_is_not_modelled() -> None:
    assert not FOREIGN_MATCHES & (
        OPTION_MODULES | {*PORT_MODULES} | {row.target for row in EXTENSIONS if row.flag == "-m"}
    )
    assert not FOREIGN_TARGETS & {row.target for row in EXTENSIONS if row.flag == "-j"}


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    def drawn(seed: int) -> tuple[str, str]:
        choices = SeededChoices(seed, "test")
        return draw_rule(choices, Family.IPV4, "filter", "INPUT"), draw_document(choices, Family.IPV6)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(20)}) == 20


def test_whatever_is_drawn_is_read_or_refused() -> None:
    """No traceback; a part of what is drawn is right, and a part is wrong."""
    found = [read(draw_document(SeededChoices(seed, "d"), family), family) for seed in range(60) for family in Family]
    for seed in range(200):
        words = draw_rule(SeededChoices(seed, "r"), Family.IPV4, "mangle", "CH-1")
        found.append(read(document("mangle", [("CH-1", words)]), Family.IPV4))
    refused = sum(isinstance(each, InputError) for each in found)
    assert 0.1 < refused / len(found) < 0.9


def test_what_two_tools_print_in_two_ways_is_compared_as_one() -> None:
    one = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp ! --dport 0:80 -j DROP\nCOMMIT\n*nat\n:INPUT ACCEPT [1:2]\nCOMMIT\n"
    two = "# text\n*filter\n:INPUT ACCEPT [5:6]\n-A INPUT -p tcp -m tcp --dport 81:65535 -j DROP\nCOMMIT\n"
    assert by_table(one) == by_table(two) != by_table(two.replace("81", "82"))


def test_every_subject_has_a_main() -> None:
    for module in SUBJECTS.values():
        assert callable(import_module(module).main)
    assert main(["nonsense"]) == 2
