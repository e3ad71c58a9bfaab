"""The upload of a submission to Kaggle, which is never part of the pipeline.

May import: every room but reproduction, prediction and the command line.
"""
