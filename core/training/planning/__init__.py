"""What `plan` is made of: `measuring` runs a few batches and looks at the clock, `predicting` is arithmetic on
what was measured, and `table` is what comes out."""
