"""Metrics, tables and figures of class maps, and the submission format.

May import: inference, data and the layers below.
"""
