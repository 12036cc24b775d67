"""The engine of many machines: Ray Data reads and decodes on CPUs, infers on GPUs or CPUs, and writes Parquet there.

    plan ─► decode (tasks) ─► infer (actors with the model, or that ask a gateway) ─► write (tasks) ─► receipts

All stages run at the same time, on all machines, and Ray bounds what is between them. This process holds neither images
nor vectors: it lists the images, and names in the manifest what the receipts say (`shards`). What Ray loses with a
machine is embedded again, by Ray itself or by another pass over what the manifest lacks.
"""

import importlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, TextIO

import orjson

from microtome.client.options import EmbedOptions
from microtome.commands.embed import shards, sources, stores
from microtome.commands.embed.engine import GatewayEngine
from microtome.commands.embed.errors import EmbedError, servers_packages
from microtome.commands.embed.keyed_images import KeyedText, Rules
from microtome.commands.embed.progress import Progress
from microtome.commands.embed.ray_stages import BLOCK_BYTES, Infer, Job, asked, decode, write

_ALL = -1.0
"""In place of a number of GPUs: one, if the cluster has any."""

_FRUITLESS = 3
"""Passes after each other without a shard, before the run ends."""

_INFERRING, _ASKING, _WRITING = 0.5, 0.25, 0.1
"""Of a core, which an actor that computes or asks a gateway and a task that writes reserve; a task that decodes
reserves the rest. So all of them go on on a single core, and share all cores as they need them."""


def run(options: Namespace, stdin: TextIO, say: TextIO) -> tuple[int, int]:
    """Do the run, or what is left of it; return the numbers of vectors and of failed images in the folder.

    Raises:
        EmbedError: it cannot be done as asked.
        MicrotomeError: the gateway refused it.
    """
    with _without_native_lines(say) as shown:
        return _run(options, stdin, shown)


@contextmanager
def _without_native_lines(say: TextIO) -> Iterator[TextIO]:
    """Hide what Ray's C++ code writes to descriptor 2, whatever the log level is; yield what still writes there."""
    if say is not sys.stderr:
        yield say
        return
    say.flush()
    with (
        os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace") as shown,
        Path(os.devnull).open("w", encoding="utf-8") as nothing,
    ):
        os.dup2(nothing.fileno(), 2)
        try:
            yield shown
        finally:
            say.flush()
            os.dup2(shown.fileno(), 2)


def _run(options: Namespace, stdin: TextIO, say: TextIO) -> tuple[int, int]:
    ray = _Ray(options)
    rules = Rules(options.follow_links, options.max_image_bytes)
    manifest = shards.Manifest(options.out, restart=options.restart)
    if manifest.complete:
        raise EmbedError(
            f"{options.out} is there already, and complete. Give --restart to replace it, or another --out."
        )
    with Progress(manifest.images, manifest.embedded + manifest.failed, say, command=options.command) as progress:
        job = _agreed(manifest, options, rules, progress)
        if manifest.head:
            progress.note(f"going on after {manifest.embedded + manifest.failed} images; --restart would start over")
        head = {"sources": options.paths, "texts": options.text, **asdict(rules), **asked(job.wanted)}
        words = options.paths + options.text
        several = len(words) > 1 or any(set(word) & set("*?[") or word == "-" for word in options.paths)
        texts = (KeyedText(text, text) for text in options.text)
        found = chain(texts, sources.listed(options.paths, stdin, rules))
        manifest.begin(orjson.loads(orjson.dumps(head)), shards.pieces(found, several=several))
        progress.expect(manifest.images)
        ray.join(options.ray_address)
        try:
            _passes(manifest, ray, replace(job, num_gpus=ray.gpus(job)), progress)
        finally:
            ray.leave()
        manifest.finish()
    return manifest.embedded, manifest.failed


def _agreed(manifest: shards.Manifest, options: Namespace, rules: Rules, progress: Progress) -> Job:
    """Fix model and version for all parts of this run, so that vectors of two versions are never mixed."""
    wanted: EmbedOptions = options.wanted
    name: str | None
    version: int | None
    fingerprint, place, pixels = "", "", 0
    if options.saved_model:
        with servers_packages():
            from microtome.commands.embed import saved_model  # noqa: PLC0415

        directory = saved_model.local_version(options.saved_model)
        model = saved_model.identity(directory, wanted)
        found = saved_model.manifest(directory)
        saved_model.chosen(found, wanted)
        name, version, fingerprint = model.name, model.version, model.fingerprint
        if manifest.model and manifest.model["fingerprint"] != fingerprint:
            raise EmbedError(
                f"{options.out} holds vectors of {name} version {version} with the fingerprint "
                f"{manifest.model['fingerprint'][:18]}…; --saved-model has {fingerprint[:18]}…. They do not compare. "
                "Give --restart to start over, or choose another --out."
            )
        options.batch = options.batch or found.max_batch_size
        pixels = prod(found.pixels.shape)
        # Absolute, since workers have other working directories.
        place = options.saved_model if stores.is_address(options.saved_model) else str(directory.resolve())
    else:
        name, version = manifest.head.get("model"), manifest.head.get("version")
        if not version:
            gateway = GatewayEngine(options, progress)
            try:
                name, version = gateway.identify(wanted.model)
            finally:
                gateway.close()
    return Job(
        out=options.out,
        rules=rules,
        wanted=replace(wanted, model=wanted.model or name, version=wanted.version or version),
        saved_model=place,
        fingerprint=fingerprint,
        pixels=pixels,
        num_gpus=options.num_gpus if options.num_gpus is not None else _ALL,
        batch=options.batch or 8,
        url=options.url,
        api_key=options.api_key,
        ca_file=options.ca_file,
        folder="" if all(map(_absolute, options.paths)) else str(Path.cwd()),
    )


def _absolute(word: str) -> bool:
    return stores.is_address(word) or Path(word).is_absolute()


def _passes(manifest: shards.Manifest, ray: "_Ray", job: Job, progress: Progress) -> None:
    fruitless = 0
    while left := manifest.left():
        before, lost = manifest.embedded + manifest.failed, ""
        try:
            for receipt in ray.receipts(left, job):
                if manifest.commit(receipt):
                    progress.advance(failed=receipt.failed, images=receipt.rows + receipt.failed)
        except ray.failures as error:
            lost = f": {_first_line(error)}"
        finally:
            manifest.save()
        fruitless = 0 if manifest.embedded + manifest.failed > before else fruitless + 1
        if fruitless == _FRUITLESS:
            raise EmbedError(f"Ray could not run the pipeline{lost}. What is done is kept; the same command goes on.")
        if manifest.left():
            progress.note(f"Ray lost a part of the work{lost}; it is done again")


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).strip()[:300]


class _Ray:
    """A Ray cluster.

    Attributes:
        failures: what Ray raises.
    """

    def __init__(self, options: Namespace) -> None:
        """Import Ray.

        Raises:
            EmbedError: it is not installed.
        """
        self._options = options
        self._ray, self._data = _imported("ray"), _imported("ray.data")
        self.failures: type[Exception] = self._ray.exceptions.RayError

    def join(self, address: str | None) -> None:
        """Join a cluster, or start one here.

        Raises:
            EmbedError: there is none.
        """
        given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "ignore_reinit_error": True}
        if not address and not os.environ.get("RAY_ADDRESS"):
            # One that is started here is for this machine, whatever networks it has.
            given |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        try:
            self._ray.init(address=address, **given)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, self.failures) as error:
            where = f"at {address}" if address else "here"
            raise EmbedError(
                f"There is no Ray cluster {where}, or it is of another version: {_first_line(error)}"
            ) from error
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = self._data.DataContext.get_current()
        context.enable_progress_bars = False

    def gpus(self, job: Job) -> float:
        """Return the GPUs of an actor.

        Raises:
            EmbedError: the cluster has fewer.
        """
        there = self._ray.cluster_resources().get("GPU", 0.0)
        wanted = min(there, 1.0) if job.num_gpus < 0 else job.num_gpus
        if not job.saved_model:
            return 0.0
        if wanted > there:
            raise EmbedError(f"Expected --num-gpus up to {there:g}, which the cluster has. Received {wanted:g}.")
        return wanted

    def leave(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    def receipts(self, left: Sequence[tuple[int, Sequence[shards.Range]]], job: Job) -> Iterator[shards.Receipt]:
        """Embed what is left of pieces; a receipt for each shard that is written.

        Raises:
            EmbedError: something that concerns every image.
        """
        items = [{"piece": piece, "done": orjson.dumps(done).decode()} for piece, done in left]
        given = {"job": job}
        # Blocks of as many rows as a task passes on: bundles of them fill shards.
        self._data.DataContext.get_current().target_max_block_size = job.rows * job.pixels * 9 // 10 or BLOCK_BYTES
        share, actors, decoding = self._derived(job)
        rows = self._data.from_items(items, override_num_blocks=len(items)).map_batches(
            decode,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=given,
            # Another share than the actors': else Ray would decode within them, and they would wait for it.
            num_cpus=decoding,
        )
        rows = rows.map_batches(
            Infer,
            batch_size=job.batch,
            batch_format="pyarrow",
            fn_constructor_kwargs=given,
            compute=self._data.ActorPoolStrategy(min_size=1, max_size=actors),
            **share,
        )
        rows = rows.map_batches(
            write,
            batch_size=self._options.shard_rows,
            batch_format="pyarrow",
            fn_kwargs=given,
            num_cpus=_WRITING,
        )
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for receipt in batch.column("receipt").to_pylist():
                document = orjson.loads(receipt)
                if "fatal" in document:
                    raise EmbedError(document["fatal"])
                yield shards.Receipt.read(document)

    def _derived(self, job: Job) -> tuple[dict[str, float], int, float]:
        """Return what an actor that infers reserves, the most actors, and the cores of a task that decodes."""
        there = self._ray.cluster_resources()
        cores, gpus, wanted = there.get("CPU", 1.0), there.get("GPU", 0.0), self._options.concurrency
        if job.num_gpus:
            return {"num_gpus": job.num_gpus}, wanted or max(1, int(gpus / job.num_gpus)), 1 - _WRITING
        if job.saved_model:
            return {"num_cpus": _INFERRING}, wanted or max(1, int(cores)), 1 - _INFERRING - _WRITING
        return {"num_cpus": _ASKING}, wanted or max(1, int(2 * cores)), 1 - _ASKING - _WRITING


def _imported(module: str) -> Any:  # noqa: ANN401, it may not be installed
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EmbedError(
            f"--engine ray needs Ray, which is not installed: pip install 'ray[data]' ({error})."
        ) from None
