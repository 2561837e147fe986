"""What Themis hands back: typed records of scores and outputs."""
