"""The upload of a submission to Kaggle, which is never part of the pipeline.

May import: every package but reproduction, prediction and the command line.
"""
