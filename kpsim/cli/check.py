"""``kpsim check``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import Format, FormatOption, LongOption, complete_scenario, path_given
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import printable

if TYPE_CHECKING:
    from kpsim.check import Checked

#: how many lines of one check are shown without ``--all``
MOST_LINES = 30


@app.command(
    short_help="Check that scenarios and recordings still hold.",
    epilog="Example: kpsim check tests/ local-rollout --junit report.xml",
)
def check(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Scenarios (files or built-in names), recordings, or directories of both.",
            show_default=False,
            autocompletion=complete_scenario,
            parser=path_given,
        ),
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Rewrite the expected output of recordings after showing what moved.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write a JUnit report.", parser=path_given)
    ] = None,
    all_lines: Annotated[bool, typer.Option("--all", help="Show every difference, however many.")] = False,
    long: LongOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Check scenarios' expectations, and recordings against the output beside them. Exit code 1 if something moved."""
    from kpsim.check import Verdict, find, junit_xml
    from kpsim.check import check as check_one
    from kpsim.cli.unused import notes
    from kpsim.outputs import check_file, write_file

    if junit is not None:
        check_file(junit)
    if junit is not None or update:
        go_on_without_reader()
    results = []
    for path in find(paths, note):
        result = check_one(path, update=update, long=long)
        results.append(result)
        if format is Format.TEXT:
            _print(result, len(result.statements) if all_lines else MOST_LINES)
    if format is Format.JSON:
        listed = [
            {"name": r.name, "kind": r.kind, "verdict": r.verdict, "differences": list(r.statements)} for r in results
        ]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    if junit is not None:
        write_file(junit, junit_xml(results))
    for text in notes(context, recording=any(result.kind == "recording" for result in results)):
        note(text)
    bad = [result for result in results if not result.good]
    if format is Format.TEXT:
        typer.echo(f"{len(results) - len(bad)} of {len(results)} hold")
    if any(result.verdict is Verdict.UNREADABLE for result in bad):
        sys.exit(2)
    if bad:
        sys.exit(1)


def _print(result: "Checked", most: int) -> None:
    typer.echo(f"{result.verdict:<10}  {printable(result.name)}")
    for statement in result.statements[:most]:
        typer.echo(f"            {statement}")
    if most < len(result.statements):
        typer.echo(f"            … and {len(result.statements) - most} more (--all shows them)")
