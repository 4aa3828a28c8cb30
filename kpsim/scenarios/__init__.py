"""The built-in scenarios: one idea each, small, with what the specification predicts in the file's header comment.

Only names and files, and how a scenario's file is told from others; what a scenario means is ``kpsim.scenario``'s concern.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def scenario_names() -> tuple[str, ...]:
    """Names of the built-in scenarios, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def scenario_path(name: str) -> Path:
    """The file of a built-in scenario. KeyError if there is none of that name."""
    if name not in scenario_names():
        raise KeyError(name)
    return _FOLDER / f"{name}.yaml"


def names_scenario(file: Path) -> bool:
    """Whether a file that can be read says that it holds a scenario."""
    try:
        return "kpsim.dev/" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
