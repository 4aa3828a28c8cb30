"""Input of every kind, spoilt: each command answers or refuses it in words, and never fails inside.

Fixed seeds here; ``make fuzz SUBJECT=hostile`` draws others for as long as it is told to.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.hostile import Hostility, judged, quiet_place, run
from fuzz.hostile_seeds import Kind, kinds
from fuzz.mutating import VALUES

INPUTS = 10  #: of each kind


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_hostile_input_of_each_kind(kind: Kind) -> None:
    with quiet_place() as folder:
        hostility = Hostility(folder, seconds=120)
        for number in range(INPUTS):
            hostility.attempt(kind, number)
    assert not hostility.findings, "\n".join(map(str, hostility.findings))
    assert hostility.tried[kind.name] == INPUTS


def test_the_seeds_are_valid_so_what_is_spoilt_reaches_far(tmp_path: Path) -> None:
    """Most commands take their seed; a few answer 1, as an expectation may fail, or 2, as for a node that is not there."""
    with quiet_place() as folder:
        for kind in kinds():
            codes = []
            for command in kind.commands[:3]:
                file = folder / f"input{kind.suffix}"
                file.write_bytes(kind.seeds[0])
                given = [each.replace("FILE", str(file)) for each in command]
                for name, beside in kind.beside.items():
                    (folder / name).write_bytes(beside)
                    given = [each.replace(f"@{name}", str(folder / name)) for each in given]
                ended, said = run(given, 120)
                assert not judged(ended, said), said
                codes.append(ended)
            assert 0 in codes, (kind.name, said)


def test_the_judge_sees_what_must_not_be() -> None:
    assert judged(3, "internal error: x").startswith("exit 3")
    assert judged(ValueError("x"), "").startswith("ValueError")
    assert judged(2, "") == "refused without a word"
    assert judged(0, "a\x1b[31m") == "control characters"
    assert judged(1, "Traceback (most recent call last)") == "a traceback"
    assert not judged(2, "error: x\n")


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
    ended, said = run(["run", str(file), "--set", f"{field}={value}", "--set", "expect[0]=nosuch > 1"], 120)
    assert not judged(ended, said), said


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
    ended, said = run([each.replace("@", f"{tmp_path}/") for each in arguments], 120)
    assert ended == 2, said
    assert not judged(ended, said), said


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
    ended, said = run(command, 120)
    assert (ended, judged(ended, said)) == (0, ""), said
