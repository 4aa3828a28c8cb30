"""The mutants: every mistake is made, is undone, and differs from its neighbours. Survivors are named."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULE = '''
"""A module."""

LIMIT, NAMES = 3, {"a": True}
TWICE = LIMIT * 2
TABLE: str = """
head one two
row  x   y
"""


class Box:
    """A class."""

    SIZE = 4
    kept: int = 5

    def __init__(self, size: int = 7) -> None:
        self.size = size

    @property
    def full(self) -> bool:
        """Whether nothing fits any more."""
        return self.size >= self.SIZE and not self.kept == 0


def clamp(value: int, low: int) -> int:
    """At least ``low``."""
    assert low < 100
    match value:
        case 0 if low > 1:
            return low
        case _:
            pass
    found = [each for each in cast("list[int]", (value, low)) if each]
    return max(found) if found else -1
'''


@pytest.fixture(scope="module")
def found(mutating) -> list[str]:
    tree = ast.parse(MODULE)
    before = ast.dump(tree)
    told = []
    for unit in mutating.units(tree):
        for mutation in mutating.mutations(unit):
            assert ast.dump(tree) != before
            compile(tree, "module.py", "exec")
            told.append(str(mutation))
    assert ast.dump(tree) == before
    return told


@pytest.fixture(scope="module")
def mutating():
    sys.path.insert(0, str(HERE))
    import mutations

    sys.path.remove(str(HERE))
    return mutations


@pytest.fixture(scope="module")
def running(mutating):
    sys.path.insert(0, str(HERE))
    import running

    sys.path.remove(str(HERE))
    return running


def test_each_is_made_once_and_has_a_name_of_its_own(found: list[str]) -> None:
    assert len(found) == len(set(found)) > 20


@pytest.mark.parametrize(
    "mutation",
    [
        "LIMIT, NAMES: 3 → 4",
        "LIMIT, NAMES: True → False",
        "LIMIT, NAMES: 'a' → 'XXa'",
        "TWICE: LIMIT * 2 → LIMIT + 2",
        "SIZE: 4 → 5",
        "Box.__init__: self.size = size → pass",
        "Box.full: self.size >= self.SIZE → self.size > self.SIZE",
        "Box.full: self.size >= self.SIZE → self.size < self.SIZE",
        "Box.full: self.kept == 0 → self.kept != 0",
        "Box.full: not self.kept == 0 → self.kept == 0",
        "Box.full: self.size >= self.SIZE and (not self.kept == 0) → self.size >= self.SIZE or not self.kept == 0",
        "Box.full: self.size >= self.SIZE and (not self.kept == 0) → not self.kept == 0",
        "clamp: low > 1 → low >= 1",
        "clamp: max(found) → min(found)",
        "clamp: max(found) if found else -1 → -1",
        "clamp: [each for each in cast('list[int]', (value, low)) if each] → [each for each in cast('list[int]', (value, low))]",
        "clamp: return low → return",
    ],
)
def test_what_is_tried(found: list[str], mutation: str) -> None:
    assert mutation in found


def test_what_is_left_alone(found: list[str]) -> None:
    """Docstrings, annotations, defaults, assertions, fields, types of casts."""
    assert not [
        told
        for told in found
        if any(word in told for word in ("100", "7", "5 →", "class", "Whether", "least", "XXlist"))
    ]


def test_each_word_of_a_table_gives_way_to_the_next(mutating) -> None:
    tree = ast.parse(MODULE)
    (table,) = (unit for unit in mutating.units(tree) if unit.name == "TABLE")
    told = [ast.literal_eval(table.node.value) for _ in mutating.mutations(table)]
    assert [text.split("\n")[1:3] for text in told] == [
        ["one one two", "row  x   y"], ["head two two", "row  x   y"], ["head one two", "x x y"], ["head one two", "row y y"],
    ]  # fmt: skip


TESTS = """
from functools import cache
from tiny import DOUBLED as HELD, LIMIT, READ, clamp

clamped = cache(clamp)

def test_clamp():
    assert clamp(5) == 3

def test_more():
    assert clamped(2)

def test_the_same_remembered():
    assert clamped(2) == 2 and READ.call(4) == 8 and HELD["b"] == 10
"""
TINY = """
from dataclasses import dataclass

LIMIT = 3
BOUND = LIMIT

def clamp(value):
    return value if value < BOUND else LIMIT

def unreached():
    return LIMIT + 1

def doubling(times):
    def double(word):
        return word * times
    return double

@dataclass(frozen=True)
class Reader:
    call: object

READ = Reader(doubling(2))
DOUBLED = {"b": READ.call(5)}
"""
RUN = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import pytest
from running import Mutants
mutants = Mutants(["tiny"], every=int(sys.argv[3]), skip=1, only=None, equivalent=frozenset({"tiny clamp: value < BOUND → value <= BOUND", "tiny gone: 1 → 2"}))
pytest.main(["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", sys.argv[2], sys.argv[2]], plugins=[mutants])
for outcome in mutants.outcomes:
    print(outcome.verdict.value, outcome.key)
print("unused", mutants.unused_equivalents())
"""


def outcomes_of(folder: Path, *, every: int = 1) -> list[str]:
    command = [sys.executable, "-c", RUN, HERE, folder, str(every)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()


def test_a_run_tells_caught_from_survived_and_knows_equivalents(tmp_path: Path) -> None:
    """Also of a constant from which another is made."""
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "test_tiny.py").write_text(TESTS)
    told = outcomes_of(tmp_path)
    assert "caught tiny LIMIT: 3 → 4" in told
    assert "caught tiny clamp: value < BOUND → value >= BOUND" in told
    assert "caught tiny doubling: word * times → word + times" in told  # only what the import made calls it
    assert "caught tiny READ: 2 → 3" in told
    assert (
        "caught tiny clamp: value if value < BOUND else LIMIT → LIMIT" in told
    )  # by a test that another one spares the call
    assert "survived tiny unreached: LIMIT + 1 → LIMIT - 1" in told
    assert "equivalent tiny clamp: value < BOUND → value <= BOUND" in told
    assert "unused ['tiny gone: 1 → 2']" in told
    (tmp_path / "test_tiny.py").write_text(TESTS.replace("clamp(5) == 3", "True"))
    weaker = outcomes_of(tmp_path, every=2)
    assert "survived tiny LIMIT: 3 → 4" in weaker
    assert _named(weaker) == _named(told)[::2]  # the first, the third …


def _named(lines: list[str]) -> list[str]:
    return [line.partition(" tiny ")[2] for line in lines if " tiny " in line]


def test_a_mutant_that_does_not_get_the_processor_is_undecided(running) -> None:
    """Not caught: nothing is known of it."""
    running._PATIENCE = 0.05
    assert running._in_a_fork(lambda: str(time.sleep(9)), limit_s=1) == "undecided "
    assert running._in_a_fork(lambda: "survived", limit_s=1) == "survived"
