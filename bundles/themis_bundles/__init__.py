"""The wire format that crosses the gap between a login node and compute nodes."""
