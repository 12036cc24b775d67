"""The steps of acceptance. Each judges figures; what needs a GPU says so where there is none."""

import itertools
import shutil
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from calls import Array, Caller, Vectors, inputs, worst, worst_angle
from machine import MANIFESTS, REPOSITORY, EmbeddedServer, Gpu, NotStarted, Server

from bench.load.calling import calling
from bench.load.generator import LoadFailed, LoadGenerator
from bench.load.plan import Load, Outcome
from microtome.golden import GoldenCheck
from microtome.manifest import ModelCard
from tests.e2e.processes import Gateway

BAD_WORDS = ("CUDA_ERROR", "Cannot dlopen some GPU libraries", "Bypassing", "out of memory")
GPU_WORDS = "Created device /job:localhost/replica:0/task:0/device:GPU:0"
FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0"}
START_SECONDS = 120.0
TF32_SHOWS = 1e-4
"""Photos deviate by 1.3e-3 and more with TF32, by 2e-5 at most without."""
BATCHES_DIFFER, REPLICAS_DIFFER, ANGLE = 5e-5, 5e-5, 1e-8
PATIENCE = 120.0
CALL_SLOTS = 4
PINGS = (("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0))
NO_GPU = "no GPU is tried"


@dataclass
class Finding:
    """One assertion: what was asked, whether it holds (None: skipped), and its figure or why it was skipped."""

    step: str
    asked: str
    holds: bool | None
    figure: str


@dataclass
class Trial:
    """What is tried, and what has been found.

    Attributes:
        model: The model's name.
        version: The directory of a version of it.
        server: On the GPU, or the embedded one.
        gpu: None on the CPU.
        quick: Less of everything, and patience for a busy machine.
        place: A directory for logs and copies.
        say: Called with each finding.
    """

    model: str
    version: Path
    server: Server
    gpu: Gpu | None
    quick: bool
    place: Path
    say: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    replicas: list[Vectors] = field(default_factory=list)
    read_only: bool = True

    def found(self, step: str, asked: str, figure: str, *, holds: bool | None) -> None:
        """Note an assertion."""
        self.findings.append(Finding(step, asked, holds, figure))
        self.say(self.findings[-1])

    def skipped(self, step: str, asked: str, why: str = NO_GPU) -> None:
        """Note an assertion that cannot be made here."""
        self.found(step, asked, why, holds=None)

    def publish(self, number: int) -> None:
        """Publish the model as another version, by a rename, and remove all but the newest two."""
        base = self.server.models / self.model
        draft = base / f".{number}.tmp"
        shutil.copytree(self.version, draft, copy_function=_readable)
        for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
            folder.chmod(0o755)  # the container's user is not who exported
        draft.rename(base / str(number))
        numbers = sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal())
        for old in numbers[:-2]:
            shutil.rmtree(base / str(old))

    @property
    def slack(self) -> float:
        """Return by how much times may be longer than on a machine with a GPU: others use this one too."""
        return 6.0 if self.quick or self.gpu is None else 1.0

    @property
    def weights(self) -> float:
        """Megabytes of the graph with its weights."""
        return (self.version / "saved_model.pb").stat().st_size / 1e6

    @property
    def photos(self) -> list[Path]:
        """Photos of the repository."""
        return sorted((REPOSITORY / "examples").glob("*.jpg"))

    @contextmanager
    def gateway(self) -> Iterator[Gateway]:
        """Run a gateway without a cache over the server."""
        gateway = Gateway(self.place, self.server.address, self.model, cache_bytes=0)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.destroy()


def _readable(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o644)


def machine(trial: Trial) -> None:
    """a: a GPU and a driver with which TensorFlow Serving 2.20 works."""
    if trial.gpu is None:
        trial.skipped("a", "compute capability 6.0 to 9.0, a driver that knows its code")
        return
    words = ["bash", str(MANIFESTS / "components" / "gpu" / "preflight.sh")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    gpu = trial.gpu
    new_enough = gpu.capability < 9.0 or int(gpu.driver.split(".")[0]) >= 555
    trial.found(
        "a",
        "compute capability 6.0 to 9.0, a driver that knows its code",
        f"{gpu.name}, {gpu.capability}, driver {gpu.driver}, {gpu.megabytes} MB; preflight: {done.stdout.strip()}",
        holds=6.0 <= gpu.capability < 10.0 and new_enough and done.returncode == 0,
    )


def start(trial: Trial) -> None:
    """b: the command line of Kubernetes, locked down, serves in two minutes with a clean log."""
    trial.publish(1)
    growing = FLOAT32 | {"TF_FORCE_GPU_ALLOW_GROWTH": "false"}
    try:
        seconds = trial.server.start(growing)
        lifted = ""
    except NotStarted as error:
        if trial.gpu is None:
            raise
        trial.read_only = False
        seconds, lifted = trial.server.start(growing, read_only=False), str(error)
    if trial.gpu is None:
        trial.skipped("b", "the container toolkit stands a read-only root file system")
    else:
        figure = f"no; leave it writable: {lifted}" if lifted else "yes: readOnlyRootFilesystem may be true"
        # Not judged: deploy/ leaves the root writable.
        trial.found("b", "the container toolkit stands a read-only root file system", figure, holds=True)
    limit = START_SECONDS * trial.slack
    trial.found("b", f"serves within {limit:.0f} s", f"{seconds:.1f} s", holds=seconds < limit)
    bad = [word for word in BAD_WORDS if word in trial.server.log()]
    trial.found("b", "nothing bad in the log", ", ".join(bad) or "none of " + ", ".join(BAD_WORDS), holds=not bad)
    if trial.gpu is None:
        trial.skipped("b", "the GPU is in use")
    else:
        trial.found("b", "the GPU is in use", GPU_WORDS, holds=GPU_WORDS in trial.server.log())


def golden(trial: Trial) -> None:
    """c: every output equals what the CPU computes, alone and in any batch; and not without the override."""
    with Caller(trial.server.address) as caller:
        card = caller.card(trial.model)
        images = inputs(card, trial.photos)
        expected = _on_the_cpu(trial, card, images)
        tolerance = min(output.tolerance or TF32_SHOWS for output in card.outputs.values())
        sizes = [size for size in (1, 3, 8, 32) if size <= card.manifest.max_batch_size]
        answers = {size: caller.batches(card, images, size) for size in sizes}
        trial.replicas.append(answers[sizes[-1]])
        check = GoldenCheck.of(card.manifest)
        if check is None:
            trial.skipped("c", "golden vectors", "its manifest has none; export it again")
        else:
            found = check.deviations([caller.predict(card, request) for request in check.requests])
            figure = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
            trial.found("c", "golden vectors of the manifest", figure, holds=not check.beyond(found))
    for size, answer in answers.items():
        deviation, output = worst(answer, expected)
        angle = worst_angle(answer, expected)
        holds = deviation <= tolerance and (angle <= ANGLE or tolerance > TF32_SHOWS)
        figure = f"{deviation:.1e} ({output}), 1 - cosine {max(angle, 0.0):.0e}"
        trial.found("c", f"9 images in batches of {size} against the CPU: {tolerance:g}", figure, holds=holds)
    difference, output = worst(answers[sizes[0]], answers[sizes[-1]])
    asked = f"batches of {sizes[0]} against {sizes[-1]}: {BATCHES_DIFFER:g}"
    trial.found("c", asked, f"{difference:.1e} ({output})", holds=difference <= BATCHES_DIFFER)
    asked = "without NVIDIA_TF32_OVERRIDE the check fails from compute capability 8.0 on"
    if trial.gpu is None:
        trial.skipped("c", asked)
        return
    trial.server.destroy()
    trial.server.start({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, read_only=trial.read_only)
    with Caller(trial.server.address) as caller:
        deviation, output = worst(caller.batches(card, images, 1), expected)
    wants = trial.gpu.capability >= 8.0
    trial.found("c", asked, f"{deviation:.1e} ({output})", holds=(deviation > TF32_SHOWS) is wants)
    again(trial)


def _on_the_cpu(trial: Trial, card: ModelCard, images: Array) -> Vectors:
    """Return what the embedded model server computes, one image at a time."""
    place = trial.place / "reference"
    reference = EmbeddedServer(place, trial.model)
    shutil.copytree(trial.version, reference.models / trial.model / str(card.version))
    try:
        reference.start({})
        with Caller(reference.address) as caller:
            return caller.batches(card, images, 1)
    finally:
        reference.destroy()


def again(trial: Trial, *, growth: bool = False) -> None:
    """Start the server once more, as another replica; with `growth` it takes memory as it needs it."""
    trial.server.destroy()
    variables = FLOAT32 | {"TF_FORCE_GPU_ALLOW_GROWTH": str(growth).lower()}
    trial.server.start(variables, read_only=trial.read_only)


def throughput(trial: Trial) -> None:
    """g: images a second by batch size, for docs/capacity.md."""
    seconds = 1.0 if trial.quick else 5.0
    busy: list[float] = []
    stop = threading.Event()

    def sample(gpu: Gpu) -> None:
        while not stop.wait(1.0):
            busy.append(gpu.utilization())

    sampler = threading.Thread(target=sample, args=(trial.gpu,)) if trial.gpu else None
    if sampler:
        sampler.start()
    with Caller(trial.server.address) as caller:
        card = caller.card(trial.model)
        images = inputs(card, trial.photos)
        top = [card.manifest.default_output]
        for size in (1, 8, 32, 64, 128):
            if size > card.manifest.max_batch_size:
                trial.skipped(
                    "g", f"batches of {size}", f"the largest of {trial.model} is {card.manifest.max_batch_size}"
                )
                continue
            batch = images[[index % len(images) for index in range(size)]]
            call = partial(caller.predict, card, batch, top)
            call()
            began = time.monotonic()
            with calling([call] * CALL_SLOTS) as done:
                time.sleep(seconds)
            rate = size * len(done) / (time.monotonic() - began)
            trial.rates[str(size)] = round(rate, 1)
            trial.found(
                "g", f"batches of {size}, {CALL_SLOTS} calls at a time", f"{rate:.0f} images/s", holds=bool(done)
            )
    stop.set()
    if sampler:
        sampler.join()
        trial.found("g", "the GPU is busy meanwhile", f"{statistics.mean(busy or [0.0]):.0f} %", holds=any(busy))


def spread(trial: Trial) -> None:
    """d: another start computes the same, whatever cuDNN has chosen."""
    for _ in range(1 if trial.quick else 2):
        again(trial)
        with Caller(trial.server.address) as caller:
            card = caller.card(trial.model)
            images = inputs(card, trial.photos)
            largest = max(size for size in (1, 3, 8, 32) if size <= card.manifest.max_batch_size)
            trial.replicas.append(caller.batches(card, images, largest))
    found = max(worst(one, other)[0] for one, other in itertools.combinations(trial.replicas, 2))
    asked = f"{len(trial.replicas)} starts, the most that two differ by: {REPLICAS_DIFFER:g}"
    trial.found("d", asked, f"{found:.1e}", holds=found <= REPLICAS_DIFFER)


def sets(trial: Trial, gateway: Gateway) -> None:
    """e: no set of outputs that a caller may choose makes the server prepare, or keep, anything."""
    with Caller(trial.server.address) as caller:
        outputs = list(caller.card(trial.model).outputs)
    every = [some for count in range(1, len(outputs) + 1) for some in itertools.combinations(outputs, count)]
    photo = trial.photos[0].read_bytes()
    before, device = trial.server.rss(), trial.gpu.used_megabytes() if trial.gpu else 0.0
    slowest, ratio = 0.0, 0.0
    with gateway.client() as http:
        for some in every:
            times = [_embedded(http, photo, some) for _ in range(4)]
            usual = statistics.median(times[1:])
            slowest, ratio = max(slowest, times[0]), max(ratio, times[0] / usual)
    # An unprepared set takes a second and more of a larger model; a busy machine makes milliseconds jump.
    patience = 0.1 * trial.slack * (5 if trial.quick else 1)
    figure = f"{1e3 * slowest:.0f} ms, {ratio:.1f} times the usual"
    asked = f"{len(every)} sets through the gateway, the slowest first answer: 3 times the usual or {patience:g} s"
    trial.found("e", asked, figure, holds=ratio < 3 or slowest < patience)
    # Buffers of the first requests, and half a copy of the weights.
    allowed = 0.5 * trial.weights + 64
    grown = trial.server.rss() - before
    asked = f"{len(every)} sets: host memory grows by less than {allowed:.0f} MB (weights {trial.weights:.0f} MB)"
    trial.found("e", asked, f"{before:.0f} MB, {grown:+.0f} MB", holds=grown < allowed)
    asked = f"{len(every)} sets: device memory grows by less than {allowed:.0f} MB"
    if trial.gpu is None:
        trial.skipped("e", asked)
    else:
        more = trial.gpu.used_megabytes() - device
        trial.found("e", asked, f"{device:.0f} MB, {more:+.0f} MB", holds=more < allowed)


def sizes(trial: Trial) -> None:
    """e: every set that a gateway asks for, in every size of a batch, has had its algorithms chosen by warm-up."""
    asked = "each warmed set in batches of 1, 8 and 32, the first answer: 3 times the second or 0.1 s"
    if trial.gpu is None:
        trial.skipped("e", asked, "a CPU chooses no algorithms by trying them")
        return
    slowest = (0.0, 0.0, "")
    with Caller(trial.server.address) as caller:
        card = caller.card(trial.model)
        images = inputs(card, trial.photos)
        for some in [*([name] for name in card.outputs), list(card.outputs)]:
            for size in (size for size in (1, 8, 32) if size <= card.manifest.max_batch_size):
                batch = images[[index % len(images) for index in range(size)]]
                first, second = (_timed(partial(caller.predict, card, batch, some)) for _ in range(2))
                slowest = max(slowest, (first, second, f"{'+'.join(some)} in batches of {size}"))
    first, second, which = slowest
    figure = f"{which}: {1e3 * first:.0f}, then {1e3 * second:.0f} ms"
    trial.found("e", asked, figure, holds=first < max(3 * second, 0.1))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _embedded(http: httpx.Client, photo: bytes, outputs: tuple[str, ...]) -> float:
    began = time.perf_counter()
    answer = http.post("/embed", params=[("output", name) for name in outputs], content=photo)
    answer.raise_for_status()
    return time.perf_counter() - began


def swaps(trial: Trial, gateway: Gateway) -> None:
    """f: new versions come into use under load; nothing fails, and memory comes back."""
    count, callers, seconds = (2, 8, 2.0) if trial.quick else (10, 32, 6.0)
    load = Load(
        gateway.port, [str(path) for path in trial.photos], seconds, connections=callers, draw="cold", path="/embed"
    )
    memory: list[float] = []
    device: list[float] = []
    with LoadGenerator() as generator:
        quiet = generator.put(load)
        during: list[Outcome] = []
        for number in range(2, count + 2):
            trial.publish(number)
            while _version(gateway, trial.model) != number or not during:
                try:
                    during.append(generator.put(load))
                except LoadFailed as error:
                    trial.found("f", f"{callers} callers while versions change", str(error), holds=False)
                    return
                if len(during) > 20 * number:
                    trial.found("f", f"version {number} comes into use", "not in time", holds=False)
                    return
            memory.append(trial.server.rss())
            device.append(trial.gpu.used_megabytes() if trial.gpu else 0.0)
    told = Counter[str]()
    for outcome in during:
        told.update(outcome.statuses)
    # A CPU that is asked for more than it can do refuses (429); a GPU must not be.
    fine = {"200"} if trial.gpu else {"200", "429"}
    asked = f"{count} versions under {callers} callers: none fails" + ("" if trial.gpu else ", but by overload (429)")
    figure = ", ".join(f"{number} of {status}" for status, number in sorted(told.items()))
    trial.found("f", asked, figure, holds=told.keys() <= fine and told["200"] > 0)
    before, worst_p99 = quiet.latency["p99"], max(outcome.latency["p99"] for outcome in during)
    figure = f"{1e3 * before:.0f} ms, at worst {1e3 * worst_p99:.0f} ms"
    limit = 5 * trial.slack
    trial.found("f", f"p99 before and during: less than {limit:.0f} s", figure, holds=worst_p99 < limit)
    # The first two changes fill what two loaded versions need.
    early, late = memory[min(1, len(memory) - 1)], memory[-1]
    allowed = early * 1.15 + 64
    figure = f"{early:.0f} MB after the second, {late:.0f} MB after the last"
    trial.found("f", "host memory after the last: 1.15 times and 64 MB at most", figure, holds=late <= allowed)
    asked = "device memory does not grow from change to change"
    if trial.gpu is None:
        trial.skipped("f", asked)
    else:
        figure = (
            f"peak {max(device):.0f} MB, {device[min(1, len(device) - 1)]:.0f} MB after the second, {device[-1]:.0f} MB"
        )
        trial.found("f", asked, figure, holds=device[-1] <= device[min(1, len(device) - 1)] + trial.weights)


def _version(gateway: Gateway, model: str) -> int:
    with gateway.client() as http:
        return int(http.get(f"/models/{model}").json()["version"])


def signals(trial: Trial, gateway: Gateway) -> None:
    """h: a frozen or ended server fails fast at the gateway, and is found again without restarting that."""
    photo = trial.photos[0].read_bytes()
    with gateway.client() as http:

        def asked() -> tuple[int, float]:
            began = time.monotonic()
            status = http.post("/embed", content=photo, headers={"X-Request-Timeout": "5"}).status_code
            return status, time.monotonic() - began

        def recovered() -> float:
            began = time.monotonic()
            while time.monotonic() < began + PATIENCE:
                with suppress(httpx.HTTPError):
                    if asked()[0] == httpx.codes.OK:
                        break
                time.sleep(0.1)
            return time.monotonic() - began

        trial.server.freeze()
        try:
            status, seconds = asked()
        finally:
            trial.server.thaw()
        limit = 10 * trial.slack
        holds = status in {503, 504} and seconds < limit
        asked_for = f"SIGSTOP: the caller is told within {limit:.0f} s"
        trial.found("h", asked_for, f"{status} after {seconds:.1f} s", holds=holds)
        seconds = recovered()
        trial.found("h", f"SIGCONT: within {PATIENCE:.0f} s", f"{seconds:.1f} s", holds=seconds < PATIENCE)
        began = time.monotonic()
        trial.server.terminate()
        while trial.server.pids() and time.monotonic() < began + PATIENCE:
            time.sleep(0.05)
        seconds = time.monotonic() - began
        limit = 15 * trial.slack
        trial.found("h", f"SIGTERM ends the server within {limit:.0f} s", f"{seconds:.1f} s", holds=seconds < limit)
        status, seconds = asked()
        holds = status == httpx.codes.SERVICE_UNAVAILABLE and seconds < 5 * trial.slack
        trial.found("h", "without a server: 503 at once", f"{status} after {seconds:.2f} s", holds=holds)
        again(trial)
        seconds = recovered()
        asked_for = f"a server that comes back is used within {PATIENCE:.0f} s"
        trial.found("h", asked_for, f"{seconds:.1f} s", holds=seconds < PATIENCE)


def keepalive(trial: Trial) -> None:
    """h: a call over which nothing is sent for a minute stands pings each 10 s."""
    asked = "a silent call of 60 s, pinged each 10 s"
    if trial.quick:
        trial.skipped("h", asked, "quick; tests/contract/test_keepalive.py tries it with gRPC's C core")
        return
    with Caller(trial.server.address, *PINGS) as caller:
        ended = caller.watch_health(60.0)
    trial.found("h", asked, ended or "stands", holds=not ended)
