"""`microtome rollout`, without servers; with them in tests/e2e/test_rollout.py."""
