"""The summary: one HTML file that shows a finished pipeline: scores, curves, classes, photos, errors, costs.

The file holds all that it shows, so it works without a network, and it is no output of DVC. Charts are Vega-Lite
specifications, drawn in the browser by the Vega libraries that vl-convert carries as one script of 0.9 MB. Vega is
under a BSD licence, is well kept, and draws DVC's plots, too; the script that Plotly's package carries is five times
as large.

May import: ensemble and the layers below.
"""
