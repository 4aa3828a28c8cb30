"""Reads input: a file or standard input, whole and of bounded size, as text or lines of JSON. Callers interpret it."""

import codecs
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from kpsim.errors import InputError, Problem

#: a JSON object; code that gets one reads it only
Json = Mapping[str, Any]
#: a JSON object that is being made
JsonObject = dict[str, Any]

MAX_BYTES = 512 << 20

STDIN = "standard input"  #: its name in messages; as a path it is ``-``

#: the source of standard input; None: the process's own
Stdin = BinaryIO | TextIO | bytes | str | None


def is_stream(path: Path | str) -> bool:
    """Return whether this can be read only once: standard input, a pipe, a device."""
    if str(path) == "-":
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def kind_of_file(path: Path | str) -> str:
    """Return what a path is that is no regular file: a pipe, a socket, a device, a link that leads nowhere."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return "a link that leads nowhere" if Path(path).is_symlink() else "nothing"
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for test, words in kinds if test(mode)), "a device")


#: files and directories below one that is searched: a repository has fewer, a whole machine has more
MOST_ENTRIES = 50_000


def walk_directory(
    folder: Path | str, refused: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what ``os.walk`` yields. InputError if there is more below than anybody means.

    Links to directories are not followed. ``refused`` is called for a directory that cannot be read.
    """
    seen = 0
    for inside, folders, names in os.walk(folder, onerror=refused):
        seen += len(folders) + len(names)
        if seen > MOST_ENTRIES:
            why = f"holds more than {MOST_ENTRIES:,} files and directories: name the one with the files that are meant"
            raise InputError(Problem(why, file=str(folder)))
        yield inside, folders, names


def shown_name(path: Path | str) -> str:
    """Return the name of a path for messages."""
    return STDIN if str(path) == "-" else str(path)


def read_bytes(path: Path | str, *, stdin: Stdin = None) -> bytes:
    """Return the content of a file, or of standard input for ``-``. InputError if it cannot be read or is too large."""
    if path == "":  # Path would take it for the current directory
        raise InputError("an empty path")
    file = shown_name(path)
    try:
        if str(path) == "-":
            content = _stdin_bytes(sys.stdin if stdin is None else stdin)
        else:
            with Path(path).open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(Problem(f"cannot be read: {why}", file=file)) from None
    if len(content) > MAX_BYTES:
        raise InputError(Problem(f"larger than {MAX_BYTES >> 20} MiB, the limit for a file", file=file))
    return content


def _stdin_bytes(stdin: Stdin) -> bytes:
    if stdin is None:  # the process has no standard input
        raise ValueError("there is none")
    source = stdin if isinstance(stdin, bytes | str) else getattr(stdin, "buffer", stdin)
    content: bytes | str = source if isinstance(source, bytes | str) else source.read(MAX_BYTES + 1)
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content


_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"


def decoded(content: bytes, file: str) -> str:
    """Decode UTF-8, or the encoding that the byte order mark names.

    InputError with the line if the content is no such text.
    """
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if content.startswith(_GZIP):
            how = "compressed with gzip: decompress it first; gunzip -c gives it to `-`, standard input"
            raise InputError(Problem(how, file=file)) from None
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(Problem(f"no {encoding.upper()} text: {error.reason}", file=file, line=line)) from None


def read_text(path: Path | str) -> str:
    """Read a whole file, or standard input for ``-``, as text.

    InputError if it is unreadable, too large, or no text.
    """
    return decoded(read_bytes(path), shown_name(path))


def json_line(line: str) -> Any:
    """Parse JSON as RFC 8259 defines it: no NaN, no lone halves of surrogate pairs, no name twice in an object.

    ValueError says what is wrong.
    """
    try:
        value = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deep") from None
    if "\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is no character") from None
    return value


def json_object(line: str) -> dict[str, Any]:
    """Parse a JSON object as :func:`json_line` does. ValueError for any other value."""
    value = json_line(line)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return obj
