"""Themis: large LLM evaluations on Slurm clusters, proved before they are counted."""
