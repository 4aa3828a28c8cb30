"""The rule model: what a value says of itself, and in which order a table's chains come."""

from collections.abc import Callable

import pytest
from packets import net, rule, ruleset, table
from rule_parts import from_net, of_protocol

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    FOREIGN,
    TCP_FLAG_BITS,
    Adjust,
    Base,
    Chain,
    ChainType,
    Compare,
    Counter,
    Field,
    FieldType,
    Hook,
    Jump,
    Limit,
    Log,
    NamePattern,
    Origin,
    Recent,
    Role,
    Rule,
    RuleReference,
    Ruleset,
    Space,
    Table,
    TableKey,
    Verdict,
    among,
    equal,
    moves_nothing,
    named,
    target_of,
    united,
    within,
)


@pytest.mark.parametrize(
    ("ranges", "intervals"),
    [
        ([], ()), ([(80, 80)], ((80, 80),)), ([(90, 99), (80, 81)], ((80, 81), (90, 99))),
        # the same numbers are written in one way only: what overlaps or touches is one interval
        ([(1, 5), (3, 9)], ((1, 9),)), ([(1, 9), (3, 5)], ((1, 9),)), ([(1, 5), (6, 9)], ((1, 9),)),
        ([(1, 5), (5, 9)], ((1, 9),)), ([(1, 5), (7, 9)], ((1, 5), (7, 9))), ([(7, 7), (6, 6), (5, 5)], ((5, 7),)),
    ],
)  # fmt: skip
def test_numbers_are_sorted_intervals_with_gaps_between_them(ranges, intervals):
    assert among(ranges) == intervals


@pytest.mark.parametrize(
    ("compare", "value", "name"),
    [
        (equal(Field.DPORT, 80), 80, None), (equal(Field.MARK, 0, mask=1), 0, None),
        (Compare(Field.DPORT, ((80, 81),)), None, None), (Compare(Field.DPORT, ((80, 80), (90, 90))), None, None),
        (Compare(Field.DPORT, ()), None, None), (named(Field.L4PROTO, "tcp"), None, "tcp"),
        (named(Field.L4PROTO, "tcp", "udp"), None, None), (named(Field.L4PROTO), None, None),
        (Compare(Field.IIFNAME, NamePattern("cali")), None, None),
    ],
)  # fmt: skip
def test_a_comparison_knows_the_one_value_that_it_compares_with(compare, value, name):
    assert (compare.value, compare.name) == (value, name)


def test_a_network_is_its_base_and_its_mask_and_a_host_needs_none():
    assert within(Field.SADDR, net("10.180.0.0/16")) == equal(Field.SADDR, 0x0AB40000, mask=0xFFFF0000)
    assert within(Field.SADDR, net("10.180.0.3"), negate=True) == equal(Field.SADDR, 0x0AB40003, negate=True)
    assert within(Field.DADDR, net("::1/128")) == equal(Field.DADDR, 1)


def test_values_of_a_field_have_the_fields_type():
    types = {
        FieldType.ADDRESS: {Field.SADDR, Field.DADDR, Field.CT_ORIGINAL_DADDR, Field.IPVS_VADDR},
        FieldType.PORT: {
            Field.SPORT,
            Field.DPORT,
            Field.CT_ORIGINAL_DPORT,
            Field.SPORT_OR_TYPE,
            Field.DPORT_OR_TYPE,
            Field.SPORT_OF_BITMAP,
            Field.DPORT_OF_BITMAP,
            Field.IPVS_VPORT,
        },
        FieldType.BYTE: {
            Field.ICMP_TYPE,
            Field.ICMP_CODE,
            Field.TCP_FLAGS,
            Field.TTL,
            Field.TRAFFIC_CLASS,
            Field.DSCP,
            Field.ECN,
        },
        FieldType.MARK: {Field.MARK, Field.CT_MARK},
        FieldType.NAMES: {Field.CT_STATE, Field.CT_STATUS},
        FieldType.NUMBER: {Field.LENGTH, Field.UID, Field.GID},
    }
    for kind, fields in types.items():
        assert {field for field in Field if field.type is kind} == fields
    names = set(Field) - set().union(*types.values())
    assert {field.type for field in names} == {FieldType.NAME}


def test_tcp_flags_are_numbered_as_in_the_header():
    """RFC 9293 3.1, control bits, the last of them first."""
    assert list(TCP_FLAG_BITS.items()) == [("FIN", 1), ("SYN", 2), ("RST", 4), ("PSH", 8), ("ACK", 16), ("URG", 32)]


def test_the_target_of_a_rule_is_the_statement_at_its_end():
    assert rule(of_protocol("tcp"), DROP).target == DROP == target_of((Log(), DROP))
    assert rule(Log(), of_protocol("tcp")).target is None
    assert target_of(()) is None


@pytest.mark.parametrize(
    ("body", "nothing"),
    [
        ((Log(),), True), ((of_protocol("tcp"), Adjust("TCPMSS")), True), ((Limit(1, "sec"), Log()), True), ((DROP,), False),
        ((Recent("L", "set"), Log()), False), ((Counter("n"), Adjust("TOS")), False), ((Counter("n"),), False), ((), False),
    ],
)  # fmt: skip
def test_a_rule_that_only_logs_moves_nothing_unless_something_remembers_the_packet(body, nothing):
    assert moves_nothing(body) is nothing


def test_rules_are_equal_whatever_their_origin_and_spelling():
    plain = Rule((ACCEPT,), "why")
    assert plain == Rule((ACCEPT,), "why", Origin(Role.ENDPOINT), "-j ACCEPT")
    assert plain != Rule((ACCEPT,))
    assert plain != Rule((DROP,), "why")
    assert (plain.origin, plain.spelling) == (FOREIGN, None)


def test_chains_are_equal_if_name_base_and_rules_are():
    base = Base(ChainType.FILTER, Hook.INPUT, 0)
    chain = Chain("A", (rule(ACCEPT),), base)
    assert chain == Chain("A", (rule(ACCEPT),), base)
    assert hash(chain) == hash(Chain("A", (rule(ACCEPT),), base))
    for other in (Chain("B", chain.rules, base), Chain("A", (), base), Chain("A", chain.rules), "A"):
        assert (chain == other) is False
    assert (chain.policy, Chain("A").policy) == (Verdict.ACCEPT, None)
    assert (repr(chain), repr(Chain("A"))) == ("Chain('A', base=filter hook input priority 0)", "Chain('A', base=None)")


def test_chains_come_in_the_order_in_which_netfilter_calls_them():
    """Of one hook by priority and name; those that are only jumped to follow by name."""

    def base(hook: Hook, priority: int) -> Base:
        return Base(ChainType.FILTER, hook, priority)

    chains = [
        Chain("z", base=base(Hook.INPUT, 0)), Chain("y", base=base(Hook.POSTROUTING, -9)), Chain("x", base=base(Hook.INPUT, -1)),
        Chain("w", base=base(Hook.PREROUTING, 9)), Chain("v", base=base(Hook.INPUT, 0)), Chain("b"), Chain("a"),
        Chain("u", base=base(Hook.OUTPUT, -300)), Chain("t", base=base(Hook.FORWARD, 300)),
    ]  # fmt: skip
    made = Table(TableKey(Space.IP, "filter"), Map({chain.name: chain for chain in chains}))
    assert [chain.name for chain in made.base_chains()] == ["w", "x", "v", "z", "t", "u", "y"]
    assert [chain.name for chain in made.ordered()] == ["w", "x", "v", "z", "t", "u", "y", "a", "b"]
    assert made["a"] is made.chains["a"]


def test_what_is_told_of_a_base_and_of_a_rules_place():
    assert str(Base(ChainType.NAT, Hook.PREROUTING, -100)) == "nat hook prerouting priority -100"
    named_rule = Rule((DROP,), "why")
    assert str(RuleReference("filter", "A", 2, named_rule)) == "filter/A rule 2 (why)"
    assert str(RuleReference("filter", "A", 2, rule(DROP))) == "filter/A rule 2"
    assert str(RuleReference("filter", "INPUT", 3, None)) == "filter/INPUT policy"


def test_rulesets_are_united_unless_a_table_is_in_both():
    filters, nat = table("filter", INPUT=(rule(DROP),)), table("nat")
    both = united(ruleset(filters, family=Family.IPV6), ruleset(nat, family=Family.IPV6))
    assert both == ruleset(filters, nat, family=Family.IPV6)
    assert [str(each.key) for each in both.in_order()] == ["filter", "nat"]
    assert both.chain("filter", "INPUT").rules == (rule(DROP),)
    with pytest.raises(ValueError, match=r"^table nat of IPv6 twice$"):
        united(both, ruleset(nat, family=Family.IPV6))


@pytest.mark.parametrize("missing", [lambda rules: rules.chain("nat", "A"), lambda rules: rules.chain("filter", "A")])
def test_a_chain_that_is_not_there_is_a_key_error(missing: Callable[[Ruleset], Chain]):
    with pytest.raises(KeyError):
        missing(ruleset(table("filter", B=(rule(from_net(net("10.0.0.0/8")), Jump("A")),))))


def test_tables_of_one_name_stand_side_by_side_in_different_spaces():
    """An ``inet`` table is in the rulesets of both families, beside the family's own table of the same name."""
    own, both = table("filter", INPUT=(rule(DROP),)), Table(TableKey(Space.INET, "filter"))
    rules = Ruleset.of(Family.IPV4, both, own)
    assert [each.key.space for each in rules.in_order()] == [Space.INET, Space.IP]
    assert rules.table("filter") is own
    assert Space.of(Family.IPV6) is Space.IP6
