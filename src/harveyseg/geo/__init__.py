"""Pixels on the ground: reading mosaics, their scale and areas, class maps as GeoTIFF, polygons, assessments.

May import: classes, arrays, files and errors. It knows neither networks nor the pipeline.
"""
