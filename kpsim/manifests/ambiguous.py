"""Numbers of which YAML readers make different values. Schemas know them without reading any YAML."""


class AmbiguousNumber(float):
    """A bare number such as 080, 0o17 or 1_000, about which YAML readers disagree. No schema takes it as an integer."""

    text: str

    def __new__(cls, text: str) -> "AmbiguousNumber":
        digits = text.replace("_", "").lstrip("+-").lower().removeprefix("0o").removeprefix("0b")
        made = super().__new__(cls, int(digits) if len(digits) < 20 else 0)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type["AmbiguousNumber"], tuple[str]]:
        return AmbiguousNumber, (self.text,)
