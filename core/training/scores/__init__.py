"""How well outputs fit labels: pure functions from arrays to named scores, one module a task.

They stand on training's floor because only fit, evaluate and compare decide by them; the report reads what they
left in JSON. Three things hold for all of them:

* What cannot be told (the recall of a class without samples, R2 of a constant target, anything of logits that are
  not finite) is absent, with the reason beside it. It is never 0, and never a warning.
* `(n, classes)` is the largest there is: nothing of that size is made, rows and columns are worked on in slices.
* They are held to scikit-learn's functions by the tests and do not call them: importing these takes longer than
  training a head on cached features, one class's AUC 6 ms of argument checks and sorts where there may be 10,000
  classes, and its log loss and top-k a copy of everything in 64 bits.
"""

from headstart.training.scores.result import Scores
from headstart.training.scores.scoring import scores_of

__all__ = ["Scores", "scores_of"]
