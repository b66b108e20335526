"""Linear heads that are solved instead of stepped: pure functions of rows and targets, in numpy.

`ridge` and `logistic` solve a whole path of penalties at once and say how well each does on samples that it has
not seen; `knn` scores features without training anything. They know no model, no data set and no backend."""

SOLVERS = ("ridge", "logistic")
"""what `fit` can be asked to solve a head with"""
