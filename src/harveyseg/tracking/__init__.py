"""MLflow as a copy of the files that stages write, and the comparison table made from it.

May import: config and the leaf modules; never networks.
"""
