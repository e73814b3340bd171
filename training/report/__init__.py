"""HTML pages: the report of a run, the index of all runs, and the comparison of some.

    page.py              the report: its sections in their order, each drawn as well as it can be; report.html.j2
    section.py           what a section is, and what all are made from
    sections/            the sections; sections.html.j2 has a macro for each
    charts.py            charts, as SVG
    pictures.py          images, as data URLs
    runs_page.py         the index: curves overlaid and a table, runs.html.j2
    comparison_page.py   a comparison: means over seeds and kinds of pooling, comparison.html.j2
    pooling_pictures.py  what each kind of pooling does to the same feature map

Not here: the figures (evaluation/).
"""
