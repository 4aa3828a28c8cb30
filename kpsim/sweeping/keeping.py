"""Keeps the figures of finished runs in a directory, one file a run, named by the run's content.

A sweep that was killed goes on where it was, and sweeps share the runs that they have in common. A file that is damaged counts as
missing. The oldest files go when there are very many.
"""

import os
from pathlib import Path

from kpsim.errors import InputError
from kpsim.outputs import check_directory, write_file
from kpsim.reports.figures import Figures
from kpsim.sweeping.runs import packed, unpacked

MOST_KEPT = 20_000  #: runs; some 4 kB each
_SUFFIX = ".figures"


def default_directory() -> Path:
    """Return where finished runs are kept unless the caller says otherwise: ``$KPSIM_CACHE``, or below the user's cache directory."""
    from platformdirs import user_cache_path

    if chosen := os.environ.get("KPSIM_CACHE"):
        return Path(chosen) / "sweeps"
    return user_cache_path("kpsim", appauthor=False) / "sweeps"


class Kept:
    """The finished runs in one directory, which is made when the first is put in. None: nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        if directory is not None:
            check_directory(directory)

    def get(self, key: str) -> Figures | None:
        """Return the figures of a run, or None if it is not there."""
        if self._directory is None:
            return None
        path = self._directory / f"{key}{_SUFFIX}"
        try:
            found = unpacked(path.read_bytes())
            os.utime(path)
        except (OSError, ValueError):
            return None
        return found

    def put(self, key: str, found: Figures) -> None:
        """Keep the figures of a run. InputError if they cannot be written."""
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep runs in {self._directory}: {error.strerror}") from error
        write_file(self._directory / f"{key}{_SUFFIX}", packed(found))

    def prune(self) -> None:
        """Remove the runs that were used longest ago, if there are more than :data:`MOST_KEPT`."""
        if self._directory is None or not self._directory.is_dir():
            return
        with os.scandir(self._directory) as entries:
            files = [entry.path for entry in entries if entry.name.endswith(_SUFFIX)]
        if len(files) > MOST_KEPT:
            for path in sorted(files, key=_used)[: len(files) - MOST_KEPT]:
                Path(path).unlink(missing_ok=True)


def _used(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0
