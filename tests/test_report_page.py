"""The page of a run answers: what to change works, what was simulated can be run again, and losses lead to their traces."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from runlogs import connection, empty, lost, story
from simulations import DELAYS, HEAD

from kpsim.reports.expectations import evaluate_all, parse_expectations
from kpsim.reports.figures import figures
from kpsim.reports.intended import demanding, intended_sentence
from kpsim.reports.page import html_fragment, html_page
from kpsim.reports.remedies import remedies, try_line
from kpsim.reports.sentences import why_line
from kpsim.reports.simulated import KeptTrace, Simulated, simulated
from kpsim.reports.summary import summary_text
from kpsim.reports.sync_lag import is_slow
from kpsim.reports.timeline import timeline_of, trace_id
from kpsim.reports.zones import zones_sentence, zones_table
from kpsim.result import RunResult, run
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Connection, Fate, Reason, RunLog

BALANCED = (
    HEAD
    + DELAYS
    + """
traffic:
  - {name: customers, service: web, via: loadBalancer, perSecond: 20, clients: 9}
events: [{at: 2s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}}]
loadBalancer: {interval: 1s}
"""
)
SETTINGS = (
    "duration=9s",
    "objects[0].spec.type=LoadBalancer",
    "objects[0].spec.externalTrafficPolicy=Local",
    "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
)


def rolled_out(*settings: str) -> RunResult:
    return run(parse_scenario(BALANCED, "test.yaml", settings=(*SETTINGS, *settings)))


@pytest.fixture(scope="module")
def result() -> RunResult:
    return rolled_out()


@pytest.fixture(scope="module")
def page(result: RunResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("page")
    result.write(directory)
    return (directory / "report.html").read_text()


# ------------------------------------------------------------------------------------------------------ what to change


def settings_of(words: str) -> list[str]:
    return re.findall(r"--set '?([^' ]+)'?", words)


def test_every_remedy_that_names_fields_helps(result: RunResult) -> None:
    """The run with the settings that the page gives loses nothing (T-2.2, PP-11.7, CP-2.8)."""
    told = simulated(result.scenario, "kpsim run test.yaml")
    found = remedies(result.log, told)
    assert [each.cause for each in found] == ["endpoint gone, no local endpoints"]
    assert sum(each.lost for each in found) == sum(c.lost for c in result.log.connections)
    for each in found:
        assert try_line(told.command, each) == f"kpsim run test.yaml {each.settings}"
        after = rolled_out(*settings_of(each.settings)).log
        assert [c for c in after.connections if c.lost] == []


def test_pods_of_a_cluster_service_have_to_answer_until_the_rules_have_changed() -> None:
    before = rolled_out("objects[0].spec.externalTrafficPolicy=Cluster")
    (remedy,) = remedies(before.log, simulated(before.scenario, "kpsim run test.yaml"))
    assert remedy.cause == "endpoint gone"
    after = rolled_out("objects[0].spec.externalTrafficPolicy=Cluster", *settings_of(remedy.settings))
    assert not any(c.lost for c in after.log.connections)


def test_how_long_pods_have_to_answer_follows_from_probes_and_lag(result: RunResult) -> None:
    (remedy,) = remedies(result.log)
    (balancer,) = result.log.balancers
    longest_ns = max(p.programmed_ns - p.trigger_ns for p in result.log.programming)
    seconds = -(-(balancer.worst_window_ns + longest_ns) // 10**9)
    assert f"let pods answer for {seconds} s after their deletion" in remedy.words
    assert remedy.settings == "", "without the scenario no field is known"


def test_a_hook_is_no_remedy_for_pods_that_crash() -> None:
    crashed = rolled_out(
        "objects[0].spec.externalTrafficPolicy=Cluster", "events=[{at: 2s, crash: {workload: web, restarts: false}}]"
    )
    found = [
        each
        for each in remedies(crashed.log, simulated(crashed.scenario, "kpsim run x"))
        if each.cause == "endpoint gone"
    ]
    assert found and all("crashed" in each.words and not each.settings for each in found)


@pytest.mark.parametrize(
    ("cause", "changes", "words"),
    [
        (Reason.NO_ENDPOINTS, {"disposition": Fate.REJECTED}, "keep an endpoint ready at all times"),
        (Reason.FORGOTTEN, {"broken_ns": 5, "disposition": Fate.FAILED}, "keep-alives"),
        (Reason.ENDPOINT_GONE, {"broken_ns": 5, "disposition": Fate.FAILED}, "let pods live until their connections"),
        (Reason.NODE_DOWN, {"disposition": Fate.FAILED}, "nothing tells clients at once"),
    ],
)
def test_causes_have_their_remedies(cause: Reason, changes: dict[str, object], words: str) -> None:
    log = replace(empty(), connections=[lost(1, cause, **changes)])  # type: ignore[arg-type]
    (remedy,) = remedies(log)
    assert words in remedy.words and (remedy.lost, remedy.service) == (1, "shop/web")


def test_what_the_author_of_a_service_asks_for_has_no_remedy() -> None:
    assert remedies(replace(empty(), connections=[lost(1, Reason.SOURCE_RANGES)])) == []


# --------------------------------------------------------------------------------------------------- what was simulated


def test_the_scenario_on_the_page_is_the_one_that_ran(result: RunResult) -> None:
    again = run(parse_scenario(result.scenario.yaml_text(), "again.yaml"))
    assert again.log.connections == result.log.connections and again.log.happenings == result.log.happenings


def test_seed_and_mode_of_the_command_line_are_in_the_scenario_on_the_page() -> None:
    loaded = parse_scenario(BALANCED, "test.yaml", settings=SETTINGS).with_seed(77).with_mode("ipvs")
    again = parse_scenario(loaded.yaml_text(), "again.yaml")
    assert (again.seed, again.proxy.mode) == (77, "ipvs")


def test_the_page_says_what_was_simulated(page: str) -> None:
    for words in (
        "externalTrafficPolicy Local", "no preStop hook", "probes every 1s", "a node may get traffic that it cannot serve for up to 3s",
        "customers: 9 from outside, 20 a second", "at 2s: rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}",
        "kube-proxy 1.36 in iptables mode", "seed 1",
    ):  # fmt: skip
        assert words in page


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    file = tmp_path / "my own.yaml"
    file.write_text(text := HEAD + "traffic: [{name: t, from: nodes, service: web, perSecond: 2}]")
    made = run(file, mode="nftables", seed=3, settings=["duration=1s", "nodes.zones=[b]"])
    assert made.command == f"kpsim run '{file}' --mode nftables --seed 3 --set duration=1s --set 'nodes.zones=[b]'"
    assert run(parse_scenario(text, "x", settings=("duration=1s",))).command == ""


# --------------------------------------------------------------------------------------------------------------- losses


def test_a_click_on_losses_leads_to_a_trace_of_that_kind(result: RunResult, page: str) -> None:
    ids = re.findall(r'<details class="trace" id="([^"]+)">', page)
    assert len(ids) == len(set(ids)) > 0
    links = re.findall(r'<a href="#(trace-[^"]+)"><rect class="(\w+)"', page)
    assert links and {link for link, _ in links} <= set(ids)
    fates = {trace_id(c.name): c.disposition.value for c in result.log.connections}
    assert all(fates[link] == kind for link, kind in links)
    kinds = Counter((c.node, c.disposition, c.cause) for c in result.log.connections if c.lost)
    assert len(ids) <= 3 * len(kinds)
    assert f"The ways of {len(ids):,} of {kinds.total():,} lost connections" in page
    assert page.count("around it (") == len(ids)


def test_identifiers_of_traces_are_distinct_and_plain() -> None:
    names = ["a#1", "a-1", "a_1", "a.1", "ä#1"]
    found = [trace_id(name) for name in names]
    assert len(set(found)) == len(names) and all(re.fullmatch(r"trace-\w+", each, re.ASCII) for each in found)


def test_the_timeline_counts_what_the_log_has(result: RunResult) -> None:
    timeline = timeline_of(result.log)
    assert timeline is not None
    lanes = {lane.name: lane for lane in timeline.lanes}
    said = Counter[str]()
    for mark in lanes["lost"].marks:
        number, kind = re.fullmatch(r".*: ([\d,]+) (\w+)", mark.title).groups()  # type: ignore[union-attr]
        assert kind == mark.kind
        said[kind] += int(number)
    assert said == Counter(c.disposition.value for c in result.log.connections if c.lost)
    at_nodes = {
        node: sum(int(m.title.split(": ")[1].split()[0]) for m in lanes[node].marks if m.kind in said)
        for node in result.log.nodes
    }
    assert at_nodes == {
        node: sum(c.lost and c.node == node for c in result.log.connections) for node in result.log.nodes
    }
    assert all(0 <= mark.x <= timeline.length_ms for lane in timeline.lanes for mark in lane.marks)
    assert all(mark.y + mark.height <= lane.height + 0.02 for lane in timeline.lanes for mark in lane.marks)


def test_rotation_without_endpoint_is_to_be_seen(result: RunResult) -> None:
    """The bands of a node are the stretches that the log's health records have."""
    timeline = timeline_of(result.log)
    assert timeline is not None
    for node in result.log.nodes:
        (lane,) = [lane for lane in timeline.lanes if lane.name == node]
        ends = {h.at_ns / 10**6 for h in result.log.node_health if h.node == node} | {timeline.length_ms}
        for mark in lane.marks:
            if mark.kind in ("rotation", "endpoint"):
                assert mark.x in ends and any(abs(mark.x + mark.width - end) < 0.01 for end in ends)


def test_data_for_the_script_cannot_end_the_script() -> None:
    log = story()
    evil = replace(log, happenings=[replace(log.happenings[0], subject="</script><b>\u202e")])
    page = html_page(evil, (), drawn=[])
    assert "</script><b>" not in page and "\u202e" not in page and page.count("</script>") == 2


def test_text_of_traces_is_escaped() -> None:
    trace = KeptTrace("t#1", 5, "node-1", "dropped", "other", "<script>alert(1)</script>\x1b[31m")
    page = html_page(replace(empty(), connections=[lost(1, Reason.OTHER)]), (), [], Simulated((), "", "", (trace,)))
    assert "&lt;script&gt;alert(1)" in page and "\x1b" not in page


# ------------------------------------------------------------------------------------------------------------- intended


@pytest.mark.parametrize(
    ("condition", "asks"),
    [
        ("dropped > 0", True), ("dropped == 3", True), ("local_drops.total >= 1", True), ("delivered_ratio < 1", True),
        ("delivered_ratio between 0.5 and 0.9", True), ("causes.no-local-endpoints > 0", True), ("dropped < 100", False),
        ("delivered_ratio > 0.1", False), ("sent > 0", False), ("dropped == 0", False), ("sync_lag.p99_seconds < 2s", False),
    ],
)  # fmt: skip
def test_an_expectation_that_no_lossless_run_meets_means_the_loss(condition: str, asks: bool) -> None:
    results = evaluate_all(parse_expectations([condition]), figures(story()))
    assert demanding(results) == ([condition] if asks else [])
    said = intended_sentence(results)
    assert bool(said) is asks
    if asks:
        assert said.startswith("The loss is intended") and said.split("expects ")[1] == f"“{condition}”."
        assert "The loss is intended" in html_fragment(story(), results, drawn=[]) and said[:20] in summary_text(
            story(), results
        )


# ---------------------------------------------------------------------------------------------------------------- zones


def test_zones_are_counted_from_the_rules_to_the_endpoint() -> None:
    zones = {"node-1": "a", "node-2": "b"}
    made = [("node-1", "node-1")] * 3 + [("node-1", "node-2")] + [("node-2", "node-2")] * 4
    log = replace(
        empty(), zones=zones, connections=[connection(at, node=here, endpoint_node=there) for at, (here, there) in enumerate(made)]
    )  # fmt: skip
    table = zones_table(log)
    assert table is not None
    assert table.rows == (("a", "3", "1", "25.0 %"), ("b", "0", "4", "0 %"), ("all", "3", "5", "12.5 %"))
    assert zones_sentence(log).startswith("12.5 % of 8 connections")
    assert zones_table(replace(log, zones={"node-1": "a", "node-2": "a"})) is None


# ------------------------------------------------------------------------------------------------------------ terminal


def test_losses_stand_first_and_sync_lag_is_short_where_nothing_is_wrong(result: RunResult) -> None:
    quick = replace(result.log, programming=result.log.programming[:2])
    lines = summary_text(quick).splitlines()
    assert " were delivered (" in lines[2] and why_line(result.log) in " ".join(lines)
    assert is_slow(result.log) and not is_slow(quick)
    assert sum("reached the rules" in line for line in lines) == 1 and "node → sync starts" not in "\n".join(lines)
    assert is_slow(story()), "a sync failed there"
    assert "node → sync starts" in summary_text(story())


def test_losses_are_coloured_on_a_terminal_only(result: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    from kpsim.reports.summary import print_summary

    def printed() -> str:
        out = StringIO()
        print_summary(result.log, (), Console(file=out, force_terminal=True, color_system="standard", width=120))
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in printed() and "31m" not in printed()
    assert "\x1b" not in summary_text(result.log)


def names_of(log: RunLog) -> list[Connection]:
    return [c for c in log.connections if c.lost]


def test_one_connection_of_each_kind_is_named(result: RunResult) -> None:
    first = {c.cause: c.name for c in reversed(names_of(result.log))}
    assert all(f"--trace {name} ({cause})" in why_line(result.log) for cause, name in first.items())
    assert why_line(empty()) == ""
