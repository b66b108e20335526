"""A data set's features: extraction into the store, feature sets, saved sets, and exports to other programs."""
