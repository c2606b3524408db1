"""What the router keeps of its promises under faults, load and tight budgets: figures, beside those asked for.

`python -m tests.benchmarks.faults [--only NAME ...] [--scale X] [--speed X]`
"""
