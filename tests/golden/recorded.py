"""Recordings of a real kube-proxy 1.36.2, one folder for each mode, and what that kube-proxy made of them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from kpsim.recording import Recording, load_recording
from kpsim.replay import Replay

#: one sync: what was requested, what it wrote, and what the kernel held then
Account = dict[str, Any]


class Recorded:
    """The pairs of a mode: ``NAME.recording.jsonl``, and in ``NAME.expected.jsonl`` line by line the outcome of its syncs."""

    def __init__(self, mode: str) -> None:
        self.folder = Path(__file__).parent / mode
        self.names = sorted(
            path.name.removesuffix(".recording.jsonl") for path in self.folder.glob("*.recording.jsonl")
        )
        self.replayed = cache(self._replayed)

    def recording(self, name: str) -> Recording:
        return load_recording(self.folder / f"{name}.recording.jsonl")

    def expected(self, name: str) -> list[Account]:
        """The outcomes of the real kube-proxy, a new list each time."""
        lines = (self.folder / f"{name}.expected.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def _replayed(self, name: str) -> list[Account]:
        """Those of a replay. It is done once."""
        return [json.loads(outcome.to_line()) for outcome in Replay(self.recording(name)).outcomes()]
