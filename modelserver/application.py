"""The composition root, and the life of the process: load, listen, serve, drain."""

import asyncio
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvloop

from modelserver.api.grpc_server import ModelServicer, PredictionServicer, build_server, listen
from modelserver.api.handlers import Predictor
from modelserver.api.rest import RestApp, RestServer
from modelserver.batching.limits import read_batching
from modelserver.batching.scheduler import Scheduler
from modelserver.config.addresses import CannotListen, remove_socket
from modelserver.config.options import Options
from modelserver.config.text_protos import read_metrics_path
from modelserver.engines.engine import Engine
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.parallelism import LoadAffinity, cores
from modelserver.engines.tensorflow_engine import SessionSettings, TensorFlowEngine
from modelserver.errors import ServingError
from modelserver.metrics import Metrics
from modelserver.models.catalogue import Catalogue
from modelserver.models.loading import Loader, warm_up
from modelserver.models.model import Loading
from modelserver.models.model_config import NothingToServe
from modelserver.models.reload import Reloader, follow_directory, serve_directory, serve_named

log = logging.getLogger(__name__)

IDLE_THREADS_END_SECONDS = 0.5


def serve(options: Options) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a signal, 1 when there was nothing to serve or no address to listen on.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, busy = runner.run(_live(options))
    if busy:
        # A load or a run did not end in time. The interpreter would wait for its thread, for minutes perhaps.
        logging.shutdown()
        os._exit(status)
    return status


async def _live(options: Options) -> tuple[int, bool]:
    application = Application(options)
    return await application.run(), application.busy


class Application:
    """All objects of the process."""

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
        self._metrics = Metrics()
        iterations = options.num_request_iterations_for_warmup
        warm = partial(warm_up, iterations=iterations) if options.enable_model_warmup else None
        self._catalogue = Catalogue(
            Loading(
                load=Loader(open_engine(options), warm, batching, self._metrics, self._affinity).load,
                threads=self._load_threads,
                turns=asyncio.Semaphore(loads),
                retries=options.max_num_load_retries,
                retry_interval=options.load_retry_interval_micros / 1e6,
                poll_wait=options.file_system_poll_wait_seconds,
            )
        )
        self._scheduler = Scheduler(self._run_threads, slots, self._metrics)
        self._followers: list[asyncio.Task[None]] = []
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
            status = 1
        for task in (stopping, starting, *self._followers):
            task.cancel()
        await asyncio.gather(stopping, starting, *self._followers, return_exceptions=True)
        await self._catalogue.close()
        self.busy = _still_works(self._load_threads) | _still_works(self._run_threads)
        return status

    async def _load(self) -> None:
        """Try to load every model that is known now, before the server listens."""
        if not self._options.models_dir:
            await serve_named(self._catalogue, self._options)
            return
        models_dir = Path(self._options.models_dir)
        await serve_directory(self._catalogue, models_dir)
        if (poll_wait := self._options.file_system_poll_wait_seconds) > 0:
            self._followers.append(asyncio.create_task(follow_directory(self._catalogue, models_dir, poll_wait)))

    async def _serve(self, stop: asyncio.Event) -> None:
        """Open the addresses, answer until the signal, finish active requests."""
        options = self._options
        as_content = options.enable_serialization_as_tensor_content
        predictor = Predictor(self._catalogue, self._scheduler, self._metrics, as_content=as_content)
        reloader = Reloader(self._catalogue, labels_may_wait=options.allow_version_labels_for_unavailable_models)
        server = await build_server(
            options,
            PredictionServicer(self._catalogue, predictor, self._metrics),
            ModelServicer(self._catalogue, reloader),
        )
        rest = self._rest_server()
        try:
            addresses = listen(server, options)
            await server.start()
            if rest:
                addresses.append(rest.start())
            if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
                follow = reloader.follow_file(
                    Path(options.model_config_file), options.model_config_file_poll_wait_seconds
                )
                self._followers.append(asyncio.create_task(follow))
            if options.engine == "tensorflow":
                # OpenVINO counts its cores during a load, and would continue with one.
                self._affinity.begin()
            log.info("Serving %s on %s", ", ".join(self._catalogue.models), " and ".join(addresses))
            await stop.wait()
            log.info("Stopping: %.0f s for active requests", options.shutdown_grace_seconds)
        finally:
            await server.stop(options.shutdown_grace_seconds)
            if rest:
                await rest.stop()
        remove_socket(options)
        log.info("Stopped")

    def _rest_server(self) -> RestServer | None:
        options = self._options
        path = read_metrics_path(options.monitoring_config_file)
        if not options.rest_api_port:
            if path:
                log.warning("--monitoring_config_file has no effect without --rest_api_port")
            return None
        return RestServer(RestApp(self._catalogue, self._metrics, path), options.host, options.rest_api_port)


def open_engine(options: Options) -> Engine:
    """Create the engine that the flags name.

    TensorFlow's flags for threads apply to OpenVINO too: ``intra_op`` is the number of threads, ``inter_op`` the number
    of batches that are computed concurrently on them.

    Raises:
        FailedPrecondition: It is not installed.
    """
    both = options.tensorflow_session_parallelism
    intra_op = both or options.tensorflow_intra_op_parallelism
    inter_op = both or options.tensorflow_inter_op_parallelism
    tags = tuple(options.saved_model_tags.split(","))
    tensorflow = TensorFlowEngine(SessionSettings(intra_op, inter_op, options.mixed_precision, tags))
    if options.engine == "tensorflow":
        return tensorflow
    # An optional dependency.
    from modelserver.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

    streams = inter_op or OpenVinoSettings().streams
    return OpenVinoEngine(OpenVinoSettings(intra_op, streams, options.mixed_precision), tensorflow)


def _still_works(pool: ThreadPoolExecutor) -> bool:
    """Shut down a pool; returns whether its threads have not ended soon, as idle ones do."""
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    ending.join(IDLE_THREADS_END_SECONDS)
    return ending.is_alive()
