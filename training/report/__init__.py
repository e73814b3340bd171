"""The report of a run: one HTML page with curves, predictions and what was learned.

    page.py            the sections in their order, each drawn as well as it can be
    section.py         what a section is, and what all are made from
    sections/          the sections
    charts.py          charts, as SVG
    pictures.py        images, as data URLs
    report.html.j2     the page; sections.html.j2 has a macro for each section, style.css.j2 the style of all pages

Not here: the figures (evaluation/).
"""
