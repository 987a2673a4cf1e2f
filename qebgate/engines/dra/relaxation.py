"""Which parts of the relaxation are used; benchmarks/switches.py measures what each is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Parts that can be left out one by one: any choice is sound, all of them together are the tightest.

    * ``staircase``: lines touch the steps of the requantization; else its clamp, and free rounding noise;
    * ``joint``: lines of a neuron's gap from both networks' pre-activations; else the two separate bounds;
    * ``grid``: quantized bounds are codes that the runtime's own kernel reaches; else rounded reals;
    * ``tighten``: of z, zq, D (and h, hq, delta) each is cut by the other two;
    * ``plain``: back-substituted bounds are intersected with plain intervals; else they replace them;
    * ``apart``: D is also bounded as the difference of the two networks' own bounds.
    """

    staircase: bool = True
    joint: bool = True
    grid: bool = True
    tighten: bool = True
    plain: bool = True
    apart: bool = True


ALL = Relaxation()
