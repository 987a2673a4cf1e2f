"""What every operator computes, exactly: float and integer execution, one file per operator.

This package says nothing about bounds (``qebgate.ops`` does), so that the independent checker can
share it with the engines without sharing their mistakes.
"""
