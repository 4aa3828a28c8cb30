"""Transactions of nft on rulesets: what is taken, what is refused, and what is counted (K-9, NFT-8.6, 8.8).

``kernel/test_transactions_in_linux`` asks Linux the same.
"""

import pytest
from nft_transactions import (
    CASES,
    CLIENTS,
    HOOKED,
    INPUT,
    KEY,
    PORTS,
    TABLE,
    VERDICTS,
    A,
    B,
    Case,
    add,
    begun,
    delete,
    drawn,
    flush,
    put,
    rule,
    take,
)

from kpsim.addresses import Family
from kpsim.ruleset import ACCEPT, Base, Chain, ChainType, Goto, Hook, Rule, Ruleset, Set, Table, Verdict
from kpsim.ruleset.operations import Operation, Refused, Verb, apply
from kpsim.ruleset.sets import PLAIN
from kpsim.verify.drawing.choices import SeededChoices


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_transaction_is_taken_or_refused_as_a_whole(case: Case) -> None:
    before = begun()
    if case.refusal is None:
        apply(before, case.operations)
    else:
        with pytest.raises(Refused) as refused:
            apply(before, case.operations)
        assert refused.value.refusal is case.refusal
        assert refused.value.operation == case.operations[-1] or len(case.operations) > 1
    assert before == begun()


def test_a_refusal_names_the_object() -> None:
    with pytest.raises(Refused, match=r"^delete chain ip t b: Device or resource busy$"):
        apply(begun(), [delete(B)])
    with pytest.raises(Refused, match=r"^add rule ip t absent: No such file or directory$"):
        apply(begun(), [rule("absent", ACCEPT)])
    with pytest.raises(Refused, match=r"^add element ip t verdicts: File exists$"):
        apply(begun(), [put(VERDICTS, 80, Goto("a"))])
    with pytest.raises(Refused, match=r"^flush table ip t: No such file or directory$"):
        apply(Ruleset(Family.IPV4), [flush(TABLE)])


def recounted(table: Table) -> dict[str, int]:
    """The use counts of a table that nobody has counted yet."""
    return dict(Table(table.key, table.chains, table.sets).uses)


def test_uses_are_counted_by_difference() -> None:
    choices = SeededChoices(1, "transactions")
    ruleset, taken = begun(), 0
    for _ in range(600):
        try:
            ruleset = apply(ruleset, drawn(choices))
        except Refused:
            continue
        taken += 1
        table = ruleset.tables[KEY]
        assert table.counted is not None
        assert dict(table.counted) == recounted(table)
    assert taken > 100


def test_untouched_objects_stay_the_same() -> None:
    before = begun().tables[KEY]
    ruleset = apply(begun(), [put(PORTS, 23)])
    refill = [Operation(Verb.ADD, KEY, each, "a") for each in ruleset.tables[KEY]["a"].rules]
    again = apply(ruleset, [flush(A), *refill]).tables[KEY]
    assert again["b"] is ruleset.tables[KEY]["b"]
    assert again["a"] is ruleset.tables[KEY]["a"]  # the same rules, so what was compiled for them still holds
    assert again.sets["ports"] is ruleset.tables[KEY].sets["ports"]
    assert again.sets["ports"] != before.sets["ports"]
    assert apply(ruleset, [add(PORTS), put(PORTS, 22)]).tables[KEY].sets["ports"] is again.sets["ports"]


def test_one_other_rule_makes_another_chain() -> None:
    rules = begun().tables[KEY]["a"].rules
    refill = [Operation(Verb.ADD, KEY, rules[0], "a"), rule("a", ACCEPT)]
    assert apply(begun(), [flush(A), *refill]).tables[KEY]["a"].rules == (rules[0], Rule((ACCEPT,)))


def test_an_added_object_is_empty() -> None:
    filled = Chain("new", begun().tables[KEY]["a"].rules)
    made = Set(begun().tables[KEY].sets["ports"].elements, "more", PORTS.type)
    table = apply(begun(), [add(filled), add(made)]).tables[KEY]
    assert table["new"].rules == ()
    assert not table.sets["more"].elements


def test_what_is_there_keeps_its_contents_and_comments() -> None:
    commented = [
        add(Table(KEY, comment="other")),
        add(Chain("a", comment="other")),
        add(Set(name="ports", type=PORTS.type, comment="other")),
        put(PORTS, 22, comment="other"),
    ]
    assert apply(begun(), commented) == begun()


def test_a_new_object_has_its_comment() -> None:
    made = apply(Ruleset(Family.IPV4), [add(Table(KEY, comment="t")), add(Chain("x", comment="c"))]).tables[KEY]
    assert (made.comment, made["x"].comment) == ("t", "c")


def test_another_time_is_taken_over_and_keeps_the_set() -> None:  # NFT-6.11
    longer = Set(name="clients", type=CLIENTS.type, flags=CLIENTS.flags, timeout_ns=7)
    before = begun().tables[KEY].sets["clients"]
    after = apply(begun(), [add(longer)]).tables[KEY].sets["clients"]
    assert (after.timeout_ns, after.generation) == (7, before.generation)


def test_a_policy_is_taken_over_only_if_it_is_said() -> None:
    dropping = Base(INPUT.type, INPUT.hook, INPUT.priority, Verdict.DROP)
    closed = apply(begun(), [add(Chain("hooked", base=dropping))])
    assert closed.tables[KEY]["hooked"].policy is Verdict.DROP
    assert len(closed.tables[KEY]["hooked"].rules) == 1
    assert apply(closed, [add(HOOKED)]) == closed
    filled = apply(begun(), [rule("hooked", ACCEPT), add(Chain("hooked", base=dropping))])
    assert len(filled.tables[KEY]["hooked"].rules) == 2


def test_base_chains_and_sets_are_numbered_as_they_are_made() -> None:
    def numbers(ruleset: Ruleset) -> tuple[int, int, int, int]:
        table = ruleset.tables[KEY]
        base = table["hooked"].base
        assert base is not None
        return base.registered, table.sets["verdicts"].generation, table.sets["clients"].generation, ruleset.made

    first = begun()
    assert numbers(first) == (1, 2, 4, 4)
    again = apply(first, [delete(HOOKED), add(HOOKED), flush(A), delete(CLIENTS), add(CLIENTS), add(VERDICTS)])
    assert numbers(again) == (5, 2, 6, 6)
    nat = Chain("nat", base=Base(ChainType.NAT, Hook.OUTPUT, -100))
    assert apply(again, [add(nat), add(Chain("plain")), add(HOOKED)]).made == 7


def test_flushing_and_deleting_elements() -> None:
    def elements(*operations: Operation) -> dict[object, object]:
        return dict(apply(begun(), operations).tables[KEY].sets["ports"].elements)

    assert elements(put(PORTS, 23)) == {(22,): PLAIN, (23,): PLAIN}
    assert elements(put(PORTS, 23), flush(PORTS), put(PORTS, 24)) == {(24,): PLAIN}
    assert elements(take(PORTS, 22)) == {}
    assert elements(take(PORTS, 22), put(PORTS, 22, comment="new")) != elements()


def test_tables_of_other_programs_stay_as_they_are() -> None:
    foreign = Table(KEY._replace(name="firewall"))
    ruleset = Ruleset(Family.IPV4, begun().tables.set(foreign.key, foreign), 4)
    after = apply(ruleset, [delete(TABLE)])
    assert after.tables == Ruleset.of(Family.IPV4, foreign).tables
    assert after.tables[foreign.key] is foreign
