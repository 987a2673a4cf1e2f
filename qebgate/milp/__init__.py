"""Mixed-integer linear programs: a solver-neutral model, and the solvers behind it.

What a solver returns is a proposal.  Models are well scaled before it sees them, and its answer is used
only where nothing about it is surprising (:mod:`qebgate.milp.mathopt`).
"""
