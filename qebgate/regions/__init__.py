"""Regions: what inputs a check is about."""

from qebgate.regions.cell import Cell, InputCodec, InputQuantization, JoinedCodec
from qebgate.regions.expand import Instance, Region, expand
from qebgate.regions.line import Line
from qebgate.regions.preprocess import Preprocess
from qebgate.regions.several import expand_several

__all__ = [
    "Cell",
    "InputCodec",
    "InputQuantization",
    "Instance",
    "JoinedCodec",
    "Line",
    "Preprocess",
    "Region",
    "expand",
    "expand_several",
]
