"""`debug_nans`: training stops at the step in which the first NaN or infinity comes up, and says at which node.

* `watch` stands between the loop and what it trains: it goes step by step, and looks at inputs, losses, parameters
  and logits after each step.
* `search` runs a batch again, once something is wrong, to find the first node whose output is not finite.
* `words` makes an error message of what was found.

Invariant: what is trained is the same as without. The same samples come in the same order, each step is a call of
the trainer's `step`, which counts them, so that masks of dropout are the same.
"""
