"""Figures of a run under their names, and conditions on them."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from runlogs import empty, story

from kpsim.errors import InputError, Problem
from kpsim.reports.expectations import (
    Operator,
    evaluate,
    evaluate_all,
    failed,
    parse_expectation,
    parse_expectations,
)
from kpsim.reports.figures import SCHEME, figures, lookup, near_names, slug
from kpsim.result import run
from kpsim.scenario import load_scenario

STORY_FIGURES = {
    "sent": 12,
    "delivered": 7,
    "rejected": 1,
    "dropped": 3,
    "failed": 1,
    "delivered_ratio": 7 / 12,
    "dropped_ratio": 0.25,
    "causes.no-local-endpoints": 3,
    "causes.no-endpoints": 1,
    "causes.node-down": 0,
    "services.shop/web:http.sent": 8,
    "services.shop/web:http.dropped": 3,
    "services.shop/web:http.delivered_ratio": 0.5,
    "services.shop/api:grpc.causes.endpoint-gone": 1,
    "traffic.callers.failed": 1,
    "traffic.shoppers.sent": 8,
    "nodes.node-2.dropped": 3,
    "policies.Local.sent": 8,
    "frontends.clusterIP.sent": 4,
    "affinity.clients": 2,
    "affinity.decisions": 4,
    "affinity.returns": 2,
    "affinity.stay_ratio": 0.5,
    "affinity.breaks": 1,
    "affinity.breaks.endpoint-gone": 1,
    "affinity.breaks.list-full": 0,
    "affinity.shop/api:grpc.stay_ratio": 0.5,
    "established": 8,
    "broken": 1,
    "broken_ratio": 1 / 8,
    "misdelivered": 0,
    "causes.former-endpoint": 1,
    "causes.entry-against-refusal": 0,
    "services.shop/api:grpc.causes.former-endpoint": 1,
    # of the 8 that endpoints answered
    'endpoints."10.180.1.5".established': 3,
    'endpoints."10.180.1.5:8080".share': 3 / 8,
    'endpoints."10.180.2.7".share': 1 / 8,
    'services.shop/web:http.endpoints."10.180.1.5".share': 3 / 4,
    'traffic.callers.endpoints."10.180.1.7".share': 3 / 4,
    "endpoints.largest_share": 3 / 8,  # 10.180.1.5 and 10.180.1.7 have three each
    "traffic.callers.endpoints.largest_share": 3 / 4,
    # the one break led from node-1 in zone a to node-2 in zone b
    "zones.cross_share": 1 / 8,
    "services.shop/web:http.zones.cross_share": 0.0,
    'zones."a".share': 6 / 8,
    'zones."b".share': 2 / 8,
    'zones."a".cross_share': 1 / 7,
    "traffic.callers.zones.cross_share": 1 / 4,
    "local_drops.total": 3,
    "local_drops.node-1": 0,
    "local_drops.node-2": 3,
    "local_drops.causes.no-local-endpoints": 3,
    "sync_lag.count": 3,
    "sync_lag.p50_seconds": 0.4,
    "sync_lag.p99_seconds": 1.0,
    "sync_lag.max_seconds": 1.0,
    "sync_lag.stages.wait.p50_seconds": 0.2,
    "sync_lag.nodes.node-1.p50_seconds": 0.2,
    "sync_lag.nodes.node-1.max_seconds": 1.0,
    "sync_lag.nodes.node-2.p99_seconds": 0.4,
    "sync_lag.reported_count": 2,
    "sync_lag.reported_p50_seconds": 0.19,
    "sync_lag.reported_p99_seconds": 0.39,
    "syncs.count": 3,
    "syncs.full": 1,
    "syncs.partial": 2,
    "syncs.failed": 1,
    "syncs.p50_seconds": 0.03,
    "happenings.sync-failed": 1,
}


def test_figures_of_the_story() -> None:
    found = figures(story())
    assert {name: found.get(name) for name in STORY_FIGURES} == STORY_FIGURES


def test_figures_of_an_empty_log_are_zero_or_undefined() -> None:
    found = figures(empty())
    for name in (
        "sent",
        "dropped",
        "causes.no-endpoints",
        "affinity.breaks.timeout",
        "local_drops.total",
        "syncs.failed",
    ):
        assert found[name] == 0
    for name in ("delivered_ratio", "affinity.stay_ratio", "sync_lag.p99_seconds", "sync_lag.reported_max_seconds"):
        assert math.isnan(found[name])


def test_what_the_scenario_names_has_figures_even_if_nothing_came_of_it() -> None:
    named = figures(replace(empty(), nodes=("node-7",), traffic=("night",), services=("shop/web:http",)))
    for name in (
        "traffic.night.sent",
        "services.shop/web:http.causes.no-endpoints",
        "nodes.node-7.dropped",
        "local_drops.node-7",
        "affinity.shop/web:http.breaks",
        "policies.Local.sent",
        "frontends.nodePort.rejected",
        "happenings.conntrack-clean-up",
        "happenings.pod-crashed",
    ):
        assert named[name] == 0, name
    assert math.isnan(named["sync_lag.nodes.node-7.max_seconds"])


def test_a_run_is_not_begun_for_an_expectation_that_names_nothing() -> None:
    scenario = load_scenario("sync-lag-burst", settings=["expect=[dropped == 0, traffic.insid.dropped == 0]"])
    reached: list[int] = []
    with pytest.raises(
        InputError, match=r"unknown figure 'traffic.insid.dropped'; did you mean traffic.inside.dropped"
    ):
        run(scenario, progress=lambda now_ns, _: reached.append(now_ns))
    assert reached == []


def test_every_figure_has_a_shape_in_the_scheme_and_every_shape_a_figure() -> None:
    part = {
        "cause": "[a-z-]+", "service": r"[^.]+:[^.]+", "source": "[^.]+", "node": r"node-\d", "policy": "Cluster|Local",
        "address": "clusterIP|nodePort|externalIP|loadBalancer", "quantile": "p50|p90|p99|max", "stage": "write|notice|status|see|slice|deliver|wait|sync",
        "kind": "[a-z-]+", "count": "([a-z_]+|causes[.][a-z-]+)", "figure": "([a-z_]+|breaks[.][a-z-]+)",
        "endpoint": r"[\d.]+(:\d+)?", "zone": "a|b",
    }  # fmt: skip
    shapes = [re.sub(r"<(\w+)>", lambda m: f"({part[m[1]]})", re.escape(kind.shape)) for kind in SCHEME]
    found = figures(story())
    assert [name for name in found if not any(re.fullmatch(shape, name) for shape in shapes)] == []
    assert [shape for shape in shapes if not any(re.fullmatch(shape, name) for name in found)] == []


def test_an_unknown_figure_is_refused_with_near_names() -> None:
    found = figures(story())
    assert lookup(found, "dropped") == 3
    for name in ('endpoints."10.180.1.5".share', "endpoints.10.180.1.5.share", 'services."shop/web:http".dropped'):
        assert lookup(found, name) > 0  # quotes only help the reader
    with pytest.raises(InputError, match=r"run.yaml:12: expect\[0\]: unknown figure 'droped'; did you mean dropped"):
        lookup(found, "droped", Problem("", file="run.yaml", line=12, path="expect[0]"))
    assert near_names(found, "services.shop/web:htp.dropped")[0] == "services.shop/web:http.dropped"
    assert near_names(found, "p99_seconds") == ["connect_time.p99_seconds", "sync_lag.p99_seconds", "syncs.p99_seconds"]
    assert near_names(found, "xyzzy") == []


def test_slug() -> None:
    assert slug("no local endpoints") == "no-local-endpoints"
    assert slug("Sync failed!") == "sync-failed"


@pytest.mark.parametrize(
    ("text", "figure", "operator", "number"),
    [
        ("dropped == 0", "dropped", Operator.EQ, 0),
        ("dropped!=0", "dropped", Operator.NE, 0),
        ("delivered_ratio >= 0.99", "delivered_ratio", Operator.GE, 0.99),
        ("delivered_ratio >= 99%", "delivered_ratio", Operator.GE, 0.99),
        ("sync_lag.p99_seconds < 2", "sync_lag.p99_seconds", Operator.LT, 2),
        ("sync_lag.p99_seconds <= 500ms", "sync_lag.p99_seconds", Operator.LE, 0.5),
        ("sync_lag.max_seconds > 1m30s", "sync_lag.max_seconds", Operator.GT, 90.0),
        ("services.shop/web:http.dropped > 3", "services.shop/web:http.dropped", Operator.GT, 3),
        ("  sent   ==  1e3 ", "sent", Operator.EQ, 1000.0),
    ],
)
def test_parse(text: str, figure: str, operator: Operator, number: float) -> None:
    parsed = parse_expectation(text)
    assert (parsed.figure, parsed.operator, parsed.number) == (figure, operator, number)


def test_parse_between() -> None:
    parsed = parse_expectation("syncs.p50_seconds between 20ms and 1s")
    assert (parsed.operator, parsed.number, parsed.upper) == (Operator.BETWEEN, 0.02, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropped", "not a condition: 'dropped'; expected `figure operator number`"),
        ("dropped = 0", "not a condition"),
        ("== 0", "not a condition"),
        ("dropped == 0 == 1", "not a condition"),
        ("dropped =< 0", "not a condition"),
        ("dropped == none", "'none' is not a number"),
        ("dropped ==", "'' is not a number"),
        ("dropped < 2s", "'2s' is not a number"),
        ("dropped < 5%", "'5%' is not a number"),
        ("dropped < nan", "'nan' is not a number"),
        ("sync_lag.p50_seconds < soon", "'soon' is not a number of seconds or a duration such as 2s or 500ms"),
        ("delivered_ratio > most", "'most' is not a number or a percentage"),
        ("dropped between 3 and 1", "first number must not exceed the second"),
        ("dropped between 3", "not a condition"),
    ],
)
def test_bad_grammar_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        parse_expectation(text, Problem("", file="run.yaml", line=3))
    assert str(refusal.value).startswith("run.yaml:3: ")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("dropped == 3", True),
        ("dropped == 0", False),
        ("dropped != 0", True),
        ("dropped < 3", False),
        ("dropped <= 3", True),
        ("dropped > 2", True),
        ("dropped >= 4", False),
        ("dropped between 3 and 5", True),
        ("dropped between 1 and 3", True),
        ("dropped between 4 and 5", False),
        ("dropped between 3 and 3", True),
        ("sync_lag.p50_seconds == 400ms", True),
        ("dropped_ratio <= 25%", True),
    ],
)
def test_evaluate(text: str, holds: bool) -> None:
    result = evaluate(parse_expectation(text), figures(story()))
    assert (result.holds, result.text) == (holds, text)
    assert result.value == STORY_FIGURES[result.figure]


@pytest.mark.parametrize("condition", ["== 0", "!= 0", "< 1", ">= 0", "between 0 and 1"])
def test_an_undefined_figure_satisfies_nothing(condition: str) -> None:
    result = evaluate(parse_expectation(f"delivered_ratio {condition}"), figures(empty()))
    assert not result.holds
    assert str(result) == f"FAILED: delivered_ratio {condition} (delivered_ratio is undefined)"


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InputError) as refusal:
        parse_expectations(["dropped", "sent == 1", "sent == x"])
    assert len(refusal.value.problems) == 2
    with pytest.raises(InputError) as refusal:
        evaluate_all(parse_expectations(["droped == 1", "sent == 12", "snt == 1"]), figures(story()))
    assert [problem.path for problem in refusal.value.problems] == ["in 'droped == 1'", "in 'snt == 1'"]
    results = evaluate_all(parse_expectations(["dropped == 0", "sent == 12"]), figures(story()))
    assert [result.text for result in failed(results)] == ["dropped == 0"]


def test_expectations_load_no_heavy_library() -> None:
    program = (
        "import sys, kpsim.reports.expectations, kpsim.reports.summary, kpsim.reports.frames, kpsim.reports.output\n"
        "print(sorted({'pandas', 'pyarrow', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
