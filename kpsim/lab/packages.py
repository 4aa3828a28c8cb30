"""How this machine's distribution installs the packages that hold a tool."""

from pathlib import Path

_OS_RELEASE = Path("/etc/os-release")
_INSTALLERS = {"debian": "apt-get install -y", "fedora": "dnf install -y", "alpine": "apk add"}


def distribution() -> str | None:
    """The distribution that this one is or is like, of those whose packages are known; None if it is none of them."""
    try:
        lines = _OS_RELEASE.read_text(errors="replace").splitlines()
    except OSError:
        return None
    values = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
    names = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    known = ("fedora" if name in ("rhel", "centos") else name for name in names)
    return next((name for name in known if name in _INSTALLERS), None)


def installing(*packages: str) -> str | None:
    """The command that installs packages here; None if it is not known."""
    name = distribution()
    return None if name is None else " ".join((_INSTALLERS[name], *packages))


def not_found(tool: str, purpose: str, package: str) -> str:
    """What is said of a tool that is not there. Its package has the same name everywhere."""
    command = installing(package)
    return f"not found in PATH: {tool}, which {purpose} ({f'try: {command}' if command else f'package {package}'})"
