"""The built-in scenarios. Each shows one idea, and its header comment says what the specification predicts.

``kpsim.scenario`` reads them. This package finds their files, and tells scenario files from others.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def scenario_names() -> tuple[str, ...]:
    """Return the names of the built-in scenarios, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def scenario_path(name: str) -> Path:
    """Return the file of a built-in scenario. KeyError if there is none of that name."""
    if name not in scenario_names():
        raise KeyError(name)
    return _FOLDER / f"{name}.yaml"


def names_scenario(file: Path) -> bool:
    """Return whether a file is readable and says that it holds a scenario."""
    try:
        return "kpsim.dev/" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
