"""Words of nft text, each with its line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a token is."""

    STRING = "string"  #: in quotes, which ``text`` leaves out
    MAC = "mac"
    IP6 = "ip6"
    IP4 = "ip4"
    TIME = "time"  #: ``2h59m``
    NUMBER = "number"
    WORD = "word"
    SIGN = "sign"
    NEWLINE = "newline"
    END = "end"


class Token(NamedTuple):
    kind: Kind
    text: str
    line: int  #: from 1
    start: int  #: in the text
    end: int


class SyntaxProblem(Exception):
    """Text that is not nft's, and the token where that shows."""

    def __init__(self, message: str, token: Token) -> None:
        super().__init__(message)
        self.message, self.token = message, token


_TOKEN = re.compile(
    r"""
    [ \t\r\f]*(?:
    (?P<newline>\n)
    |(?P<blank>\\\r?\n|\#[^\n]*)
    |(?P<string>"[^"\n]*")
    |(?P<mac>(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}(?![0-9a-fA-F:]))
    |(?P<ip6>[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}:[0-9a-fA-F:.]*)
    |(?P<ip4>\d+\.\d+\.\d+\.\d+)
    |(?P<time>(?:\d+(?:ms|[wdhms]))+(?![A-Za-z0-9_]))
    |(?P<number>0[xX][0-9a-fA-F]+|\d+)(?![A-Za-z0-9_])
    |(?P<word>[A-Za-z_](?:[A-Za-z0-9_/\\-]|\.(?![ \t]))*\*?)
    |(?P<sign><<|>>|==|!=|<=|>=|[{}()\[\],;:./\-@&|^!<>=+*$])
    )
    """,
    re.VERBOSE,
)


_KINDS = {kind.value: kind for kind in Kind}


def tokens_of(text: str) -> list[Token]:
    """All tokens of a text. The last one is the end. SyntaxProblem for a character that begins none."""
    found: list[Token] = []
    at, line, match_at = 0, 1, _TOKEN.match
    while (match := match_at(text, at)) is not None:
        kind = str(match.lastgroup)
        start, at = match.span(kind)
        if kind == "blank":
            line += match[0].count("\n")
        else:
            words = text[start + 1 : at - 1] if kind == "string" else text[start:at]
            found.append(Token(_KINDS[kind], words, line, start, at))
            line += kind == "newline"
    rest = text[at:].strip()
    if rest:
        here = Token(Kind.SIGN, rest[0], line, at, at + 1)
        raise SyntaxProblem(f"not nft: {rest[:20].splitlines()[0]!r}", here)
    found.append(Token(Kind.END, "", line, len(text), len(text)))
    return found


_UNITS_NS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def milliseconds(text: str) -> int:
    """The milliseconds of a time such as ``2h59m12s345ms``."""
    return sum(int(number) * _UNITS_NS[unit] for number, unit in re.findall(r"(\d+)(ms|[wdhms])", text))


def number_of(text: str) -> int:
    """A number as nft reads it: decimal, or hexadecimal behind ``0x``."""
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


_SPELLED = (Kind.WORD, Kind.SIGN)
_DEEPEST = 30  #: so deep may parentheses and braces nest


class Cursor:
    """Reads tokens one by one."""

    def __init__(self, tokens: list[Token], text: str) -> None:
        self._tokens, self._text, self.at = tokens, text, 0
        self._depth = 0

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One level of nesting more. SyntaxProblem where there are too many."""
        if self._depth >= _DEEPEST:
            raise self.problem("nested too deeply")
        self._depth += 1
        yield
        self._depth -= 1

    @property
    def here(self) -> Token:
        return self._tokens[self.at]

    def ahead(self, distance: int = 1) -> Token:
        """A later token, or the end."""
        return self._tokens[min(self.at + distance, len(self._tokens) - 1)]

    def take(self) -> Token:
        """The next token."""
        token = self._tokens[self.at]
        if token.kind is not Kind.END:
            self.at += 1
        return token

    def is_sign(self, *signs: str) -> bool:
        token = self._tokens[self.at]
        return token.kind is Kind.SIGN and token.text in signs

    def is_word(self, *words: str) -> bool:
        token = self._tokens[self.at]
        return token.kind is Kind.WORD and token.text in words

    def accept(self, *texts: str) -> bool:
        """Takes the next token if it is one of these words or signs."""
        token = self._tokens[self.at]
        if token.text in texts and token.kind in _SPELLED:
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> Token:
        """The next token, which must be one of these words or signs."""
        if self.is_word(*texts) or self.is_sign(*texts):
            return self.take()
        raise self.problem(f"expected {' or '.join(texts)}")

    def word(self, what: str) -> str:
        """The next token's text, which must be a word or a string."""
        if self.here.kind not in (Kind.WORD, Kind.STRING):
            raise self.problem(f"expected {what}")
        return self.take().text

    def number(self, what: str) -> int:
        """The next token's number."""
        if self.here.kind is not Kind.NUMBER:
            raise self.problem(f"expected {what}")
        return number_of(self.take().text)

    def skip_lines(self) -> None:
        """Passes over the ends of lines."""
        while self.here.kind is Kind.NEWLINE:
            self.at += 1

    def source(self, first: int) -> str:
        """The text from token ``first`` to the last one that was read, with one blank between words."""
        start, end = self._tokens[first].start, self._tokens[self.at - 1].end
        return re.sub(r"\s+", " ", self._text[start:end])

    def problem(self, message: str) -> SyntaxProblem:
        """An error at the next token, which it names."""
        token = self.here
        shown = "the end of the line" if token.kind in (Kind.NEWLINE, Kind.END) else repr(token.text)
        return SyntaxProblem(f"{message}, not {shown}", token)
