"""Planning: from a benchmark to the work that is not done yet.

Items come from datasets (`datasets`, `gym`), a query takes a part of them (`queries`), and
each prompt variant is rendered for each item (`prompts`).
"""
