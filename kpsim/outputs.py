"""Writes output: a file or a directory of files, beside its place first and then under its name.

A process that is killed and a disk that is full leave what was there before, or all of the new, and never a part of it.
A link, a FIFO or a device under the name is refused, so that nothing is written through it. Whatever cannot be written
is an InputError that names the path.
"""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath

from kpsim.errors import InputError, Problem

_MARK = ".kpsim-"  #: what is being written is called ``.NAME.kpsim-PROCESS-NUMBER``
_LEFT_OVER = re.compile(r"\.(?P<name>.+)\.kpsim-(?P<process>\d+)-\d+", re.DOTALL)
_MOST_KEPT = 2000  #: of other people's files that a directory may hold and still be replaced as a whole
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_MOVE = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)  #: a bind mount, an overlay, a sticky directory
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFDIR: "a directory", stat.S_IFREG: "a file",
}  # fmt: skip


def check_file(path: Path | str) -> None:
    """InputError if no file can be written at this path. Commands ask before long work."""
    with _said(path):
        _check(Path(path), stat.S_IFREG)
        _check_parent(Path(path).parent)


def check_directory(path: Path | str) -> None:
    """InputError if no directory of reports can be written at this path. Commands ask before long work."""
    with _said(path):
        place = Path(path)
        mode = _check(place, stat.S_IFDIR)
        if mode is not None and not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(path))
        while mode is None and place != place.parent:
            place = place.parent
            mode = _mode_behind(place)
        if mode is not None and not stat.S_ISDIR(mode):
            raise NotADirectoryError(20, "Not a directory", str(place))
        if mode is not None and not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(place))


def write_file(path: Path | str, content: bytes | str) -> None:
    """Write a whole file, in place of the file that was there.

    InputError if that is not possible. The old file is then as it was.
    """
    place = Path(path)
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    with _said(path):
        before = _check(place, stat.S_IFREG)
        _check_parent(place.parent)
        _clear_left_over(place)
        beside = _new_file(place, data, before)
        try:
            beside.replace(place)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def write_directory(path: Path | str, contents: Mapping[str, bytes], known: Collection[str]) -> list[Path]:
    """Write files below a directory, by their relative names. Missing directories are made. Returns the files' paths.

    ``known`` are the names of all files that such a directory may hold. Those that ``contents`` lacks are of an older
    report, and go. Files of other names stay. InputError if the directory cannot be written; it is then as it was.

    The directory is exchanged as a whole. If it cannot be, because it is the current directory, the root of a file
    system, or below a directory that cannot be written, its files are exchanged one after the other, and the first name
    of ``contents`` stands there only when all others do.
    """
    place = Path(path)
    with _said(path):
        _check(place, stat.S_IFDIR)
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_over(place)
        for name in known:
            _check_inside(place, name)
        if _is_fixed(place):
            _write_inside(place, contents, known)
        else:
            _write_beside(place, contents, known)
    return [place / name for name in contents]


# --- what is in the way ---------------------------------------------------------------------------------------------


@contextmanager
def _said(path: Path | str) -> Iterator[None]:
    """Turn what the system refuses into an InputError that names the path."""
    try:
        if not str(path) or "\0" in str(path):
            raise ValueError("an empty path" if not str(path) else "a path with a NUL character")
        if str(path) == "-":
            raise ValueError("standard output is not written to; give a file's name")
        yield
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        at = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else str(path)
        inside = "" if _MARK in at or at == str(path) else f" ({at})"
        raise InputError(Problem(f"cannot write: {why}{inside}", file=str(path) or None)) from error


def _mode_behind(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _check(path: Path, kind: int) -> int | None:
    """Return the mode of what has this name, None if nothing has. OSError if it is not of the kind."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    found = stat.S_IFMT(mode)
    if found == kind:
        return mode
    if kind == stat.S_IFDIR and found == stat.S_IFREG:
        raise FileExistsError(17, "File exists", str(path))
    raise FileExistsError(17, f"{_KINDS.get(found, 'something else')} has this name", str(path))


def _check_parent(folder: Path) -> None:
    mode = folder.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(20, "Not a directory", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def _check_inside(place: Path, name: str) -> None:
    """OSError if what stands at the file's name, or at that of a directory on the way to it, is of another kind."""
    path = place
    *folders, last = PurePosixPath(name).parts
    for folder in folders:
        path /= folder
        if _check(path, stat.S_IFDIR) is None:
            return
    _check(path / last, stat.S_IFREG)


def _is_fixed(place: Path) -> bool:
    """Whether a directory cannot be exchanged for another under its name."""
    try:
        here = place.stat()
    except FileNotFoundError:
        return False
    with suppress(OSError):
        current = Path.cwd().resolve()
        if current == place.resolve() or place.resolve() in current.parents:
            return True
    parent = place.parent
    return place.is_mount() or here.st_dev != parent.stat().st_dev or not os.access(parent, os.W_OK | os.X_OK)


def _clear_left_over(place: Path) -> None:
    """Remove what a process that was killed has left beside this place."""
    with suppress(OSError):
        for each in place.parent.glob(f".*{_MARK}*"):
            found = _LEFT_OVER.fullmatch(each.name)
            if found and found["name"] == place.name and not _runs(int(found["process"])):
                _remove(each)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            _remove(inside)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


# --- writing --------------------------------------------------------------------------------------------------------


def _beside(place: Path) -> Iterator[Path]:
    """Yield names beside a place until one is free."""
    short = os.fsdecode(os.fsencode(place.name)[:150])  # a file's name has at most 255 bytes
    for number in count():
        yield place.with_name(f".{short}{_MARK}{os.getpid()}-{number}")


def _new_file(place: Path, data: bytes, before: int | None) -> Path:
    """Write a file beside the place and return its path. ``before`` is the mode of the file that it will replace."""
    for path in _beside(place):
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            continue
        break
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            if before is not None:
                os.fchmod(opened.fileno(), stat.S_IMODE(before))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _new_directory(place: Path) -> Path:
    for path in _beside(place):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        break
    return path


def _fill(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _write_beside(place: Path, contents: Mapping[str, bytes], known: Collection[str]) -> None:
    """Write the whole directory beside its place, then exchange the two."""
    beside = _new_directory(place)
    try:
        _fill(beside, contents)
        if not place.exists():
            beside.rename(place)
            return
        kept = list(_other_files(place, {*known, *contents}))
        if len(kept) > _MOST_KEPT or not _link(place, beside, kept):
            _write_inside(place, contents, known)
            return
        beside.chmod(stat.S_IMODE(place.stat().st_mode))
        try:
            _exchange(beside, place)
        except OSError as error:
            if error.errno not in _CANNOT_MOVE:
                raise
            _write_inside(place, contents, known)
            return
        # what somebody has put into the old directory meanwhile is taken along
        _link(beside, place, [path for path in _other_files(beside, {*known, *contents}) if path not in kept])
    finally:
        with suppress(OSError):
            _remove(beside)


def _other_files(place: Path, known: set[str]) -> Iterator[Path]:
    """Yield the relative paths of the files and directories that are not of a report, directories before their files."""
    for folder, folders, names in os.walk(place):
        here = Path(folder).relative_to(place)
        yield from (here / name for name in [*folders, *names] if (here / name).as_posix() not in known)


def _link(place: Path, beside: Path, kept: list[Path]) -> bool:
    """Give other people's files a second name in the new directory. Returns False if some file cannot have one."""
    try:
        for path in kept:
            old, new = place / path, beside / path
            if old.is_dir() and not old.is_symlink():
                new.mkdir(exist_ok=True)
                new.chmod(stat.S_IMODE(old.stat().st_mode))
            else:
                os.link(old, new, follow_symlinks=False)
    except OSError:
        return False
    return True


def _exchange(new: Path, place: Path) -> None:
    """Let two directories change their names, at once where the system can do that."""
    import ctypes  # only a directory that is exchanged needs it

    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    if exchange is not None and not exchange(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(place), _RENAME_EXCHANGE
    ):
        return
    aside = _new_directory(place)
    place.rename(aside)
    try:
        new.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    aside.rename(new)


def _write_inside(place: Path, contents: Mapping[str, bytes], known: Collection[str]) -> None:
    """Write everything into a hidden directory in the place, then move file by file to its name."""
    within = _new_directory(place / "report")
    try:
        _fill(within, contents)
        first, *others = contents
        (place / first).unlink(missing_ok=True)
        for name in known:
            if name not in contents:
                (place / name).unlink(missing_ok=True)
        for name in (*others, first):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (within / name).replace(place / name)
    finally:
        with suppress(OSError):
            _remove(within)
