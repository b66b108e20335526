"""The backends: one folder a framework, the same file names in each. They are imported by
`headstart.contract.registry` only, when one is needed."""
