"""What hostile callers cost, in tables: `python -m tests.hostile parsers`, `routes` or `fuzz [--seconds N]`.

Times are of this machine and no tests; pytest holds the counts behind them (`test_bounds.py` of each transport).
"""
