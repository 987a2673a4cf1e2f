"""The policy as types; the published JSON schema is generated from them."""

from __future__ import annotations

import builtins
import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from qebgate.policy.base import (
    BYTES,
    SECONDS,
    Duration,
    FilePath,
    Identifier,
    Name,
    NonNegative,
    Number,
    Numbers,
    Positive,
    Size,
    Strict,
    one_or_many,
    quantity,
)
from qebgate.policy.demands import (
    BaselineSpec,
    EvidenceSpec,
    PropertySpec,
    RequireSpec,
    StatisticalRequire,
    WaiverSpec,
)

RuntimeName = Literal[
    "litert-reference", "litert-builtin", "litert-xnnpack", "tflm", "tflm-single-rounding", "envelope"
]
EngineName = Literal[
    "execute", "segment", "enumerate", "falsify", "probe", "dra", "forms", "split", "branch", "milp", "statistical"
]
OnUnknown = Literal["fail", "warn"]
Level = Literal["proof", "proof_or_solver", "proof_or_statistical", "tested", "statistical"]
"""Names of what a check requires."""

Runtimes = Annotated[
    Annotated[RuntimeName, Tag("one")] | Annotated[list[RuntimeName], Field(min_length=1), Tag("many")],
    Discriminator(one_or_many),
]
Engines = Annotated[
    Annotated[Literal["auto"], Tag("one")] | Annotated[list[EngineName], Field(min_length=1), Tag("many")],
    Discriminator(one_or_many),
]


class PreprocessSpec(Strict):
    """``model input = (raw * scale - mean) / std``; one number each, or one per channel."""

    scale: Numbers = Field(default=1.0, description="what raw values are multiplied by, not 0")
    mean: Numbers = Field(default=0.0, description="what is subtracted after that")
    std: Numbers = Field(default=1.0, description="what the difference is divided by, positive")

    @model_validator(mode="after")
    def _invertible(self) -> PreprocessSpec:
        for name, value, low in (("scale", self.scale, None), ("std", self.std, 0.0)):
            for v in value if isinstance(value, list) else [value]:
                if v == 0 or (low is not None and v < low):
                    need = "other than 0" if low is None else "positive"
                    about = {"name": name, "need": need, "fix": f"a number {need}"}
                    raise PydanticCustomError("QEB208", "`{name}` must be {need}", about)
        return self


def _ratio(text: str) -> str:
    m = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", text)
    if m is None:
        text = "a positive number, or a fraction of whole numbers, is expected"
        raise PydanticCustomError("QEB211", text, {"fix": "such as 0.5 or 1/255"})
    return text


def _path_or_mapping(value: Any) -> str:
    return "mapping" if isinstance(value, dict | BaseModel) else "text"


def _number_or_text(value: Any) -> str:
    return "text" if isinstance(value, str) else "number"


Ratio = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[str, AfterValidator(_ratio), Tag("text")],
    Discriminator(_number_or_text),
]


class FloatFile(Strict):
    """A float network, and what one step of the integer input is worth to it."""

    file: FilePath = Field(description="the float network")
    input_scale: Ratio | None = Field(
        default=None,
        description="what one step of the integer input is worth to the float network; left out: what it is worth to "
        "the quantized one",
        examples=["1/255", 0.5],
    )

    @property
    def scale(self) -> Fraction | None:
        """The exact number; None where the policy leaves it to the quantized network's own input."""
        return None if self.input_scale is None else Fraction(self.input_scale)


class FixedPointInputSpec(Strict):
    """The integer input: 8 or 16 bits, of which ``int_bits`` (with the sign) stand before the point."""

    bits: Literal[8, 16] = Field(description="bits of an input")
    signed: bool = Field(description="whether the inputs have a sign")
    int_bits: Annotated[int, Field(ge=0, le=16)] = Field(description="bits before the point, at most `bits`")

    @model_validator(mode="after")
    def _fits(self) -> FixedPointInputSpec:
        _int_bits("int_bits", self.int_bits, self.bits)
        return self


class FixedPointSpec(Strict):
    """Quantization of the float network on the fly, in fixed point (the scheme of the QEBVerif paper)."""

    bits: Annotated[int, Field(ge=2, le=16)] = Field(description="bits of weights, biases and activations")
    weight_int_bits: Annotated[int, Field(ge=0, le=16)] = Field(
        description="of a weight's bits, those before the point"
    )
    bias_int_bits: Annotated[int, Field(ge=0, le=16)] = Field(description="the same of a bias")
    activation_int_bits: Annotated[int, Field(ge=0, le=16)] = Field(description="the same of a hidden activation")
    input: FixedPointInputSpec = Field(description="the integer input")

    @model_validator(mode="after")
    def _fits(self) -> FixedPointSpec:
        for name in ("weight_int_bits", "bias_int_bits", "activation_int_bits"):
            _int_bits(name, getattr(self, name), self.bits)
        return self


def _int_bits(name: str, value: int, bits: int) -> None:
    if value > bits:
        about = {"name": name, "fix": f"at most {bits}"}
        raise PydanticCustomError("QEB208", "`{name}` is more than `bits`", about)


class OnTheFly(Strict):
    """A quantized model that is made from the float one."""

    fixed_point: FixedPointSpec = Field(description="dense layers in fixed point, made from the float network")


class ModelSpec(Strict):
    """A pair of models and how they are deployed."""

    float_: Annotated[
        Annotated[FilePath, Tag("text")] | Annotated[FloatFile, Tag("mapping")], Discriminator(_path_or_mapping)
    ] = Field(
        alias="float", description="the float reference (.tflite, .keras, .h5, SavedModel folder, .npz of dense layers)"
    )
    quantized: Annotated[
        Annotated[FilePath, Tag("text")] | Annotated[OnTheFly, Tag("mapping")], Discriminator(_path_or_mapping)
    ] = Field(description="the quantized model (.tflite; .h5 of TF-MOT), or how to make it (`fixed_point`)")
    runtime: Runtimes = Field(
        default="litert-xnnpack",
        description="where the model is deployed: one name, or several to be checked one by one; `envelope`: one bound "
        "for all of them",
    )
    float_semantics: Literal["float32", "real"] = Field(
        default="float32",
        description="`float32`: the bound covers every float32 evaluation of the reference; `real`: exact arithmetic",
    )
    input_quantization: Literal["nearest", "truncate"] | None = Field(
        default=None,
        description="how the application turns real inputs into codes; needed where the quantized model takes integers "
        "and real inputs are asked about, an error where it takes floats",
    )
    preprocess: PreprocessSpec | None = Field(
        default=None, description="what the application does to raw values; regions and witnesses are in raw units then"
    )

    @property
    def fixed_point(self) -> FixedPointSpec | None:
        """How the quantized model is made on the fly; None where it is a file."""
        return None if isinstance(self.quantized, str) else self.quantized.fixed_point

    @property
    def float_file(self) -> str:
        return self.float_ if isinstance(self.float_, str) else self.float_.file

    @property
    def runtimes(self) -> list[str]:
        """Names of the profiles; a network in fixed point has one of its own."""
        if self.fixed_point is not None:
            return ["fixed-point"]
        return list(dict.fromkeys(self.runtime)) if isinstance(self.runtime, list) else [self.runtime]

    @model_validator(mode="after")
    def _one_scheme(self) -> ModelSpec:
        if self.fixed_point is None:
            if not isinstance(self.float_, str):
                text = "`input_scale` belongs to `fixed_point`"
                raise PydanticCustomError("QEB215", text, {"fix": "name the float file itself"})
            return self
        for key in ("runtime", "input_quantization", "preprocess"):
            if key in self.model_fields_set:
                text = "`{key}` and `fixed_point` exclude each other: both networks read the same integers, here"
                raise PydanticCustomError("QEB215", text, {"key": key, "fix": f"remove `{key}`"})  # type: ignore[arg-type]
        return self


_UNIT = "`real`: raw units; `lsb`: quanta of the quantized input"


class InputSpec(Strict):
    """What one input of a model of several has of its own; what is left out is the region's."""

    radius: NonNegative | None = Field(default=None, description="of a ball: how far this input may be from the row's")
    lower: Numbers | None = Field(default=None, description="of a box: this input's lower corner")
    upper: Numbers | None = Field(default=None, description="of a box: this input's upper corner")
    clip: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="the hard range of this input's raw values", examples=[[0.0, 1.0]]
    )

    @model_validator(mode="after")
    def _clip_in_order(self) -> InputSpec:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            text = "`clip` is empty: its lower end is above its upper end"
            raise PydanticCustomError("QEB215", text, {"fix": "write the smaller number first"})
        return self


Inputs = Annotated[dict[Name, InputSpec], Field(min_length=1)] | None
_OWN = "of a model of several inputs: what some of them have of their own, by the input's name"


class _Shared(Strict):
    domain: Literal["real", "grid"] = Field(
        default="real",
        description="`real`: every float32 input of the region; `grid`: those that the quantized input can represent",
    )
    clip: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="the hard range of raw values, lower and upper end", examples=[[0.0, 1.0]]
    )
    out_of_range: Literal["fail", "allow"] = Field(
        default="fail", description="what inputs mean that the quantized input cannot represent"
    )

    @model_validator(mode="after")
    def _clip_in_order(self) -> _Shared:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            text = "`clip` is empty: its lower end is above its upper end"
            raise PydanticCustomError("QEB215", text, {"fix": "write the smaller number first"})
        return self


class _Rows(_Shared):
    data: FilePath = Field(description="an .npz or .npy file, one input a row; never unpickled")
    array: Name | None = Field(default=None, description="the array of an .npz file; not needed where it has only one")
    arrays: Annotated[dict[Name, Name], Field(min_length=1)] | None = Field(
        default=None, description="of a model of several inputs: the array of each, by the input's name"
    )
    values: Literal["real", "codes"] | None = Field(
        default=None,
        description="real numbers, or integers of the quantized input; floats are real, integers have to say it",
    )
    limit: Annotated[int, Field(gt=0)] | None = Field(default=None, description="only the first rows, so many")
    sample: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="instead of `limit`: so many at random"
    )
    labels: Name | None = Field(default=None, description="an array of the data file: the true class of each row")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(default=None, description="of `sample`; left out: 0")

    @model_validator(mode="after")
    def _rows_once(self) -> _Rows:
        if self.array is not None and self.arrays is not None:
            text = "`array` and `arrays` exclude each other"
            raise PydanticCustomError("QEB215", text, {"fix": "keep `arrays` for a model of several inputs"})
        if self.limit is not None and self.sample is not None:
            text = "`limit` and `sample` exclude each other"
            raise PydanticCustomError("QEB215", text, {"fix": "keep `limit` for the first rows, `sample` for a choice"})
        if self.seed is not None and self.sample is None:
            raise PydanticCustomError("QEB215", "`seed` needs `sample`", {"fix": "add `sample:`, or remove `seed`"})
        return self


class PointsSpec(_Rows):
    """The data's rows themselves."""

    kind: Literal["points"]
    inputs: Inputs = Field(default=None, description=_OWN)


class BallSpec(_Rows):
    """The L-infinity ball around each row."""

    kind: Literal["ball"]
    inputs: Inputs = Field(default=None, description=_OWN)
    radius: NonNegative = Field(description="how far each element may be from the row's")
    unit: Literal["real", "lsb"] = Field(default="real", description=_UNIT)


class SegmentSpec(_Rows):
    """Each row moved along a direction: ``x0 + t * direction`` for all t of a range."""

    kind: Literal["segment"]
    direction: Name = Field(description="`ones`, or an array of the data file: one direction for all rows, or one each")
    range: Annotated[list[Number], Field(min_length=2, max_length=2)] = Field(
        description="the first and the last t", examples=[[-0.1, 0.1]]
    )
    unit: Literal["real", "lsb"] = Field(default="real", description=_UNIT)

    @model_validator(mode="after")
    def _range_in_order(self) -> SegmentSpec:
        if self.range[0] > self.range[1]:
            text = "the segment is empty: its `range` ends before it begins"
            raise PydanticCustomError("QEB215", text, {"fix": "write the smaller number first"})
        return self


class BoxSpec(_Shared):
    """One box of inputs."""

    kind: Literal["box"]
    lower: Numbers = Field(description="the lower corner, in raw units")
    upper: Numbers = Field(description="the upper corner")
    inputs: Inputs = Field(default=None, description=_OWN)

    @model_validator(mode="after")
    def _in_order(self) -> BoxSpec:
        lo = self.lower if isinstance(self.lower, list) else [self.lower]
        hi = self.upper if isinstance(self.upper, list) else [self.upper]
        n = max(len(lo), len(hi))
        if 1 < len(lo) != len(hi) > 1:
            text = "`lower` and `upper` have different lengths"
            raise PydanticCustomError("QEB215", text, {"fix": "one number each, or one for every input element"})
        if any(a > b for a, b in zip(lo * (n // len(lo)), hi * (n // len(hi)), strict=True)):
            text = "the box is empty: `lower` is above `upper`"
            raise PydanticCustomError("QEB215", text, {"fix": "exchange them"})
        return self


class VnnlibSpec(_Shared):
    """The boxes of inputs that a VNN-LIB file describes; what it says about outputs does not count."""

    kind: Literal["vnnlib"]
    file: FilePath = Field(description="a VNN-LIB file")


RegionSpec = Annotated[PointsSpec | BallSpec | BoxSpec | SegmentSpec | VnnlibSpec, Field(discriminator="kind")]


class CheckSpec(Strict):
    """One question: a model pair, a region, a property, and how strong the answer must be."""

    id: Identifier = Field(description="its name in reports and for `--check`; one check has it")
    model: Name = Field(description="one of `models`")
    region: Name = Field(description="one of `regions`")
    property: PropertySpec = Field(description="what must hold for every input of the region")
    require: RequireSpec = Field(default="proof", description="what a pass may rest on")
    effort: Literal["quick", "standard", "deep"] = Field(
        default="standard", description="limits of work, counted and not timed: the same on every machine"
    )
    engines: Engines = Field(default="auto", description="only these engines, in their usual order")
    on_unknown: OnUnknown | None = Field(default=None, description="instead of the policy's")

    @builtins.property
    def level(self) -> Level:
        """The name of what is required."""
        return "statistical" if isinstance(self.require, StatisticalRequire) else self.require


class GuardSpec(Strict):
    """Wall-clock and memory guards; a task that one stops is unknown."""

    per_task: Duration = Field(default="120s", description="for one row or box in one runtime (ms, s, m, h)")
    total: Duration = Field(default="30m", description="for the whole run")
    memory: Size = Field(default="8GiB", description="of the process (kB, MB, GB, KiB, MiB, GiB)")

    @property
    def per_task_seconds(self) -> float:
        return quantity(self.per_task, SECONDS, "")

    @property
    def total_seconds(self) -> float:
        return quantity(self.total, SECONDS, "")

    @property
    def memory_bytes(self) -> int:
        return int(quantity(self.memory, BYTES, ""))


class Policy(Strict):
    """A policy file."""

    version: Literal[1] = Field(description="of this format")
    models: dict[Name, ModelSpec] = Field(description="pairs of models, by names of your choice")
    regions: dict[Name, RegionSpec] = Field(description="sets of inputs, by names of your choice")
    checks: list[CheckSpec] = Field(description="what is asked")
    on_unknown: OnUnknown = Field(
        default="fail", description="what a check means that is neither proven nor refuted: exit code 3, or a warning"
    )
    guard: GuardSpec = Field(default_factory=GuardSpec, description="limits of time and memory")
    baseline: BaselineSpec | None = Field(default=None, description="the ratchet; left out: there is none")
    waivers: list[WaiverSpec] = Field(default_factory=list, description="exceptions with an end")
    evidence: EvidenceSpec = Field(default_factory=EvidenceSpec, description="what may be written about inputs")

    def on_unknown_of(self, check: CheckSpec) -> OnUnknown:
        """What an unknown verdict of a check means."""
        return check.on_unknown or self.on_unknown
