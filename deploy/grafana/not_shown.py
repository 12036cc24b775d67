"""Metrics that no panel and no rule uses, with the reason. A test requires a panel or a rule for all others."""

NOT_SHOWN = {
    ":tensorflow:serving:batching_session:input_batch_size": "images in a call: microtome_batch_images has it by model",
    ":tensorflow:serving:batching_session:wrapped_run_count": "batches that ran: the count of processed_batch_size",
    "microtome_key_uncounted_total": "admitted while Redis does not count: the breaker's panel shows operation rate",
}
