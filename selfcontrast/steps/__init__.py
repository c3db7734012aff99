"""Steps: one module for each rule of the workflow, run as ``python -m selfcontrast.steps.<rule>``."""
