"""Updates and checks documents that show what the program prints and knows. ``python tests/documents.py`` updates them.

In a ```` ```console ```` block, lines after ``$ `` are commands. The lines below a command are all that it prints,
notes included. Between ``<!-- NAME -->`` and ``<!-- end -->`` stands the table of that name. Commands of make and git
are not run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kpsim.reports.figures import SCHEME
from kpsim.reports.frames import TABLES
from kpsim.scenario.delay_presets import TYPICAL
from kpsim.scenario.event_schema import ActionKind, ScenarioEvent
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec, Preset, preset_values
from kpsim.scenario.quantities import file_name
from kpsim.surveys.rows import COLUMNS
from kpsim.units import format_duration

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_TABLE = re.compile(r"^<!-- ([a-z]+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
_NOT_RUN = ("make", "git", "source", "kpsim --install-completion")


class Shown(NamedTuple):
    """A command in a document, and the output that the document shows."""

    command: str
    output: str


def commands(text: str) -> Iterator[Shown]:
    for block in _BLOCK.finditer(text):
        for found in _COMMAND.finditer(block[1]):
            command = found[1].partition("  # ")[0].rstrip()
            if not command.startswith(_NOT_RUN):
                yield Shown(command, found[2])


def output_of(command: str) -> str:
    """Run a command in the root of the project and return its output.

    AssertionError if it fails: a command that is meant to fail ends in ``; echo $?``.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as kept:  # else a command would say which runs it found finished
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=ROOT, env={**os.environ, "PATH": path, "KPSIM_CACHE": kept}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def _markdown(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _event_rows() -> Iterator[tuple[str, str]]:
    for kind in ActionKind:
        described = ScenarioEvent.model_json_schema(by_alias=True)["properties"][file_name(kind)]
        names = [option["$ref"].rpartition("/")[2] for option in described["anyOf"] if "$ref" in option]
        fields = [ScenarioEvent.model_json_schema(by_alias=True)["$defs"][name]["properties"] for name in names]
        yield f"`{file_name(kind)}`", ", ".join(f"`{name}`" for each in fields for name in each) or "the object"


def _preset_rows() -> Iterator[tuple[str, ...]]:
    for each in preset_values():
        cells, shown = [], ("interval", "timeout", "healthyThreshold", "unhealthyThreshold")
        for local in (False, True):
            values = each["Local" if local else "Cluster"]
            worst = LoadBalancerSpec(preset=Preset(each["preset"])).resolved(local=local).worst_window_ns
            cells.append(f"{' / '.join(str(values.get(name, '–')) for name in shown)}; {format_duration(worst)}")
        others = [f"`{name}: {json.dumps(value)}`" for name, value in each["Cluster"].items() if name not in shown]
        local_cell = "the same" if cells[1] == cells[0] else cells[1]
        yield (
            f"`{each['preset']}`",
            each["meaning"],
            cells[0],
            local_cell,
            ", ".join(others).replace('"', ""),
            each["source"],
        )


def _flow(value: Any) -> str:
    return json.dumps(value).replace('"', "")


TABLE_OF: Mapping[str, Callable[[], str]] = {
    "figures": lambda: _markdown(("figure", "meaning"), ((f"`{kind.shape}`", kind.meaning) for kind in SCHEME)),
    "frames": lambda: _markdown(("frame", "meaning"), ((f"`{table.name}`", table.meaning) for table in TABLES)),
    "survey": lambda: _markdown(("column", "meaning"), ((f"`{each.name}`", each.meaning) for each in COLUMNS)),
    "presets": lambda: _markdown(
        (
            "preset",
            "load balancer",
            "interval / timeout / healthy / unhealthy; worst window",
            "with externalTrafficPolicy Local",
            "other fields",
            "source",
        ),
        _preset_rows(),
    ),
    "delays": lambda: _markdown(
        ("field", "from", "until", "typical", "source"),
        ((f"`{each.field}`", each.begins, each.ends, f"`{_flow(each.value)}`", each.source) for each in TYPICAL),
    ),
    "events": lambda: _markdown(("event", "its fields"), _event_rows()),
}


def tables(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and content of every generated table."""
    for found in _TABLE.finditer(text):
        yield found[1], found[2]


def refreshed(text: str) -> str:
    """Return the document with current outputs and tables."""
    for shown in commands(text):
        text = text.replace(f"{shown.command}\n{shown.output}", f"{shown.command}\n{output_of(shown.command)}", 1)
    return _TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{TABLE_OF[found[1]]()}<!-- end -->", text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(refreshed(document.read_text(encoding="utf-8")), encoding="utf-8")
