"""The report of a training: figures with intervals, confusions with photos, reliability, refusals, doubtful labels."""

import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from exporter.features.photos import Collection
from exporter.report.page import confusion, lines, page, paragraph, photo, table
from exporter.train.calibration import Reliability, softmax
from exporter.train.figures import Share
from exporter.train.pipeline import Trained, Tuned

_MOST_CLASSES = 30
_SHOWN = 8


def report(found: Trained) -> str:
    """Return the report as one HTML file."""
    count = len(found.material.classes)
    return page(f"{found.request.name}: a classifier of {count} classes", [part for part in _parts(found) if part])


def _parts(found: Trained) -> Iterator[str]:
    yield f"<p>{' '.join(map(escape, _words(found)))}</p>"
    yield f'<div class="cards">{"".join(_cards(found))}</div>'
    yield from _confusions(found)
    yield "<h2>Classes</h2>"
    yield paragraph("Click a heading to sort. Recall is the share of a class's held-out photos that are found.", "soft")
    yield _classes(found)
    yield from _reliability(found)
    yield from _refusals(found)
    yield from _doubts(found)
    yield from _curves(found)
    yield from notes(found.material.collection)


def _words(found: Trained) -> Iterator[str]:
    material, accuracy = found.material, found.figures.accuracy
    held = int(material.held.sum())
    low, high = accuracy.interval
    tuned = found.tuned
    source = f"{found.request.output.name} of {found.request.recipe.name}"
    names = {"logistic": "A logistic regression", "mean": "The nearest class mean", "mlp": "A small network"}
    how = f"{source} fine-tuned from {tuned.first}" if tuned else f"{names[found.method.kind]} on {source}"
    yield f"{how[0].upper()}{how[1:]}, trained on {len(material.labels) - held:,} photos."
    yield (
        f"Of {held:,} photos that it has never seen, {'the given test photos' if material.given else 'a fifth'}, it "
        f"names {accuracy.value:.1%} rightly; with other photos of the same kind, expect {low:.1%} to {high:.1%}."
    )
    biggest = max(one.held_out for one in found.figures.classes) / max(held, 1)
    yield f"Always saying the most frequent class would be right for {biggest:.1%}."
    if tuned:
        change_low, change_high = tuned.interval
        sure = "beyond chance" if change_low > 0 or change_high < 0 else "which may be chance"
        yield (
            f"A head on the frozen backbone reaches {tuned.alone.value:.1%} on the same photos: fine-tuning changes "
            f"that by {100 * tuned.change:+.1f} points ({100 * change_low:+.1f} to {100 * change_high:+.1f}), {sure}."
        )
    if high - low > 0.1:
        yield "The interval is wide: more held-out photos would tell more."


def _cards(found: Trained) -> Iterator[str]:
    figures = found.figures
    f1, interval = figures.macro_f1
    yield _card("recommended", "accuracy", f"{figures.accuracy.value:.3f}", _interval(figures.accuracy.interval))
    yield _card("best", "macro-F1", f"{f1:.3f}", _interval(interval))
    change = f"before: {figures.before.ece:.3f}; perfect scores: about {figures.after.floor:.3f}"
    yield _card("default", "expected calibration error", f"{figures.after.ece:.3f}", change)
    if found.threshold is not None:
        wanted = f"{_interval(figures.refused.interval)}; wanted: {found.request.refuse:g}"
        yield _card("", "refused, of known classes", f"{figures.refused.value:.3f}", wanted)


def _card(kind: str, what: str, figure: str, soft: str) -> str:
    return (
        f'<div class="card {kind}"><span class="soft">{escape(what)}</span><br><span class="figure">{figure}</span> '
        f'<span class="soft">{escape(soft)}</span></div>'
    )


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _confusions(found: Trained) -> Iterator[str]:
    figures, material = found.figures, found.material
    yield "<h2>What is taken for what</h2>"
    if len(material.classes) <= _MOST_CLASSES:
        yield paragraph("A row for each true class; columns are what the classifier says of held-out photos.", "soft")
        yield confusion("Held-out photos", material.classes, figures.confusion.tolist())
    if not figures.confused:
        yield paragraph("Every held-out photo was named rightly.")
    predicted = found.logits.argmax(axis=1)
    yield '<div class="matrices">'
    for true, said, count in figures.confused:
        rows = np.flatnonzero(material.held & (material.labels == true) & (predicted == said))[:_SHOWN]
        head = f"{material.classes[true]} taken for {material.classes[said]}: {count}"
        yield _strip(found, head, rows, "wrong")
    yield "</div>"


def _strip(found: Trained, head: str, rows: Sequence[int] | np.ndarray, kind: str) -> str:
    shown = "".join(photo(found.material.photos[row].path, _caption(found, int(row)), kind) for row in rows)
    return f'<div class="strip"><b>{escape(head)}</b><div class="row">{shown}</div></div>'


def _caption(found: Trained, row: int) -> str:
    return found.material.photos[row].name.rpartition("/")[2]


def _classes(found: Trained) -> str:
    columns = ["class", "trained on", "held out", "precision", "recall", "F1"]
    rows: list[tuple[str, Sequence[str | tuple[str, float | None]]]] = []
    for one in found.figures.classes:
        figures = (one.precision, one.recall, one.f1)
        cells = [("-", None) if not one.held_out else (f"{value:.3f}", round(value, 6)) for value in figures]
        rows.append(("", [one.name, (f"{one.trained:,}", one.trained), (f"{one.held_out:,}", one.held_out), *cells]))
    return table(columns, rows)


def _reliability(found: Trained) -> Iterator[str]:
    before, after = found.figures.before, found.figures.after
    yield "<h2>Whether scores mean what they say</h2>"
    fitted = "the photos that it was stopped by" if found.tuned else "training photos, by heads that did not know them"
    yield paragraph(
        "Each point is a bin of equally many held-out photos: how sure the classifier was of its answer, and how often "
        f"it was right. On the straight line the two agree. The temperature was fitted on {fitted}.",
        "soft",
    )
    yield paragraph(
        f"The expected calibration error is {before.ece:.3f} before and {after.ece:.3f} after dividing logits by the "
        f"temperature of {found.temperature:g}. Perfect scores would have about {after.floor:.3f} with so few photos."
    )
    series = [
        ("they agree", [(0.0, 0.0, ""), (1.0, 1.0, "")]),
        (f"before: {before.ece:.3f}", _bins(before)),
        (f"after: {after.ece:.3f}", _bins(after)),
    ]
    ticks = [(step / 4, f"{step / 4:.2f}") for step in range(5)]
    yield lines(series, "score of the answer", "share that is right", ticks=ticks)


def _bins(one: Reliability) -> list[tuple[float, float, str]]:
    return [(said, was, f"score {said:.3f}, right {was:.3f}, {count} photos") for said, was, count in one.bins]


def _refusals(found: Trained) -> Iterator[str]:
    if found.threshold is None:
        return
    figures, material = found.figures, found.material
    yield "<h2>Refusals</h2>"
    text = (
        f"A photo whose best score is below {found.threshold:g} is refused: it may be of none of these classes. The "
        f"threshold was set so that {found.request.refuse:.1%} of photos of these classes are refused; of the held-out "
        f"ones {figures.refused.value:.1%} were ({_interval(figures.refused.interval)}). Of those that were answered, "
        f"{figures.answered.value:.1%} are right."
    )
    if found.head.known is not None and found.tuned is None:
        text += (
            f" A photo that is farther than {found.head.near:.3f} (1 - cosine) from every training photo loses its "
            "scores, and is refused also."
        )
    yield paragraph(text)
    if found.unknown is not None:
        low, high = found.unknown.interval
        yield paragraph(
            f"With each class left out of training once, {found.unknown.value:.1%} ({low:.3f} to {high:.3f}) of its "
            "photos were refused. They are the hardest strangers: of the same kind as those that are known."
        )
    held = np.flatnonzero(material.held)
    best = softmax(found.logits[held], found.temperature).max(axis=1)
    order = np.argsort(best, kind="stable")
    rows = [int(held[at]) for at in order[:_SHOWN] if best[at] < found.threshold]
    if rows:
        yield _strip(found, "Refused held-out photos, least sure first", rows, "")


def _doubts(found: Trained) -> Iterator[str]:
    doubts, classes = found.figures.doubts, found.material.classes
    yield "<h2>Photos whose label looks wrong</h2>"
    if not doubts:
        yield paragraph("None: no photo is much more like another class than like its own.")
        return
    yield paragraph(
        "Heads that did not know the photo are at least as sure of another class as they usually are. Some of these "
        "are mislabelled; others are merely hard.",
        "soft",
    )
    shown = []
    for one in doubts:
        caption = f"{classes[one.label]} {one.score:.2f}, {classes[one.other]} {one.other_score:.2f}"
        shown.append(photo(found.material.photos[one.photo].path, caption))
    yield f'<div class="wall">{"".join(shown)}</div>'
    rows: list[tuple[str, Sequence[str | tuple[str, float | None]]]] = [
        ("", [found.material.photos[one.photo].name, classes[one.label], (f"{one.score:.3f}", one.score),
              classes[one.other], (f"{one.other_score:.3f}", one.other_score)])
        for one in doubts
    ]  # fmt: skip
    yield table(["photo", "label", "its score", "looks like", "score of that"], rows)


def _curves(found: Trained) -> Iterator[str]:
    if found.tuned is not None:
        yield from _epochs(found.tuned)
    if len(found.curve) > 1:
        yield "<h2>Would more photos help?</h2>"
        yield paragraph(
            "Accuracy on the held-out photos of a head that is trained on a part of the photos. A line that still "
            "rises says yes.", "soft",
        )  # fmt: skip
        yield lines(
            [("accuracy", _curve(found.curve)),
             ("from", [(x, found.curve[at][1].interval[0], "") for at, (x, _, _) in enumerate(_curve(found.curve))]),
             ("to", [(x, found.curve[at][1].interval[1], "") for at, (x, _, _) in enumerate(_curve(found.curve))])],
            "photos to train on", "accuracy", ticks=[(x, f"{count:,}") for (x, _, _), (count, _) in
                                                   zip(_curve(found.curve), found.curve, strict=True)],
        )  # fmt: skip
    if found.gain is not None:
        low, high = found.gain.interval
        yield paragraph(
            f"With {found.request.copies} altered copies of each training photo the accuracy changes by "
            f"{found.gain.change:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), from {found.gain.without.value:.3f}."
        )


def _epochs(tuned: Tuned) -> Iterator[str]:
    epochs = tuned.progress.epochs
    yield "<h2>Fine-tuning</h2>"
    yield paragraph(
        f"Epoch 0 is the head on the frozen backbone. Epoch {tuned.progress.best.number} was kept: it has the smallest "
        "loss on the fifth of the training photos that was held out to stop by."
        + (" Ctrl-C ended the run." if tuned.progress.interrupted else ""),
        "soft",
    )
    last = max(epochs[-1].number, 1)
    ticks = [(epoch.number / last, str(epoch.number)) for epoch in epochs]
    series = [
        ("loss on photos to train on", [(epoch.number / last, epoch.loss, f"epoch {epoch.number}: {epoch.loss:.4f}")
                                        for epoch in epochs if epoch.loss is not None]),
        ("loss on photos to stop by", [(epoch.number / last, epoch.stop_loss,
                                        f"epoch {epoch.number}: {epoch.stop_loss:.4f}, {epoch.stop_accuracy:.1%} right")
                                       for epoch in epochs]),
    ]  # fmt: skip
    yield lines(series, "epoch", "loss", ticks=ticks)
    rows: list[tuple[str, Sequence[str | tuple[str, float | None]]]] = [
        ("", [name, (f"{one.trainable:,}", one.trainable), (f"{one.frozen:,}", one.frozen)])
        for name, one in (("head alone", tuned.before), (f"from {tuned.first}", tuned.after))
    ]
    yield table(["weights", "trainable", "frozen"], rows)


def _curve(curve: Sequence[tuple[int, Share]]) -> list[tuple[float, float, str]]:
    first, last = math.log(curve[0][0]), math.log(curve[-1][0])
    return [
        ((math.log(count) - first) / max(last - first, 1e-9), share.value,
         f"{count:,} photos: {share.value:.3f} [{share.interval[0]:.3f}, {share.interval[1]:.3f}]")
        for count, share in curve
    ]  # fmt: skip


def notes(collection: Collection) -> Iterator[str]:
    """Return the end of a report: warnings, and the photos that were left out."""
    if collection.warnings or collection.left_out:
        yield "<h2>Notes</h2>"
    for note in collection.warnings:
        yield paragraph(note)
    if collection.left_out:
        yield paragraph(f"{len(collection.left_out)} photos were left out:")
        yield table(["photo", "why"], [("", list(pair)) for pair in collection.left_out])
