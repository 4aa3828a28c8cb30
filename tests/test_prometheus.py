"""kube-proxies' metrics in a real Prometheus: what a run gives is stored, and published rules find in it what happened.

The rules are those that clusterloader2 records (kubernetes/perf-tests, clusterloader2/pkg/prometheus/manifests/prometheus-rules.yaml,
group kube-proxy.rules) and the alert KubeProxyDown (kubernetes-monitoring/kubernetes-mixin, alerts/kube_proxy.libsonnet with
lib/absent_alert.libsonnet).
"""

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scraped import CLUSTER, bucket_quantile

from kpsim.result import RunResult, run
from kpsim.scenario import parse_scenario
from kpsim.simulation.clock import START_NS
from kpsim.units import SECOND_NS

START = START_NS // SECOND_NS
RULES = """
groups:
  - name: kube-proxy.rules
    rules:
      - record: kubeproxy:kubeproxy_network_programming_duration:histogram_quantile
        expr: histogram_quantile(0.99, sum(rate(kubeproxy_network_programming_duration_seconds_bucket[5m])) by (le))
        labels: {quantile: "0.99"}
      - record: kubeproxy:kubeproxy_network_programming_duration:histogram_quantile
        expr: histogram_quantile(0.50, sum(rate(kubeproxy_network_programming_duration_seconds_bucket[5m])) by (le))
        labels: {quantile: "0.50"}
  - name: kubernetes-system-kube-proxy
    rules:
      - alert: KubeProxyDown
        expr: absent(up{job="kube-proxy"} == 1)
        for: 15m
        labels: {severity: critical}
"""
Query = Callable[..., list[dict[str, Any]]]


@contextmanager
def serving(programs: dict[str, str], folder: Path, result: RunResult) -> Iterator[tuple[Query, str]]:
    """A Prometheus with a run's metrics in its storage, to be asked over HTTP."""
    (folder / "metrics.txt").write_text(result.openmetrics())
    (folder / "prometheus.yaml").write_text("global: {scrape_interval: 1h}\n")
    storage = str(folder / "data")
    made = [programs["promtool"], "tsdb", "create-blocks-from", "openmetrics", str(folder / "metrics.txt"), storage]
    subprocess.run(made, check=True, capture_output=True, text=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        programs["prometheus"], f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={storage}",
        "--storage.tsdb.retention.time=100y", f"--web.listen-address={address}", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://{address}"
            _wait_until_ready(url)
            yield lambda expression, **when: _ask(url, expression, **when), url
        finally:
            server.terminate()


def _wait_until_ready(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("Prometheus did not start within 30 s")


def _ask(
    url: str, expression: str, *, at_s: float = 0, until_s: float | None = None, step: int = 15
) -> list[dict[str, Any]]:
    asked: dict[str, str | float] = {"query": expression, "time": START + at_s}
    if until_s is not None:
        asked = {"query": expression, "start": START + at_s, "end": START + until_s, "step": step}
    path = "query" if until_s is None else "query_range"
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def test_a_recording_rule_gives_the_quantiles_of_the_samples(prometheus: dict[str, str], tmp_path: Path) -> None:
    """Prometheus interpolates within the buckets; done by hand from the run's own samples it is the same."""
    result = run(parse_scenario(CLUSTER, "scraped.yaml"), scrape_interval="15s")
    samples = [p.reported_ns for p in result.log.programming if p.reported_ns is not None]
    assert len(samples) > 10
    (tmp_path / "rules.yaml").write_text(RULES)
    with serving(prometheus, tmp_path, result) as (query, url):
        made = [
            prometheus["promtool"], "tsdb", "create-blocks-from", "rules", f"--start={START + 225}", f"--end={START + 285}",
            "--eval-interval=15s", f"--url={url}", f"--output-dir={tmp_path / 'recorded'}", str(tmp_path / "rules.yaml"),
        ]  # fmt: skip
        subprocess.run(made, check=True, capture_output=True, text=True)
        rules = [line.split("expr: ")[1] for line in RULES.splitlines() if "expr: histogram" in line]
        for expression, quantile in zip(rules, (0.99, 0.5), strict=True):
            (row,) = query(expression, at_s=240)
            assert float(row["value"][1]) == pytest.approx(bucket_quantile(samples, quantile), rel=1e-9)
        (row,) = query('sum(kubeproxy_network_programming_duration_seconds_count{job="kube-proxy"})', at_s=240)
        assert row["value"][1] == str(len(samples))
        (row,) = query('count by (job) (up{job="kube-proxy"})', at_s=240)
        assert row == {"metric": {"job": "kube-proxy"}, "value": [START + 240, "3"]}
    (tmp_path / "recorded/wal").mkdir()  # promtool reads no storage without one
    command = [prometheus["promtool"], "tsdb", "dump", str(tmp_path / "recorded")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for quantile in (0.99, 0.5):
        recorded = [float(line.split()[-2]) for line in lines if f'quantile="{quantile:.2f}"' in line]
        assert len(recorded) >= 3
        assert recorded == pytest.approx([bucket_quantile(samples, quantile)] * len(recorded), rel=1e-9)


def test_an_alert_on_proxies_that_are_down_fires_for_the_time_in_which_all_are(
    prometheus: dict[str, str], tmp_path: Path
) -> None:
    """One of three stays up until 120 s; from then on none is there, for 16 minutes."""
    events = "events: [{at: 60s, restartProxy: {nodes: [node-1, node-2], down: 1020s}}, {at: 120s, restartProxy: {nodes: [node-3], down: 960s}}]"
    text = CLUSTER.partition("events:")[0].replace("240s", "1200s") + events
    result = run(parse_scenario(text, "scraped.yaml"), scrape_interval="15s")
    (tmp_path / "rules.yaml").write_text(RULES)
    subprocess.run(
        [prometheus["promtool"], "check", "rules", str(tmp_path / "rules.yaml")], check=True, capture_output=True
    )
    with serving(prometheus, tmp_path, result) as (query, _):
        (row,) = query('absent(up{job="kube-proxy"} == 1)', at_s=0, until_s=1185)
        times = [round(at - START) for at, _ in row["values"]]
        assert times == list(range(120, 1080, 15))
        assert times[-1] - times[0] >= 15 * 60  # the rule's ``for``
        assert query('kubeproxy_sync_proxy_rules_duration_seconds_count{node="node-3"}', at_s=1000) == []
