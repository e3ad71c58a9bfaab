"""``harveyseg predict``: class maps of anyone's photos from trained models.

May import: ensemble, postprocess and what lies below.
"""
