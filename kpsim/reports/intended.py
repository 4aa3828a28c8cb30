"""Whether a scenario means to lose connections: its expectations may ask for losses, as those of demonstrations do."""

import re
from collections.abc import Sequence

from kpsim.reports.expectations import ExpectationResult, evaluate, parse_expectation

_COUNTS_LOSSES = re.compile(
    r"(.*\.)?(lost|rejected|dropped|failed|misdelivered|broken|((rejected|dropped|failed|broken)_ratio))"
    r"|(.*\.)?causes\..*|local_drops\..*"
)
_COUNTS_SUCCESS = re.compile(r"(.*\.)?delivered_ratio")


def demanding(results: Sequence[ExpectationResult]) -> list[str]:
    """Return the expectations that hold, and would not if no connection were lost."""
    return [result.text for result in results if result.holds and _asks_for_losses(result)]


def intended_sentence(results: Sequence[ExpectationResult]) -> str:
    """Say that losses are intended. Empty if no expectation asks for them."""
    texts = demanding(results)
    if not texts:
        return ""
    return f"The loss is intended: this scenario demonstrates it, and expects {' and '.join(f'“{text}”' for text in texts[:2])}."


def _asks_for_losses(result: ExpectationResult) -> bool:
    if _COUNTS_LOSSES.fullmatch(result.figure):
        lossless = 0
    elif _COUNTS_SUCCESS.fullmatch(result.figure):
        lossless = 1
    else:
        return False
    return not evaluate(parse_expectation(result.text), {result.figure: lossless}).holds
