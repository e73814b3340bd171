"""The report of a run: one HTML page with curves, predictions and what was learned.

    page.py         the page and its pictures
    report.html.j2  its text and layout

Not here: the figures (evaluation/).
"""
