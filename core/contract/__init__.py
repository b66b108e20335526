"""What a backend owes: the protocols, the plain data that cross them, and the registry of backends.

It knows graphs and data, and no model, no store and no training.
"""
