"""From class probabilities to the masks that are submitted: the rule and its nested estimate.

May import: evaluation, inference and the layers below.
"""
