"""Dispatch of bundles on Slurm; the only package that knows submitit and Slurm."""
