"""A start of kube-proxy in another mode than before: what it takes away, and what stays (NFT-8.14, I-18)."""

from dataclasses import replace

from nftables_tables import CLIENT_IP, HOST, nft_rig, restarted, web_rig
from proxiers import Rig, endpoint_slice, make_settings, port, service

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.config import Mode
from kpsim.dialects.iptables import parse
from kpsim.dialects.iptables import table_key as table_key_of
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Jump, Rule, Ruleset, Statement, Table


def test_a_start_in_nftables_mode_removes_the_rules_of_iptables_mode() -> None:  # NFT-8.14, I-18
    rig = Rig(make_settings(host=HOST))
    spec = {"externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"], "ingress": ["203.0.113.20"]}
    rig.apply(service(ports=[port(node_port=30080)], type="LoadBalancer", **spec, **CLIENT_IP), endpoint_slice())
    rig.sync()
    assert {chain[:8] for chain in rig.chains()} > {"KUBE-SVC", "KUBE-SVL", "KUBE-EXT", "KUBE-FW-", "KUBE-SEP"}
    started = restarted(rig)
    kept = {table.name: {chain.name: len(chain.rules) for chain in table.chains.values()}
            for table in started.proxier.held.ruleset.in_order()}  # fmt: skip
    assert kept == {
        "filter": {"INPUT": 1, "FORWARD": 0, "OUTPUT": 1, "KUBE-FIREWALL": 1},
        "mangle": dict.fromkeys(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"), 0),
        "nat": dict.fromkeys(("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), 0),
    }
    assert started.sync().success


def test_chains_to_which_another_programs_rule_leads_stay_with_all_of_their_table() -> None:  # I-18: in use
    rig = Rig(make_settings(host=HOST))
    rig.apply(service(), endpoint_slice())
    rig.sync()
    held = rig.proxier.held
    nat = held.ruleset.table("nat")
    output = nat["OUTPUT"]
    changed = Chain("OUTPUT", (*output.rules, Rule((Jump("KUBE-MARK-MASQ"),))), output.base)
    table = replace(nat, chains=nat.chains.set("OUTPUT", changed))
    rig.proxier.held = Programmed.of(replace(held.ruleset, tables=held.ruleset.tables.set(nat.key, table)))
    after = restarted(rig).proxier.held.ruleset
    assert [rule.target for rule in after.chain("nat", "OUTPUT").rules] == [
        Jump("KUBE-MARK-MASQ")
    ]  # the jumps are gone
    # but for the chains that ipvs mode has by the same names, which are removed one by one (IPVS-9.3)
    assert set(nat.chains) - set(after.table("nat").chains) == {"KUBE-SERVICES", "KUBE-POSTROUTING"}
    [service_chain] = [name for name in nat.chains if name.startswith("KUBE-SVC-")]
    assert after.chain("nat", service_chain) == nat[service_chain]
    assert "KUBE-SERVICES" not in after.table("filter").chains


def beside_iptables(*lines: str) -> Rig:
    """A proxier in iptables mode after its first sync; another program has added these lines to table filter."""
    rig = Rig(make_settings(host=HOST))
    rig.apply(service(), endpoint_slice())
    rig.sync()
    saved = rig.proxier.backend.save(rig.proxier.held)
    for line in lines:
        at = saved.index("COMMIT", saved.index("*filter"))
        saved = saved[:at] + line + "\n" + saved[at:]
    rig.proxier.held = Programmed.of(parse(saved, Family.IPV4))
    return rig


def kept_by_a_restart(rig: Rig, table: str, chain: str) -> list[Statement | None]:
    return [rule.target for rule in restarted(rig).proxier.held.ruleset.chain(table, chain).rules]


def test_only_the_jumps_of_kube_proxy_are_removed_and_each_once() -> None:  # I-18
    """A start in nftables mode takes away what iptables mode and what ipvs mode left, and both have this jump (IPVS-9.3)."""
    own = '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'
    to_forward = [Jump("KUBE-FORWARD")]
    assert kept_by_a_restart(beside_iptables(), "filter", "FORWARD") == []
    assert kept_by_a_restart(beside_iptables(own), "filter", "FORWARD") == []
    assert kept_by_a_restart(beside_iptables(own, own), "filter", "FORWARD") == to_forward
    for line in ("-A FORWARD -j KUBE-FORWARD", "-A FORWARD -i eth7 -j KUBE-FORWARD"):
        rig = beside_iptables(line)
        assert kept_by_a_restart(rig, "filter", "FORWARD") == to_forward
        # so the chain is in use, and the chains of its table stay; those of the other tables go
        chains = {table.name: set(table.chains) for table in restarted(rig).proxier.held.ruleset.in_order()}
        assert {"KUBE-FORWARD", "KUBE-SERVICES", "KUBE-PROXY-CANARY"} <= chains["filter"]
        assert not [name for name in chains["nat"] | chains["mangle"] if name.startswith("KUBE-")]


def test_tables_in_which_kube_proxy_never_was_stay_as_they_are() -> None:
    foreign = parse("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n*nat\nCOMMIT\n", Family.IPV4)
    without_chains = Ruleset.of(Family.IPV4, Table(table_key_of(Family.IPV4, "filter")))
    for held in map(Programmed.of, (foreign, without_chains)):
        assert make_backend(nft_rig().settings).start(held) == held


def test_chains_that_only_look_like_kube_proxys_stay() -> None:  # I-18: service chains are in nat
    rig = beside_iptables()
    held = rig.proxier.held.ruleset
    filter_table = held.table("filter")
    foreign = replace(filter_table, chains=filter_table.chains.set("KUBE-SVC-X", Chain("KUBE-SVC-X")))
    rig.proxier.held = Programmed.of(replace(held, tables=held.tables.set(foreign.key, foreign)))
    kept = restarted(rig).proxier.held.ruleset
    assert "KUBE-SVC-X" in kept.table("filter").chains
    assert "KUBE-SERVICES" not in kept.table("filter").chains


def test_a_start_in_iptables_mode_deletes_the_table() -> None:  # NFT-8.14
    rig = web_rig()
    held = restarted(rig, Mode.IPTABLES).proxier.held
    assert [table.name for table in held.ruleset.in_order()] == ["filter", "mangle", "nat"]


def test_a_restart_in_the_same_mode_keeps_everything_until_the_first_sync() -> None:
    rig = web_rig()
    assert restarted(rig).proxier.held == rig.proxier.held
    assert not nft_rig().proxier.held.ruleset.tables
