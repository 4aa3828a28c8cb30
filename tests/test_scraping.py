"""The metrics of kube-proxies: what each observation counts as, what a scrape finds, and how it is written down."""

import re
from dataclasses import replace

import pytest
from runlogs import ms
from scraped import CLUSTER, bucket_quantile
from simulations import DELAYS, HEAD

from kpsim.errors import InputError
from kpsim.kubeproxy.metrics import DEFINITIONS, DURATIONS_NS, LATENCIES_NS, Histogram, Kind, Metrics
from kpsim.reports.exposition import metrics_frame, openmetrics_text, scraper_for
from kpsim.result import RunResult, run
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import HappeningKind
from kpsim.units import SECOND_NS

NODES_OFF = (
    "events: [{at: 20s, restartProxy: {nodes: [node-1], down: 20s}}, {at: 22s, reboot: {node: node-2, takes: 30s}}]"
)


def scraped(text: str = CLUSTER, interval: str = "15s", mode: str = "iptables", *settings: str) -> RunResult:
    return run(parse_scenario(text, "scraped.yaml", settings=settings), mode=mode, scrape_interval=interval)


def values(result: RunResult, name: str, /, **labels: str) -> dict[float, float]:
    """The samples of one series by time."""
    frame = result.metrics
    frame = frame[frame["name"] == name]
    for label, value in labels.items():
        frame = frame[frame[label] == value]
    return dict(zip(frame["at_seconds"], frame["value"], strict=True))


def test_buckets_are_those_of_kube_proxy() -> None:  # CP-11.1
    assert tuple(ms(n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)) == DURATIONS_NS
    seconds = [ns / SECOND_NS for ns in LATENCIES_NS]
    assert seconds[:4] == [0.25, 0.5, 1, 2] and seconds[60:64] == [59, 60, 65, 70]
    assert seconds[-8:] == [115, 120, 150, 180, 210, 240, 270, 300] and len(seconds) == 2 + 59 + 12 + 7


def test_an_observation_belongs_to_the_first_bucket_that_it_does_not_exceed() -> None:
    metrics = Metrics()
    for value_ns in (0, ms(1), ms(1) + 1, ms(16384), ms(16385)):
        metrics.observe("sync_proxy_rules_duration_seconds", value_ns, ip_family="IPv4")
    found = metrics.series()["sync_proxy_rules_duration_seconds", (("ip_family", "IPv4"),)]
    assert isinstance(found, Histogram)
    assert found.counts == (2, 1, *[0] * 12, 1, 1) and found.observed == 5
    assert found.total == 2 * ms(1) + 1 + ms(16384) + ms(16385)
    assert metrics.snapshot()['kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}'] == 5


def test_series_are_read_anew_only_after_a_change() -> None:
    metrics = Metrics()
    before = metrics.series()
    assert metrics.series() is before
    metrics.add("proxy_healthz_total", code="200")
    assert metrics.series() is not before and ("proxy_healthz_total", (("code", "200"),)) not in before


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_histograms_and_counters_agree_with_the_log(mode: str) -> None:
    result = scraped(mode=mode)
    log = result.log
    for node in log.nodes:
        syncs = [s for s in log.syncs if s.node == node and s.end_ns > 0]
        assert values(result, "kubeproxy_sync_proxy_rules_duration_seconds_count", node=node)[240] == len(syncs)
        took = values(result, "kubeproxy_sync_proxy_rules_duration_seconds_sum", node=node)[240]
        assert took == pytest.approx(sum(s.end_ns - s.start_ns for s in syncs) / SECOND_NS)
        samples = [p.reported_ns for p in log.programming if p.node == node and p.reported_ns is not None]
        assert values(result, "kubeproxy_network_programming_duration_seconds_count", node=node)[240] == len(samples)
        assert values(result, "kubeproxy_network_programming_duration_seconds_sum", node=node)[240] == pytest.approx(
            sum(samples) / SECOND_NS
        )
        last_ns = max(s.end_ns for s in syncs if s.success)
        assert values(result, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", node=node)[240] == pytest.approx(
            1767225600 + last_ns / SECOND_NS, abs=1e-6
        )
    partial = values(result, "kubeproxy_sync_partial_proxy_rules_duration_seconds_count", node="node-1")
    assert bool(partial) is (mode != "ipvs")
    rules = values(result, "kubeproxy_sync_proxy_rules_iptables_total", node="node-1", table="nat")
    assert bool(rules) is (mode == "iptables")


def test_pending_changes_and_requests_show_while_a_sync_is_awaited() -> None:
    """The first change of a rollout is synced at once; the next ones wait a second (CP-9.3)."""
    result = scraped(CLUSTER, "100ms", "iptables", "duration=40s", "events=[{at: 20s, rollout: {workload: web}}]")
    pending = values(result, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", node="node-1")
    assert set(pending.values()) >= {0, 1}
    queued = values(result, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", node="node-1")
    done = values(result, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", node="node-1")
    assert any(queued[at] > done[at] for at in done) and done[40] > queued[40]


def test_failed_syncs_count_and_lose_their_samples() -> None:  # CP-10.2
    text = CLUSTER + "  - {at: 19s, failSyncs: {nodes: [node-1], for: 60s}}\n"
    result = scraped(text)
    failures = values(result, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", node="node-1")
    assert failures[240] == sum(not s.success for s in result.log.syncs) > 0
    assert 15 not in failures  # the series appears with its first failure
    count = "kubeproxy_network_programming_duration_seconds_count"
    assert values(result, count, node="node-1")[240] < values(result, count, node="node-2")[240]


def test_a_process_that_is_gone_does_not_answer_and_a_new_one_counts_from_zero() -> None:
    result = scraped(CLUSTER.partition("events:")[0] + NODES_OFF, "5s")
    up = {node: values(result, "up", node=node) for node in ("node-1", "node-2", "node-3")}
    assert [at for at, value in up["node-1"].items() if not value] == [20, 25, 30, 35]
    assert set(up["node-3"].values()) == {1}
    assert 0 in up["node-2"].values() and up["node-2"][240] == 1
    total = values(result, "kubeproxy_sync_proxy_rules_service_changes_total", node="node-1")
    assert [total[at] for at in (15, 240)] == [1, 1] and 25 not in total


def test_the_health_probes_of_load_balancers_are_counted() -> None:
    text = CLUSTER.replace("clusterIP:", "type: LoadBalancer, clusterIP:").replace(
        "targetPort: 8080}]}",
        "targetPort: 8080, nodePort: 30080}]}, status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}",
    )
    text += "loadBalancer: {interval: 2s}\ntraffic: [{name: t, service: web, via: loadBalancer, perSecond: 1}]\n"
    result = scraped(text)
    answered = values(result, "kubeproxy_proxy_healthz_total", node="node-1", code="200")
    assert answered[0] == 1 and 119 <= answered[240] <= 122
    assert answered[120] - answered[60] == 30


def test_a_frame_and_the_text_have_the_same_samples() -> None:
    result = scraped()
    lines = [line for line in result.openmetrics().splitlines() if not line.startswith("#")]
    assert len(lines) == len(result.metrics)
    read = [re.fullmatch(r"(\w+)\{(.*)\} (\S+) (\S+)", line) for line in lines]
    for match, row in zip(read, result.metrics.itertuples(), strict=True):
        assert match is not None
        assert (match[1], float(match[3]), float(match[4])) == (row.name, row.value, 1767225600 + row.at_seconds)
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
        assert labels == {n: getattr(row, n) for n in labels}
        if labels["job"] == "kube-proxy":
            assert labels["instance"] == f"192.168.0.{labels['node'][-1]}:10249"
        else:
            assert labels["instance"] == "kube-controller-manager:10257" and row.node == ""
    assert result.openmetrics().endswith("# EOF\n")


def test_every_metric_that_a_run_gives_is_defined_and_has_its_kind() -> None:
    text = scraped().openmetrics()
    kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert kinds.pop("up") == "gauge"
    defined = {
        f"kubeproxy_{d.name.removesuffix('_total') if d.kind is Kind.COUNTER else d.name}": d.kind for d in DEFINITIONS
    }
    assert {name: kind for name, kind in kinds.items() if name.startswith("kubeproxy_")}.items() <= defined.items()
    for family in ("sync_proxy_rules_no_local_endpoints_total", "sync_proxy_rules_iptables_total"):
        assert kinds[f"kubeproxy_{family}"] == "gauge"  # gauges, in spite of their names
    buckets = re.findall(r"network_programming_duration_seconds_bucket\{[^}]*node-1[^}]*\} (\S+) 1767225840", text)
    assert len(buckets) == len(LATENCIES_NS) + 1 and sorted(map(float, buckets)) == list(map(float, buckets))


def test_scraping_changes_nothing_and_repeats_itself() -> None:
    scenario = parse_scenario(CLUSTER, "scraped.yaml")
    plain, first, second = run(scenario), scraped(), scraped()
    assert plain.log == first.log
    assert first.openmetrics() == second.openmetrics() == plain.openmetrics()  # the plain one is run again
    assert plain.metrics.equals(first.metrics)


def test_a_scraped_quantile_is_what_a_dashboard_shows_not_what_is_true() -> None:
    log = scraped().log
    samples = [p.reported_ns for p in log.programming if p.reported_ns is not None]
    assert bucket_quantile(samples, 0.5) != sorted(samples)[len(samples) // 2] / SECOND_NS


@pytest.mark.parametrize(
    ("interval", "words"), [("0s", "more than 0s"), ("soon", "--scrape-interval"), (-1, "more than 0s")]
)
def test_an_interval_that_is_none_is_refused(interval: str | int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(parse_scenario(CLUSTER, "scraped.yaml"), scrape_interval=interval)


def test_more_samples_than_fit_are_refused_before_the_run_with_an_interval_that_fits() -> None:
    with pytest.raises(InputError, match=r"2,401 scrapes of 500 nodes .* try (\d+)s") as refused:
        scraper_for(SECOND_NS // 10, duration_ns=240 * SECOND_NS, nodes=500, families=2)
    fits = int(re.findall(r"try (\d+)s", str(refused.value))[0])
    assert scraper_for(fits * SECOND_NS, duration_ns=240 * SECOND_NS, nodes=500, families=2).interval_ns


def test_no_node_gives_no_sample() -> None:
    scraper = scraper_for(SECOND_NS, duration_ns=0, nodes=0, families=1)
    assert openmetrics_text(scraper) == "# EOF\n"
    assert len(metrics_frame(scraper)) == 0
    assert replace(scraper).interval_ns == SECOND_NS


# ------------------------------------------------------------------------------------------------- the slice controller

SLICES = "endpoint_slice_controller_"


def test_the_slice_controller_counts_syncs_writes_and_endpoints() -> None:  # CP-3.12
    """Six pods are replaced twice, with at most one more at a time; so twelve endpoints are added, and twelve removed."""
    result = scraped()
    changes = [p.change for p in result.log.programming if p.node == "node-1"]
    assert values(result, f"{SLICES}changes", operation="update")[240] == len(set(changes))
    assert values(result, f"{SLICES}endpoints_desired")[0] == values(result, f"{SLICES}endpoints_desired")[240] == 6
    assert set(values(result, f"{SLICES}num_endpoint_slices").values()) == {1}
    assert values(result, f"{SLICES}endpoints_added_per_sync_sum")[240] == 12
    assert values(result, f"{SLICES}endpoints_removed_per_sync_sum")[240] == 12
    syncs = values(result, f"{SLICES}syncs", result="success")[240]
    assert syncs == values(result, f"{SLICES}endpoints_added_per_sync_count")[240] >= len(set(changes))
    assert (
        "endpoint_slice_controller_changes unknown" in result.openmetrics()
    )  # OpenMetrics has no counter without _total
    bounds = result.metrics.loc[result.metrics["name"] == f"{SLICES}endpoints_added_per_sync_bucket", "le"].unique()
    assert list(bounds) == [*(f"{2 << k}.0" for k in range(15)), "+Inf"]


def test_desired_slices_are_those_that_full_ones_would_need() -> None:
    text = (
        CLUSTER.replace("replicas: 6", "replicas: 12").partition("events:")[0]
        + "controller: {maxEndpointsPerSlice: 5}\nevents: [{at: 20s, scale: {workload: web, replicas: 2}}]\n"
    )
    result = scraped(text)
    slices, desired = (values(result, f"{SLICES}{name}") for name in ("num_endpoint_slices", "desired_endpoint_slices"))
    assert (slices[0], desired[0]) == (3, 3)
    assert desired[240] == 1 <= slices[240]  # sparse slices are not merged (CP-3.5)


def test_a_stale_sync_is_counted_as_such_and_a_service_that_is_gone_has_no_slices() -> None:
    text = CLUSTER.partition("events:")[0].replace("delays: {", "delays: {controllerWatch: 700ms, ")
    text += "events: [{at: 20s, rollout: {workload: web}}, {at: 100s, deleteService: {service: web}}]\n"
    result = scraped(text)
    stale = sum(h.kind is HappeningKind.SLICE_SYNC_STALE for h in result.log.happenings)
    assert values(result, f"{SLICES}syncs", result="stale").get(240, 0) == stale > 0
    assert values(result, f"{SLICES}num_endpoint_slices")[240] == values(result, f"{SLICES}endpoints_desired")[240] == 0
    assert values(result, f"{SLICES}changes", operation="delete") == {}  # the garbage collector deletes


# ---------------------------------------------------------------------------------------------------- replays (CP-6.8)

CHANGES = ("kubeproxy_sync_proxy_rules_service_changes_total", "kubeproxy_sync_proxy_rules_endpoint_changes_total")
MINUTE = 60
MORE = "{apiVersion: v1, kind: Service, metadata: {name: more}, spec: {clusterIP: 172.30.0.11, ports: [{port: 80}]}}"


def counted(*settings: str, families: str = "[IPv4]", interval: str = "1m") -> list[dict[float, float]]:
    """The events of Services and of slices that node-1 has counted, at every scrape. A list takes 100 ms."""
    head = HEAD.replace("nodes: {count: 2", f"nodes: {{count: 2, ipFamilies: {families}")
    head = head.replace("clusterIP: 172.30.0.10, ", "ipFamilyPolicy: PreferDualStack, ")
    result = scraped(head + DELAYS, interval, "nftables", "duration=70m", *settings)
    return [values(result, name, node="node-1") for name in CHANGES]


@pytest.mark.parametrize(("families", "services"), [("[IPv4]", 1), ("[IPv4, IPv6]", 2)])
def test_a_process_that_is_long_up_replays_all_it_knows_every_15_min(families: str, services: int) -> None:
    for found, once in zip(counted(families=families), (services, services), strict=True):  # a slice for each family
        assert {found[at + 15 * MINUTE] - found[at] for at in range(0, 45 * MINUTE, MINUTE)} == {once}
        assert found[0] == once  # the list of the start, and no replay yet


def test_informers_that_listed_long_ago_replay_at_times_of_their_own() -> None:
    first = [next(at for at, value in found.items() if value > found[0]) for found in counted()]
    assert first[0] != first[1] and max(first) <= 15 * MINUTE


def test_a_new_process_replays_first_15_min_after_its_lists() -> None:
    for found in counted("events=[{at: 299s, restartProxy: {nodes: [node-1]}}]"):
        assert found[5 * MINUTE] == found[19 * MINUTE] == 1  # its lists come at 299.1 s, the first replay at 1199.1 s
        assert found[20 * MINUTE] == found[34 * MINUTE] == 2 and found[35 * MINUTE] == 3


LISTED_ANEW = (
    "events=[{at: 20m, closeWatches: {kinds: [Service], expired: true}}, {at: 40m, createService: " + MORE + "}, "
    "{at: 55m, deleteService: {service: web}}]"
)


def test_a_list_begins_the_period_anew_and_what_is_gone_is_replayed_no_more() -> None:
    found, _ = counted(LISTED_ANEW)
    listed = found[20 * MINUTE]  # a list follows within 2 s, so replays come at 35, 50 and 65 min
    assert found[35 * MINUTE] == listed and found[36 * MINUTE] == listed + 1
    assert found[49 * MINUTE] == listed + 2 and found[51 * MINUTE] == listed + 4  # there is one more since 40 min
    assert found[65 * MINUTE] == listed + 5 and found[66 * MINUTE] == listed + 6  # and one less since 55 min


def test_how_often_somebody_looks_does_not_matter_to_what_was_replayed() -> None:
    often, seldom = counted(LISTED_ANEW), counted(LISTED_ANEW, interval="35m")
    for fine, coarse in zip(often, seldom, strict=True):
        assert list(coarse) == [0, 35 * MINUTE, 70 * MINUTE]
        assert all(fine[at] == value for at, value in coarse.items())


@pytest.mark.parametrize("period", ["1ns", "10s", "1000h"])
def test_replays_change_nothing_but_counters(period: str) -> None:
    seen = [scraped(CLUSTER, "60s", "iptables", f"proxy.configSyncPeriod={each}") for each in (period, "15m")]
    assert repr(seen[0].log) == repr(seen[1].log)
