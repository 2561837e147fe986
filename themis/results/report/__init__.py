"""Reports: the same results as terminal tables, Markdown, LaTeX, CSV, JSON and one HTML file.

Every renderer takes a `ReportData` and gives text (or bytes); none reads a clock, so the same
results give the same bytes.
"""
