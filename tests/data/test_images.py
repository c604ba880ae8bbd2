"""The pixels a teacher is shown, against plain OpenCV calls and against Pillow, which shares no code with it."""

import hashlib
import io
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from fer_mlflow.data import images, scan
from fer_mlflow.data.images import describe_preprocessing, prepare_image, prepare_images, read_image_bytes
from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import ImageError

RNG = np.random.default_rng(7)
PHOTO = cv2.GaussianBlur(RNG.integers(0, 256, (61, 47, 3)).astype(np.uint8), (7, 7), 0)  # RGB, like all arrays here
ALPHA = RNG.integers(0, 256, (61, 47, 1)).astype(np.uint8)


def encoded(image, kind: str, **options) -> bytes:
    """Return an array or a Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Return the pixels of a file as RGB, at the size they have."""
    return images.decode_image(data)[:, :, ::-1]


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA"))[:, :, :3]


def written_out(data: bytes, size: int, clahe: tuple[float, int] | None) -> np.ndarray:
    """The protocol of the design once more, call by call."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if clahe:
        lightness, a, b = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB))
        lightness = cv2.createCLAHE(clipLimit=clahe[0], tileGridSize=(clahe[1], clahe[1])).apply(lightness)
        bgr = cv2.cvtColor(cv2.merge([lightness, a, b]), cv2.COLOR_LAB2BGR)
    both_shrink = bgr.shape[0] > size and bgr.shape[1] > size
    resized = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA if both_shrink else cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:, :, ::-1])


@pytest.mark.parametrize("clahe", [None, (2.0, 8), (4.0, 3), (40.0, 1)])
@pytest.mark.parametrize("side", [(61, 47), (224, 300), (32, 32), (20, 90)])
def test_an_image_goes_through_the_steps_of_the_design(clahe, side):
    data = encoded(cv2.resize(PHOTO, side[::-1]), "JPEG", quality=90)
    sizes = (32, 48, 64, 224)
    found = prepare_images(data, [Preprocessing(size, clahe=clahe and Clahe(*clahe)) for size in sizes])
    for size, image in zip(sizes, found, strict=True):
        assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
        np.testing.assert_array_equal(image, written_out(data, size, clahe))


def test_clahe_is_applied_at_the_decoded_size_not_at_the_teachers():
    data = encoded(PHOTO, "PNG")
    equalised = Preprocessing(32, clahe=Clahe())
    found = prepare_image(data, equalised)
    small = prepare_image(encoded(prepare_image(data, Preprocessing(32)), "PNG"), equalised)
    assert np.abs(found.astype(int) - small).mean() > 1


def test_one_decode_and_one_clahe_serve_every_size(monkeypatch):
    calls = Counter()
    for name in ("imdecode", "cvtColor"):
        original = getattr(cv2, name)
        monkeypatch.setattr(
            cv2, name, lambda *a, name=name, original=original: calls.update([(name, a[1])]) or original(*a)
        )
    prepare_images(encoded(PHOTO, "PNG"), [Preprocessing(size, clahe=Clahe()) for size in (16, 32, 48, 64)])
    assert calls == {
        ("imdecode", cv2.IMREAD_COLOR): 1,
        ("cvtColor", cv2.COLOR_BGR2LAB): 1,
        ("cvtColor", cv2.COLOR_LAB2BGR): 1,
        ("cvtColor", cv2.COLOR_BGR2RGB): 4,
    }


@pytest.mark.parametrize(
    ("height", "width", "by_area"),
    [
        (40, 40, True),
        (33, 90, True),
        (32, 90, False),
        (90, 32, False),
        (20, 90, False),
        (90, 20, False),
        (20, 20, False),
    ],
)
def test_only_where_both_sides_shrink_pixels_are_averaged(height, width, by_area):
    image = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    area, linear = (cv2.resize(image, (32, 32), interpolation=rule) for rule in (cv2.INTER_AREA, cv2.INTER_LINEAR))
    assert not np.array_equal(area, linear)
    np.testing.assert_array_equal(images.RESIZES["squash"](image, 32), area if by_area else linear)


def test_a_halving_is_the_mean_of_four_pixels_and_the_same_size_is_left_alone():
    image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    means = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(images.RESIZES["squash"](image, 32), means, atol=0.51)
    np.testing.assert_array_equal(images.RESIZES["squash"](image, 64), image)


def test_clahe_leaves_its_argument_and_the_colours_alone():
    before = PHOTO.copy()
    found = images.apply_clahe(before, Clahe(8.0, 4))
    np.testing.assert_array_equal(before, PHOTO)
    lab = [cv2.cvtColor(image, cv2.COLOR_BGR2LAB).astype(int) for image in (PHOTO, found)]
    assert np.abs(lab[1][:, :, 0] - lab[0][:, :, 0]).mean() > 10
    assert np.median(np.abs(lab[1][:, :, 1:] - lab[0][:, :, 1:])) <= 1


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_formats_give_the_very_pixels(kind):
    data = encoded(PHOTO, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(data), PHOTO)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_a_jpeg_gives_the_pixels_that_pillow_gives(options):
    data = encoded(PHOTO, "JPEG", **options)
    assert np.abs(decoded(data).astype(int) - by_pillow(data)).max() <= 3  # two builds of the inverse transform


PALETTE = Image.fromarray(PHOTO).quantize(16)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.dstack([PHOTO, ALPHA]), PHOTO),
        (np.dstack([PHOTO[:, :, :1], ALPHA]), PHOTO[:, :, [0, 0, 0]]),
        (PHOTO[:, :, 1], PHOTO[:, :, [1, 1, 1]]),
        (PALETTE, np.asarray(PALETTE.convert("RGB"))),
        (Image.fromarray(PHOTO).convert("1"), np.asarray(Image.fromarray(PHOTO).convert("1").convert("RGB"))),
    ],
    ids=["alpha is dropped", "grey and alpha", "grey", "palette", "black and white"],
)
def test_png_of_every_colour_type(image, expected):
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")), expected)


def test_a_palette_with_a_transparent_colour_keeps_that_colour():
    expected = np.asarray(PALETTE.convert("RGB"))
    np.testing.assert_array_equal(decoded(encoded(PALETTE, "PNG", transparency=3)), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_cut_to_the_upper_eight(channels):
    deep = RNG.integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    upper = (deep >> 8).astype(np.uint8)
    np.testing.assert_array_equal(
        images.decode_image(data), upper[:, :, :3] if channels > 1 else upper[:, :, [0, 0, 0]]
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_honoured(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, kind, exif=exif)
    assert decoded(data).shape[:2] == ((61, 47) if orientation < 5 else (47, 61))
    np.testing.assert_allclose(decoded(data).astype(int), by_pillow(data), atol=3)


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        images.decode_image(data)
    return str(caught.value)


def test_what_is_no_image_is_refused():
    assert refusal(b"") == "empty file"
    assert refusal(b"path,label\n" * 9) == "not an image that OpenCV can decode"
    assert refusal(bytes(1000)) == "not an image that OpenCV can decode"


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": True}], ids=["plain", "progressive", "thumbnail"]
)
def test_a_jpeg_cut_anywhere_is_refused(options):
    if options.get("exif"):  # a thumbnail: a whole JPEG, with its own end, within the header
        thumbnail = encoded(PHOTO[:16, :16], "JPEG")
        options = {"exif": b"Exif\0\0" + thumbnail}
    data = encoded(PHOTO, "JPEG", **options)
    assert images.decode_image(data).shape == PHOTO.shape
    for length in {*range(2, len(data), 41), *range(len(data) - 5, len(data))}:
        assert refusal(data[:length]) in ("truncated JPEG", "not an image that OpenCV can decode"), length


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_other_formats_cut_anywhere_are_refused(kind):
    data = encoded(PHOTO, kind)
    for share in (0.01, 0.1, 0.5, 0.9):
        assert refusal(data[: int(len(data) * share)]) == "not an image that OpenCV can decode"
    assert refusal(data[:-1]) == "not an image that OpenCV can decode"


@pytest.mark.parametrize("trailer", [bytes(99), b"MotionPhoto\xff\xda\x00\x01 and a film"])
def test_bytes_after_the_end_of_a_whole_jpeg_do_no_harm(trailer):
    data = encoded(PHOTO, "JPEG")
    np.testing.assert_array_equal(decoded(data + trailer), decoded(data))


def test_reading_gives_the_bytes_of_files_large_and_small(tmp_path):
    (tmp_path / "sub").mkdir()
    for size in (0, 1, 3 << 20):
        data = RNG.bytes(size)
        (tmp_path / "sub/x.jpg").write_bytes(data)
        assert read_image_bytes(tmp_path, "sub/x.jpg") == data


@pytest.fixture
def linked(tmp_path):
    """A root with links that stay in it and links that leave it."""
    root, outside = tmp_path / "root", tmp_path / "root-outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(folder.name.encode())
    (root / "sub/inside.jpg").symlink_to("x.jpg")
    (root / "folder").symlink_to("sub")
    (root / "out.jpg").symlink_to(outside / "x.jpg")
    (root / "twice.jpg").symlink_to("out.jpg")
    (root / "out").symlink_to(outside)
    return root


def test_links_that_stay_inside_are_followed_even_from_a_root_that_is_a_link(linked, tmp_path):
    (tmp_path / "alias").symlink_to(linked)
    for root in (linked, tmp_path / "alias"):
        for path in ("sub/inside.jpg", "folder/x.jpg", "folder/inside.jpg"):
            assert read_image_bytes(root, path) == b"sub"


@pytest.mark.parametrize(
    "path", ["out.jpg", "twice.jpg", "out/x.jpg", "../root-outside/x.jpg", "sub/../../root-outside/x.jpg"]
)
def test_links_and_paths_that_leave_the_root_are_refused(linked, path):
    with pytest.raises(ImageError, match=f"^leads out of {linked}$"):
        read_image_bytes(linked, path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("sub", "Is a directory"),
        ("none.jpg", "No such file or directory"),
        ("none/x.jpg", "No such file"),
        ("sub/x.jpg/y", "Not a directory"),
    ],
)
def test_what_cannot_be_read_says_why(linked, path, reason):
    with pytest.raises(ImageError, match=reason):
        read_image_bytes(linked, path)


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("slow", [False, True])
def test_hashes_are_hashlibs_and_zeros_for_what_cannot_be_read(linked, monkeypatch, count, slow):
    if slow:  # as if every file took long: the rest is then read by threads
        monkeypatch.setattr(scan, "_FAST_FILE_S", 0.0)
    for number in range(count):
        (linked / f"{number}.jpg").write_bytes(b"%d" % number)
    found = hash_images(linked, [*(f"{number}.jpg" for number in range(count)), "out.jpg", "sub", "none.jpg"])
    assert (found.shape, found.dtype) == ((count + 3, 32), np.uint8)
    assert [row.tobytes() for row in found[:count]] == [hashlib.sha256(b"%d" % n).digest() for n in range(count)]
    assert not found[count:].any()


def pattern_of(clahe):
    return describe_preprocessing(Preprocessing(clahe=clahe))["clahe"]["pattern_sha256"]


def test_the_description_tells_settings_apart():
    assert describe_preprocessing(Preprocessing(32)) == {
        "img_size": 32,
        "mean": None,
        "std": None,
        "clahe": None,
        "resize": "squash",
        "interpolation": "area-or-linear",
        "decode": "opencv-color-exif",
    }
    settings = [Clahe(), Clahe(4.0), Clahe(2.0, 4), Clahe(40.0)]
    assert len({pattern_of(setting) for setting in settings}) == len(settings)


def test_the_pattern_is_of_the_pixels_and_not_of_the_settings(monkeypatch):
    usual = pattern_of(Clahe())
    monkeypatch.setattr(images, "apply_clahe", lambda image, clahe: image + 1)
    assert pattern_of(Clahe()) != usual
