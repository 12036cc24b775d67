"""Write the dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/microtome.json`.

From top to bottom in the order of an investigation: does it work, where is the time lost, is it the model server, is it
Redis? $namespace also matches series without one, as in compose. A test fails when the file differs.
"""

import json
import sys

from panels import Panel, dashboard

NS = 'namespace=~"$namespace"'
MODEL = f'{NS},model=~"$model"'
VECTORS = 'operation=~"read|write"'
GREEN_RED = ((None, "green"), (1, "red"))
RED_GREEN = ((None, "red"), (1, "green"))
TFS = ":tensorflow:serving:"
LOADS = ":tensorflow:cc:saved_model:"
HITS = f'microtome_vectors_total{{cache!="miss",{MODEL}}}'
EMBED = f'route="/embed",{NS}'
DECODING = f'microtome_stage_seconds_sum{{stage="decode",{NS}}}'
FOUND = f'microtome_cache_lookups_total{{result="hit",{NS}}}'
COALESCED = f'microtome_vectors_total{{cache="coalesced",{MODEL}}}'
GPU = f'container="model-server",{NS}'
ITSELF = f'job="microtome-redis",{NS}'


def rate(selector: str, by: str) -> str:
    """The rate of a counter per second, summed by labels."""
    return f"sum by ({by}) (rate({selector}[$__rate_interval]))"


def quantile(share: float, name: str, matchers: str, by: str = "") -> str:
    """A quantile of a histogram."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, {rate(f'{name}_bucket{{{matchers}}}', labels)})"


def middle_and_tail(name: str, matchers: str) -> dict[str, str]:
    """Median and 99th percentile of a histogram."""
    return {"p50": quantile(0.5, name, matchers), "p99": quantile(0.99, name, matchers)}


def allowed(limit: str) -> str:
    """The configured limit of each gateway."""
    return f'sum by (namespace, instance) (microtome_limit{{limit="{limit}",{NS}}})'


GLANCE = (
    Panel(
        "Ready", "Whether every model answers every gateway, and inference works.", "bool_yes_no",
        {"ready": f"min(microtome_model_ready{{{MODEL}}})"}, 3, stat=True, steps=RED_GREEN, yes_no=True,
    ),
    Panel(
        "Gateways", "Gateways that Prometheus can scrape.", "short",
        {"up": f'sum(up{{job="microtome-gateway",{NS}}})'}, 3, stat=True, steps=RED_GREEN,
    ),
    Panel(
        "Requests", "Requests that embed, per second, over 5 minutes.", "reqps",
        {"requests": f"sum(microtome:requests:rate5m{{{NS}}})"}, 3, stat=True,
    ),
    Panel(
        "Errors", "Share of the requests answered 5xx, over 5 minutes. The objective is 0.1 %.", "percentunit",
        {"errors": f"max(microtome:errors:ratio_rate5m{{{NS}}})"}, 3, stat=True,
        steps=((None, "green"), (0.001, "orange"), (0.0144, "red")),
    ),
    Panel(
        "Duration", "Half and 99 % of the requests to POST /embed take no longer than this.", "s",
        middle_and_tail("microtome_request_seconds", EMBED), 4, stat=True, steps=((None, "green"), (1, "orange")),
    ),
    Panel(
        "Hit rate", "Share of the vectors that came from a cache, over 30 minutes; the worst model.", "percentunit",
        {"hits": f"min(microtome:hits:ratio_rate30m{{{MODEL}}})"}, 3, stat=True,
    ),
    Panel(
        "Fullest gateway", "Work in flight against the limit, images or bytes. At 100 % callers get 429.",
        "percentunit",
        {"in flight": f"max(microtome:in_flight:ratio{{{NS}}})"}, 3, stat=True,
        steps=((None, "green"), (0.8, "orange"), (1, "red")),
    ),
    Panel(
        "Without Redis", "Gateways that stopped using Redis after a failure. Callers only get slower answers.", "short",
        {"without": f"sum(max by (namespace, instance) (microtome_cache_breaker_open{{{NS},{VECTORS}}}))"}, 2,
        stat=True, steps=GREEN_RED,
    ),
)  # fmt: skip

REQUESTS = (
    Panel(
        "Requests by status", "Answers per second, by HTTP status, probes included. 0: the caller went away.", "reqps",
        {"{{status}}": rate(f"microtome_requests_total{{{NS}}}", "status")}, stacked=True,
    ),
    Panel(
        "Errors by name", "Requests that ended in an error, by the names of docs/reference/problems.md.", "reqps",
        {"{{error}}": rate(f"microtome_errors_total{{{NS}}}", "error")}, stacked=True,
    ),
    Panel(
        "Turned away by limit", "429 and RESOURCE_EXHAUSTED: images or bytes in flight, those of a key, the wait, "
        "calls of gRPC, the model server's queue, or bulk's share of them.", "reqps",
        {"{{reason}}": rate(f"microtome_overloads_total{{{NS}}}", "reason")}, stacked=True,
    ),
    Panel(
        "Requests by route", "Paths of HTTP, and grpc:METHOD, where each image of a stream counts.", "reqps",
        {"{{route}}": rate(f"microtome_requests_total{{{NS}}}", "route")}, stacked=True,
    ),
    Panel(
        "Requests by key", "By the names that MICROTOME_API_KEYS gives to its keys.", "reqps",
        {"{{key}}": rate(f"microtome_key_requests_total{{{NS}}}", "key")}, stacked=True,
    ),
    Panel(
        "Duration", "From a request's first byte to its answer's last, a slow caller's upload included; POST /embed.",
        "s", middle_and_tail("microtome_request_seconds", EMBED),
    ),
    Panel(
        "Images by gateway", "Images received completely, per second. A request may have many.", "ops",
        {"{{instance}}": rate(f"microtome_images_total{{{NS}}}", "instance")}, stacked=True,
    ),
    Panel(
        "Bytes of images", "Bytes of received images per second; divided by the images it is their mean size.", "Bps",
        {"{{instance}}": rate(f"microtome_image_bytes_total{{{NS}}}", "instance")}, stacked=True,
    ),
    Panel(
        "Hit rate by model", "Share of the vectors that came from a cache. It falls after a rollout, and recovers.",
        "percentunit",
        {"{{model}}": f"{rate(HITS, 'model')} / {rate(f'microtome_vectors_total{{{MODEL}}}', 'model')}"},
        top=1,
    ),
    Panel(
        "In flight against the limit", "Of the images and bytes that a gateway may hold. At 100 % callers get 429.",
        "percentunit", {"{{instance}} {{limit}}": f"microtome:in_flight:ratio{{{NS}}}"}, top=1,
    ),
    Panel(
        "Images in flight", "Images that each gateway works on now, and those of bulk requests among them.", "short",
        {
            "{{instance}}": f"microtome_images_in_flight{{{NS}}}",
            "{{instance}} bulk": f"microtome_bulk_images_in_flight{{{NS}}}",
        },
    ),
    Panel(
        "Error budget burnt", "Times faster than the objective allows; 1 uses up 30 days' budget in 30 days.", "short",
        {
            "1 h": f"microtome:errors:ratio_rate1h{{{NS}}} / 0.001",
            "6 h": f"microtome:errors:ratio_rate6h{{{NS}}} / 0.001",
            "3 d": f"microtome:errors:ratio_rate3d{{{NS}}} / 0.001",
        },
    ),
    Panel(
        "Slow and turned away", "Share of the requests longer than 1 s (the objective is 1 %); share answered 429.",
        "percentunit",
        {
            "slow": f"microtome:slow:ratio_rate5m{{{NS}}}",
            "turned away": f"microtome:rejected:ratio_rate5m{{{NS}}}",
        },
    ),
    Panel(
        "Vectors", "Vectors answered per second, by model and by cache result.", "ops",
        {"{{model}} {{cache}}": rate(f"microtome_vectors_total{{{MODEL}}}", "model, cache")}, stacked=True,
    ),
)  # fmt: skip

STAGES = (
    Panel(
        "p99 of each stage", "read: the body; fetch: a URL; elsewhere: another gateway computes it; queue: for a "
        "batch; infer: the model server, its queue included; encode: the answer.", "s",
        {"{{stage}}": quantile(0.99, "microtome_stage_seconds", NS, "stage")}, 12,
    ),
    Panel(
        "Where the time goes", "Seconds spent in a stage per second, over all requests.", "short",
        {"{{stage}}": rate(f"microtome_stage_seconds_sum{{{NS}}}", "stage")}, 12, stacked=True,
    ),
    Panel(
        "Decode threads in use", "Images in decoding against the decode threads. Above 100 % images wait for a thread: "
        "add processors or gateways.", "percentunit",
        {"{{instance}}": f"{rate(DECODING, 'namespace, instance')} / {allowed('decode_threads')}"},
    ),
    Panel(
        "Waiting for a batch in a gateway", "Decoded images that wait for a call with room.",
        "short", {"{{instance}} {{priority}}": f"microtome_queued_images{{{NS}}}"}, stacked=True,
    ),
    Panel(
        "Waiting for a batch, by priority", "99 % of the decoded images wait no longer than this. A bulk run lengthens "
        "the waits of bulk images, and hardly those of interactive ones.", "s",
        {"{{priority}}": quantile(0.99, "microtome_queue_seconds", NS, "priority")},
    ),
    Panel(
        "Images in a call", "Mean, by model. Calls are not delayed to grow: they are larger when the model server "
        "is busy.", "short",
        {
            "{{model}}": f"{rate(f'microtome_batch_images_sum{{{MODEL}}}', 'model')} / "
            f"{rate(f'microtome_batch_images_count{{{MODEL}}}', 'model')}",
            "calls at a time that are allowed": f"max({allowed('inference_slots')})",
        },
    ),
)  # fmt: skip

MODELS = (
    Panel(
        "Ready by gateway", "1 while the model has answered within 10 s and inference works.", "bool_yes_no",
        {"{{model}} on {{instance}}": f"microtome_model_ready{{{MODEL}}}"}, 6, top=1, yes_no=True,
    ),
    Panel(
        "Version by gateway", "The version that requests use. Gateways differ only for seconds.", "none",
        {"{{model}} on {{instance}}": f"microtome_model_version{{{MODEL}}}"}, 6,
    ),
    Panel(
        "Golden vectors", "Largest deviation in the last check of a model server, relative L2; float32 allows 1e-4.",
        "none",
        {
            "{{model}} on {{instance}}": f"microtome_golden_deviation{{{MODEL}}}",
            "{{model}} on {{instance}}: refused": f"microtome_golden_refusals{{{MODEL}}}",
        },
        6,
    ),
    Panel(
        "Model servers", "Model servers that Prometheus can scrape.", "short",
        {"{{instance}}": f'up{{job="microtome-model-server",{NS}}}'}, 6, stacked=True,
    ),
    Panel(
        "Calls by status", "Calls per second at the model server, probes included.", "reqps",
        {"{{model_name}} {{status}}": rate(f"{TFS}request_count{{{NS}}}", "model_name, status")}, 6, stacked=True,
    ),
    Panel(
        "Duration at the model server", "Successful calls, queueing included; p99, by model.", "µs",
        {"{{model_name}}": quantile(0.99, f"{TFS}request_latency", NS, "model_name")}, 6,
    ),
    Panel(
        "Running the graph", "One batch, waiting for the batch to fill included; p99, by model.", "µs",
        {"{{model_name}}": quantile(0.99, f"{TFS}runtime_latency", NS, "model_name")}, 6,
    ),
    Panel(
        "Waiting for a batch", "Time that batches wait in the queue; p95, by server. The alert is at 250 ms.", "s",
        {"{{instance}}": f"microtome:model_server_queue_seconds:p95_rate5m{{{NS}}}"}, 6,
    ),
    Panel(
        "Images in a batch", "Mean size of the batches that ran. Near 1, batching gains nothing.", "short",
        {
            "{{instance}}": f"{rate(f'{TFS}batching_session:processed_batch_size_sum{{{NS}}}', 'instance')} / "
            f"{rate(f'{TFS}batching_session:processed_batch_size_count{{{NS}}}', 'instance')}"
        },
        6,
    ),
    Panel(
        "Padding", "Share of computed images that only fill a batch up to an allowed size. If high, allow more sizes.",
        "percentunit",
        {
            "{{instance}}": f"{rate(f'{TFS}batching_session:padding_size_sum{{{NS}}}', 'instance')} / "
            f"{rate(f'{TFS}batching_session:processed_batch_size_sum{{{NS}}}', 'instance')}"
        },
        6, top=1,
    ),
    Panel(
        "Loads of versions", "Attempts to load a SavedModel since the server's start, by result. A failed load "
        "is retried twice.", "short",
        {"{{model_path}} {{status}}": f"sum by (model_path, status) ({LOADS}load_attempt_count{{{NS}}})"}, 6,
    ),
    Panel(
        "Duration of loading", "Mean for each version, without its warm-up. A server serves when all are loaded.", "µs",
        {
            "{{model_path}}": f"sum by (model_path) ({LOADS}load_latency{{{NS}}}) / "
            f'sum by (model_path) ({LOADS}load_attempt_count{{status="success",{NS}}})'
        },
        6,
    ),
    Panel(
        "Duration of warming up", "Mean for each version with warm-up records, which run before it is served.", "µs",
        {
            "{{model_path}}": f"sum by (model_path) ({TFS}model_warmup_latency_sum{{{NS}}}) / "
            f"sum by (model_path) ({TFS}model_warmup_latency_count{{{NS}}})"
        },
        6,
    ),
)  # fmt: skip

# Of NVIDIA's DCGM exporter, where there is one: empty elsewhere.
GPUS = (
    Panel(
        "GPU in use", "Share of the time in which some kernel ran; it does not say how much of the GPU computed.",
        "percent", {"{{pod}} {{gpu}}": f"DCGM_FI_DEV_GPU_UTIL{{{GPU}}}"}, 6, top=100,
    ),
    Panel(
        "GPU memory", "Taken, and free. TensorFlow takes all of it at the start unless it is told to grow.", "bytes",
        {
            "{{pod}} {{gpu}}": f"DCGM_FI_DEV_FB_USED{{{GPU}}} * 1048576",
            "{{pod}} {{gpu}}: free": f"DCGM_FI_DEV_FB_FREE{{{GPU}}} * 1048576",
        },
        6,
    ),
    Panel(
        "GPU temperature", "Cards slow down between 85 and 95 degrees. The alert is at 85.", "celsius",
        {"{{pod}} {{gpu}}": f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}}"}, 6,
    ),
    Panel(
        "GPU errors", "Number of the last error (Xid) since the exporter's start; 1 for memory that has no spare rows.",
        "none",
        {
            "{{pod}} {{gpu}}: Xid": f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}",
            "{{pod}} {{gpu}}: memory fails": f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{GPU}}}",
        },
        6,
    ),
)  # fmt: skip

REDIS = (
    Panel(
        "Breaker open", "Whether a gateway has stopped using Redis after a failure, by operation.", "bool_yes_no",
        {"{{instance}} {{operation}}": f"microtome_cache_breaker_open{{{NS}}}"}, 6, top=1, yes_no=True,
    ),
    Panel(
        "Failures", "Calls of Redis that failed or took longer than the time budget. Each was a miss.", "ops",
        {"{{instance}}": rate(f"microtome_cache_failures_total{{{NS}}}", "instance")}, 6,
    ),
    Panel(
        "Spoiled values", "Values in Redis that differ from the stored ones. Each was a miss; expect none.", "ops",
        {"{{instance}}": rate(f"microtome_cache_spoiled_total{{{NS}}}", "instance")}, 6,
    ),
    Panel(
        "Duration of lookups", "Both tiers, as a request sees them.", "s",
        middle_and_tail("microtome_stage_seconds", f'stage="cache",{NS}'), 6,
    ),
    Panel(
        "Hit rate by tier", "memory: a gateway's own, written responses included; redis: of what memory did not have.",
        "percentunit",
        {"{{tier}}": f"{rate(FOUND, 'tier')} / {rate(f'microtome_cache_lookups_total{{{NS}}}', 'tier')}"}, 6, top=1,
    ),
    Panel(
        "Writes dropped", "Vectors not written to Redis, since too many were waiting. They will be misses.", "ops",
        {"{{instance}}": rate(f"microtome_cache_writes_dropped_total{{{NS}}}", "instance")}, 6,
    ),
    Panel(
        "Computed once for several", "Vectors that another request was already computing, in the same gateway or in "
        "another.", "ops",
        {"{{model}}": rate(COALESCED, "model")}, 6, stacked=True,
    ),
    Panel(
        "Waiting for another gateway", "Time that requests waited for a vector that another gateway computed; at most "
        "MICROTOME_CACHE_LEASE.", "s", middle_and_tail("microtome_stage_seconds", f'stage="elsewhere",{NS}'), 6,
    ),
)  # fmt: skip

# Of redis_exporter, where a job of this name scrapes one: empty elsewhere.
REDIS_ITSELF = (
    Panel(
        "Memory of Redis", "Taken by values, and allowed (maxmemory). Full is as it should be: old vectors make room.",
        "bytes",
        {
            "{{instance}}": f"redis_memory_used_bytes{{{ITSELF}}}",
            "{{instance}}: allowed": f"redis_memory_max_bytes{{{ITSELF}}}",
        },
        6,
    ),
    Panel(
        "Vectors that made room", "Keys evicted for newer ones. More memory helps if they are asked for again.", "ops",
        {"{{instance}}": rate(f"redis_evicted_keys_total{{{ITSELF}}}", "instance")}, 6,
    ),
    Panel(
        "Commands of Redis", "Commands that Redis ran.", "ops",
        {"{{instance}}": rate(f"redis_commands_processed_total{{{ITSELF}}}", "instance")}, 6,
    ),
    Panel(
        "Connections of Redis", "Open ones, and those that were refused since its start.", "short",
        {
            "{{instance}}": f"redis_connected_clients{{{ITSELF}}}",
            "{{instance}}: refused": f"redis_rejected_connections_total{{{ITSELF}}}",
        },
        6,
    ),
)  # fmt: skip

PROCESSES = (
    Panel(
        "Processor", "Cores that each gateway uses.", "short",
        {"{{instance}}": rate(f'process_cpu_seconds_total{{job="microtome-gateway",{NS}}}', "instance")},
    ),
    Panel(
        "Memory", "Resident memory of each gateway.", "bytes",
        {
            "{{instance}}": f'process_resident_memory_bytes{{job="microtome-gateway",{NS}}}',
            "{{instance}}: limit of its cache": allowed("cache_bytes"),
        },
    ),
    Panel(
        "Bodies and decoding", "Bytes of request bodies that each gateway holds, and of memory that images being "
        "decoded need, partly in other processes.", "bytes",
        {
            "{{instance}}": f"microtome_body_bytes_in_flight{{{NS}}}",
            "{{instance}}: decoding": f"microtome_decode_bytes_in_flight{{{NS}}}",
        },
        stacked=True,
    ),
)  # fmt: skip

ROWS = {
    "Does it work?": GLANCE,
    "Requests": REQUESTS,
    "Stages of a request": STAGES,
    "Models and model servers": MODELS,
    "GPUs": GPUS,
    "Redis": REDIS,
    "Redis itself": REDIS_ITSELF,
    "Processes of the gateways": PROCESSES,
}

if __name__ == "__main__":
    json.dump(dashboard(ROWS), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
