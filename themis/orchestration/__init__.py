"""The whole job: plan, generate, import, score."""
