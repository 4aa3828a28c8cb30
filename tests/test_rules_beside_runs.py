"""Rules beside kube-proxy's in scenarios: from the start, or loaded later, and what syncs and boots make of them."""

from pathlib import Path

import pytest
from simulations import HEAD, MS, simulate

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.errors import InputError
from kpsim.ruleset import Ruleset, joined
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Fate, Reason, RunLog

DROP = r'"*filter\n:FORWARD ACCEPT [0:0]\n:LOCAL - [0:0]\n-A FORWARD -j LOCAL\n-A LOCAL -p tcp --dport 8080 -j DROP\nCOMMIT\n"'
POLICY = r'"*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"'
NFT = '"table inet firewall { chain fw { type filter hook forward priority 0; tcp dport 8080 drop; } }"'
OUTSIDE = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10}]\n"
#: both pods are on node-2, so that packets pass FORWARD of both nodes
THERE = ("workloads[0].placement.nodes=[node-2]", "duration=8s")


def lost(log: RunLog) -> list[int]:
    """When connections were lost to rules beside kube-proxy's, in ms. No connection may be lost otherwise."""
    assert {c.cause for c in log.connections} <= {Reason.NONE, Reason.FOREIGN_RULE}
    return [c.at_ns // MS for c in log.connections if c.disposition is not Fate.DELIVERED]


def told(log: RunLog, kind: str) -> list[tuple[int, str, str]]:
    return [(h.at_ns // MS, h.subject, h.detail) for h in log.happenings if h.kind == kind]


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@pytest.mark.parametrize("rules", [DROP, NFT])
def test_rules_from_the_start(mode: str, rules: str) -> None:
    log = simulate(f"beside: [{{nodes: [node-2], rules: {rules}}}]\n" + OUTSIDE, f"proxy.mode={mode}", *THERE)
    assert len(lost(log)) == 80


def test_kube_proxy_accepts_what_it_masquerades_before_a_policy_drops() -> None:
    """KUBE-FORWARD stands before the policy (I-3.2): at node-1 the packet has the mark, at node-2 it has not."""
    for node, number in (("node-1", 0), ("node-2", 80)):
        log = simulate(f"beside: [{{nodes: [{node}], rules: {POLICY}}}]\n" + OUTSIDE, *THERE)
        assert len(lost(log)) == number


@pytest.mark.parametrize(("rules", "tables"), [(DROP, "IPv4: filter"), (NFT, "IPv4: firewall")])
def test_rules_that_come_later_stay_through_syncs_and_go_with_a_boot(rules: str, tables: str) -> None:
    events = f"""
events:
  - {{at: 2s, loadRules: {{nodes: [node-2], rules: {rules}}}}}
  - {{at: 3s, patchService: {{service: web, patch: {{spec: {{externalIPs: [198.51.100.9]}}}}}}}}
  - {{at: 5s, restartProxy: {{nodes: [node-2]}}}}
"""
    log = simulate(events + OUTSIDE, *THERE)
    assert told(log, "rules loaded") == [(2000, "node-2", tables)]
    assert len([s for s in log.syncs if s.node == "node-2" and s.start_ns > 2000 * MS]) == 2
    assert lost(log) == list(range(2000, 8000, 100))


def test_a_sync_under_way_does_not_undo_them() -> None:
    events = f"""
events:
  - {{at: 2s, patchService: {{service: web, patch: {{spec: {{externalIPs: [198.51.100.9]}}}}}}}}
  - {{at: 3s, loadRules: {{nodes: [node-2], rules: {DROP}}}}}
"""
    log = simulate(events + OUTSIDE, *THERE, "delays.sync.base=2s")
    (sync,) = [s for s in log.syncs if s.node == "node-2" and s.start_ns > 0]
    assert sync.start_ns < 3000 * MS < sync.end_ns
    assert lost(log) == list(range(3000, 8000, 100))


def test_a_boot_brings_back_what_was_there_from_the_start_and_nothing_else() -> None:
    boot = "{at: 2s, reboot: {node: node-1, takes: 1s}}"
    log = simulate(f"beside: [{{rules: {NFT}}}]\nevents: [{boot}]\n" + OUTSIDE, *THERE)
    assert {c.cause for c in log.connections if c.at_ns > 3500 * MS} == {Reason.FOREIGN_RULE}
    load = f"loadRules: {{nodes: [node-1], rules: {DROP}}}"
    log = simulate(f"events: [{{at: 1s, {load}}}, {boot}, {{at: 6s, {load}}}, {{at: 7s, {load}}}]\n" + OUTSIDE, *THERE)
    assert {c.cause for c in log.connections if 3500 * MS < c.at_ns < 6000 * MS} == {Reason.NONE}
    assert told(log, "event without effect") == [
        (7000, "node-1", "loadRules: table filter: there is a chain LOCAL already")
    ]


def test_rules_are_read_from_a_file_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "own.rules").write_text("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n")
    scenario = parse_scenario(HEAD + "beside: [{file: own.rules}]\n", str(tmp_path / "x.yaml"))
    assert len(scenario.beside[0].rules[Family.IPV4].chain("filter", "FORWARD").rules) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beside: [{file: gone.rules}]", "gone.rules: cannot be read"),
        ("beside: [{}]", "expected exactly one of file, rules"),
        (r'beside: [{rules: "*filter\n-A FORWARD --nonsense\nCOMMIT\n"}]', ".beside[0].rules: line 2: "),
        ('beside: [{rules: "create x hash:ip\\n"}]', "ipsets and virtual servers are not for scenarios"),
        (f"beside: [{{nodes: [node-9], rules: {POLICY}}}]", ".beside[0].nodes[0]: there is no node 'node-9'"),
        (f"beside: [{{rules: {DROP}}}, {{rules: {DROP}}}]", ".beside[1]: table filter: there is a chain LOCAL already"),
        (
            f"events: [{{at: 1s, loadRules: {{nodes: [n], rules: {DROP}}}}}]",
            ".events[0].loadRules.nodes[0]: there is no",
        ),
    ],
)
def test_errors(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scenario(HEAD + text + "\n", "test.yaml")
    assert words in str(caught.value)


def test_rules_of_a_family_that_no_node_has_are_named() -> None:
    rules = '"table ip6 x { chain c { type filter hook input priority 0; } }"'
    (note,) = parse_scenario(HEAD + f"beside: [{{rules: {rules}}}]\n", "test.yaml").notes
    assert "its rules of IPv6 decide nothing" in note


# ------------------------------------------------------------------------------------------------------- joined rulesets


def ruleset(text: str) -> Ruleset:
    (found,) = dialect_reading(text).parse(text, Family.IPV4)
    return found


def test_a_chain_that_exists_gets_the_rules_at_its_end_and_the_policy() -> None:
    held = ruleset("*filter\n:INPUT ACCEPT [0:0]\n:A - [0:0]\n-A INPUT -j A\nCOMMIT\n")
    both = joined(held, ruleset("*filter\n:INPUT DROP [0:0]\n:B - [0:0]\n-A INPUT -j B\nCOMMIT\n"))
    wanted = ruleset("*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n-A INPUT -j A\n-A INPUT -j B\nCOMMIT\n")
    assert both.table("filter") == wanted.table("filter")
    assert both.table("filter").uses == wanted.table("filter").uses


def test_base_chains_that_come_later_are_registered_later() -> None:  # K-9.1: so they run first
    text = "table ip {} {{ chain c {{ type filter hook input priority 0; }} }}"
    one, other = ruleset(text.format("one")), ruleset(text.format("other"))
    chains = [table.chains["c"].base for table in joined(one, other).in_order()]
    assert [base and base.registered for base in chains] == [one.made, one.made + other.made]
    assert one.made == 1
