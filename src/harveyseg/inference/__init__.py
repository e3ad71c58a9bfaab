"""From a trained network to class probabilities: windows, test-time augmentation, the files that hold them.

May import: models, data, config and the leaf modules.
"""
