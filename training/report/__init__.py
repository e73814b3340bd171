"""HTML pages: the report of a run, the index of all runs, and the comparison of some.

    page.py              the report: curves, predictions and what was learned; its layout is report.html.j2
    runs_page.py         the index: curves overlaid and a table, runs.html.j2
    comparison_page.py   a comparison: means over seeds and kinds of pooling, comparison.html.j2
    pooling_pictures.py  what each kind of pooling does to the same feature map

Not here: the figures (evaluation/).
"""
