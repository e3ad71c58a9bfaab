"""Kaggle: the client, and the upload of a submission.

The client may import the leaf modules only; the upload everything but reproduction and the command line.
"""
