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

from modelserver.batching import read_batching
from modelserver.catalogue import Catalogue
from modelserver.confinement import Confinement
from modelserver.engines import open_engine
from modelserver.errors import ServingError
from modelserver.grpc_server import bind, build_server
from modelserver.http_server import HttpApp, HttpServer
from modelserver.listening import CannotListen, remove_socket
from modelserver.load_metrics import LoadMetrics
from modelserver.loading import Loader, WarmUp, no_warm_up
from modelserver.metrics import Metrics
from modelserver.models_directory import NothingToServe
from modelserver.monitoring import read_metrics_path
from modelserver.options import Options
from modelserver.prediction import Predictor
from modelserver.reload import Reloader
from modelserver.rest_api import RestApi
from modelserver.scheduler import Scheduler
from modelserver.served_model import Loading
from modelserver.servicers import ModelServicer, PredictionServicer
from modelserver.startup import follow_directory, follow_file, named_models, serve_directory, serve_named
from modelserver.warmup import warm_up

log = logging.getLogger(__name__)

IDLE_THREADS_END_SECONDS = 0.5

CannotStart = (NothingToServe, CannotListen, ServingError)


def serve(options: Options) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 when told to stop, 1 when there was nothing to serve or nowhere to listen.
    """
    # Most of a request's cost without its model is the event loop and gRPC, see docs/decisions/performance.md.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, busy = runner.run(_live(options))
    if busy:
        # A load or a run did not end in time. The interpreter would wait for its thread, maybe for minutes.
        logging.shutdown()
        os._exit(status)
    return status


async def _live(options: Options) -> tuple[int, bool]:
    application = Application(options)
    return await application.run(), application.busy


class Application:
    """Everything that runs in the process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        loads = max(options.num_load_threads, 1)
        self._load_threads = ThreadPoolExecutor(loads, "load")
        batching = read_batching(options)
        slots = batching.threads or cores
        self._confinement = Confinement()
        self._metrics = Metrics()
        observer = LoadMetrics(self._metrics)
        self._run_threads = ThreadPoolExecutor(slots, batching.thread_pool_name)
        self._catalogue = Catalogue(
            Loading(
                load=Loader(open_engine(options), _warm_up(options), batching, observer, self._confinement).load,
                threads=self._load_threads,
                turns=asyncio.Semaphore(loads),
                retries=options.max_num_load_retries,
                retry_interval=options.load_retry_interval_micros / 1e6,
                poll_wait=options.file_system_poll_wait_seconds,
            )
        )
        # As many runs at a time as cores, as the real server's num_batch_threads: while one batch ends and the next is
        # made up, another keeps the cores busy.
        self._scheduler = Scheduler(self._run_threads, slots, self._metrics)
        self._followers: list[asyncio.Task[None]] = []
        self.busy = False
        """At the end: whether a thread still works that cannot be stopped."""

    async def run(self) -> int:
        """Load, listen, and serve until told to stop; returns the exit status."""
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
                await self._listen(stop)
        except CannotStart as error:
            log.error("Failed to start server. Error: %s", error)  # noqa: TRY400
            status = 1
        for task in (stopping, starting, *self._followers):
            task.cancel()
        await asyncio.gather(stopping, starting, *self._followers, return_exceptions=True)
        await self._catalogue.close()
        self.busy = _still_works(self._load_threads) | _still_works(self._run_threads)
        return status

    async def _load(self) -> None:
        """Have every model that is known now tried, before anyone can ask for it."""
        if not self._options.models_dir:
            await serve_named(self._catalogue, named_models(self._options))
            return
        models_dir = Path(self._options.models_dir)
        await serve_directory(self._catalogue, models_dir)
        if (poll_wait := self._options.file_system_poll_wait_seconds) > 0:
            self._followers.append(asyncio.create_task(follow_directory(self._catalogue, models_dir, poll_wait)))

    async def _listen(self, stop: asyncio.Event) -> None:
        """Open the addresses, answer until told to stop, finish what is under way."""
        options = self._options
        as_content = options.enable_serialization_as_tensor_content
        predictor = Predictor(self._catalogue, self._scheduler, self._metrics, as_content=as_content)
        reloader = Reloader(self._catalogue, labels_may_wait=options.allow_version_labels_for_unavailable_models)
        server = await build_server(
            options,
            PredictionServicer(self._catalogue, predictor, self._metrics),
            ModelServicer(self._catalogue, reloader),
        )
        http = self._http_server()
        try:
            addresses = bind(server, options)
            await server.start()
            if http:
                addresses.append(http.start())
            self._follow_file(reloader)
            if options.engine == "tensorflow":
                # OpenVINO counts its cores while it loads, and would go on with one.
                self._confinement.begin()
            log.info("Serving %s on %s", ", ".join(self._catalogue.models), " and ".join(addresses))
            await stop.wait()
            log.info("Stopping: %.0f s for what is under way", options.shutdown_grace_seconds)
        finally:
            await server.stop(options.shutdown_grace_seconds)
            if http:
                await http.stop()
        if options.grpc_socket_path:
            remove_socket(Path(options.grpc_socket_path))
        log.info("Stopped")

    def _http_server(self) -> HttpServer | None:
        options = self._options
        path = read_metrics_path(options.monitoring_config_file)
        if not options.rest_api_port:
            if path:
                log.warning("--monitoring_config_file has no effect without --rest_api_port")
            return None
        app = HttpApp(RestApi(self._catalogue, self._metrics), self._metrics, path)
        return HttpServer(app, options.host, options.rest_api_port)

    def _follow_file(self, reloader: Reloader) -> None:
        options = self._options
        poll_wait = options.model_config_file_poll_wait_seconds
        if options.model_config_file and poll_wait > 0:
            following = follow_file(reloader, Path(options.model_config_file), poll_wait)
            self._followers.append(asyncio.create_task(following))


def _still_works(pool: ThreadPoolExecutor) -> bool:
    """End a pool; false when its threads end at once, as idle ones do."""
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    ending.join(IDLE_THREADS_END_SECONDS)
    return ending.is_alive()


def _warm_up(options: Options) -> WarmUp:
    if not options.enable_model_warmup:
        return no_warm_up
    return partial(warm_up, iterations=options.num_request_iterations_for_warmup)
