"""The weighted mean of several models: members, weights, diversity, runs of other experiments.

May import: postprocess, tracking and the layers below.
"""
