"""The demo's photos and masks, drawn from a seed without any download.

May import: config and the leaf modules.
"""
