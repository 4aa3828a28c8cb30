"""The index is an optimisation: with and without it, every walk is the same (decision 6 of the design).

The chains here stress the index, with rules that no tool would write or that are not modelled. ``test_walks`` draws
every match and target in every table. Further properties: weights sum to 1, a seeded walk is one of the expanded
outcomes, an answer is translated back to the original tuple.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from packets import node_netns
from rule_parts import (
    address_range,
    address_type,
    ct_state,
    destination_port,
    from_net,
    marked,
    masquerade,
    of_protocol,
    set_connection_mark,
    set_mark,
    source_port,
    to_net,
)

from kpsim.addresses import Family, Network
from kpsim.conntrack import tuple_of
from kpsim.dialects.iptables import BUILT_IN_CHAINS, empty_table, table_key
from kpsim.maps import Map
from kpsim.netfilter import Disposition, Netns, expand, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.index import compiled
from kpsim.rng import below
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    Chain,
    Chance,
    Counter,
    Dnat,
    Field,
    Goto,
    Jump,
    Limit,
    Log,
    Masquerade,
    Recent,
    Redirect,
    Reject,
    Rule,
    Ruleset,
    Table,
    Unknown,
    equal,
    named,
)

# A small world, so that rules and packets meet often.
NODE, POD, PEER, VIP, CLIENT = 0xC0A80001, 0x0AB40005, 0x0AB40105, 0xAC1E000A, 0xCB007109
ADDRESSES = st.sampled_from([NODE, POD, PEER, VIP, VIP + 1, CLIENT])
PORTS = st.sampled_from([80, 81, 8080])
PROTOCOLS = st.sampled_from(["tcp", "udp"])


def network(address: int, prefix: int) -> Network:
    return Network(Family.IPV4, address >> (32 - prefix) << (32 - prefix) if prefix else 0, prefix)


NETWORKS = st.builds(network, ADDRESSES, st.sampled_from([0, 8, 31, 32, 32, 32]))
INDEXABLE = (
    st.builds(to_net, NETWORKS, st.sampled_from([False, False, False, True])),
    st.builds(of_protocol, st.sampled_from(["tcp", "udp"]), st.sampled_from([False, False, True])),
    st.builds(lambda port: destination_port(port, port), PORTS),
)
OTHERS = (
    st.builds(from_net, NETWORKS, st.booleans()),
    st.just(destination_port(80, 81)),
    st.just(destination_port(80, 80, negate=True)),
    st.just(source_port(40000, 40001)),
    st.builds(marked, st.sampled_from([0, 1]), st.just(1), st.booleans()),
    st.builds(address_type, st.sampled_from(["src", "dst"]), st.sampled_from(["LOCAL", "UNICAST"])),
    st.builds(ct_state, st.sampled_from(["NEW", "ESTABLISHED", "DNAT"])),
    st.builds(Recent, st.sampled_from("LM"), st.sampled_from(["set", "rcheck", "update"]), st.just(10), st.booleans()),
    st.builds(Chance, st.sampled_from([0, 2**30, 2**31 // 3, 2**31])),
    st.builds(Counter, st.sampled_from(["a", "b"])),
    st.just(Unknown("-m something")),
)
MATCHES = st.lists(st.one_of(*INDEXABLE, *INDEXABLE, *OTHERS), max_size=4)
CALLED = ["A", "B", "C"]


def statements(table: str, chain: str) -> st.SearchStrategy:
    targets = [name for name in CALLED if name > chain or chain not in CALLED]  # no loops
    common = [ACCEPT, RETURN, set_mark(1, 1), None]
    jumps = [Jump(name) for name in targets] + [Goto(name) for name in targets]
    own = [DROP, Reject()] if table == "filter" else []
    if table == "nat":
        binding = [Dnat(POD, 8080), Dnat(PEER, 8080), Redirect(81)]
        own = [Masquerade(), masquerade(random_fully=True)] if chain == "POSTROUTING" else binding
        if chain in CALLED:
            own = binding  # called from PREROUTING and OUTPUT only, see below
    return st.sampled_from(common + jumps * 2 + own * 2)


@st.composite
def chains(draw: st.DrawFn, table: str, name: str) -> Chain:
    bodies = draw(st.lists(st.tuples(MATCHES, statements(table, name)), max_size=12))
    if table == "nat" and name in ("INPUT", "POSTROUTING"):
        bodies = [(matches, None if isinstance(target, Jump | Goto) else target) for matches, target in bodies]
    rules = tuple(Rule((*matches, target) if target is not None else tuple(matches)) for matches, target in bodies)
    return Chain(name, rules, BUILT_IN_CHAINS[table].get(name))


@st.composite
def rulesets(draw: st.DrawFn) -> Ruleset:
    tables = []
    for table in ("nat", "filter"):
        names = [*BUILT_IN_CHAINS[table], *CALLED]
        tables.append(Table(table_key(Family.IPV4, table), Map({name: draw(chains(table, name)) for name in names})))
    return Ruleset.of(Family.IPV4, *tables)


PACKETS = st.builds(
    Packet,
    st.just(Family.IPV4), PROTOCOLS, st.sampled_from([POD, PEER, CLIENT]), ADDRESSES, st.sampled_from([40000, 50000]), PORTS,
)  # fmt: skip


def fresh(rules: Ruleset) -> Netns:
    netns = node_netns("n1", ["192.168.0.1"], ["10.180.0.0/24"], peers={"192.168.0.2": ["10.180.1.0/24"]})
    netns.load_rules(rules)
    return netns


@settings(deadline=None, max_examples=30)
@given(rulesets(), st.lists(st.tuples(PACKETS, st.booleans()), min_size=1, max_size=4))
def test_walks_are_equal_with_and_without_the_index(rules, sent):
    netns = fresh(rules)
    for number, (packet, local) in enumerate(sent):
        outcomes = [
            walk(
                netns,
                packet,
                now_ns=number,
                chooser=SeededChooser(1, number),
                local=local,
                trace=trace,
                indexed=indexed,
            )
            for trace in (True, False)
            for indexed in (True, False)
        ]
        assert outcomes[0] == outcomes[1]
        assert outcomes[2] == outcomes[3]
        assert outcomes[0].effects == outcomes[2].effects
        netns.commit(outcomes[0].effects, number)


# Chains that are all about the index: long runs over few values, so that several rules of several shapes match a packet,
# and every visit counts (NfAcct), so that a rule that is left out or out of order shows.
DESTINATIONS = [to_net(network(a, p), n) for a, p, n in
                ((VIP, 32, False), (POD, 32, False), (VIP, 32, True), (VIP, 31, False), (POD, 8, False), (POD, 0, False))]  # fmt: skip
DESTINATIONS += [address_range("dst", VIP, VIP + 1)]
PROTOCOL_MATCHES = [
    of_protocol("tcp"),
    of_protocol("udp"),
    of_protocol("udp", negate=True),
    named(Field.L4PROTO, "tcp", "udp"),
]
PORT_MATCHES = [
    destination_port(80, 80),
    destination_port(81, 81),
    destination_port(80, 81),
    destination_port(80, 80, negate=True),
    equal(Field.DPORT, 80, mask=0xFFFE),
]
EFFECTS = [
    Recent("L", "set"),
    Limit(1, "hour", 1),
    Chance(2**30),
    Counter("early"),
    from_net(network(CLIENT, 32)),
    marked(1, 1),
]
TARGETS = [
    None, None, None, Log(), set_mark(1, 1), set_mark(1, 0), set_connection_mark("save", 1, 1), Jump("A"), ACCEPT, DROP,
]  # fmt: skip


def dense_chain(seed: int, name: str) -> Chain:
    def pick(options: list, number: int, what: str, chance: int) -> list:
        """One of the options in ``chance`` of ten cases, the first ones more often."""
        if below(10, seed, name, number, what, "whether") >= chance:
            return []
        most = 1 + below(len(options), seed, name, number, what, "most")
        return [options[below(most, seed, name, number, what)]]

    rules = []
    for number in range(20):
        early = pick(EFFECTS, number, "early", 2)
        matches = [*pick(DESTINATIONS, number, "d", 7), *pick(PROTOCOL_MATCHES, number, "p", 6), *early]
        matches += [*pick(PORT_MATCHES, number, "port", 7), Counter(f"{name}{number}")]
        target = [target for target in pick(TARGETS, number, "t", 10) if target is not None]
        rules.append(Rule((*matches, *([] if name == "A" and target == [Jump("A")] else target))))
    return Chain(name, tuple(rules), BUILT_IN_CHAINS["filter"].get(name))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32))
def test_every_rule_is_visited_equally_with_and_without_the_index(seed):
    chains = empty_table(Family.IPV4, "filter").chains
    filters = Table(
        table_key(Family.IPV4, "filter"), chains.update({name: dense_chain(seed, name) for name in ("FORWARD", "A")})
    )
    netns = fresh(Ruleset.of(Family.IPV4, filters))
    for protocol, daddr, dport in (("tcp", VIP, 80), ("tcp", POD, 81), ("udp", VIP, 80)):
        packet = Packet(Family.IPV4, protocol, CLIENT, daddr, 40000, dport)
        plain, indexed = (
            walk(netns, packet, now_ns=0, chooser=SeededChooser(1, seed), indexed=indexed) for indexed in (False, True)
        )
        assert plain.effects == indexed.effects
        assert plain == indexed


def test_a_long_run_is_found_by_hash_and_in_order():
    services = [(to_net(network(VIP + n, 32)), of_protocol("tcp"), destination_port(80, 80)) for n in range(100)]
    node_ports = [(of_protocol("tcp"), destination_port(80 + n, 80 + n)) for n in range(100)]
    last = (address_type("dst", "LOCAL"),)
    chain = Chain("A", tuple(Rule((*body, ACCEPT)) for body in (*services, *node_ports, last)))
    packet = Packet(Family.IPV4, "tcp", CLIENT, VIP + 7, 40000, 80)
    assert [rule.position for rule in compiled(chain).candidates(packet)] == [7, 100, 200]


def test_what_the_index_cannot_compare_it_leaves_in():
    """A range of addresses, some bits of a port, several protocols."""
    bodies = [
        (address_range("dst", VIP, VIP + 9), destination_port(80, 80)), (to_net(network(VIP + 7, 32)), equal(Field.DPORT, 80, mask=0xFFFE)),
        (named(Field.L4PROTO, "tcp", "udp"), destination_port(80, 80)), (destination_port(80, 80),),
    ]  # fmt: skip
    chain = Chain("A", tuple(Rule((*body, ACCEPT)) for body in bodies * 2))
    for dport, matching in ((80, {0, 1, 2, 3, 4, 5, 6, 7}), (81, {1, 5})):
        packet = Packet(Family.IPV4, "tcp", CLIENT, VIP + 7, 40000, dport)
        assert matching <= {rule.position for rule in compiled(chain).candidates(packet)}


@settings(deadline=None, max_examples=25)
@given(rulesets(), PACKETS, st.booleans())
def test_weights_sum_to_one_and_hold_every_seeded_outcome(rules, packet, local):
    netns = fresh(rules)
    for as_written in (False, True):
        outcomes = expand(netns, packet, now_ns=0, local=local, as_written=as_written)
        assert sum(weight for weight, _ in outcomes) == 1
        assert all(weight > 0 for weight, _ in outcomes)
    seeded = walk(netns, packet, now_ns=0, chooser=SeededChooser(3, 4), local=local, trace=False)
    ends = {(o.disposition, o.packet.daddr, o.packet.dport, o.packet.saddr, o.rule, o.dnat_rule) for _, o in outcomes}
    mine = seeded.packet
    assert (seeded.disposition, mine.daddr, mine.dport, mine.saddr, seeded.rule, seeded.dnat_rule) in ends


@settings(deadline=None, max_examples=40)
@given(rulesets(), PACKETS, st.sets(st.integers(0, 3)))
def test_an_answer_is_translated_back_to_the_original_tuple(rules, packet, earlier):
    nat_only = Ruleset.of(Family.IPV4, rules.table("nat"))
    netns = fresh(nat_only)
    for number in earlier:  # flows that may hold the wanted tuples
        other = packet.copy()
        other.daddr, other.sport = (VIP, VIP + 1, PEER, CLIENT)[number], packet.sport
        if other.saddr != other.daddr:
            netns.commit(walk(netns, other, now_ns=0, chooser=SeededChooser(1, number), trace=False).effects, 0)
    request = walk(netns, packet, now_ns=0, chooser=SeededChooser(1, 9))
    netns.commit(request.effects, 0)
    if request.disposition is not Disposition.FORWARDED:
        return
    seen = request.packet
    answer = Packet(
        Family.IPV4, seen.protocol, seen.daddr, seen.saddr, seen.dport, seen.sport, frozenset({"SYN", "ACK"}),
        in_interface=seen.out_interface,
    )  # fmt: skip
    back = walk(netns, answer, now_ns=0, chooser=SeededChooser(1, 10))
    if back.disposition in (Disposition.FORWARDED, Disposition.DELIVERED):
        assert tuple_of(back.packet) == tuple_of(packet).inverse()
    else:
        assert back.disposition in (Disposition.UNKNOWN, Disposition.DROPPED, Disposition.REJECTED)
