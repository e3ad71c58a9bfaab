"""What DVC and the terminal show of the whole pipeline: scores of all models, a few charts, what is up to date.

May import: ensemble, postprocess and the layers below.
"""
