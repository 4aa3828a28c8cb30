"""What would run for hours, read a whole machine or fill the memory is said and refused before it begins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kpsim import inputs
from kpsim.effort import MOST_S, TELL_S, Effort, permit
from kpsim.errors import InputError
from kpsim.inputs import walk_directory
from kpsim.recording import parse_recording
from kpsim.replay import effort_of as effort_of_recording
from kpsim.result import run
from kpsim.scenario import load_scenario
from kpsim.scenario.effort import effort_of
from kpsim.scenarios import scenario_names

CONFIG = (
    '{"type":"CONFIG","ipFamily":"IPv4","object":{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1",'
    '"kind":"KubeProxyConfiguration","hostnameOverride":"n1","iptables":{"syncPeriod":"1s"}},"host":{"nodeIPs":["192.168.0.1"]}}'
)
SERVICE = (
    '{"type":"ADDED","at":"%s","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"%s","namespace":"shop"},'
    '"spec":{"type":"ClusterIP","clusterIP":"172.30.0.10","ports":[{"port":80}]}}}'
)
YEARS = [CONFIG, SERVICE % ("2020-01-01T00:00:00Z", "a"), SERVICE % ("2029-01-01T00:00:00Z", "b")]


def kpsim(*arguments: object, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "kpsim", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_minutes_are_told_and_hours_are_refused_unless_asked_for() -> None:
    told: list[str] = []
    permit(Effort(TELL_S, "x"), long=False, note=told.append)
    assert told == []
    permit(Effort(600, "5 connections"), long=False, note=told.append)
    assert told == ["this takes about 10 minutes: 5 connections"]
    with pytest.raises(InputError, match="this would take about 3 hours: x; --long runs it all the same"):
        permit(Effort(MOST_S * 3, "x"), long=False, note=told.append)
    permit(Effort(MOST_S * 72, "x"), long=True, note=told.append)
    assert told[1:] == ["this takes about 3 days: x"]


def test_the_built_in_scenarios_take_seconds() -> None:
    assert all(effort_of(load_scenario(name)).seconds < TELL_S for name in scenario_names())


def test_more_of_anything_takes_longer() -> None:
    def seconds(*settings: str) -> float:
        return effort_of(load_scenario("local-rollout", settings=settings)).seconds

    for more in (
        "traffic[0].perSecond=1000",
        "duration=4000s",
        "loadBalancer.interval=20ms",
        "workloads[0].replicas=900",
        "nodes.count=200",
    ):
        assert seconds(more) > 1.5 * seconds("traffic[0].perSecond=1") > 0, more
    many, probed = ("workloads[0].replicas=5000", "duration=3000s"), "workloads[0].probes={liveness: {period: 1s}}"
    assert seconds(*many, probed) > seconds(*many) + 100  # 15 million probes


def test_an_estimate_counts_the_pods_that_events_change() -> None:
    """A label restarts no pod, and a rollout only its own workload's; what is walked one by one takes longer."""

    def seconds(*settings: str) -> float:
        return effort_of(load_scenario("local-rollout", settings=settings)).seconds

    none, idle = ("events=[]", "nodes.count=100"), "[{name: web, namespace: shop}, {name: idle, replicas: 2000}]"
    label = "{at: 1s, labelNode: {node: node-1, labels: {a: b}}}"
    rollout = "{at: 1s, rollout: {workload: %s}}"
    labelled = seconds(f"events=[{', '.join([label] * 50)}]", "nodes.count=100")
    assert labelled < 2 * seconds(*none)
    every = ("nodes.count=20", f"workloads={idle}")
    assert seconds(*every, f"events=[{rollout % 'idle'}]") > 5 * seconds(*every, f"events=[{rollout % 'web'}]")
    assert seconds("proxy.mode=ipvs") > 3 * seconds("proxy.mode=iptables")


def test_a_scenario_of_hours_is_refused_before_it_runs() -> None:
    with pytest.raises(InputError, match=r"this would take about \d+ hours: 4,000,000,000 connections|days: "):
        run("local-rollout", settings=["traffic[0].perSecond=1000000", "duration=4000s"])


def test_years_of_syncs_are_refused_and_the_same_syncs_on_request_are_few(tmp_path: Path) -> None:
    effort = effort_of_recording(parse_recording(YEARS))
    assert effort.seconds > 24 * MOST_S
    file = tmp_path / "years.recording.jsonl"
    file.write_text("\n".join(YEARS))
    for arguments in (("replay", file), ("rules", file, "--node", "n1"), ("check", file)):
        done = kpsim(*arguments)
        assert done.returncode == 2
        assert b"this would take about" in done.stdout + done.stderr
    few = [CONFIG, YEARS[1].replace('"at":"2020-01-01T00:00:00Z",', ""), '{"type":"SYNC"}']
    assert effort_of_recording(parse_recording(few)).seconds < 1


@pytest.mark.parametrize(
    "asked", [("--random", "1000000"), ("--random", "10", "--clusters", "100000"), ("c.yaml", "--random", "1000000")]
)
def test_hours_of_random_probes_are_refused_before_anything_is_built(asked: tuple[str, ...]) -> None:
    done = kpsim("verify", *asked)
    assert done.returncode == 2
    assert b"this would take about" in done.stderr
    assert b"--long runs it all the same" in done.stderr


def test_a_directory_with_more_than_anybody_means_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        (tmp_path / f"{number}.yaml").write_text("")
    assert [len(names) for _, _, names in walk_directory(tmp_path, print)] == [6]
    monkeypatch.setattr(inputs, "MOST_ENTRIES", 5)
    with pytest.raises(InputError, match="holds more than 5 files and directories"):
        list(walk_directory(tmp_path, print))


def test_a_stream_without_end_has_one() -> None:
    done = kpsim("trace", "--rules", "/dev/zero", "--dst", "1.2.3.4:5")
    assert done.returncode == 2
    assert b"/dev/zero: larger than 512 MiB, the limit for a file" in done.stderr


def test_fifos_and_sockets_in_a_directory_are_passed_over_and_one_that_is_named_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "node.yaml").write_text(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.0.0.0/24}\n"
    )
    done = kpsim("rules", tmp_path, "--node", "n1")
    assert done.returncode == 0, done.stderr
    assert b"fifo.yaml passed over: " in done.stderr
    command = f"'{sys.executable}' -m kpsim rules <(cat '{tmp_path}/node.yaml') --node n1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (piped.returncode, piped.stdout) == (0, done.stdout)


def test_a_list_of_node_ports_that_is_cut_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.0.0.0/24}\n"
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{0}}}\nspec: {{type: NodePort, ports: [{{port: 80, nodePort: {0}}}]}}\n"
    file = tmp_path / "c.yaml"
    file.write_text(node + "".join(service.format(20000 + number) for number in range(50)))
    done = kpsim("rules", file, "--node", "n1")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.decode().splitlines() if "node ports outside" in line)
    named, _, more = line.partition(" and ")
    assert named.count("default/s") + int(more.split()[0]) == 50, line
