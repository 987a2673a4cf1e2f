"""The Lagrangian dual of a pair: any multipliers bound the gap, and each neuron's share is exact."""
