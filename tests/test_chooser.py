"""Draws from a seed, and expansion of every branch with its weight (K-5, I-8.2)."""

from fractions import Fraction

import pytest

from kpsim import rng
from kpsim.packetpath.chooser import ScriptedChooser, SeededChooser, explore, fraction_as_written
from kpsim.rng import CHANCE_RANGE


@pytest.mark.parametrize("flow", range(20))
def test_a_chance_is_31_bits_below_the_threshold(flow):
    """K-5: compared with 31 random bits; equal is not below."""
    drawn = rng.draw64(7, flow, "key") >> 33
    chooser = SeededChooser(7, flow)
    assert chooser.chance(drawn + 1, "key")
    assert not chooser.chance(drawn, "key")
    assert not chooser.chance(0, "key")
    assert chooser.chance(CHANCE_RANGE, "key")


def test_uniform_draws_and_ports_cover_their_range_evenly():
    for draw in (SeededChooser.uniform, SeededChooser.port):
        found = [draw(SeededChooser(1, flow), 5, "key") for flow in range(5000)]
        assert set(found) == set(range(5))
        assert all(850 < found.count(number) < 1150 for number in range(5))  # five standard deviations


@pytest.mark.parametrize("parts", [*range(1, 200), 500, 999, 1000, 5000])
def test_a_probability_printed_as_one_of_so_many_counts_as_exactly_that(parts):
    """I-8.2: ten decimals; K-5: the kernel rounds them to a threshold."""
    threshold = round(Fraction(f"{1 / parts:.10f}") * CHANCE_RANGE)
    assert fraction_as_written(threshold) == Fraction(1, parts)
    (weights,) = one_chance(threshold, as_written=True)
    assert weights == (Fraction(1, parts), 1 - Fraction(1, parts))


def one_chance(threshold: int, *, as_written: bool) -> list[tuple[Fraction, ...]]:
    chooser = ScriptedChooser(as_written=as_written)
    chooser.chance(threshold, "key")
    return chooser.weights


@pytest.mark.parametrize("probability", ["0.4", "0.33333", "0.75", "0.0000000000", "0.3"])
def test_any_other_probability_is_the_kernels(probability):
    threshold = round(Fraction(probability) * CHANCE_RANGE)
    assert fraction_as_written(threshold) is None
    assert one_chance(threshold, as_written=True) == one_chance(threshold, as_written=False)
    assert one_chance(threshold, as_written=False)[0][0] == Fraction(threshold, CHANCE_RANGE)


def test_the_edges_of_what_can_be_printed():
    assert fraction_as_written(CHANCE_RANGE) == 1
    assert fraction_as_written(CHANCE_RANGE + 1) is None
    assert fraction_as_written(1) == Fraction(1, CHANCE_RANGE)  # 0.0000000005
    assert fraction_as_written(0) is None


def test_scripts_visit_every_possible_branch_once():
    """Nothing impossible, nothing twice, and the weights sum to 1; of a source port only the first is tried."""
    seen = []
    scripts = [()]
    while scripts:
        chooser = ScriptedChooser(scripts.pop())
        first = chooser.chance(CHANCE_RANGE // 4, "first")
        never = chooser.chance(0, "never")
        always = chooser.chance(CHANCE_RANGE, "always")
        which = chooser.uniform(3, "which") if first else -1
        assert chooser.port(1000, "port") == 0
        seen.append((first, never, always, which, chooser.weight))
        scripts += chooser.alternatives()
    assert sorted(seen) == [
        (False, False, True, -1, Fraction(3, 4)),
        *((True, False, True, which, Fraction(1, 12)) for which in range(3)),
    ]


def test_exploring_yields_every_outcome_with_its_probability_and_the_last_draw_changes_first():
    def run(chooser: ScriptedChooser) -> str:
        if chooser.chance(CHANCE_RANGE // 4, "first"):
            return "left"
        return f"right {chooser.uniform(3, 'second')}"

    found = list(explore(run))
    assert found == [
        (Fraction(1, 4), "left"),
        (Fraction(1, 4), "right 0"), (Fraction(1, 4), "right 1"), (Fraction(1, 4), "right 2"),
    ]  # fmt: skip


def test_exploring_runs_nothing_ahead():
    runs = []

    def run(chooser: ScriptedChooser) -> int:
        runs.append(chooser.uniform(5, "key"))
        return runs[-1]

    outcomes = explore(run)
    assert runs == []
    next(outcomes)
    assert runs == [0]


def test_exploring_weighs_probabilities_as_they_are_written_if_asked():
    threshold = round(Fraction("0.3333333333") * CHANCE_RANGE)
    exact = [weight for weight, _ in explore(lambda chooser: chooser.chance(threshold, "key"), as_written=True)]
    assert exact == [Fraction(1, 3), Fraction(2, 3)]
    kernels = [weight for weight, _ in explore(lambda chooser: chooser.chance(threshold, "key"))]
    assert kernels[0] == Fraction(threshold, CHANCE_RANGE)
