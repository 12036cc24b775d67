"""Metrics that neither a panel nor a rule asks for, and why. A test holds all others to be in a panel or a rule."""

NOT_SHOWN = {
    ":tensorflow:serving:batching_session:input_batch_size": "what calls bring: microtome_batch_images has it by model",
    ":tensorflow:serving:batching_session:wrapped_run_count": "batches that ran: the count of processed_batch_size",
}
