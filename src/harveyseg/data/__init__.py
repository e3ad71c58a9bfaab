"""Photos and masks: where they come from, the resize cache, the folds, augmentation.

A *part* is always the training photos (``train``) or the test photos (``test``); the split divides the training part
into folds.

May import: config and the leaf modules.
"""
