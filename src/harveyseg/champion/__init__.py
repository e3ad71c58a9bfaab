"""``harveyseg champion``: the best model of the pipeline, with its card, in MLflow's registry of models.

May import: prediction, summary and the layers below.
"""
