"""``harveyseg inspect``: what a folder of photos and masks holds, and a list of classes to start from.

May import: data, geo, config and the leaf modules.
"""
