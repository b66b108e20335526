"""Models as files of other programs, made from the graph alone: the same file whichever backend trained the
weights."""
