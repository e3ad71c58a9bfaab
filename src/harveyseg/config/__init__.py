"""Reading ``params.yaml``: sections that check themselves, and the presets.

May import: the leaf modules.
"""
