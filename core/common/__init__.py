"""What every room uses and none owns: errors, logging, progress, files written whole, the machine, sizes.

The lowest floor: it knows nothing of the rest of headstart.
"""
