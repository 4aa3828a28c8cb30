"""Frequencies of draws against their probabilities.

Quantiles are those of printed tables of the chi-square distribution.
"""

from collections import Counter
from fractions import Fraction

import pytest

from kpsim.rng import below
from kpsim.verify.frequencies import FALSE_ALARM, Frequencies, Spread, chance_of_chi_square

#: by degrees of freedom: the values that are exceeded with the chances above them
_CHANCES = (0.95, 0.50, 0.10, 0.05, 0.01, 0.001)
_TABLE = {
    1: (0.00393, 0.455, 2.706, 3.841, 6.635, 10.828), 2: (0.103, 1.386, 4.605, 5.991, 9.210, 13.816),
    3: (0.352, 2.366, 6.251, 7.815, 11.345, 16.266), 4: (0.711, 3.357, 7.779, 9.488, 13.277, 18.467),
    5: (1.145, 4.351, 9.236, 11.070, 15.086, 20.515), 10: (3.940, 9.342, 15.987, 18.307, 23.209, 29.588),
    30: (18.493, 29.336, 40.256, 43.773, 50.892, 59.703), 100: (77.929, 99.334, 118.498, 124.342, 135.807, 149.449),
}  # fmt: skip


@pytest.mark.parametrize(
    ("freedom", "value", "chance"),
    [(freedom, value, chance) for freedom, row in _TABLE.items() for value, chance in zip(row, _CHANCES, strict=True)],
)
def test_chances_are_those_of_the_table(freedom: int, value: float, chance: float) -> None:
    assert chance_of_chi_square(value, freedom) == pytest.approx(chance, rel=0.003)


def test_chances_at_the_ends() -> None:
    assert chance_of_chi_square(0, 1) == chance_of_chi_square(0, 6) == 1
    # of two degrees of freedom it is exp(-x / 2), however rare
    assert chance_of_chi_square(27.631021, 2) == pytest.approx(1e-6, rel=1e-6)
    assert chance_of_chi_square(138.155106, 2) == pytest.approx(1e-30, rel=1e-6)
    assert chance_of_chi_square(1e5, 7) == 0


def _frequencies(drawn: dict[str, int], weights: dict[str, Fraction] | None = None) -> Frequencies:
    return Frequencies("q", drawn, weights or {end: Fraction(1, len(drawn)) for end in drawn})


def test_the_statistic_by_hand() -> None:
    """With 60 draws, 20 of each endpoint are expected: 100/20 + 25/20 + 25/20."""
    found = _frequencies({"a": 30, "b": 15, "c": 15})
    assert found.chi_square == pytest.approx(7.5)
    assert found.p_value == pytest.approx(0.02352, rel=1e-3)  # exp(-3.75)
    assert _frequencies({"a": 20, "b": 20, "c": 20}).p_value == 1


def test_an_endpoint_that_is_never_drawn_counts() -> None:
    third = Fraction(1, 3)
    found = _frequencies({"a": 30, "b": 30}, {"a": third, "b": third, "c": third})
    assert found.chi_square == pytest.approx(30)  # 5 + 5 + 20
    assert found.samples == 60
    assert found.p_value < FALSE_ALARM


@pytest.mark.parametrize(
    ("drawn", "weights", "tells"),
    [
        ({"a": 100}, {"a": Fraction(1)}, False),
        ({"a": 5, "b": 5}, {"a": Fraction(1, 2), "b": Fraction(1, 2)}, True),
        ({"a": 5, "b": 4}, {"a": Fraction(1, 2), "b": Fraction(1, 2)}, False),
        ({"a": 90, "b": 9}, {"a": Fraction(19, 20), "b": Fraction(1, 20)}, False),
        ({"a": 91, "b": 9}, {"a": Fraction(19, 20), "b": Fraction(1, 20)}, True),
    ],
)
def test_too_few_draws_tell_nothing(drawn: dict[str, int], weights: dict[str, Fraction], tells: bool) -> None:
    assert _frequencies(drawn, weights).tells is tells


def test_fair_draws_give_every_chance_alike() -> None:
    """400 fair experiments: p-values below 0.1, 0.5, 0.9 are as many as they should be, within five standard
    deviations.
    """
    chances = []
    for number in range(400):
        counts = Counter(f"e{below(4, 7, 'fair', number, draw)}" for draw in range(200))
        chances.append(_frequencies({f"e{n}": counts[f"e{n}"] for n in range(4)}).p_value)
    for limit in (0.1, 0.5, 0.9):
        mean, spread = 400 * limit, (400 * limit * (1 - limit)) ** 0.5
        assert abs(sum(chance < limit for chance in chances) - mean) < 5 * spread
    assert min(chances) > FALSE_ALARM


# --- source ports ------------------------------------------------------------------------------------------------------------


def test_the_chance_of_an_empty_end_by_hand() -> None:
    """Of 100 ports, none fell into the first 20: 0.8^n. The other end counts too, so twice that."""
    found = Spread.of(1, 100, [21, 100, 50, 60, 70])
    assert (found.samples, found.lowest, found.highest) == (5, 21, 100)
    assert found.p_value == pytest.approx(2 * 0.8**5)
    assert Spread.of(1, 100, [1, 80]).p_value == 1  # twice 0.64 is no chance
    assert Spread.of(1, 100, [1, 50, 60]).p_value == pytest.approx(2 * 0.6**3)
    assert Spread.of(1, 100, [1, 100]).p_value == 1


def test_spreads_of_one_range_add_up() -> None:
    both = Spread.of(600, 1023, [700, 800]) + Spread.of(600, 1023, [650])
    assert both == Spread.of(600, 1023, [700, 800, 650])


def test_a_range_that_begins_too_low_is_found_and_the_right_one_is_not() -> None:  # K-2.3
    ports = [600 + below(424, 3, "ports", draw) for draw in range(150)]
    assert Spread.of(512, 1023, ports).p_value < FALSE_ALARM
    assert Spread.of(600, 1023, ports).p_value > FALSE_ALARM
    assert Spread.of(600, 1100, ports).p_value < FALSE_ALARM


def test_fair_ports_give_every_chance_alike() -> None:
    """2,000 fair experiments: the chance of the emptier end is never told smaller than it is."""
    chances = [Spread.of(0, 423, [below(424, 5, n, draw) for draw in range(60)]).p_value for n in range(2000)]
    for limit in (0.02, 0.1, 0.5):
        mean, spread = 2000 * limit, (2000 * limit * (1 - limit)) ** 0.5
        assert sum(chance <= limit for chance in chances) < mean + 5 * spread
        assert sum(chance <= limit for chance in chances) > mean / 3
