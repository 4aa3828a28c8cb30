"""Input of every kind, spoilt: each command answers or refuses it in words, and never fails inside.

Fixed seeds here; ``make fuzz SUBJECT=hostile`` draws others for as long as it is told to.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.hostile import Drawn, Ended, Hostility, judged, names_a_file, quiet_place, run
from fuzz.hostile_seeds import Kind, kinds
from fuzz.mutating import VALUES

INPUTS = 10  #: of each kind


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_hostile_input_of_each_kind(kind: Kind) -> None:
    with quiet_place():
        hostility = Hostility(seconds=120)
        for number in range(0, INPUTS, kind.every):
            hostility.attempt(kind, number)
    assert not hostility.findings, "\n".join(map(str, hostility.findings))
    assert hostility.tried[kind.name] == len(range(0, INPUTS, kind.every))


def test_the_seeds_are_valid_so_what_is_spoilt_reaches_far(tmp_path: Path) -> None:
    """Most commands take their seed; a few answer 1, as an expectation may fail, or 2, as for a node that is not there."""
    with quiet_place() as folder:
        for kind in (kind for kind in kinds() if kind.every == 1):
            codes = []
            for command in kind.commands[:3]:
                file = folder / f"input{kind.suffix}"
                file.write_bytes(kind.seeds[0])
                given = [each.replace("FILE", str(file)).replace("NODE", "n1") for each in command]
                for name, beside in kind.beside.items():
                    (folder / name).write_bytes(beside)
                    given = [each.replace(f"@{name}", str(folder / name)) for each in given]
                ended = run(given, 120)
                assert not judged(ended), ended.said
                codes.append(ended.code)
            assert 0 in codes, (kind.name, ended.said)


def test_the_judge_sees_what_must_not_be() -> None:
    assert judged(Ended(3, "", "internal error: x")).startswith("exit 3")
    assert judged(Ended(ValueError("x"), "", "")).startswith("ValueError")
    assert judged(Ended(2, "some", "words")) == "refused without an error"
    assert judged(Ended(0, "a\x1b[31m", "")) == "control characters"
    assert judged(Ended(1, "", "Traceback (most recent call last)")) == "a traceback"
    assert judged(Ended(0, '{"a": 1}\n{"a"', ""), as_json=True) == "no JSON"
    assert judged(Ended(0, '{"a": NaN}', ""), as_json=True) == "no JSON"
    assert not judged(Ended(0, '{"a": 1}\n{"a": 2}\n', ""), as_json=True)
    assert not judged(Ended(2, "", "error: x\n"))
    given = Drawn((), b"", {"c.yaml": b""})
    assert not names_a_file(Ended(2, "", "error: input.yaml:3: x\nerror: y\n"), given, "input.yaml")
    assert names_a_file(Ended(2, "", "error: c.yaml:3: x\nerror: --seed: y\n"), given, "input.yaml")


SCENARIO_FIELDS = (
    "seed", "duration", "nodes.count", "nodes", "workloads[0].replicas", "workloads[0].startup.delay", "workloads[0].termination.preStop", "objects[0].spec.ports[0].port",
    "loadBalancer.interval", "events[0].at", "traffic[0].perSecond", "traffic[0].clients", "expect", "expect[0]", "proxy.iptables.syncPeriod", "metadata.name", "description",
)  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(SCENARIO_FIELDS),
    value=st.sampled_from([*map(repr, VALUES), "1e400", "1e-400s", ".nan", "-.inf", "0x", "2001-01-01"]),
)
def test_no_value_of_a_setting_fails_inside(field: str, value: str, tmp_path: Path) -> None:
    """Checked only, so that a valid value costs no run: an expectation that names no figure ends it before."""
    from fuzz.hostile_seeds import SCENARIO

    file = tmp_path / "s.yaml"
    file.write_bytes(SCENARIO)
    ended = run(["run", str(file), "--set", f"{field}={value}", "--set", "expect[0]=nosuch > 1"], 120)
    assert not judged(ended), ended.said


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "@c.yaml", "--node", "n1", "--dst", "192.0.2.10:80", "--seed", "9" * 40), ("verify", "--random", "1", "--seed", "9" * 40),
        ("run", "@s.yaml", "--seed", "9" * 40), ("run", "@s.yaml", "--set", "traffic[0].perSecond=1e-400"),
        ("run", "@s.yaml", "--set", "duration=1e-400s"), ("run", "@s.yaml", "--set", "duration=1e400s"),
        ("trace", "@c.yaml", "--node", "n1", "--dst", "192.0.2.10:80", "--sysctl", "net.netfilter.nf_conntrack_udp_timeout=" + "9" * 50),
    ],
)  # fmt: skip
def test_numbers_past_every_edge_are_refused_in_words(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A seed has 64 bits; 1e-400 is 0."""
    from fuzz.hostile_seeds import CLUSTER, SCENARIO

    for name, content in (("c.yaml", CLUSTER), ("s.yaml", SCENARIO)):
        (tmp_path / name).write_bytes(content)
    ended = run([each.replace("@", f"{tmp_path}/") for each in arguments], 120)
    assert ended.code == 2, ended.said
    assert not judged(ended), ended.said


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_rate_whose_inverse_is_infinite_sends_nothing_after_the_first(arrivals: str, tmp_path: Path) -> None:
    from fuzz.hostile_seeds import SCENARIO

    file = tmp_path / "s.yaml"
    file.write_bytes(SCENARIO)
    command = [
        "run",
        str(file),
        "--set",
        "traffic[0].perSecond=1e-320",
        "--set",
        f"traffic[0].arrivals={arrivals}",
        "--set",
        "expect[0]=sent <= 1",
    ]
    ended = run(command, 120)
    assert (ended.code, judged(ended)) == (0, ""), ended.said


def test_a_probe_without_a_source_to_choose_is_refused_with_its_line_before_any_is_answered(tmp_path: Path) -> None:
    from fuzz.hostile_seeds import RULES

    (tmp_path / "r.rules").write_bytes(RULES)
    probes = tmp_path / "p.jsonl"
    probes.write_text(
        '{"id": 1, "node": "host", "from": "external", "dst": "192.0.2.1", "dport": 80}\n'
        '{"id": 2, "node": "host", "from": "pod", "dst": "192.0.2.1", "dport": 80}\n'
    )
    site = ("--rules", str(tmp_path / "r.rules"), "--node-ip", "192.168.0.1")
    ended = run(["trace", *site, "--probes", str(probes)], 120)
    node = run(["trace", *site, "--dst", "192.0.2.1:80", "--node", "host"], 120)
    assert ended.code == 2, node.said
    assert f"{probes}:2: " in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("option", ["--node-ip", "--pod-cidr", "--interface"])
def test_an_address_of_the_machine_that_is_none_is_refused_with_its_option(option: str, tmp_path: Path) -> None:
    from fuzz.hostile_seeds import RULES

    (tmp_path / "r.rules").write_bytes(RULES)
    value = "eth1=10.0.0.1x" if option == "--interface" else "10.0.0.1x"
    ended = run(["trace", "--rules", str(tmp_path / "r.rules"), option, value, "--dst", "192.0.2.1:80"], 120)
    assert (ended.code, ended.out) == (2, "")
    assert f"error: {option}: " in ended.err


def test_documents_in_braces_between_lines_of_dashes_are_yaml(tmp_path: Path) -> None:
    """What starts with a brace may still be YAML: flow mappings are, and so is a list of them with ``---`` between."""
    file = tmp_path / "c.yaml"
    file.write_text(
        '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24"}}\n---\n'
        '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}, "spec": {"podCIDR": "10.0.1.0/24"}}\n'
    )
    assert run(["rules", str(file), "--node", "n2"], 120).code == 0


@pytest.mark.parametrize("condition", ["no condition", "nosuch == 1", "dropped between 3 and 2", "dropped == x"])
def test_an_expectation_that_is_none_is_refused_with_its_file_and_line(condition: str, tmp_path: Path) -> None:
    from fuzz.hostile_seeds import SCENARIO

    file = tmp_path / "s.yaml"
    file.write_bytes(SCENARIO.rstrip() + f"\n- {condition}\n".encode())
    line = len(file.read_text().splitlines())
    ended = run(["run", str(file)], 120)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {file}:{line}: .expect[1]: "), ended.err
    ended = run(["run", str(file), "--set", "expect[1]=also == 1"], 120)
    assert "--set expect[1]=also == 1" in ended.err


def test_a_line_break_in_a_files_name_breaks_no_line(tmp_path: Path) -> None:
    folder = tmp_path / "a\nerror: b"
    folder.mkdir()
    (folder / "s.yaml").write_text(
        "apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: short}\nduration: 1s\nnodes: {count: 1}\n"
    )
    for command in (["check", str(folder)], ["run", str(folder / "s.yaml"), "--out", str(folder / "out")]):
        ended = run(command, 120)
        assert ended.code == 0, ended.said
        assert not [line for line in ended.said.splitlines() if line.startswith("error: b")], ended.said


def test_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    """The order of sets differs between processes; nothing that is printed may show it."""
    digests = []
    for seed in ("1", "2"):
        file = tmp_path / seed
        subprocess.run(
            [sys.executable, "-m", "fuzz", "hostile", "--seed", "40", "--inputs", "3", "--digests", file]
            + [f"--kind={name}" for name in ("manifests", "rules", "pairs", "recordings", "scenarios")],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
        )
        digests.append(file.read_text())
    assert digests[0] == digests[1]
    assert len(digests[0].splitlines()) >= 12
