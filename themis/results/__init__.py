"""Reading results: means with intervals, paired comparisons, leaderboards, and reports.

Everything here takes a `themis.records.score_table.ScoreTable` and gives frozen rows; it
reads no store, no clock and no environment.
"""
