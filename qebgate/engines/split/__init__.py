"""Splitting the inputs: complete where few inputs are free.

A region is halved until the analysis of a part (:mod:`qebgate.engines.dra`) is within the limit, or the part has so few
points that they are executed.  On the grid every part ends in points, so that every question is answered, given time.
"""
