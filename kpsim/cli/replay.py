"""``kpsim replay``."""

from pathlib import Path
from typing import Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import Format, FormatOption, ModeOption, path_given


@app.command(
    short_help="Replay recorded watch events and show every sync.",
    epilog="Example: kpsim replay node-1.recording.jsonl --format json | jq .metrics",
)
def replay(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="A recording: JSON lines.", parser=path_given)],
    mode: ModeOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Replay what a kube-proxy was told and show what it programs, sync by sync."""
    from kpsim.recording import load_recording
    from kpsim.replay import Replay

    replayed = Replay(load_recording(recording, mode=mode))
    for note in replayed.notes:
        typer.echo(f"note: {note}", err=True)
    for outcome in replayed.outcomes():
        typer.echo(outcome.to_line() if format is Format.JSON else outcome.to_text())
