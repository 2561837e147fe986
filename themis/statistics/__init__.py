"""Statistics for evaluations: intervals, paired tests, multiplicity, power.

Functions of arrays, without state and without chance unless resampling is asked for.
Which of them Themis uses by default, and why, is in docs/statistics.md.
"""
