"""What a policy demands: properties, how strong an answer must be, the ratchet, and waivers from all that."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from qebgate.policy.base import FilePath, Identifier, NonNegative, Outputs, Positive, Strict

MOST_SAMPLES = 100_000_000


class OutputName(Strict):
    """One of several outputs, by its name in the model's signature."""

    signature: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="the output's name")


def _kind_of_tensor(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, dict | int | OutputName):
        return "word"
    return "index" if isinstance(value, int) else "name"


Compared = Annotated[
    Annotated[Literal["output", "logits"], Tag("word")]
    | Annotated[OutputName, Tag("name")]
    | Annotated[int, Field(ge=0, le=1000), Tag("index")],
    Discriminator(_kind_of_tensor),
]
"""The tensor that is compared."""


class _Property(Strict):
    outputs: Outputs = Field(
        default="all",
        description="`all`, positions in the flattened output, or `predicted`: the class that the float model predicts "
        "at the region's centre",
    )
    tensor: Compared = Field(
        default="output",
        description="`output`; `logits`, what goes into a final softmax or sigmoid; or one of several outputs, by its "
        "position or its name in the signature",
    )

    @property
    def head(self) -> Literal["output", "logits"]:
        """Where the compared networks end, once they have one output."""
        return self.tensor if isinstance(self.tensor, str) else "output"

    @property
    def output(self) -> str | int | None:
        """Which of several outputs is compared."""
        if isinstance(self.tensor, OutputName):
            return self.tensor.signature
        return self.tensor if isinstance(self.tensor, int) else None


class MaxAbs(_Property):
    """The largest gap of an output, in real units."""

    kind: Literal["max_abs"]
    limit: NonNegative = Field(description="in real units")


class MaxLsb(_Property):
    """The largest gap of an output, in quanta of the quantized output."""

    kind: Literal["max_lsb"]
    limit: NonNegative = Field(description="in quanta of the quantized output")


class MaxL2(_Property):
    """The Euclidean length of the gaps of all compared outputs."""

    kind: Literal["max_l2"]
    limit: NonNegative = Field(description="in real units")


class MaxRel(_Property):
    """The largest gap of an output relative to ``max(|float output|, floor)``."""

    kind: Literal["max_rel"]
    limit: NonNegative = Field(description="a share, such as 0.1")
    floor: Positive = Field(description="float outputs smaller than this count as this")


class SameTop1(_Property):
    """Where the float model decides by at least the margin, the quantized one chooses the same class."""

    kind: Literal["same_top1"]
    margin: NonNegative = Field(
        default=0.0, description="how far the float model's best class has to be ahead, in real units"
    )

    @property
    def limit(self) -> float:
        """The figure (:mod:`qebgate.properties`) is compared with the margin."""
        return self.margin

    @model_validator(mode="after")
    def _of_all(self) -> SameTop1:
        if self.outputs == "predicted":
            text = "`same_top1` compares all outputs with each other"
            raise PydanticCustomError("QEB215", text, {"fix": "leave `outputs` out"})
        return self


PropertySpec = Annotated[MaxAbs | MaxLsb | MaxRel | SameTop1 | MaxL2, Field(discriminator="kind")]
"""A limit on the gap between the two outputs."""


class StatisticalSpec(Strict):
    """With ``confidence``, at most ``max_failure_rate`` of the inputs drawn are beyond the limit."""

    confidence: Annotated[float, Field(gt=0.5, lt=1, allow_inf_nan=False)] = Field(
        default=0.999, description="of the statement, over repetitions of the sample"
    )
    max_failure_rate: Annotated[float, Field(ge=1e-7, lt=0.5, allow_inf_nan=False)] = Field(
        default=0.001, description="the share of inputs beyond the limit that is still accepted"
    )
    distribution: Literal["uniform", "rows"] = Field(
        default="uniform", description="uniform on the region, or the rows of the data as a sample"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="of what is drawn")
    samples: Annotated[int, Field(gt=0, le=MOST_SAMPLES)] | None = Field(
        default=None, description="more than are necessary where no input fails: then some may"
    )


class StatisticalRequire(Strict):
    """Statistical evidence, and no more."""

    statistical: StatisticalSpec = Field(description="how sure, of how few")


def _text_or_mapping(value: Any) -> str:
    return "mapping" if isinstance(value, (dict, Strict)) else "text"


RequireSpec = Annotated[
    Annotated[Literal["proof", "proof_or_solver", "proof_or_statistical", "tested"], Tag("text")]
    | Annotated[StatisticalRequire, Tag("mapping")],
    Discriminator(_text_or_mapping),
]


def _percent(text: str) -> str:
    m = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?%", text)
    if m is None:
        raise PydanticCustomError("QEB211", "a share in percent is expected", {"fix": "such as 5%"})
    return text


class BaselineSpec(Strict):
    """The ratchet: a check fails where its proven bound rises, even within the limit."""

    file: FilePath = Field(default=".qebgate/baseline.json", description="what `qebgate baseline update` writes")
    max_increase: Annotated[str, AfterValidator(_percent), Field(examples=["5%", "0%"])] = Field(
        default="0%", description="how far a proven bound may rise above the recorded one"
    )

    @property
    def percent(self) -> str:
        """The number of percent, as decimal text."""
        return self.max_increase.removesuffix("%").strip()


def _date(text: str) -> str:
    try:
        known = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None and dt.date.fromisoformat(text)
    except ValueError:
        known = False
    if not known:
        raise PydanticCustomError("QEB211", "a date is expected", {"fix": "year, month and day, such as 2027-01-31"})
    return text


Text = Annotated[str, Field(min_length=1, max_length=500)]


class WaiverSpec(Strict):
    """Another limit for one check of one model, until the end of a day (UTC)."""

    check: Identifier = Field(description="the check that it is for")
    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the quantized model's file")]
    limit: NonNegative = Field(description="instead of the check's own, where that is not met")
    owner: Text = Field(description="who answers for it")
    reason: Text = Field(description="why, or where to read why")
    expires: Annotated[str, AfterValidator(_date), Field(examples=["2027-01-31"])] = Field(
        description="the last day on which it counts (UTC)"
    )

    @property
    def last_day(self) -> dt.date:
        return dt.date.fromisoformat(self.expires)


class EvidenceSpec(Strict):
    """Whether inputs of witnesses may be written into reports, witness files and bundles."""

    inputs: Literal["include", "omit"] = Field(
        default="include", description="`omit`: the inputs of witnesses are written nowhere"
    )


__all__ = ["BaselineSpec", "EvidenceSpec", "PropertySpec", "RequireSpec", "StatisticalRequire", "WaiverSpec"]
