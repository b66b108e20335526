"""A trained model on its way out: formats, the writing, and the proof that the file computes what the run does."""
