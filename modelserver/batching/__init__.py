"""Batching of concurrent requests: limits, queues, the scheduler, and the execution of a batch."""
