"""How every operator is bounded: its lowering to canonical layers, one file per operator.

What an operator *computes* is stated in ``qebgate.semantics``; a lowering may only use facts from there.
"""
