"""Names of Services and EndpointSlices in a scenario file, with or without their namespace."""

from typing import Annotated

from pydantic import Field

ServiceName = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
SliceName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=320)
]


def qualified(service: str) -> str:
    """Return ``namespace/name`` of a Service or slice that is written with or without its namespace."""
    return service if "/" in service else f"default/{service}"
