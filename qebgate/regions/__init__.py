"""Regions: what inputs a check is about."""

from qebgate.regions.cell import Cell, InputCodec, InputQuantization
from qebgate.regions.expand import Instance, Region, expand
from qebgate.regions.line import Line
from qebgate.regions.preprocess import Preprocess

__all__ = ["Cell", "InputCodec", "InputQuantization", "Instance", "Line", "Preprocess", "Region", "expand"]
