"""What a verdict is about, in words."""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.plan.settings import fixed_point_of, input_scale_of
from qebgate.policy.model import (
    CheckSpec,
    ModelSpec,
    RegionSpec,
    SegmentSpec,
)
from qebgate.regions import InputCodec, Instance
from qebgate.result import RuntimeInfo
from qebgate.runtimes.host import measured
from qebgate.runtimes.profiles import MEMBERS, MICRO, Runtime


def assumptions(
    spec: CheckSpec,
    model: ModelSpec,
    region: RegionSpec,
    codec: InputCodec,
    infos: Sequence[RuntimeInfo],
    rows: str,
    instances: Sequence[Instance],
    cpu: str,
) -> tuple[str, ...]:
    """What the verdict is about, in words."""
    how = model.fixed_point
    if how is not None:
        own = fixed_point_of(how).input_scale
        scale = input_scale_of(model) or own
        words = [
            "networks in fixed point have no deployed runtime: witnesses are replayed in qebgate's exact evaluator",
            f"both networks read the same integers: times {scale} (float), times {own} (quantized)",
        ]
    else:
        names = ", ".join(str(i) for i in infos)
        words = [f"covers {names} on {cpu}, and no other runtime or processor: their roundings differ"]
        if not measured():
            words = [f"covers the x86-64 kernels of {names}, not those of this machine ({cpu}): they were not measured"]
        if Runtime.ENVELOPE.value in model.runtimes:
            members = ", ".join(r.value for r in MEMBERS)
            words.append(f"envelope: holds in each of {members}; ARM kernels are not claimed")
        if {Runtime.ENVELOPE, *MICRO} & {Runtime(n) for n in model.runtimes}:
            about = "its kernels were read in its source (2024 and later), and none runs here"
            words.append(f"TensorFlow Lite Micro is emulated, not replayed: {about}")
    if model.float_semantics == "float32":
        words.append("the float reference is evaluated in float32, in any order of summation")
    else:
        words.append("the float reference is taken in exact real arithmetic")
    if not codec.has_grid:
        words.append("the quantized model computes on its float input")
    elif codec.in_model:
        words.append("the quantized model quantizes its float input itself")
    elif how is None and region.domain == "grid" and model.input_quantization is None:
        words.append("data rows are quantized to the nearest code")
    elif how is None:
        ties = ", ties either way" if codec.mode == "nearest" else ""
        by = "rounding to nearest" if codec.mode == "nearest" else "truncation"
        words.append(f"the application quantizes inputs by {by}{ties}, and saturates")
    domain = (
        "every point of the lines"
        if isinstance(region, SegmentSpec) and region.domain == "real"
        else "every code vector that the lines round to"
        if isinstance(region, SegmentSpec)
        else "every float32 input of the region"
        if region.domain == "real"
        else "every input that the quantized input represents"
    )
    words.append(f"domain {region.domain}: {domain}; {rows}")
    if isinstance(region, SegmentSpec) and region.domain == "real":
        words.append(
            "points of a line become the codes of exact division, ties either way for all entries at once; "
            "entries that change within 2^-12 quanta of each other change at once"
        )
    if model.preprocess is not None:
        words.append("raw inputs are preprocessed in float32 as the policy says")
    if spec.level == "tested":
        words.append("a pass without a proof means that a search found no counterexample")
    beyond = max((i.excess for i in instances), default=0.0)
    if beyond > 0 and region.out_of_range == "allow":
        words.append(f"inputs reach beyond the quantized input's range by up to {beyond:.6g}")
    return tuple(words)
