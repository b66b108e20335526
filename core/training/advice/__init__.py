"""What `advise` is made of: `candidates` says which trunks and cuts, `measuring` and `held_out` look at their
features, `familiarity` at how far the data lie from what a trunk was trained on, `costs` at seconds and bytes;
`rule` makes of these figures what each mode will come to, and `result` is what comes out.

Invariant: nothing here trains. All figures are of features, which are computed once a trunk."""
