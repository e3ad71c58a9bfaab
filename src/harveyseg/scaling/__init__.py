"""Stages in copies of the project, so that several run at a time, on this machine or on others.

May import: everything below reproduction, prediction and the other packages of their layer.
"""
