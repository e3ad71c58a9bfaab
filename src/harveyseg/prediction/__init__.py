"""``harveyseg predict``: class maps of new photos from trained models.

May import: ensemble, postprocess and the layers below.
"""
