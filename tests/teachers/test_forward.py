"""The forward pass: every row gets its own logits, however they are batched, decoded and cut."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import nn
from toys import TEACHERS, make_model

from fer_mlflow.data import images, roots
from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.preprocessing import Clahe
from fer_mlflow.errors import ContractError, ImageError, JobError
from fer_mlflow.settings.groups import ForwardSettings
from fer_mlflow.teachers import forward
from fer_mlflow.teachers.checkpoint import load_teacher
from fer_mlflow.teachers.forward import choose_compile, choose_device, predict_shards
from fer_mlflow.teachers.spec import read_teachers


def one_by_one(benchmark, name, clahe):
    """Return logits by timm and OpenCV alone, one image at a time."""
    _, size, mean, std = TEACHERS[name]
    model, rows = make_model(name), []
    for path in benchmark.paths:
        image = cv2.imread(str(benchmark.root / path))
        if clahe:
            lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
            lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0].copy())
            image = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
        shrinks = min(image.shape[:2]) > size
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pixels = (image[..., ::-1] / np.float32(255) - np.float32(mean)) / np.float32(std)
        with torch.no_grad():
            rows.append(model(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def benchmark_rows(toy_faces):
    return read_benchmark(toy_faces, FER7)


@pytest.fixture
def teachers(toy_teachers):
    return [load_teacher(spec, FER7) for spec in read_teachers(toy_teachers, list("ABC")).values()]


CPU = ForwardSettings(device="cpu", workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_fails_is_one_line_from_a_decoding_process_too(teachers, monkeypatch, workers):
    def cat_file(self, path):
        raise OSError("no route")

    monkeypatch.setattr(roots, "_WAITS_S", ())
    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    settings = replace(CPU, workers=workers, on_bad_image="skip")
    message = r"memory://faces/a\.jpg: the store did not give it \(no route\); run the same command again"
    with pytest.raises(JobError, match=f"^{message}$"):
        list(predict_shards("memory://faces", ["a.jpg"], [(0, 1)], teachers, settings))


def run(benchmark, teachers, spans=None, settings=None, **more):
    settings = settings or CPU
    paths = benchmark.paths.to_numpy(object)
    spans = spans or [(0, len(benchmark))]
    found = list(predict_shards(benchmark.root, paths, spans, teachers, settings, **more))
    assert [span for span, _ in found] == spans
    return [shard for _, shard in found]


@pytest.mark.parametrize("clahe", [None, Clahe()])
def test_logits_are_those_of_a_plain_loop(benchmark_rows, teachers, clahe):
    teachers = [replace(each, preprocessing=replace(each.preprocessing, clahe=clahe)) for each in teachers]
    (shard,) = run(benchmark_rows, teachers)
    for teacher in teachers:
        expected = one_by_one(benchmark_rows, teacher.name, clahe)
        assert expected.std(axis=0).min() > 0.01  # the rows differ, or the test could not fail
        np.testing.assert_allclose(shard[teacher.name].logits, expected, atol=1e-4)


def test_teachers_of_one_size_and_different_preprocessing_do_not_share_pixels(benchmark_rows, teachers):
    plain, other = teachers[0], teachers[1]
    equalised = replace(other, preprocessing=replace(other.preprocessing, clahe=Clahe()))
    assert plain.preprocessing.img_size == equalised.preprocessing.img_size
    (shard,) = run(benchmark_rows, [plain, equalised])
    np.testing.assert_allclose(shard["A"].logits, one_by_one(benchmark_rows, "A", None), atol=1e-4)
    np.testing.assert_allclose(shard["B"].logits, one_by_one(benchmark_rows, "B", Clahe()), atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 70, 500])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spans", [[(0, 70)], [(0, 32), (32, 64), (64, 70)]])
def test_nothing_depends_on_batches_workers_or_shards(benchmark_rows, teachers, batch_size, workers, spans):
    (reference,) = run(benchmark_rows, teachers)
    shards = run(benchmark_rows, teachers, spans, ForwardSettings(batch_size=batch_size, workers=workers, device="cpu"))
    for teacher in teachers:
        joined = np.concatenate([shard[teacher.name].logits for shard in shards])
        np.testing.assert_allclose(joined, reference[teacher.name].logits, atol=1e-4)
    assert np.concatenate([shard["A"].rows for shard in shards]).tolist() == list(range(70))


def test_shards_may_be_any_ranges_in_any_order(benchmark_rows, teachers):
    (whole,) = run(benchmark_rows, teachers[:1])
    late, early = run(benchmark_rows, teachers[:1], [(40, 50), (3, 9)])
    np.testing.assert_allclose(late["A"].logits, whole["A"].logits[40:50], atol=1e-5)
    np.testing.assert_allclose(early["A"].logits, whole["A"].logits[3:9], atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_near_and_not_equal(benchmark_rows, teachers, precision):
    (exact,), (coarse,) = (
        run(benchmark_rows, teachers, settings=ForwardSettings(precision=p, workers=0, device="cpu"))
        for p in ("fp32", precision)
    )
    for name, each in exact.items():
        logits = each.logits
        difference = np.abs(coarse[name].logits - logits).max() / (1 + np.abs(logits).max())
        assert 0 < difference < forward.TOLERANCE[precision]
        assert coarse[name].logits.dtype == np.float32


@pytest.mark.slow
def test_compiled_models_give_the_same_logits(benchmark_rows, teachers):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    teacher = replace(teachers[0], model=nn.Sequential(*layers, nn.Linear(32, 7)).eval())
    (eager,) = run(benchmark_rows, [teacher])
    settings = ForwardSettings(batch_size=16, workers=0, device="cpu")
    (compiled,) = run(benchmark_rows, [teacher], settings=settings, compiled=True)
    assert eager["A"].logits.std(axis=0).min() > 0.01
    np.testing.assert_allclose(compiled["A"].logits, eager["A"].logits, atol=1e-4)


class Shifted(nn.Module):
    """Gives each row of a batch the logits of the row before it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).roll(1, dims=0)


def shifted(teacher):
    return replace(teacher, model=Shifted(teacher.model))


@pytest.mark.parametrize("order", ["sorted by class", "shuffled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_off_by_one_within_a_batch_are_found_by_predicting_again(benchmark_rows, teachers, order, precision):
    paths = benchmark_rows.paths.to_numpy(object)
    if order == "sorted by class":
        paths = paths[np.argsort(benchmark_rows.labels, kind="stable")]
    else:
        paths = np.random.default_rng(0).permutation(paths)
    settings = ForwardSettings(precision=precision, workers=0, device="cpu")
    with pytest.raises(JobError, match=r"teacher A: row .* predicted alone gets logits that differ .* out of step"):
        list(predict_shards(benchmark_rows.root, paths, [(0, 70)], [shifted(teachers[0])], settings))


def test_an_image_that_changes_while_it_is_read_is_found(benchmark_rows, teachers, monkeypatch):
    reads = {}

    def read_twice(root, path, read=images.read_image_bytes):
        reads[path] = reads.get(path, 0) + 1
        return read(root, path if reads[path] == 1 else benchmark_rows.paths.iloc[-1])

    monkeypatch.setattr(images, "read_image_bytes", read_twice)
    with pytest.raises(JobError, match="changed while it was read"):
        run(benchmark_rows, teachers[:1])


def test_logits_that_are_not_finite_are_refused_with_the_row(benchmark_rows, teachers):
    with torch.no_grad():
        teachers[0].model.fc.bias.fill_(float("inf"))
    with pytest.raises(JobError, match=r'teacher A: row 1 "images/f0000.jpg" has logits that are not finite in fp32'):
        run(benchmark_rows, teachers[:1])


def test_all_unreadable_images_of_a_shard_are_reported_or_left_out(tmp_path, teachers, toy_faces):
    import shutil

    shutil.copytree(toy_faces.parent, tmp_path / "faces")
    for number in (3, 40, 41):
        (tmp_path / f"faces/images/f{number:04d}.jpg").write_bytes(b"no image")
    benchmark = read_benchmark(tmp_path / "faces/manifest.csv", FER7)
    with pytest.raises(ImageError, match=r'^2 images cannot be decoded: row 41 "images/f0040.jpg" .*row 42'):
        run(benchmark, teachers[:1], [(32, 64)])
    (shard,) = run(benchmark, teachers[:2], settings=replace(CPU, on_bad_image="skip"))
    assert [bad.row for bad in shard["A"].unreadable] == [3, 40, 41]
    assert shard["A"].rows.tolist() == [row for row in range(70) if row not in (3, 40, 41)]
    (whole,) = run(read_benchmark(toy_faces, FER7), teachers[:2])
    for name in "AB":
        np.testing.assert_allclose(shard[name].logits, whole[name].logits[shard[name].rows], atol=1e-4)


def test_a_range_without_one_readable_image_gives_an_empty_shard(tmp_path, teachers):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "m.csv").write_text("path\na.jpg\n")
    (shard,) = run(read_benchmark(tmp_path / "m.csv", FER7), teachers[:1], settings=replace(CPU, on_bad_image="skip"))
    assert len(shard["A"].rows) == 0
    assert len(shard["A"].unreadable) == 1


def test_rows_are_counted_as_they_are_done(benchmark_rows, teachers):
    counted = []
    run(benchmark_rows, teachers[:1], settings=ForwardSettings(batch_size=32, workers=0), on_rows=counted.append)
    assert counted == [32, 32, 6]


def test_devices_are_checked():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ContractError, match="not auto, cpu, cuda"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ContractError, match="found 0 CUDA devices"):
            choose_device("cuda:1")


def test_compilation_is_chosen_by_the_whole_benchmark(monkeypatch):
    cpu, threshold = torch.device("cpu"), forward.COMPILE_FROM_ROWS["cpu"]
    monkeypatch.setattr(forward.shutil, "which", lambda name: "/usr/bin/g++")
    assert choose_compile("auto", threshold, cpu)
    assert not choose_compile("auto", threshold - 1, cpu)
    assert choose_compile("true", 1, cpu)
    assert not choose_compile("false", threshold, cpu)
    monkeypatch.setattr(forward.shutil, "which", lambda name: None)
    assert not choose_compile("auto", threshold, cpu)


class Hungry(torch.nn.Module):
    """A model whose device has memory for eight rows."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        if len(images) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(images)


def test_a_batch_that_does_not_fit_is_halved_unless_its_size_was_given(benchmark_rows, teachers, caplog):
    hungry = [replace(teachers[0], model=Hungry(teachers[0].model))]
    (shard,) = run(benchmark_rows, hungry)
    (expected,) = run(benchmark_rows, teachers[:1])
    np.testing.assert_allclose(shard["A"].logits, expected["A"].logits, atol=1e-5)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "teacher A: out of memory; going on with --batch-size 16",
        "teacher A: out of memory; going on with --batch-size 8",
    ]
    assert shard["A"].environments[0]["batch_size"] == 8
    with pytest.raises(JobError, match="teacher A: cpu is out of memory at --batch-size 32; finished shards are kept"):
        run(benchmark_rows, hungry, settings=ForwardSettings(batch_size=32, workers=0, device="cpu"))
