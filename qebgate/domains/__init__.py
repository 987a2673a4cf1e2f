"""Abstract values: intervals, gaps, linear maps and linear forms.

Shape letters used throughout the analysis: ``n`` neurons of a value (flattened), ``m`` neurons of a
layer's output, ``R`` rows (linear forms bounded at once), ``B`` concrete inputs.
"""
