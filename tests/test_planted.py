"""The list of planted bugs still fits the code: each row's text stands in its file exactly once, and what replaces it
is Python. Whether ``kpsim verify`` finds them is a question for ``python -m fuzz.planted``, which takes long.
"""

import ast

import pytest

from fuzz.planted import BUGS, HELD_OUT, ROOT, Bug, planted

ROWS = [pytest.param(bug, id=bug.name) for bug in (*HELD_OUT, *BUGS)]


@pytest.mark.parametrize("bug", ROWS)
def test_a_row_applies_once_and_leaves_python(bug: Bug) -> None:
    text = (ROOT / "kpsim" / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.old) == 1
    changed = text.replace(bug.old, bug.new)
    assert changed != text
    ast.parse(changed)


def test_a_bug_is_planted_in_a_copy_and_nowhere_else() -> None:
    bug = BUGS[0]
    with planted(bug) as tree:
        assert bug.new in (tree / "kpsim" / bug.file).read_text()
        assert bug.old in (ROOT / "kpsim" / bug.file).read_text()
    assert not tree.exists()


def test_names_are_unique() -> None:
    names = [bug.name for bug in (*HELD_OUT, *BUGS)]
    assert len(names) == len(set(names))
