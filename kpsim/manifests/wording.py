"""Words about values: what was found, what was expected, and what may have been meant."""

from collections.abc import Sequence
from typing import Any

from kpsim.manifests.ambiguous import AmbiguousNumber


def shown(value: Any) -> str:
    """Describe a value for a message: its kind, and the value itself if it is short."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case AmbiguousNumber():
            return value.text
        case int() | float():
            text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge integer"
            return text
        case str():
            return f"the string {value!r}" if len(value) <= 80 else f"the string {value[:77]!r}..."
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


def hint(value: Any) -> str:
    """Return a hint if YAML may have read a word as something else than was meant."""
    if isinstance(value, AmbiguousNumber):
        return " (readers disagree about this number: write it in quotes, or as a plain decimal number)"
    if isinstance(value, bool):
        return " (YAML reads bare yes, no, on, off, true, false as booleans: quotes make a string)"
    return ""


def or_list(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return `` (did you mean X?)`` if a known name is near, else nothing."""
    import difflib  # takes as long to import as a small file to read

    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.7)
    return f" (did you mean {folded[near[0]]}?)" if near else ""
