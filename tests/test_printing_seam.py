"""All text leaves the program by one seam, which escapes what would steer a terminal: no module prints past it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kpsim

ROOT = Path(kpsim.__file__).parent
#: the seam itself, and what puts it in place
SEAM = frozenset({"cli/printing.py", "cli/__init__.py", "cli/application.py"})
_STREAMS = frozenset({"stdout", "stderr", "__stdout__", "__stderr__"})
_CONSOLES = frozenset({"Console", "get_console"})


def past_the_seam(source: str) -> Iterator[str]:
    """What in a module writes to a stream of the process by itself.

    ``typer.echo`` does not: it asks for ``sys.stdout`` when it is called, and the seam is there.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield f"{node.lineno}: print"
            case ast.Attribute(value=ast.Name(id="sys"), attr=name) if name in _STREAMS:
                yield f"{node.lineno}: sys.{name}"
            case ast.ImportFrom(module="sys", names=names) if _STREAMS & {each.name for each in names}:
                yield f"{node.lineno}: from sys"
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=given) if (
                name in _CONSOLES and "file" not in [each.arg for each in given]  # with a file it is a text in memory
            ):
                yield f"{node.lineno}: {name}"
            case (
                ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write"))
                | ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=0 | 1 | 2), *_])
            ):
                yield f"{node.lineno}: a descriptor"


def test_no_module_prints_past_the_seam() -> None:
    found = [
        f"{name}:{what}"
        for path in sorted(ROOT.rglob("*.py"))
        if (name := path.relative_to(ROOT).as_posix()) not in SEAM
        for what in past_the_seam(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "print('x')", "import sys\nsys.stdout.write('x')", "import sys\nf(file=sys.__stderr__)", "from sys import stderr",
        "import rich.console\nrich.console.Console()", "from rich.console import Console\nConsole(stderr=True)", "import os\nos.write(1, b'x')", "open(1, 'w')",
    ],
)  # fmt: skip
def test_what_prints_past_the_seam_is_seen(source: str) -> None:
    assert list(past_the_seam(source))


def test_what_goes_by_the_seam_may() -> None:
    assert not list(past_the_seam("import sys, typer\ntyper.echo('x', err=True)\nsys.exit(1)\nconsole().print('x')"))
