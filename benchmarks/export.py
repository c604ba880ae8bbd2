"""What `export` costs, against peers and limits measured in the same run.

    python benchmarks/export.py                  # all parts, about a quarter of an hour on two cores
    python benchmarks/export.py speed --rows 256
    python benchmarks/export.py cost             # needs FER_REAL_DATA, a folder with faces/ and teachers/
    python benchmarks/export.py reuse memory

Each line says ours, the peer or the limit, the ratio, and whether the claim in the README holds.
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

ARCHS = ("resnet18", "tf_efficientnet_b3", "convnext_tiny")
SIZE, BATCH, WORKERS = 224, 32, 1
CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")


def verdict(ratio: float, wanted: float, at_least: bool = True) -> str:
    """Return the claim and whether it holds."""
    holds = ratio >= wanted if at_least else ratio <= wanted
    return f"{'>=' if at_least else '<='} {wanted:g}  {'ok' if holds else 'MISSED'}"


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

    from fer_mlflow.teachers.checkpoint import Teacher

    torch.manual_seed(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return [
        Teacher(arch, timm.create_model(arch, num_classes=7).eval(), SIZE, mean, std, np.arange(7), {}, ())
        for arch in ARCHS
    ]


def run_peer(folder: Path, names: list[str]) -> float:
    """Return rows/s of the usual loop: PIL, timm's transform, a DataLoader, one teacher after the other, fp32."""
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

    elapsed = 0.0
    for teacher in make_teachers():
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in DataLoader(Images(), batch_size=BATCH, num_workers=WORKERS):
                teacher.model(batch)
        elapsed += time.perf_counter() - began
    return len(names) / elapsed


def run_ours(folder: Path, names: list[str], precision: str, compiled: bool) -> tuple[float, float, float]:
    """Return rows/s of our pass, rows/s of the models alone on tensors in memory, and seconds of compilation.

    The two share models, compilation, precision and batch size. The first batch is left out of both: it is
    where compilation happens, and it is shown apart.
    """
    import torch

    from fer_mlflow.teachers import inference

    teachers = make_teachers()
    settings = inference.Settings(precision=precision, batch_size=BATCH, workers=WORKERS, device="cpu")
    askers = {}

    class KeptAsker(inference.Asker):
        def __init__(self, teacher, *arguments):
            super().__init__(teacher, *arguments)
            askers[teacher.name] = self

    made, inference.Asker = inference.Asker, KeptAsker
    try:
        stamps = [time.perf_counter()]
        for _ in inference.infer(
            folder,
            names,
            inference.row_ranges(len(names), 512),
            teachers,
            settings,
            compiled=compiled,
            on_rows=lambda _: stamps.append(time.perf_counter()),
        ):
            stamps[-1] = time.perf_counter()  # the recheck of a shard belongs to it
    finally:
        inference.Asker = made
    batches = len(stamps) - 2
    elapsed = stamps[-1] - stamps[1]
    ours = batches * BATCH / elapsed

    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    with inference._numerics(torch.device("cpu"), precision):
        for asker in askers.values():
            asker.model(images)
        began = time.perf_counter()
        for _ in range(batches):
            for asker in askers.values():
                asker.model(images)
        limit = batches * BATCH / (time.perf_counter() - began)
    return ours, limit, stamps[1] - stamps[0] - elapsed / batches


def speed(rows: int) -> None:
    """Compare a three-teacher pass with the models alone and with the usual loop."""
    print(f"speed: {', '.join(ARCHS)} at {SIZE} px, {rows} JPEGs, batch {BATCH}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{temporary}/inductor"  # compilation is timed from nothing
        folder = Path(temporary)
        names = write_images(folder, rows, 112)
        peer = run_peer(folder, names)
        print(f"  {'':14} {'rows/s':>8} {'models alone':>13} {'ratio':>6}  {'':14} {'usual loop':>10} {'ratio':>6}")
        print(f"  {'usual loop':14} {peer:8.2f}")
        for precision, compiled, wanted in (("fp32", False, 1.2), ("bf16", False, 2.4), ("bf16", True, 3.0)):
            ours, limit, compilation = run_ours(folder, names, precision, compiled)
            label = precision + (" compiled" if compiled else "")
            print(
                f"  {label:14} {ours:8.2f} {limit:13.2f} {ours / limit:6.2f}  {verdict(ours / limit, 0.9):14} "
                f"{peer:10.2f} {ours / peer:6.2f}  {verdict(ours / peer, wanted)}"
                + (f"   (compilation {compilation:.0f} s)" if compiled else ""),
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
    from fer_mlflow.teachers.checkpoint import load_teacher
    from fer_mlflow.teachers.inference import Settings, infer
    from fer_mlflow.teachers.spec import read_teachers

    benchmark = read_benchmark(Path(data, "faces/manifest.csv"), FER7)
    paths, span = benchmark.paths.to_numpy(object), [(0, len(benchmark))]
    specs = read_teachers(Path(data, "teachers/teachers.yaml"), ["RN18", "L0", "CNXT"])
    print(f"cost of bf16 against fp32, real teachers, {len(benchmark)} real faces")
    logits = {}
    for precision in ("fp32", "bf16"):
        teachers = [load_teacher(spec, FER7) for spec in specs.values()]
        (shard,) = infer(benchmark.root, paths, span, teachers, Settings(precision=precision, device="cpu"))
        logits[precision] = shard.logits
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
from fer_mlflow.commands import exporting, export as _
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
    print(verdict(second["seconds"], 5, at_least=False))


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
        print(verdict(growth, 300, at_least=False))
    print(f"  the long export took {long['seconds']:.0f} s")


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["speed", "cost", "reuse", "memory"])
    parser.add_argument("--rows", type=int, default=288, help="images of the speed part")
    arguments = parser.parse_args()
    parts = {"speed": lambda: speed(arguments.rows), "cost": cost, "reuse": reuse, "memory": memory}
    for name in arguments.parts:
        parts[name]()
        print(flush=True)


if __name__ == "__main__":
    main()
