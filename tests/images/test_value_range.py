"""12-bit values in 16-bit files: the warning, and the value range that spreads them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import ConfigError, ImageError
from cfcam_gpu.images.decode import load_image, load_image_bytes
from cfcam_gpu.images.read_options import ValueRange
from tests.helpers.image_files import png, tiff

RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
SPREAD = np.rint(RAMP * (255 / 4095)).astype(int)
WARNING = (
    "values 0 to 4095 fill 6.2% of 0 to 65535, so few gray levels are left; --value-range auto or LOW,HIGH "
    "spreads them"
)


def _png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def _tiff(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    return buffer.getvalue()


COLOUR = np.dstack([RAMP, RAMP.T, RAMP[::-1]])


@pytest.mark.parametrize("content", [_png(RAMP), tiff(RAMP, "<", 1), tiff(RAMP.astype("<i4"), "<", 2)])
def test_12_bit_values_in_a_16_bit_file_are_warned_about_and_spread(content: bytes) -> None:
    image = load_image_bytes(content)
    assert image.info == {"cfcam": WARNING, "cfcam_warning": WARNING}
    assert len(np.unique(np.asarray(image))) == 17
    for text in ("0,4095", "auto"):
        spread = load_image_bytes(content, value_range=text)
        assert spread.info == {"cfcam": f"0 to 4095 (value range {text})"}
        assert (np.asarray(spread)[..., 0] == SPREAD).all()


@pytest.mark.parametrize("encode", [_png, _tiff])
def test_colour_of_12_bits_too(encode) -> None:
    content = encode(COLOUR if encode is _tiff else COLOUR[..., ::-1])
    plain = load_image_bytes(content)
    assert (np.asarray(plain) == COLOUR >> 8).all()
    assert plain.info["cfcam_warning"].startswith("values 0 to 3855 fill 5.9% of 0 to 65535")
    spread = load_image_bytes(content, value_range="0,4095")
    assert (np.asarray(spread) == np.rint(COLOUR * (255 / 4095))).all()
    assert "cfcam_warning" not in spread.info


def test_opacity_is_kept_with_a_value_range() -> None:
    alpha = np.full((8, 8), 65535, np.uint16)
    alpha[0] = 0
    content = _png(np.dstack([COLOUR[..., ::-1], alpha]))
    image = np.asarray(load_image_bytes(content, value_range="0,4095"))
    assert (image[0] == 255).all()
    assert (image[1:] == np.rint(COLOUR[1:] * (255 / 4095))).all()


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint16), RAMP * 16])
def test_no_warning_for_one_value_or_a_tenth_of_the_range(pixels: np.ndarray) -> None:
    assert load_image_bytes(_png(pixels)).info == {}


def test_values_beyond_the_range_are_cut_and_floats_are_read() -> None:
    values = np.array([[-10.0, 0.0, 25.0, 50.0, 100.0, 1e6]], np.float32)
    image = load_image_bytes(_tiff(values), value_range="0,100")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 64, 128, 255, 255]
    assert image.info["cfcam"] == "0 to 100 (value range 0,100)"
    with pytest.raises(
        ImageError, match=r"^floating-point pixels must be from 0 to 1, got -10 to 1e\+06; give"
    ):
        load_image_bytes(_tiff(values))
    values[0, 0] = np.nan
    with pytest.raises(
        ImageError, match=r"^floating-point pixels must be numbers for a value range, got nan"
    ):
        load_image_bytes(_tiff(values), value_range="auto")


def test_percentiles_leave_outliers_out() -> None:
    values = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    values[0, 0] = 60_000
    image = load_image_bytes(_png(values), value_range="percentile:1")
    low, high = np.percentile(values, [1, 99])
    assert image.info["cfcam"] == f"{low:.10g} to {high:.10g} (value range percentile:1)"
    assert (
        np.asarray(image)[..., 0] == np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255))
    ).all()


def test_an_image_of_8_bits_has_no_value_range() -> None:
    content = png(0, 8, (3, 1), b"\0\x05\x06\x07")
    assert np.asarray(load_image_bytes(content, value_range="0,10"))[0, :, 0].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0,4095", "0,4095"),
        (" AUTO ", "auto"),
        ("percentile:0.5", "percentile:0.5"),
        ("-1000, 400.5", "-1000,400.5"),
    ],
)
def test_ranges_are_parsed(text: str, written: str) -> None:
    assert str(ValueRange.parse(text)) == written
    assert ValueRange.parse(written) == ValueRange.parse(text)


@pytest.mark.parametrize(
    "text", ["", "5", "5,5", "9,1", "nan,1", "0,inf", "percentile:50", "percentile:-1", "a,b", "1,2,3"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^value range must be LOW,HIGH, auto or percentile:P with LOW below HIGH"
    ):
        RunOptions(value_range=text)


def test_more_pixels_are_allowed_by_the_option_also_beyond_pillows_limit(tmp_path: Path) -> None:
    Image.new("1", (20_000, 9_500)).save(tmp_path / "x.png")  # 190 million
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError, match=r"^190,000,000 pixels is over the limit of 89,478,485; --max-pixels allows more$"
    ):
        load_image(tmp_path / "x.png")
    code = f"""
from pathlib import Path
from cfcam_gpu.images.limits import pillow_limit
from PIL import Image
with pillow_limit.at_least(200_000_000), Image.open({str(tmp_path / "x.png")!r}) as image:
    print(image.size)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stdout == "(20000, 9500)\n", run.stderr
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_large_16_bit_image_is_bounded(tmp_path: Path) -> None:
    """88 million pixels of 16 bits took 1.8 GB; the file's values and the RGB image are 530 MB of it."""
    side = 9380
    rows = struct.pack(">H", 70) * side
    content = png(0, 16, (side, side), (b"\0" + rows) * side)
    (tmp_path / "x.png").write_bytes(content)
    code = f"""
from pathlib import Path
from cfcam_gpu.images.decode import load_image
assert load_image(Path({str(tmp_path / "x.png")!r})).size == ({side}, {side})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 800_000  # kB
