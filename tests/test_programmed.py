"""What a kernel was told: look-ups of its rules by origin."""

from packets import rule, ruleset, table

from kpsim.addresses import Family
from kpsim.programmed import Programmed
from kpsim.ruleset import ACCEPT, DROP, Origin, Role, Rule

WEB = Origin(Role.ENDPOINT, "shop/web:http", "TCP", "10.180.0.3:8080")
FIRST, SECOND = Rule((ACCEPT,), origin=WEB), Rule((DROP,), origin=WEB)
TOLD = Programmed.of(ruleset(table("nat", OUTPUT=(FIRST,)), table("filter", INPUT=(rule(DROP), SECOND))))


def test_a_machine_that_has_just_booted() -> None:
    booted = Programmed.nothing(Family.IPV6)
    assert (booted.family, dict(booted.ruleset.tables)) == (Family.IPV6, {})
    assert not booted.has(Role.ENDPOINT)


def test_rules_are_found_by_role_and_by_origin() -> None:
    assert TOLD.has(Role.ENDPOINT)
    assert TOLD.has(Role.FOREIGN)
    assert not TOLD.has(Role.LOCALNET_FIREWALL)
    assert TOLD.has(WEB)
    assert not TOLD.has(WEB._replace(endpoint="10.180.0.4:8080"))
    assert set(map(id, TOLD.rules_of(WEB))) == {id(FIRST), id(SECOND)}
    assert TOLD.rules_of(Origin(Role.FORWARD_ACCEPT)) == ()


def test_what_was_asked_is_no_part_of_the_value() -> None:
    asked, fresh = Programmed.of(TOLD.ruleset), Programmed.of(TOLD.ruleset)
    assert asked.has(WEB)
    assert asked == fresh
    assert hash(asked.family) == hash(fresh.family)
