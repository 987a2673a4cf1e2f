"""Differential reachability analysis: certified bounds of a pair over a box of inputs."""
