"""What `export` costs, against peers and limits measured in the same run.

    python benchmarks/export.py                  # all parts, about a quarter of an hour on two cores
    python benchmarks/export.py speed --rows 256 --rounds 5
    python benchmarks/export.py cost             # needs FER_REAL_DATA, a folder with faces/ and teachers/
    python benchmarks/export.py reuse memory

Each line says ours, the peer or the limit, the ratio, and whether the claim in the docs holds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from limits import finish, verdict

ARCHS = ("resnet18", "tf_efficientnet_b3", "convnext_tiny")
SIZE, BATCH, WORKERS = 224, 32, 1
CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")


def write_images(folder: Path, count: int, side: int) -> list[str]:
    """Write JPEGs with the detail of small face photographs (smooth shapes, some noise); return their names."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = []
    for number in range(count):
        coarse = rng.integers(0, 256, (7, 7, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        names.append(f"images/{number:06d}.jpg")
        cv2.imwrite(str(folder / names[-1]), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return names


def write_manifest(folder: Path, names: list[str]) -> Path:
    """Write a manifest that labels the images in turn."""
    rows = [f"{name},{CLASSES[number % 7]},test,made\n" for number, name in enumerate(names)]
    path = folder / "manifest.csv"
    path.write_text("path,label,split,source\n" + "".join(rows))
    return path


# --- speed -----------------------------------------------------------------------------------------------------


def make_teachers():
    """Return the three teachers with random weights."""
    import timm
    import torch

    from fer_mlflow.data.preprocessing import Preprocessing
    from fer_mlflow.teachers.checkpoint import Teacher

    torch.manual_seed(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return [
        Teacher(
            arch,
            timm.create_model(arch, num_classes=7).eval(),
            Preprocessing(SIZE, mean, std),
            np.arange(7),
            {},
            (),
        )
        for arch in ARCHS
    ]


class Peer:
    """The usual loop: PIL, timm's transform, a DataLoader, one teacher after the other, fp32."""

    def __init__(self):
        self.teachers = make_teachers()

    def rate(self, folder: Path, names: list[str]) -> float:
        """Return rows/s."""
        import torch
        from PIL import Image
        from timm.data import create_transform
        from torch.utils.data import DataLoader, Dataset

        class Images(Dataset):
            transform = create_transform(input_size=SIZE, is_training=False, crop_pct=1.0)

            def __len__(self):
                return len(names)

            def __getitem__(self, number):
                return self.transform(Image.open(folder / names[number]).convert("RGB"))

        began = time.perf_counter()
        with torch.inference_mode():
            for teacher in self.teachers:
                for batch in DataLoader(Images(), batch_size=BATCH, num_workers=WORKERS):
                    teacher.model(batch)
        return len(names) / (time.perf_counter() - began)


class Ours:
    """Our pass over all teachers, and the models alone on tensors in memory: same models, same compilation."""

    def __init__(self, precision: str, compiled: bool):
        import torch

        from fer_mlflow.settings.groups import ForwardSettings
        from fer_mlflow.teachers.forward import Predictor, numerics

        self.settings = ForwardSettings(precision=precision, batch_size=BATCH, workers=WORKERS, device="cpu")
        self.device, self.numerics = torch.device("cpu"), numerics
        self.teachers = make_teachers()
        self.predictors = [Predictor(teacher, self.device, self.settings, compiled) for teacher in self.teachers]
        self.images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        began = time.perf_counter()
        self.models_alone(1)
        first = time.perf_counter() - began
        self.compilation = first - BATCH / self.models_alone(1)

    def models_alone(self, batches: int) -> float:
        """Return rows/s of the forward passes by themselves: the limit."""
        began = time.perf_counter()
        with self.numerics(self.device, self.settings.precision):
            for _ in range(batches):
                for predictor in self.predictors:
                    predictor.model(self.images)
        return batches * BATCH / (time.perf_counter() - began)

    def rate(self, folder: Path, names: list[str]) -> float:
        """Return rows/s from files to checked shards, starting the decoding processes included."""
        from fer_mlflow.teachers import forward
        from fer_mlflow.teachers.shards import SHARD_ROWS, row_ranges

        ready = {predictor.name: predictor for predictor in self.predictors}
        made, forward.Predictor = forward.Predictor, lambda teacher, *_: ready[teacher.name]  # compiled already
        try:
            began = time.perf_counter()
            spans = row_ranges(len(names), SHARD_ROWS)
            assert list(forward.predict_shards(folder, names, spans, self.teachers, self.settings))
            return len(names) / (time.perf_counter() - began)
        finally:
            forward.Predictor = made


def speed(rows: int, rounds: int) -> None:
    """Compare a three-teacher pass with the models alone and with the usual loop, in turns."""
    print(
        f"speed: {', '.join(ARCHS)} at {SIZE} px, {rows} JPEGs, batch {BATCH}, {os.cpu_count()} cores; best of {rounds}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{temporary}/inductor"  # compilation is timed from nothing
        folder = Path(temporary)
        names = write_images(folder, rows, 112)
        peer = Peer()
        ways = {"fp32": (Ours("fp32", False), 1.2), "bf16": (Ours("bf16", False), 2.4)}
        ways["bf16 compiled"] = (Ours("bf16", True), 3.0)
        loop, ours, limit = [], {name: [] for name in ways}, {name: [] for name in ways}
        for _ in range(rounds):  # in turns, so that whatever else the machine does meets all of them
            loop.append(peer.rate(folder, names))
            for name, (way, _) in ways.items():
                limit[name].append(way.models_alone(rows // BATCH))
                ours[name].append(way.rate(folder, names))
        print(f"  {'':14} {'rows/s':>7} {'models alone':>13} {'ratio':>6}  {'':11} {'usual loop':>11} {'ratio':>6}")
        for name, (way, wanted) in ways.items():
            rate, most, usual = max(ours[name]), max(limit[name]), max(loop)
            beside_most = verdict(rate / most, 0.9, at_least=True)
            print(
                f"  {name:14} {rate:7.2f} {most:13.2f} {rate / most:6.2f}  {beside_most:11} "
                f"{usual:11.2f} {rate / usual:6.2f}  {verdict(rate / usual, wanted, at_least=True)}"
                + (f"   (compilation {way.compilation:.0f} s)" if "compiled" in name else ""),
                flush=True,
            )


# --- what bf16 costs -------------------------------------------------------------------------------------------


def cost() -> None:
    """Compare bf16 with fp32 logits on real teachers and faces."""
    data = os.environ.get("FER_REAL_DATA")
    if not data:
        print("cost of bf16: left out, FER_REAL_DATA names no folder with faces/ and teachers/")
        return
    from fer_mlflow.data.classes import FER7
    from fer_mlflow.data.manifest import read_benchmark
    from fer_mlflow.settings.groups import ForwardSettings
    from fer_mlflow.teachers.checkpoint import load_teacher
    from fer_mlflow.teachers.forward import predict_shards
    from fer_mlflow.teachers.spec import read_teachers

    benchmark = read_benchmark(Path(data, "faces/manifest.csv"), FER7)
    paths, span = benchmark.paths.to_numpy(object), [(0, len(benchmark))]
    specs = read_teachers(Path(data, "teachers/teachers.yaml"), ["RN18", "L0", "CNXT"])
    print(f"cost of bf16 against fp32, real teachers, {len(benchmark)} real faces")
    logits = {}
    for precision in ("fp32", "bf16"):
        teachers = [load_teacher(spec, FER7) for spec in specs.values()]
        ((_, shard),) = predict_shards(
            benchmark.root, paths, span, teachers, ForwardSettings(precision=precision, device="cpu")
        )
        logits[precision] = {name: each.logits for name, each in shard.items()}
    for name, exact in logits["fp32"].items():
        coarse = logits["bf16"][name]
        moved = (exact.argmax(1) != coarse.argmax(1)).mean()
        print(f"  {name:5} largest logit difference {np.abs(exact - coarse).max():.3f}, argmax differs on {moved:.2%}")


# --- reuse and memory: the command itself, on many small rows ----------------------------------------------------


def link_images(folder: Path, rows: int) -> Path:
    """Make a benchmark of many rows from few files, by hard links; return its manifest."""
    made = write_images(folder, 1000, 48)
    (folder / "many").mkdir()
    names = []
    for number in range(rows):
        names.append(f"many/{number:06d}.jpg")
        os.link(folder / made[number % len(made)], folder / names[-1])
    return write_manifest(folder, names)


def write_tiny_teachers(folder: Path) -> Path:
    """Write checkpoints of two models made for tests, and their teachers.yaml."""
    import timm
    import torch

    lines = []
    for name, arch in (("A", "test_resnet"), ("B", "test_convnext")):
        torch.manual_seed(1)
        torch.save(timm.create_model(arch, num_classes=7).state_dict(), folder / f"{name}.pt")
        classes = ", ".join(CLASSES)
        lines.append(
            f"{name}: {{arch: {arch}, checkpoint: {name}.pt, img_size: 32, mean: [0.5, 0.5, 0.5], "
            f"std: [0.5, 0.5, 0.5], classes: [{classes}]}}\n"
        )
    path = folder / "teachers.yaml"
    path.write_text("".join(lines))
    return path


CHILD = """
import json, resource, sys, threading, time
import mlflow, pandas, sklearn, scipy.special, scipy.optimize, mlflow.tracking
if "torch" in sys.argv[1]: import torch, timm
import fer_mlflow.workflows.export, fer_mlflow.cli.scoring
from fer_mlflow.cli import main
peak = [0]
def watch():
    import os
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        total = 0
        for pid in [str(os.getpid()), *open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()]:
            try:
                fields = dict(l.split(":", 1) for l in open(f"/proc/{pid}/smaps_rollup") if ":" in l)
                total += int(fields["Pss"].split()[0])
            except OSError: pass
        peak[0] = max(peak[0], total)
        time.sleep(0.1)
if "memory" in sys.argv[1]: threading.Thread(target=watch, daemon=True).start()
began = time.perf_counter()
status = 0
try: main(sys.argv[2:])
except SystemExit as stop: status = stop.code or 0
print(json.dumps({"status": status, "seconds": time.perf_counter() - began,
                  "own_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "all_mib": peak[0] / 1024}))
"""


def export_in_child(folder: Path, manifest: Path, teachers: Path, weights: str, *more: str, what: str) -> dict:
    """Run `export` in a fresh process with a store of its own folder; return its seconds and peak memory."""
    arguments = ["export", "--manifest", manifest, "--teachers", teachers, "--weights", weights, *more]
    result = subprocess.run(
        [sys.executable, "-c", CHILD, what, *map(str, arguments)],
        cwd=folder,
        env=os.environ
        | {"FER_MLFLOW_CACHE": str(folder / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        capture_output=True,
        text=True,
    )
    found = json.loads(result.stdout.splitlines()[-1]) if result.stdout else {"status": 1}
    if found["status"]:
        sys.exit(f"export failed:\n{result.stdout}{result.stderr}")
    return found


def reuse(rows: int = 50_000) -> None:
    """Time a second ensemble on a benchmark whose teachers have runs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest, teachers = link_images(folder, rows), write_tiny_teachers(folder)
        first = export_in_child(folder, manifest, teachers, "A=0.5,B=0.5", what="torch")
        second = export_in_child(folder, manifest, teachers, "A=0.3,B=0.7", "--space", "prob", what="")
    print(f"reuse: {rows:,} rows, two teachers, work after imports")
    print(f"  first export {first['seconds']:.1f} s, second ensemble {second['seconds']:.2f} s", end="   ")
    print(verdict(second["seconds"], 5))


def memory(few: int = 2_000, many: int = 200_000) -> None:
    """Compare the peak memory of a long and a short export; processes that decode are counted in.

    Neither is compiled: the compiler's own processes would be counted in the long one alone.
    """
    plain = ("--compile", "false")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest, teachers = link_images(folder, many), write_tiny_teachers(folder)
        short = export_in_child(folder, manifest, teachers, "A=1", "--limit", few, *plain, what="torch memory")
        long = export_in_child(folder, manifest, teachers, "A=1", *plain, what="torch memory")
    print(f"memory: peak of an export of {few:,} and of {many:,} rows, one tiny teacher")
    for kind, label in (("own_mib", "the process (RSS)"), ("all_mib", "with its workers (PSS)")):
        growth = long[kind] - short[kind]
        print(f"  {label:24} {short[kind]:7.0f} {long[kind]:7.0f} MiB, grows by {growth:.0f}", end="   ")
        print(verdict(growth, 300))
    print(f"  the long export took {long['seconds']:.0f} s")


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["speed", "cost", "reuse", "memory"])
    parser.add_argument("--rows", type=int, default=512, help="images of the speed part")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of the speed part")
    arguments = parser.parse_args()
    parts = {"speed": lambda: speed(arguments.rows, arguments.rounds), "cost": cost, "reuse": reuse, "memory": memory}
    for name in arguments.parts:
        parts[name]()
        print(flush=True)
    finish()


if __name__ == "__main__":
    main()
