"""The subjects of a verification: which rules, nodes and families, and what paths on a command line mean."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from shop import CONFIG, NODES, WEB, WEB6
from simulations import DELAYS, HEAD

from kpsim import simulation
from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.cluster import ClusterState
from kpsim.dialects.iptables import empty_table
from kpsim.errors import InputError
from kpsim.explore import Cluster, load
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.ruleset import ACCEPT, Chain, Dnat, Rule, Ruleset
from kpsim.scenario import Scenario, load_scenario, parse_scenario
from kpsim.scenarios import scenario_names
from kpsim.simulation.history import History, Loaded, history
from kpsim.tracing.probes import Prober, ProbeResult
from kpsim.tracing.site import Sender
from kpsim.units import SECOND_NS
from kpsim.verify.moments import distinct_moments
from kpsim.verify.subjects import Subject, cluster_subjects, load_subjects, scenario_subjects

GOLDEN = Path(__file__).parent / "golden" / "iptables"
RECORDING = GOLDEN / "small-001.recording.jsonl"
V4, V6 = Family.IPV4, Family.IPV6
#: its rules are those of any cluster, ten thousand times
LARGE = "large-cluster"


@cache
def built_in(name: str) -> tuple[Subject, ...]:
    return tuple(scenario_subjects(load_scenario(name)))


def of(subjects: Sequence[Subject], node: str) -> list[Subject]:
    return [subject for subject in subjects if subject.node == node]


def rules(subject: Subject) -> Ruleset:
    return subject.site.netns(subject.node, subject.family).rulesets[subject.family]


def told(subject: Subject) -> Programmed:
    """All that the node's kernel was told: in ipvs mode the rules hardly change."""
    return subject.site.netns(subject.node, subject.family).programmed[subject.family]


def endpoints(subject: Subject) -> set[str]:
    """The addresses that the rules translate to."""
    loaded = rules(subject)
    targets = [rule.target for chain in loaded.table("nat").ordered() for rule in chain.rules]
    return {format_ip(loaded.family, t.address) for t in targets if isinstance(t, Dnat) and t.address is not None}


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        ask()
    return str(caught.value)


# --- which moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in scenario_names() if name != LARGE])
def test_no_rules_of_a_node_come_twice_and_the_run_begins_with_the_first(name: str) -> None:
    subjects = built_in(name)
    assert {subject.node for subject in subjects} == {node for subject in subjects for node in subject.site.node_names}
    for node in {subject.node for subject in subjects}:
        own = of(subjects, node)
        assert own[0].name == f"{name} · {node} · IPv4 · 0 s"
        assert len({told(subject) for subject in own}) == len(own)
        assert len({subject.name for subject in own}) == len(own)


def test_a_rollout_is_followed_from_the_old_pods_to_the_new_ones() -> None:
    for node in ("node-1", "node-2", "node-3"):
        first, *between, last = of(built_in("local-rollout"), node)
        assert between
        for subject, pods in ((first, (1, 2, 3)), (last, (4, 5, 6))):
            directory = subject.site.directory
            owners = {str(directory.pods[V4, value]) for ip in endpoints(subject) for _, value in [parse_ip(ip)]}
            assert {owner.split(" on ")[0] for owner in owners} == {f"pod shop/web-{number}" for number in pods}


def test_nodes_whose_rules_stay_give_one_subject() -> None:
    """node-3 without power keeps its rules. The others' rules lose its endpoint after the grace period (CP-2.9)."""
    lost = built_in("node-down")
    assert [len(of(lost, node)) for node in ("node-1", "node-2", "node-3")] == [2, 2, 1]
    before, after = of(lost, "node-1")
    assert len(endpoints(before)) == 3
    assert len(endpoints(before) - endpoints(after)) == 1
    assert [subject.name for subject in built_in("affinity-nat")] == [
        "affinity-nat · node-1 · IPv4 · 0 s",
        "affinity-nat · node-2 · IPv4 · 0 s",
    ]


def test_an_endpoint_that_only_terminates_changes_no_rules() -> None:
    """CT-2.3.4: it still counts as serving, so the sync for it writes what there was; the next takes it out."""
    first, last = of(built_in("stale-udp"), "node-1")
    assert len(endpoints(first)) == 2
    assert len(endpoints(last)) == 1


def test_thinned_moments_are_among_all_of_them_with_first_and_last() -> None:
    scenario = load_scenario("local-rollout-prestop")
    every = [s.name for s in scenario_subjects(scenario, nodes=["node-2"], moments=100)]
    assert len(every) > 4
    for most in (2, 3, 4):
        thinned = [s.name for s in scenario_subjects(scenario, nodes=["node-2"], moments=most)]
        assert len(thinned) == most
        assert (thinned[0], thinned[-1]) == (every[0], every[-1])
        assert [name for name in every if name in thinned] == thinned


def held(text: str) -> History:
    """A node that held these rules, a letter each, second by second."""
    loaded = []
    for second, letter in enumerate(text):
        nat = empty_table(V4, "nat")
        chain = Chain("KUBE-SERVICES", tuple(Rule((ACCEPT,)) for _ in range(ord(letter) - ord("A"))))
        table = type(nat)("nat", nat.chains.set(chain.name, chain))
        ruleset = Ruleset.of(V4, table)
        loaded.append(Loaded(second * SECOND_NS, "node-1", V4, Programmed.of(ruleset), ClusterState()))
    return History(("node-1",), (V4,), {}, tuple(loaded))


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("A", 2, [0]),
        ("AA", 2, [0]),
        ("ABA", 8, [0, 1]),
        ("ABAC", 8, [0, 1, 3]),
        ("ABCB", 8, [0, 2, 3]),
        ("ABCB", 2, [0, 3]),
        ("ABCDEFGHIJK", 3, [0, 5, 10]),
        ("ABCDEFGHIJK", 6, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_rules_that_come_back_count_once(text: str, most: int, expected: list[int]) -> None:
    moments = distinct_moments(held(text), "node-1", V4, most)
    assert [moment.at_ns // SECOND_NS for moment in moments] == expected


EVENTS = """
events:
  - {at: 5s, scale: {workload: web, replicas: 4}}
  - {at: 15s, nodeDown: {nodes: [node-2]}}
  - {at: 20s, nodeUp: {nodes: [node-2]}}
  - {at: 30s, failSyncs: {nodes: [node-1], count: 1}}
  - {at: 31s, scale: {workload: web, replicas: 2}}
"""
TRAFFIC = "traffic: [{name: t, service: web, via: nodePort, perSecond: 20}]\n"


def made(text: str, **changes: str) -> Scenario:
    head = HEAD
    for old, new in changes.items():
        head = head.replace(old, new)
    return parse_scenario(head + DELAYS + text, "test.yaml")


def test_what_kernels_held_is_what_the_syncs_of_the_run_left() -> None:
    """Also of a node that boots: its first sync writes everything."""
    scenario = made(EVENTS + TRAFFIC)
    log = simulation.run(scenario)
    found = [(each.node, each.at_ns) for each in history(scenario).loaded]
    ends = {(sync.node, sync.end_ns) for sync in log.syncs}
    assert set(found) <= ends
    assert ends - set(found) <= {(sync.node, sync.end_ns) for sync in log.syncs if not sync.services_changed}
    booted = [at_ns for node, at_ns in found if node == "node-2" and at_ns > 20 * SECOND_NS]
    assert booted[0] == min(s.end_ns for s in log.syncs if s.node == "node-2" and s.end_ns > 20 * SECOND_NS)


def test_a_run_is_the_same_in_every_detail_the_second_time() -> None:
    first, second = (list(scenario_subjects(made(EVENTS))) for _ in range(2))
    assert [subject.name for subject in first] == [subject.name for subject in second]
    assert [rules(subject) for subject in first] == [rules(subject) for subject in second]


# --- the cluster of a moment -----------------------------------------------------------------------------------------------


def test_the_machine_is_the_runs() -> None:
    """route_localnet follows localhostNodePorts (I-1); the address plan is the scenario's."""
    for allowed in (True, False):
        scenario = parse_scenario(
            HEAD + f"proxy: {{iptables: {{localhostNodePorts: {str(allowed).lower()}}}}}", "t.yaml"
        )
        [subject] = scenario_subjects(scenario, nodes=["node-1"], moments=2)
        machine = subject.site.machine("node-1")
        assert machine.sysctls.route_localnet is allowed
        assert subject.site.netns("node-1", V4).sysctls.route_localnet is allowed
    interface = machine.routing.interface_of(V4, parse_ip("192.168.0.1")[1])
    assert interface is not None and interface.name == machine.uplink == "eth0"
    pods = machine.routing.lookup(V4, parse_ip("10.180.1.9")[1])
    others = machine.routing.lookup(V4, parse_ip("10.180.2.9")[1])
    assert (pods.interface, others.interface) == (machine.pod_interface, "eth0")


def test_both_families_of_a_dual_stack_run() -> None:
    scenario = made("", **{"zones: [a]": "zones: [a], ipFamilies: [IPv4, IPv6]"})
    names = [subject.name for subject in scenario_subjects(scenario, nodes=["node-2"])]
    assert names == ["test · node-2 · IPv4 · 0 s", "test · node-2 · IPv6 · 0 s"]


def test_other_nodes_have_the_rules_of_that_moment() -> None:
    _, last = of(built_in("node-down"), "node-1")
    assert last.site.netns("node-2", V4).rulesets[V4] == rules(of(built_in("node-down"), "node-2")[-1])
    assert len(endpoints(Subject("", last.site, "node-3", V4))) == 3
    assert "node-1 has no rules of IPv6" in refusal(lambda: last.site.netns("node-1", V6))


def test_subjects_do_not_share_what_a_node_remembers() -> None:
    first, second, *_ = of(built_in("local-rollout"), "node-1")
    assert first.site.netns("node-1", V4) is not second.site.netns("node-1", V4)
    one, other = cluster_subjects(shop(), ["node-1"])
    assert one.site.netns("node-1", V4) is not other.site.netns("node-1", V4)


# --- what the scenario's clients send --------------------------------------------------------------------------------------


def results(subject: Subject) -> set[ProbeResult]:
    prober = Prober(subject.site, 0)
    return {prober.answer(probe).result for probe in subject.probes}


def test_what_customers_dial_ends_as_the_scenario_says() -> None:
    """node-1 always has a local endpoint; the others are empty for a time, and then outside clients get silence
    (PP-5, K-8.1).
    """
    subjects = built_in("local-rollout")
    assert [results(subject) for subject in of(subjects, "node-1")] == [{ProbeResult.DELIVERED}] * 6
    ends = {node: [results(subject) for subject in of(subjects, node)] for node in ("node-2", "node-3")}
    assert ends["node-2"][0] == {ProbeResult.DELIVERED}
    assert ends["node-2"][-1] == {ProbeResult.DROPPED}
    assert {ProbeResult.DROPPED} in ends["node-3"]
    assert ends["node-3"][-1] == {ProbeResult.DELIVERED}


def sent(subject: Subject) -> set[tuple[Sender, str, str, int]]:
    def ends(packet: Packet) -> tuple[str, str, int]:
        return packet.source if packet.saddr else "", packet.destination, packet.dport

    return {(probe.sender, *ends(probe.packet)) for probe in subject.probes}


TRAFFIC_OF_ALL_KINDS = """
traffic:
  - {name: inside, from: pods, workload: web, service: web, perSecond: 1}
  - {name: host, from: nodes, nodes: [node-2], service: web, via: nodePort, perSecond: 1}
  - {name: outside, service: web, via: nodePort, nodes: [node-1], perSecond: 1, clients: 10}
  - {name: office, service: web, via: nodePort, perSecond: 1, clients: 10, nat: true}
  - {name: later, from: nodes, service: late, perSecond: 1}
events:
  - at: 10s
    createService:
      apiVersion: v1
      kind: Service
      metadata: {name: late}
      spec: {clusterIP: 172.30.0.11, selector: {app: web}, ports: [{port: 81, protocol: UDP}]}
"""


def test_each_node_is_sent_what_meets_it_first() -> None:
    """The office of ten clients behind a NAT has the one address behind those of the ten before it."""
    subjects = list(scenario_subjects(made(TRAFFIC_OF_ALL_KINDS)))
    [one, *_, later], [two, *_] = of(subjects, "node-1"), of(subjects, "node-2")
    pods = {node: {str(pod) for pod in one.site.directory.pods_on(node, V4)} for node in ("node-1", "node-2")}
    assert sent(one) == {
        *((Sender.POD, format_ip(V4, int(pod)), "172.30.0.10", 80) for pod in pods["node-1"]),
        (Sender.EXTERNAL, "203.0.113.1", "192.168.0.1", 30080),
        (Sender.EXTERNAL, "203.0.113.10", "192.168.0.1", 30080),
        (Sender.EXTERNAL, "203.0.113.11", "192.168.0.1", 30080),
    }
    assert sent(two) == {
        *((Sender.POD, format_ip(V4, int(pod)), "172.30.0.10", 80) for pod in pods["node-2"]),
        (Sender.NODE, "", "192.168.0.2", 30080),
        (Sender.EXTERNAL, "203.0.113.11", "192.168.0.2", 30080),
    }
    assert sent(later) == {*sent(one), (Sender.NODE, "", "172.30.0.11", 81)}
    assert len(pods["node-1"]) == len(pods["node-2"]) == 1
    assert len({probe.id for probe in one.probes}) == 4


# --- clusters --------------------------------------------------------------------------------------------------------------


def shop() -> Cluster:
    return load(text="---\n".join([NODES, CONFIG, *WEB, *WEB6]))


def test_a_cluster_has_every_node_in_its_families() -> None:
    """node-3 of the shop has no IPv6 address."""
    subjects = list(cluster_subjects(shop()))
    assert [subject.name for subject in subjects] == [
        "node-1 · IPv4",
        "node-1 · IPv6",
        "node-2 · IPv4",
        "node-2 · IPv6",
        "node-3 · IPv4",
    ]
    assert [(subject.node, subject.family) for subject in cluster_subjects(shop(), ["node-3"])] == [("node-3", V4)]
    assert endpoints(subjects[0]) == {"10.180.0.5", "10.180.1.5", "10.180.2.5"}
    assert endpoints(subjects[1]) == {"fd00:180::5"}
    assert all(subject.probes == () for subject in subjects)


def test_nodes_known_by_their_pods_alone_have_the_pods_families() -> None:
    cluster = load(text="---\n".join(WEB))
    assert [subject.name for subject in cluster_subjects(cluster)] == [
        "node-1 · IPv4",
        "node-2 · IPv4",
        "node-3 · IPv4",
    ]


def test_a_recording_is_of_one_node_and_family() -> None:
    [subject] = cluster_subjects(load(RECORDING))
    config = json.loads(RECORDING.read_text().splitlines()[0])
    node = config["object"]["hostnameOverride"]
    assert (subject.name, subject.family.label) == (f"{node} · {config['ipFamily']}", config["ipFamily"])
    cluster = load(RECORDING)
    assert rules(subject) == cluster.replay.proxier.held.ruleset
    other = next((name for name in cluster.node_names if name != node), None)
    assert other is not None
    assert refusal(lambda: cluster_subjects(cluster, [other])) == (
        f"the recording is of node {node}: of {other} it holds no rules"
    )


BARE_NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: bare}\n"


def test_clusters_that_cannot_be_verified() -> None:
    assert refusal(lambda: cluster_subjects(shop(), ["node-9"])) == (
        "no node 'node-9'; there is node-1, node-2, node-3 (--assume-node node-9 adds one of this name)"
    )
    assert "node bare has no address, no pod network and no pods" in refusal(
        lambda: cluster_subjects(load(text="---\n".join([BARE_NODE, NODES])), ["bare"])
    )
    assert "no node with an address" in refusal(lambda: cluster_subjects(load(text=BARE_NODE)))
    assert "no node with an address" in refusal(lambda: cluster_subjects(load(text=WEB[0])))


# --- command lines ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "scenario.yaml").write_text(HEAD)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "nodes.yaml").write_text(NODES + "---\n" + CONFIG)
    (tmp_path / "web.yaml").write_text("---\n".join(WEB))
    return tmp_path


def test_scenarios_and_one_cluster_of_all_the_rest(files: Path) -> None:
    told: list[str] = []
    paths = [files / "manifests", "affinity-nat", files / "web.yaml", files / "scenario.yaml"]
    names = [subject.name for subject in load_subjects(paths, nodes=["node-2"], note=told.append)]
    assert names == [
        "affinity-nat · node-2 · IPv4 · 0 s",
        "test · node-2 · IPv4 · 0 s",
        "node-2 · IPv4",
        "node-2 · IPv6",
    ]
    assert told == list(load([files / "manifests", files / "web.yaml"]).notes)


def test_a_recording_by_its_path() -> None:
    [subject] = load_subjects([RECORDING])
    assert endpoints(subject) or rules(subject).tables


def test_seed_and_settings_change_the_scenario() -> None:
    def moments(**changes: Any) -> list[str]:
        return [subject.name for subject in load_subjects(["local-rollout"], nodes=["node-1"], **changes)]

    later = moments(settings=["events[0].at=20s"])
    assert moments()[1:] != later[1:]
    assert all(float(name.split(" · ")[-1].removesuffix(" s")) > 20 for name in later[1:])
    delays = ["delays.sync.base={uniform: {low: 10ms, high: 900ms}}"]
    assert moments(seed=1, settings=delays) != moments(seed=2, settings=delays)


def test_what_a_command_line_gets_wrong(files: Path) -> None:
    asked: list[tuple[list[Path | str], dict[str, Any], str]] = [
        (
            ["local-rolout"],
            {},
            "'local-rolout' is neither a file nor a built-in scenario; did you mean 'local-rollout'?",
        ),
        (["nothing.yaml"], {}, "nothing.yaml: cannot be read: No such file or directory"),
        (["local-rollout"], {"nodes": ["nod-1"]}, "local-rollout has no node 'nod-1'; did you mean 'node-1'?"),
        (
            ["local-rollout"],
            {"moments": 1},
            "1 moments: expected at least 2, for the first and the last rules of a run",
        ),
        ([files / "web.yaml"], {"seed": 3}, "a seed goes with a scenario, and there is none"),
        (
            [files / "web.yaml"],
            {"settings": ["service/default/nobody=null"]},
            "--set service/default/nobody=null: no Service 'default/nobody'; there is shop/web",
        ),
        ([], {}, "nothing to load: give files, or text"),
        ([RECORDING, files / "web.yaml"], {}, f"{RECORDING} is a recording: give it alone"),
    ]
    for paths, options, expected in asked:
        assert refusal(partial(load_subjects, paths, **options)) == expected
