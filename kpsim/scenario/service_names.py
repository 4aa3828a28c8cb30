"""Names in a scenario file: of Services and EndpointSlices, with or without their namespace, and of who sends."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

ServiceName = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
#: a Service, perhaps with one of its ports: ``shop/web:http``
FrontendName = Annotated[
    str,
    Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(:[a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"),
]
SliceName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=320)
]


KINDS_OF_SENDERS = ("pods", "nodes", "outside")
_NAMED_SENDER = r"(pod/[a-z0-9]([-a-z0-9]*[a-z0-9])?|node)/[a-z0-9]([-a-z0-9.]*[a-z0-9])?"


def _sender(text: str) -> str:
    if text not in KINDS_OF_SENDERS and not re.fullmatch(_NAMED_SENDER, text):
        raise ValueError(f"expected {', '.join(KINDS_OF_SENDERS)}, pod/NAMESPACE/NAME or node/NAME")
    return text


#: who sends: a kind, or one pod or node by its name
SenderName = Annotated[
    str,
    AfterValidator(_sender),
    WithJsonSchema({"anyOf": [{"enum": list(KINDS_OF_SENDERS)}, {"type": "string", "pattern": f"^{_NAMED_SENDER}$"}]}),
]


def qualified(service: str) -> str:
    """Return ``namespace/name`` of a Service or slice that is written with or without its namespace."""
    return service if "/" in service else f"default/{service}"
