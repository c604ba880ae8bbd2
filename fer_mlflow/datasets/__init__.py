"""Builders of manifests from published data sets: one module each, whose `list_rows` reads the label files."""

# The module of a data set has its name; a new builder is registered by a word here.
DATASETS = ("rafdb", "affectnet", "fer2013", "ferplus", "expw", "ckplus", "folder")
