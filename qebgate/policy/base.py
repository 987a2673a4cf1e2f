"""What the types of the policy are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

Number = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(allow_inf_nan=False, ge=0)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("QEB211", "a path holds a NUL character", {"fix": "remove it"})
    return text


FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_no_nul)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Identifier = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/+ -]*$")]


def one_or_many(value: Any) -> str:
    """The tag of a value that may be a list."""
    return "many" if isinstance(value, list) else "one"


Numbers = Annotated[
    Annotated[Number, Tag("one")] | Annotated[list[Number], Field(min_length=1), Tag("many")],
    Discriminator(one_or_many),
]
Outputs = Annotated[
    Annotated[Literal["all", "predicted"], Tag("one")]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), Tag("many")],
    Discriminator(one_or_many),
]

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def quantity(text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    """A positive number with one of the units, in the unit that counts 1."""
    m = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", text)
    if m is None or m[2] not in units or float(m[1]) <= 0:
        raise PydanticCustomError(
            "QEB211",
            "a positive number with a unit is expected ({units})",
            {"units": ", ".join(units), "fix": f"such as {example}"},
        )
    return float(m[1]) * units[m[2]]


def _duration(text: str) -> str:
    quantity(text, SECONDS, "120s")
    return text


def _size(text: str) -> str:
    quantity(text, BYTES, "8GiB")
    return text


Duration = Annotated[str, AfterValidator(_duration), Field(examples=["120s", "30m"])]
Size = Annotated[str, AfterValidator(_size), Field(examples=["8GiB"])]


class Strict(BaseModel):
    """Nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
