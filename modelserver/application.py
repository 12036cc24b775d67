"""The composition root, and the life of the process: load, listen, serve, drain."""

import asyncio
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import uvloop

from microtome.machine import cores
from microtome.manifest import TOLERANCES
from modelserver.api.grpc_server import Servicer, create_grpc_server, listen
from modelserver.api.handlers import Handlers
from modelserver.batching.limits import read_batching
from modelserver.batching.scheduler import Scheduler
from modelserver.config.addresses import check_addresses, remove_socket
from modelserver.config.options import Options
from modelserver.config.text_protos import read_metrics_path
from modelserver.engines.engine import Engine, OnDemand
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.parallelism import LoadAffinity, SessionSettings
from modelserver.errors import Absent, CannotListen, NothingToServe, ServingError, exit_status
from modelserver.metrics import Metrics
from modelserver.models.catalogue import Catalogue
from modelserver.models.loading import Loader, warm_up
from modelserver.models.model import Loading
from modelserver.models.model_config import ModelConfig
from modelserver.models.reload import Reloader, follow, settled
from modelserver.tensors.signatures import Bounds

log = logging.getLogger(__name__)

IDLE_THREADS_END_SECONDS = 0.5

REQUESTS_IN_FLIGHT = 4
"""The largest requests whose decoded inputs fit in memory at a time; of smaller ones, as many more."""


def serve(options: Options) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a signal, 1 when there was nothing to serve or no address to listen on.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        application = runner.run(_create(options))
        status = runner.run(application.run())
    if application.busy:
        # A load or a run did not end in time. The interpreter would wait for its thread, for minutes perhaps.
        logging.shutdown()
        os._exit(status)
    return status


async def _create(options: Options) -> "Application":
    return Application(options)


class Application:
    """All objects of the process. Created on the event loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        loads = max(options.num_load_threads, 1)
        self._load_threads = ThreadPoolExecutor(loads, "load")
        batching = read_batching(options)
        # As many concurrent runs as cores, like the real server's num_batch_threads: while one batch ends and the next
        # is assembled, another keeps the cores busy.
        slots = batching.threads or cores()
        self._run_threads = ThreadPoolExecutor(slots, batching.thread_pool_name)
        self._affinity = LoadAffinity()
        metrics = Metrics()
        iterations = options.num_request_iterations_for_warmup
        warm = partial(warm_up, iterations=iterations) if options.enable_model_warmup else None
        engines, why = open_engines(options)
        self._catalogue = Catalogue(
            Loading(
                load=Loader(
                    engines,
                    warm,
                    batching,
                    metrics,
                    self._affinity,
                    accepted_deviation(options),
                    Bounds(options.max_request_bytes, options.max_request_rows or None),
                    why,
                ).load,
                threads=self._load_threads,
                turns=asyncio.Semaphore(loads),
                retries=options.max_num_load_retries,
                retry_interval=options.load_retry_interval_micros / 1e6,
                poll_wait=options.file_system_poll_wait_seconds,
            )
        )
        scheduler = Scheduler(self._run_threads, slots, metrics)
        self._handlers = Handlers(
            self._catalogue,
            scheduler,
            metrics,
            options.enable_serialization_as_tensor_content,
            REQUESTS_IN_FLIGHT * options.max_request_bytes,
        )
        self._reloader = Reloader(
            self._catalogue,
            labels_may_wait=options.allow_version_labels_for_unavailable_models,
            within=Path(options.models_dir) if options.models_dir else None,
            by_request=options.enable_reload_requests,
        )
        self._following: asyncio.Task[None] | None = None
        self.busy = False
        """At the end: whether a thread that cannot be stopped still works."""

    async def run(self) -> int:
        """Load, listen, and serve until a signal; returns the exit status."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._load())
        await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        status = 0
        try:
            if not stop.is_set():
                starting.result()
                await self._serve(stop)
        except (NothingToServe, CannotListen, ServingError) as error:
            log.error("Failed to start server. Error: %s", error)  # noqa: TRY400
            status = exit_status(error)
        tasks = [task for task in (stopping, starting, self._following) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._catalogue.close()
        self.busy = _still_works(self._load_threads) | _still_works(self._run_threads)
        return status

    async def _load(self) -> None:
        """Try to load every model that is known now, before the server listens, and follow later changes."""
        options, reloader = self._options, self._reloader
        if options.models_dir and not options.model_config_file:
            path = Path(options.models_dir)
            await reloader.serve_directory(path)
            changes = follow(reloader.apply_directory, "models directory", path, options.file_system_poll_wait_seconds)
        elif options.model_config_file:
            path = Path(options.model_config_file)
            new = await reloader.apply_file(path)
            changes = follow(
                reloader.apply_file, "ModelServerConfig file", path, options.model_config_file_poll_wait_seconds
            )
            # From now on: a model without a version, which is waited for, can be taken out of the file again.
            self._following = asyncio.create_task(changes)
            await settled(new, "servable")
            return
        else:
            new = await reloader.apply([ModelConfig(options.model_name, Path(options.model_base_path))])
            await settled(new, "servable")
            return
        self._following = asyncio.create_task(changes)

    async def _serve(self, stop: asyncio.Event) -> None:
        """Open the addresses, answer until the signal, finish active requests."""
        options, grace = self._options, self._options.shutdown_grace_seconds
        metrics_path = read_metrics_path(options.monitoring_config_file)
        check_addresses(options)  # again: another process may have taken one during the load
        async with AsyncExitStack() as opened:
            addresses = []
            if options.rest_api_port:
                # With uvicorn, which a server without this port does not need.
                from modelserver.api.rest import RestApp, rest_server  # noqa: PLC0415

                rest = rest_server(RestApp(self._handlers, metrics_path), options.host, options.rest_api_port)
                addresses.append(await opened.enter_async_context(rest))
            elif metrics_path:
                log.warning("--monitoring_config_file has no effect without --rest_api_port")
            server = await create_grpc_server(options, Servicer(self._handlers, self._reloader), self._catalogue)
            opened.push_async_callback(server.stop, grace)
            addresses = [*listen(server, options), *addresses]
            await server.start()
            self._affinity.begin()
            log.info("Serving %s on %s", ", ".join(self._catalogue.models), " and ".join(addresses))
            await stop.wait()
            log.info("Stopping: %.0f s for active requests", grace)
        remove_socket(options)
        log.info("Stopped")


def open_engines(options: Options) -> tuple[list[Engine], str]:
    """Open the engines that the flags allow, in the order in which a version tries them.

    TensorFlow, which takes seconds and half a gigabyte, is imported for the first version that needs it. Its flags for
    threads apply to OpenVINO too: ``intra_op`` is the number of threads, ``inter_op`` the number of batches that are
    computed concurrently on them.

    Returns:
        The engines, and why these.

    Raises:
        Absent: What the flags name is not installed, or nothing is.
    """
    both = options.tensorflow_session_parallelism
    intra_op = both or options.tensorflow_intra_op_parallelism
    inter_op = both or options.tensorflow_inter_op_parallelism
    tags = tuple(options.saved_model_tags.split(","))
    session = SessionSettings(intra_op, inter_op, options.mixed_precision, tags)
    tensorflow = OnDemand("tensorflow", partial(_open_tensorflow, session))
    if options.engine == "tensorflow":
        return [tensorflow], "--engine=tensorflow"
    if options.engine == "auto" and options.saved_model_tags != "serve":
        return [tensorflow], f"OpenVINO does not read graphs tagged {options.saved_model_tags}"
    streams = inter_op or OpenVinoSettings().streams
    settings = OpenVinoSettings(intra_op, streams, options.mixed_precision)
    try:
        # An optional dependency.
        from modelserver.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

        openvino = OpenVinoEngine(settings)
    except Absent as error:
        if options.engine == "openvino" or find_spec("tensorflow") is None:
            raise
        return [tensorflow], error.message
    return ([openvino], "--engine=openvino") if options.engine == "openvino" else ([openvino, tensorflow], "")


def _open_tensorflow(settings: SessionSettings) -> Engine:
    """Import TensorFlow.

    Raises:
        Absent: It is not installed.
    """
    if find_spec("tensorflow") is None:
        raise Absent("TensorFlow, which would compute it, is not installed here: see docs/engines.md")
    from modelserver.engines.tensorflow_engine import TensorFlowEngine  # noqa: PLC0415

    return TensorFlowEngine(settings)


def accepted_deviation(options: Options) -> float:
    """Return the deviation from golden vectors that the flags accept; lower precision on demand accepts its own."""
    return max(options.accept_deviation, TOLERANCES.get(options.mixed_precision, 0.0))


def _still_works(pool: ThreadPoolExecutor) -> bool:
    """Shut down a pool; returns whether its threads have not ended soon, as idle ones do."""
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    ending.join(IDLE_THREADS_END_SECONDS)
    return ending.is_alive()
