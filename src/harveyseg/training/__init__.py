"""One network on one fold: settings, losses, optimiser, the loop, checkpoints.

May import: models, data, config and the leaf modules. Never imports the tracker.
"""
