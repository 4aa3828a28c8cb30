"""Cases as files, how they are made small, and what ``make fuzz`` prints. No kernel is used."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from drawings import Scripted, cluster, manifest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzzing
from fuzz.cases import Case, documents, read_case, write_case
from fuzz.fuzzing import WAITS_NS, Fuzzer, FuzzTally, draw_case, main, summary
from fuzz.shrinking import fewest, shrunk
from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.lab.tools.variants import Variant
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.sequences.steps import ClientSegment, FirstPacket, Wait
from kpsim.verify.subjects import cluster_subjects

SEEDS = range(12)


def drawn(seed: int) -> Case:
    subjects = list(cluster_subjects(cluster(seed)))
    subject = subjects[seed % len(subjects)]
    return draw_case(SeededChoices(seed, "case"), cluster(seed), subject, manifest(seed), 120)


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_is_read_again(seed: int, tmp_path: Path) -> None:
    case, file = drawn(seed), tmp_path / "case.yaml"
    write_case(case, file)
    assert read_case(file) == case
    assert sum(line.startswith("- {do: ") for line in file.read_text().splitlines()) == len(case.steps)


def test_probes_are_written_and_read_again(tmp_path: Path) -> None:
    [subject, *_] = cluster_subjects(cluster(1))
    probes = draw_probes(SeededChoices(1, "probes"), subject.site, subject.node, subject.family, 60, subject.services)
    case = Case(manifest(1), subject.node, subject.family, tuple(probes), random_fully=False, about="two\nlines\n")
    write_case(case, tmp_path / "case.yaml")
    assert read_case(tmp_path / "case.yaml") == case


@pytest.mark.parametrize(
    "text",
    [
        "", "node: node-1", "[1, 2]", "node: node-1\nfamily: IPv5\nmanifest: ''", "{",
        "node: n\nfamily: IPv4\nmanifest: ''\nsteps:\n- {do: dance, flow: 1}",
        "node: n\nfamily: IPv6\nmanifest: ''\nsteps:\n- {do: begin, flow: 1, from: pod, protocol: tcp, src: '1.2.3.4:5', dst: '1.2.3.4:5'}",
    ],
)  # fmt: skip
def test_what_is_no_case_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"case\.yaml is no case"):
        read_case(file)


def test_a_case_of_a_node_that_there_is_not() -> None:
    with pytest.raises(InputError, match="no node 'node-7'"):
        Case(manifest(1), "node-7", Family.IPV4).cluster()


def test_settings_are_of_the_machine() -> None:
    case = Case(manifest(1), "node-1", Family.IPV4, sysctls={"udp_timeout": 1})
    assert case.machine(case.cluster()).sysctls.udp_timeout_ns == 10**9
    wrong = Case(manifest(1), "node-1", Family.IPV4, sysctls={"udp_timeot": 1})
    with pytest.raises(InputError, match="no setting 'udp_timeot'"):
        wrong.machine(wrong.cluster())


# --- small ---------------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 40)))
def test_nothing_that_is_needed_is_left_out_and_nothing_else_stays(needed: set[int]) -> None:
    found = fewest(range(41), lambda some: needed <= set(some), least=0)
    assert list(found) == sorted(needed)


def test_something_stays() -> None:
    assert len(fewest(range(8), lambda some: True)) == 1


def test_a_case_is_made_small() -> None:
    case = drawn(7)
    first = next(step for step in case.steps if isinstance(step, FirstPacket))
    services = [each["metadata"]["name"] for each in documents(case.manifest) if each["kind"] == "Service"]

    def fails(smaller: Case) -> bool:
        names = [each["metadata"]["name"] for each in documents(smaller.manifest) if each["kind"] == "Service"]
        return first in smaller.steps and services[-1] in names

    small = shrunk(case, fails)
    kinds = [each["kind"] for each in documents(small.manifest)]
    assert small.steps == (first,)
    assert set(kinds) <= {"KubeProxyConfiguration", "Node", "Service", "EndpointSlice"}
    assert kinds.count("Service") == kinds.count("Node") == 1
    assert set(documents(small.manifest)[0]) == {"apiVersion", "kind", "mode"}
    assert small.sysctls == {}
    assert small.cluster().node_names == (case.node,)


def test_time_for_it_ends() -> None:
    case = drawn(7)
    assert shrunk(case, lambda _: True, lambda: False) == case


# --- fuzzing -------------------------------------------------------------------------------------------------------------


def test_the_simplest_case_is_of_a_plain_connection() -> None:
    text = draw_manifest(Scripted())
    [subject, *_] = cluster_subjects(Case(text, "node-1", Family.IPV4).cluster())
    case = draw_case(Scripted(), Case(text, "node-1", Family.IPV4).cluster(), subject, text, 3)
    assert case.sysctls == {}
    assert [type(step).__name__ for step in case.steps] == ["FirstPacket", "ServerSegment", "ClientSegment"]


def test_cases_are_drawn_with_short_timers_and_waits_that_outlast_them() -> None:
    cases = [drawn(seed) for seed in SEEDS]
    assert any("udp_timeout" in case.sysctls for case in cases)
    waits = {step.duration_ns for case in cases for step in case.steps if isinstance(step, Wait)}
    assert set(WAITS_NS) <= waits
    assert any(isinstance(step, ClientSegment) for step in cases[0].steps)


def test_sequences_are_the_same_for_the_same_seed() -> None:
    [subject, *_] = cluster_subjects(cluster(3))
    twice = [
        draw_sequence(SeededChoices(3, "x"), subject.site, subject.node, subject.family, 40, cluster(3).state) for _ in "12"
    ]  # fmt: skip
    assert twice[0] == twice[1]


def test_the_summary_says_how_long_and_how_much() -> None:
    tally = FuzzTally(clusters=3, sequences=6, probes=450, packets=700)
    assert summary(tally, 90) == "1.5 minutes: 3 clusters, 1150 packets, 6 sequences, without a disagreement"
    tally.unmeasured, tally.passing = 1, 2
    assert summary(tally, 90).endswith(", 1 not measured, 2 disagreements that were not seen again")
    tally.cases, tally.repeated = [Path("a.yaml")], 4
    assert "1 disagreements and 4 like them" in summary(tally, 90) and summary(tally, 90).endswith(": a.yaml")


class Stopped(Fuzzer):
    """The user presses Ctrl-C at the second seed."""

    def seed(self, number: int) -> None:
        self.tally.clusters += 1
        if self.tally.clusters > 1:
            raise KeyboardInterrupt
        self._say(f"seed {number}")


def nothing_missing(_: Variant) -> Sequence[object]:
    return ()


def test_it_ends_by_hand_with_the_summary(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fuzzing, "Fuzzer", Stopped)
    monkeypatch.setattr(fuzzing, "obstacles", nothing_missing)
    assert main(["--seed", "5", "--minutes", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "from seed 5 on, for 1 minutes, mode iptables, with nft and legacy", "seed 5",
        "0.0 minutes: 2 clusters, 0 packets, 0 sequences, without a disagreement, stopped by hand",
    ]  # fmt: skip


def test_without_a_lab_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzzing, "obstacles", lambda variant: [f"no root for {variant}"])
    assert main(["--backend", "nft"]) == 2
    assert capsys.readouterr().err == "no root for nft\n"
