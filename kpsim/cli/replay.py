"""``kpsim replay``."""

from pathlib import Path
from typing import Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import Format, FormatOption, LongOption, ModeOption, path_given
from kpsim.cli.printing import note


@app.command(
    short_help="Replay recorded watch events and show every sync.",
    epilog="Example: kpsim replay node-1.recording.jsonl --format json | jq .metrics",
)
def replay(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="A recording: JSON lines.", parser=path_given)],
    mode: ModeOption = None,
    long: LongOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Replay what a kube-proxy was told and show what it programs, sync by sync."""
    from kpsim.effort import permit
    from kpsim.recording import load_recording
    from kpsim.replay import Replay, effort_of

    replayed = Replay(load_recording(recording, mode=mode))
    permit(effort_of(replayed.recording), long=long, note=note)
    for text in replayed.notes:
        note(text)
    for outcome in replayed.outcomes():
        typer.echo(outcome.to_line() if format is Format.JSON else outcome.to_text())
