"""Files of numbers: what is read, what was done to it, and every refusal in words."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save, save_file

import latentopt as lo
from latentopt.arrayfield import Array
from latentopt.arrays import MAX_BYTES, Loaded, read_array
from latentopt.shaping import fit_batch, fit_to_shape


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def saved(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


# ---------------------------------------------------------------------- pictures that are read


def test_gray_and_colour_are_scaled_to_one(tmp_path):
    gray, colour = noise(5, 7), noise(5, 7, 3)
    found = read_array(saved(tmp_path, Image.fromarray(gray)))
    assert torch.equal(found.values, torch.from_numpy(gray).float()[None] / 255)
    assert found.is_picture
    assert found.notes == ()
    found = read_array(saved(tmp_path, Image.fromarray(colour)))
    assert torch.equal(found.values, torch.from_numpy(colour).permute(2, 0, 1).float() / 255)


@pytest.mark.parametrize(("name", "options"), [("x.webp", {"lossless": True}), ("x.jpg", {"quality": 95})])
def test_other_formats(tmp_path, name, options):
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (1, 32, 3))
    found = read_array(saved(tmp_path, Image.fromarray(smooth), name, **options))
    assert found.values.shape == (3, 32, 32)
    assert (found.values - torch.from_numpy(smooth).permute(2, 0, 1) / 255).abs().max() < 0.05


def test_kind_is_judged_by_content_not_by_name(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(4, 4)), "x.png")
    path.rename(tmp_path / "x.npy")
    assert read_array(tmp_path / "x.npy").is_picture


def test_sixteen_bits(tmp_path):
    deep = noise(4, 5, dtype=np.uint16, high=65536)
    found = read_array(saved(tmp_path, Image.fromarray(deep)))
    assert torch.allclose(found.values, torch.from_numpy(deep.astype(np.float32))[None] / 65535)
    assert found.notes == ("16-bit gray scaled to [0, 1]",)


def test_transparency_is_flattened_onto_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 3] = 255
    found = read_array(saved(tmp_path, Image.fromarray(pixels, "RGBA")))
    assert found.values.tolist() == [[[0, 1], [1, 1]]]
    assert found.notes == ("transparency flattened onto white",)


def test_palette_cmyk_and_bilevel(tmp_path):
    colour = Image.fromarray(noise(6, 6, 3))
    palette = read_array(saved(tmp_path, colour.convert("P")))
    assert palette.values.shape == (3, 6, 6)
    assert palette.notes == ("palette expanded to colours",)
    cmyk = read_array(saved(tmp_path, colour.convert("CMYK"), "x.jpg"))
    assert cmyk.values.shape == (3, 6, 6)
    assert cmyk.notes == ("CMYK converted to RGB",)
    assert read_array(saved(tmp_path, Image.fromarray(noise(6, 6) > 100))).values.unique().tolist() == [0, 1]


def test_exif_rotation(tmp_path):
    gray = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    found = read_array(saved(tmp_path, Image.fromarray(gray), exif=exif))
    assert found.values.shape == (1, 6, 4)
    assert torch.equal(found.values[0], torch.from_numpy(np.rot90(gray, -1).copy()).float() / 255)
    assert found.notes == ("rotated by its EXIF orientation",)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(noise(8, 8, 3)), Image.fromarray(255 - noise(8, 8, 3))]
    path = saved(tmp_path, frames[0], "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    found = read_array(path)
    assert found.notes == ("the first of 2 frames taken",)
    assert torch.equal(found.values, torch.from_numpy(np.array(frames[0])).permute(2, 0, 1).float() / 255)


# ---------------------------------------------------------------------- arrays that are read


def test_npy_and_safetensors(tmp_path):
    values = np.linspace(0, 1, 12).reshape(3, 4)
    np.save(tmp_path / "x.npy", values)
    found = read_array(tmp_path / "x.npy")
    assert not found.is_picture
    assert np.allclose(found.values, values)
    np.save(tmp_path / "big.npy", values.astype(">f8"))
    assert np.allclose(read_array(tmp_path / "big.npy").values, values)
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert read_array(tmp_path / "x.safetensors", "b").values.tolist() == [0, 0, 0]
    np.save(tmp_path / "u8.npy", np.array([0, 255], np.uint8))
    assert read_array(tmp_path / "u8.npy").values.tolist() == [0, 1]
    assert read_array(tmp_path / "u8.npy").notes == ("8-bit values scaled to [0, 1]",)


def test_arrays_of_other_numbers_say_what_was_done(tmp_path):
    path = tmp_path / "x.npy"
    for dtype in ("float16", "float64", "longdouble", "int16", "uint16", "int64", "bool"):
        np.save(path, np.array([0, 1, 1]).astype(dtype))
        found = read_array(path)
        assert found.values.tolist() == [0, 1, 1]
        assert found.values.dtype == torch.float32
        assert found.notes == (f"{np.dtype(dtype).name} converted to float32",)
    np.save(path, np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)))
    assert read_array(path).values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_array(path).notes == ()
    np.save(path, np.float32(2.5))
    assert read_array(path).values.shape == ()
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    assert read_array(tmp_path / "x.safetensors").notes == ("bfloat16 converted to float32",)


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz_by_key(tmp_path, save_npz):
    path = tmp_path / "x.npz"
    save_npz(path, a=np.ones(2, np.float32), b=np.zeros(3, np.float32))
    assert read_array(path, "b").values.tolist() == [0, 0, 0]
    save_npz(path, a=np.ones(2, np.float32))
    assert read_array(path).values.tolist() == [1, 1]


def test_a_python_2_header_is_read_without_a_warning(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1L,)}") + struct.pack("<d", 0.5))
    assert read_array(path).values.tolist() == [0.5]


def npy_header(text):
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header


def test_sixteen_bit_colours_are_said_to_be_reduced(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_header(2, 1, 16, 2, b"\0" + bytes(range(12))))
    found = read_array(path)
    assert (found.values * 255).round().flatten().tolist() == [0, 6, 2, 8, 4, 10]
    assert found.notes == ("16-bit colours reduced to 8 bits",)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.T),
        (7, lambda x: x[::-1, ::-1].T),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_every_exif_orientation(tmp_path, orientation, upright):
    gray, exif = noise(4, 6), Image.Exif()
    exif[0x0112] = orientation
    found = read_array(saved(tmp_path, Image.fromarray(gray), exif=exif))
    assert torch.equal(found.values[0], torch.from_numpy(upright(gray).copy()).float() / 255)


def test_an_exif_orientation_that_means_nothing_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    assert read_array(saved(tmp_path, Image.fromarray(noise(4, 6)), exif=exif)).notes == ()


# ---------------------------------------------------------------------- what is refused


def refusal(path, key=None):
    with pytest.raises(lo.InputFileError) as caught:
        read_array(path, key)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def test_missing_folder_empty_and_unreadable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target.png").write_bytes(b"")
    assert "file not found: targt.png (looked in" in refusal("targt.png")
    assert "Did you mean 'target.png'?" in refusal("targt.png")
    assert "is empty (0 bytes)" in refusal("target.png")
    assert "is a folder: give one picture" in refusal(tmp_path)
    assert "is not an ordinary file" in refusal("/dev/null")
    assert "cannot read" in refusal("a\0b")


def test_no_permission(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(noise(3, 3)))

    def refuse(self):
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "no permission to read" in refusal(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "is a Git LFS pointer, not the file itself: run git lfs pull",
        ),
        (b"hello, I am text\n", "is a text file: give a PNG, JPEG or WebP picture"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "not of a known kind (it starts with 00 01 02"),
        (b"GIF89a" + b"\0" * 20, "is a GIF, which is not read: convert it to PNG"),
        (b"II*\0" + b"\0" * 20, "is a TIFF, which is not read"),
        (b"BM" + b"\0" * 20, "is a BMP, which is not read"),
        (b"8BPS" + b"\0" * 20, "is a Photoshop file, which is not read"),
        (b"SIMPLE  = T", "is a FITS file, which is not read"),
        (b"%PDF-1.7", "is a PDF, which is not read"),
        (b"PK\x03\x04aaaa", "is a damaged zip archive (BadZipFile: File is not a zip file)"),
        ("héllo".encode() * 9, "is a text file: give a PNG"),
        (b"\x80\x04\x95aaaa", "is a pickle, which is never loaded"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "is a damaged or truncated picture"),
        (b"\x93NUMPY\x01\x00\x10\x00nonsense here   ", "is a damaged .npy file"),
        (struct.pack("<Q", 20) + b"{" + b"x" * 19, "is a damaged .safetensors file"),
    ],
)
def test_other_kinds_are_named(tmp_path, content, text):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert text in refusal(path)


def test_truncated_pictures(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(64, 64)))
    path.write_bytes(path.read_bytes()[:1500])
    assert "is a damaged or truncated picture" in refusal(path)


def png_header(width, height, depth=8, colour=0, rows=b"\0" * 1000):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_decompression_bombs_and_empty_pictures(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_header(30_000, 30_000))
    assert "has 30000 x 30000 pixels, the limit is 40 megapixels: scale it down" in refusal(path)
    path.write_bytes(png_header(8_000, 8_000))
    assert "has 8000 x 8000 pixels, the limit is 40 megapixels: scale it down" in refusal(path)
    path.write_bytes(png_header(0, 0))
    assert "has 0 x 0 pixels: give a picture that holds something" in refusal(path)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 60_000, 60_000, 1) + b"\x01\x11\0"
    path.write_bytes(b"\xff\xd8" + frame + b"\xff\xd9")
    assert "has over 40 megapixels, the limit: scale it down" in refusal(path)


@pytest.mark.parametrize(
    "chunk",
    [
        b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + (15_999).to_bytes(3, "little") * 2,
        b"VP8L" + struct.pack("<I", 10) + b"\x2f" + (15_999 | 15_999 << 14).to_bytes(4, "little") + b"\0" * 9,
        b"VP8 " + struct.pack("<I", 10) + b"\0" * 6 + struct.pack("<HH", 16_000, 16_000),
    ],
)
def test_the_size_of_a_webp_is_read_before_it_is_opened(tmp_path, chunk, monkeypatch):
    path = tmp_path / "x.webp"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    monkeypatch.setattr(Image, "open", None)
    assert "has 16000 x 16000 pixels, the limit is 40 megapixels: scale it down" in refusal(path)


def test_files_beyond_the_limit(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "has 64 MiB, the limit is 64: give a smaller file" in refusal(path)


def test_npy_refusals(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "holds Python objects, which are never unpickled (allow_pickle=False)" in refusal(path)
    np.save(path, np.zeros(4))
    path.write_bytes(path.read_bytes().replace(b"(4,)", b"(4000000000000,)"[:4] + b"")[:100])
    assert "damaged .npy file" in refusal(path) or "truncated" in refusal(path)
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**9,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert "is truncated: its header promises 8000000000 bytes, 0 are there" in refusal(path)
    np.save(path, np.array(["a"]))
    assert "save real numbers" in refusal(path)
    np.save(path, np.array([1.0, np.nan, np.inf]))
    assert "contains 2 NaN or infinite values" in refusal(path)
    np.save(path, np.array([1j]))
    assert "save real numbers" in refusal(path)


def test_safetensors_refusals(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, path)
    assert "holds 2 tensors (a, b): choose one with key" in refusal(path)
    assert "has no tensor 'c': it holds a, b" in refusal(path, "c")
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, path)
    assert "holds complex numbers" in refusal(path)


@pytest.mark.parametrize(
    ("shape", "data", "text"),
    [
        ("(-1, -1)", 8, "x.npy is damaged, or holds more than one array: its header promises 8 bytes, 8 are there"),
        ("(1,)", 16, "is damaged, or holds more than one array: its header promises 8 bytes, 16 are there: save one"),
        ("(0, 3)", 0, "x.npy holds no numbers (shape (0, 3)): give at least one"),
        ("(1,", 8, "x.npy is a damaged .npy file (TokenError: "),
        ("(((((((((", 8, "x.npy is a damaged .npy file (TokenError: "),
    ],
)
def test_npy_headers_that_lie(tmp_path, shape, data, text):
    path = tmp_path / "x.npy"
    end = "}" if shape.endswith(")") else ""
    path.write_bytes(npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}{end}") + bytes(data))
    assert text in refusal(path)


def test_the_first_bad_value_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 1e300], [np.nan, 1.0]]))
    assert "contains 2 NaN or infinite values, the first at [0, 1]: give finite numbers" in refusal(tmp_path / "x.npy")


def test_npz_refusals(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(2), b=np.array([{}], dtype=object))
    assert "x.npz holds 2 arrays (a, b): choose one with key" in refusal(path)
    assert "x.npz has no array 'c': it holds a, b" in refusal(path, "c")
    assert "x.npz (b) holds Python objects, which are never unpickled" in refusal(path, "b")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")
    assert "x.npz is a zip archive and no .npz (a checkpoint?): save one array as .npy" in refusal(path)
    np.savez_compressed(path, a=np.zeros(2**18))
    monkeypatch.setattr("latentopt.arrays.MAX_BYTES", 2**20)
    assert "x.npz unpacks to 2 MiB, the limit is 1: give a smaller array" in refusal(path, "a")


def test_a_cut_safetensors_file_is_known_for_one(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAMPLES[-1][:30])
    assert "is a damaged .safetensors file (SafetensorError: " in refusal(path)


def test_a_key_where_nothing_has_one(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(3, 3)))
    assert "x.png holds no arrays by name: leave out key 'a'" in refusal(path, "a")


def samples():
    stream = io.BytesIO()
    Image.fromarray(noise(12, 12, 3)).save(stream, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(noise(12, 12, 3)).save(jpeg, "JPEG")
    webp = io.BytesIO()
    Image.fromarray(noise(12, 12, 3)).save(webp, "WEBP")
    npy = io.BytesIO()
    np.save(npy, np.linspace(0, 1, 20))
    npz = io.BytesIO()
    np.savez_compressed(npz, a=np.linspace(0, 1, 20))
    pictures = [stream.getvalue(), jpeg.getvalue(), webp.getvalue()]
    return [*pictures, npy.getvalue(), npz.getvalue(), save({"a": torch.ones(8)})]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 5),
    edits=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 700),
)
def test_damaged_files_raise_only_our_errors(tmp_path, which, edits, cut):
    raw = bytearray(SAMPLES[which])
    for place, byte in edits:
        raw[place % len(raw)] = byte
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(raw[: max(1, len(raw) - cut % 40)]))
    try:
        found = read_array(path)
    except lo.LatentoptError:
        return
    assert torch.isfinite(found.values).all()


SAMPLES = samples()

# ---------------------------------------------------------------------- fitting to a design


def picture(*shape):
    return Loaded(torch.rand(shape, generator=torch.Generator().manual_seed(0)), (), True)


@pytest.mark.parametrize(
    ("have", "want", "text"),
    [
        (
            (3, 64, 64),
            (1, 28, 28),
            "target is 3x64x64, the decoder gives 1x28x28: "
            "add resize: true (--resize) and gray: true (--gray), or give a target of that shape",
        ),
        ((1, 64, 64), (1, 28, 28), "add resize: true (--resize), or give"),
        ((3, 28, 28), (1, 28, 28), "add gray: true (--gray), or give"),
        ((1, 28, 28), (3, 28, 28), "add gray: true (--gray), or give"),
        ((1, 28, 28), (4096,), "target is a picture of 1x28x28, the decoder gives 4096: give an array of that shape"),
        ((1, 28, 28), (4, 28, 28), "give an array of that shape"),
    ],
)  # fmt: skip
def test_pictures_are_never_broadcast(have, want, text):
    with pytest.raises(lo.ShapeError) as caught:
        fit_to_shape(picture(*have), want)
    assert text in str(caught.value)


def test_what_the_options_do():
    colour = picture(3, 64, 64)
    found = fit_to_shape(colour, (1, 28, 28), resize=True, gray=True)
    luma = (colour.values * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    assert found.values.shape == (1, 28, 28)
    assert float(found.values.mean()) == pytest.approx(float(luma.mean()), abs=0.01)
    assert found.notes == ("colours turned to gray", "resized from 64 x 64 to 28 x 28")
    assert fit_to_shape(picture(1, 8, 8), (3, 8, 8), gray=True).notes == ("gray repeated for three channels",)
    assert fit_to_shape(picture(1, 8, 8), (8, 8)).values.shape == (8, 8)
    same = Loaded(picture(1, 8, 8).values.expand(3, 8, 8), (), True)
    assert fit_to_shape(same, (1, 8, 8)).notes == ("equal channels read as gray",)


@pytest.mark.parametrize(
    ("have", "want", "count"),
    [
        ((1, 28, 28), (1, 28, 28), 1),
        ((28, 28), (1, 28, 28), 1),
        ((5, 1, 28, 28), (1, 28, 28), 5),
        ((5, 28, 28), (1, 28, 28), 5),
        ((4096,), (1, 4096), 1),
        ((3, 4096), (1, 4096), 3),
        ((7, 11), (7, 11), 1),
        ((2, 7, 11), (7, 11), 2),
        ((5,), (5,), 1),
        ((1, 5), (5,), 1),
    ],
)
def test_arrays_as_designs(have, want, count):
    values = torch.arange(float(np.prod(have))).reshape(have)
    found = fit_batch(values, want)
    assert found.shape == (count, *want)
    assert torch.equal(found.flatten(), values.flatten())


@pytest.mark.parametrize(
    ("values", "want", "text"),
    [
        (
            torch.zeros(28, 29),
            (1, 28, 28),
            "target has shape 28x29, the decoder gives 1x28x28: give a target of that shape",
        ),
        (torch.zeros(28, 28, 1, 1, 1), (1, 28, 28), "give a target of that shape"),
        (torch.zeros(1), (1, 28, 28), "target has shape 1, the decoder gives 1x28x28"),
        (torch.tensor(0.5), (1, 28, 28), "target has shape a single number"),
        (
            torch.zeros(32, 32, 3),
            (3, 32, 32),
            "target has shape 32x32x3, height x width x channels by its looks, the decoder gives 3x32x32: "
            "transpose it to 3x32x32, or give a target of that shape",
        ),
        (torch.zeros(3, 16, 16), (3, 32, 32), "add resize: true (--resize), or give a target of that shape"),
        (
            torch.zeros(1, 28, 28).fill_(torch.nan),
            (1, 28, 28),
            "contains 784 NaN or infinite values, the first at [0, 0, 0]",
        ),
        (torch.ones(1, 28, 28) > 0, (1, 28, 28), "target holds truth values (bool): give real ones"),
        (torch.eye(28).to_sparse(), (28, 28), "target is a sparse tensor: make it dense with to_dense()"),
        (np.zeros((28, 28)), (28, 28), "target is of type ndarray: give a tensor"),
        (
            torch.zeros(3, 16, 16) + torch.arange(3.0)[:, None, None],
            (1, 32, 32),
            "add resize: true (--resize) and gray: true",
        ),
        (torch.zeros(1, 28, 28, dtype=torch.complex64), (1, 28, 28), "holds complex numbers"),
        (torch.zeros(0, 1, 28, 28), (1, 28, 28), "is empty (shape (0, 1, 28, 28))"),
    ],
)
def test_arrays_are_never_broadcast(values, want, text):
    with pytest.raises(lo.ShapeError) as caught:
        fit_batch(values, want)
    assert text in str(caught.value)


def test_arrays_as_pictures_where_an_option_asks_for_it():
    low = torch.full((1, 8, 8), -1.0)
    assert torch.equal(fit_batch(low, (1, 4, 4), resize=True), low[None, :, :4, :4]), "not clipped to [0, 1]"
    colours = picture(3, 4, 4).values
    luma = (colours * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    assert torch.allclose(fit_batch(colours, (1, 4, 4), gray=True), luma[None, None]), "RGB, not three gray targets"
    assert fit_batch(colours.expand(5, 3, 4, 4), (1, 2, 2), gray=True, resize=True).shape == (5, 1, 2, 2)
    assert torch.equal(fit_batch(luma[None], (3, 4, 4), gray=True), luma.expand(1, 3, 4, 4))


def test_bytes_mean_the_same_from_a_file_and_from_memory(tmp_path):
    values = noise(1, 4, 4)
    np.save(tmp_path / "x.npy", values)
    assert torch.equal(Array(values).designs((1, 4, 4)), Array(tmp_path / "x.npy").designs((1, 4, 4)))


def test_one_design_is_one_design():
    found = fit_to_shape(Loaded(torch.ones(4, 4), (), False), (1, 4, 4))
    assert found.values.shape == (1, 4, 4)
    assert found.notes == ("4x4 read as 1x4x4",)
    with pytest.raises(lo.ShapeError, match="target is 5x1x4x4, 5 designs of 1x4x4: give one"):
        fit_to_shape(Loaded(torch.ones(5, 1, 4, 4), (), False), (1, 4, 4))


def test_changed_proportions_are_noted():
    notes = fit_to_shape(picture(1, 8, 6), (1, 4, 4), resize=True).notes
    assert notes == ("resized from 8 x 6 to 4 x 4, which changes its proportions",)


def test_an_array_field_reads_once_and_notes_what_it_did(tmp_path):
    path = saved(tmp_path, Image.fromarray(noise(64, 64, 3)))
    array = Array(path, resize=True, gray=True)
    assert array.designs((1, 28, 28)).shape == (1, 1, 28, 28)
    path.unlink()
    assert array.designs((1, 28, 28)).shape == (1, 1, 28, 28)
    assert array.notes == ("colours turned to gray", "resized from 64 x 64 to 28 x 28")
