"""Flood maps from drone photographs: a DVC pipeline whose every training is an MLflow run.

Nothing is imported here: each stage depends on exactly the modules it imports (see ``harveyseg.pipeline.code``), so an
import in this file would make every edit of that module rerun every stage.
"""
