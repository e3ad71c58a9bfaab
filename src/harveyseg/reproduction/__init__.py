"""The students' report: its experiments as studies, its claims and their verdicts.

May import: everything but kaggle, prediction and the command line.
"""
