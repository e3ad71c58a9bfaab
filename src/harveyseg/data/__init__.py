"""Photos and masks: where they come from, the resize cache, the folds, augmentation.

May import: config and the leaf modules; Kaggle's client for one source.
"""
