"""The independent checker of evidence: it shares the exact semantics with the engines, and no bound with them.

``rows`` reads the two models as linear rows, ``neuron`` bounds one neuron's activation, ``walk`` derives bounds of
the outputs' gap from slopes that it is given, ``bundle`` reads and writes evidence, ``recheck`` says yes or no.
Slopes are hints: whatever they are, the checker's own intercepts make every line, and so every bound, sound.
"""
