"""What holds the DVC stages together: the runner, the check of all settings, code digests, stage keys.

May import: training, models, data, config and the leaf modules.
"""
