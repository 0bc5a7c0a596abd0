import io
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image
from PIL import ImageOps

from mrpose_jax import errors
from mrpose_jax.input_pipeline.device import geometry
from mrpose_jax.input_pipeline.device import warp
from mrpose_jax.input_pipeline.host import image_files

affine = jax.jit(warp.affine, static_argnums=2)

RED, BLUE = (200, 30, 10), (10, 30, 200)


def file_of(image, form='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


def png_header(width, height):
  """A PNG whose header states its size, without pixels."""
  data = b'\x89PNG\r\n\x1a\n'
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  for kind, content in ((b'IHDR', header), (b'IDAT', zlib.compress(b''))):
    chunk = kind + content
    data += struct.pack('>I', len(content)) + chunk + struct.pack('>I', zlib.crc32(chunk))
  return data


def test_rgb_is_returned_as_stored():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
  found = image_files.decode(file_of(Image.fromarray(pixels)), 'a.png')
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, pixels)


def test_gray_becomes_three_equal_channels():
  gray = np.array([[0, 100], [200, 255]], np.uint8)
  found = image_files.decode(file_of(Image.fromarray(gray)), 'gray.png')
  np.testing.assert_array_equal(found, np.repeat(gray[..., None], 3, -1))


@pytest.mark.parametrize('transparency', [None, 0, b'\x00\x80'])
def test_palette_gives_the_palettes_colours(transparency):
  image = Image.new('P', (2, 1))
  image.putpalette([*RED, *BLUE])
  image.putpixel((1, 0), 1)
  options = {} if transparency is None else {'transparency': transparency}
  found = image_files.decode(file_of(image, **options), 'palette.png')
  np.testing.assert_array_equal(found, [[RED, BLUE]])


def test_transparency_is_dropped():
  image = Image.new('RGBA', (1, 2), (*RED, 0))
  np.testing.assert_array_equal(image_files.decode(file_of(image), 'rgba.png'), [[RED], [RED]])


def test_cmyk_is_converted():
  image = Image.new('CMYK', (8, 8), (0, 255, 255, 0))  # magenta and yellow ink: red
  found = image_files.decode(file_of(image, 'JPEG', quality=100), 'cmyk.jpg')
  np.testing.assert_allclose(found, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=2)


@pytest.mark.parametrize('brightest', [65535, 257])
def test_sixteen_bits_keep_the_upper_eight(brightest):
  gray = np.array([[0, brightest]], np.uint16)
  found = image_files.decode(file_of(Image.fromarray(gray)), 'deep.png')
  np.testing.assert_array_equal(found, [[[0] * 3, [brightest // 257] * 3]])


def test_sixteen_bits_stay_dark_where_they_are_dark():
  gray = np.array([[0, 200]], np.uint16)
  assert image_files.decode(file_of(Image.fromarray(gray)), 'night.png').max() == 0


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(form, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = file_of(colourful(16, 12), form, exif=exif)
  stored, upright = (
    Image.open(io.BytesIO(data)),
    ImageOps.exif_transpose(Image.open(io.BytesIO(data))),
  )
  np.testing.assert_array_equal(image_files.decode(data, 'phone'), stored)
  np.testing.assert_array_equal(image_files.decode(data, 'phone', exif=True), upright)
  np.testing.assert_array_equal(image_files.from_pillow(stored, exif=True), upright)
  assert image_files.orientation(data) == orientation


def test_a_tiff_is_turned_once():
  exif = Image.Exif()
  exif[0x0112] = 6
  data = file_of(colourful(16, 12), 'TIFF', exif=exif)
  for apply in (False, True):
    assert image_files.decode(data, 'a.tif', apply).shape == (16, 12, 3)
  assert image_files.orientation(data) == 1


@pytest.mark.parametrize('exif', [{0x0112: 0}, {0x0112: 9}, b'Exif\x00\x00no tags at all'])
def test_an_orientation_that_does_not_exist_is_ignored(exif):
  if isinstance(exif, dict):
    tags = Image.Exif()
    tags.update(exif)
    exif = tags.tobytes()
  data = file_of(colourful(16, 12), 'JPEG', exif=exif)
  assert image_files.decode(data, 'a.jpg', exif=True).shape == (12, 16, 3)
  assert image_files.orientation(data) == 1


def test_files_and_pillow_images_are_converted_alike():
  gray = np.array([[0, 300], [30000, 65535]], np.uint16)
  palette = Image.new('P', (2, 1))
  palette.putpalette([*RED, *BLUE])
  palette.info['transparency'] = b'\x00\x80'
  images = [Image.fromarray(gray), palette, Image.new('CMYK', (3, 2), (0, 255, 255, 0))]
  images += [Image.new(mode, (3, 2), 1) for mode in ('1', 'L', 'F', 'I')]
  images += [Image.new('RGBA', (2, 2), (*RED, 0)), Image.new('LA', (2, 2), (9, 0))]
  for image in images:
    data = file_of(image, 'TIFF' if image.mode in ('CMYK', 'F', 'I') else 'PNG')
    converted = image_files.from_pillow(image)
    np.testing.assert_array_equal(converted, image_files.decode(data, 'a'), image.mode)
    assert converted.dtype == np.uint8 and converted.shape == (image.height, image.width, 3)
  assert image_files.from_pillow(images[0])[..., 0].tolist() == [[0, 1], [116, 255]]
  assert 'transparency' in palette.info  # the user's image stays as it is


def test_a_pillow_image_of_a_damaged_file(tmp_path):
  (tmp_path / 'a.png').write_bytes(file_of(Image.effect_noise((64, 64), 80))[:2000])
  with Image.open(tmp_path / 'a.png') as image:
    with pytest.raises(errors.DataError, match=r'a\.png: not a readable image \(.*truncated'):
      image_files.from_pillow(image)


@pytest.mark.filterwarnings('ignore')
def test_whatever_a_file_holds_is_an_image_or_a_data_error(monkeypatch):
  monkeypatch.setattr(image_files, 'MAX_PIXELS', 10**6)  # so that no mutated size takes long
  exif = Image.Exif()
  exif[0x0112] = 6
  small = colourful(13, 9)
  files = [
    file_of(small, form, **options)
    for form, options in (
      *(('JPEG', {'exif': exif}), ('JPEG', {'progressive': True}), ('PNG', {'exif': exif})),
      *(('GIF', {}), ('BMP', {}), ('PPM', {}), ('WEBP', {}), ('TIFF', {'compression': 'tiff_lzw'})),
      *(('TIFF', {'exif': exif}), ('JPEG2000', {})),
    )
  ]
  files += [file_of(small.convert('P')), file_of(Image.fromarray(np.full((9, 9), 999, np.uint16)))]
  rng = np.random.default_rng(0)
  count = 0
  for data in files:
    for n in range(300):
      mutated = bytearray(data)
      for place in rng.integers(0, len(data), rng.integers(1, 9)):
        mutated[place] = rng.integers(0, 256)
      try:
        mutated = bytes(mutated[: rng.integers(1, len(data))] if n % 5 == 0 else mutated)
        pixels = image_files.decode(mutated, 'a.jpg', exif=n % 2 == 0)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        count += 1
      except errors.DataError as error:
        assert str(error).startswith('a.jpg: not a readable image (') and '\n' not in str(error)
  assert 300 < count < 3300  # some of both


@pytest.mark.parametrize('error', [KeyError('x'), TypeError(), AttributeError('two\nlines')])
def test_every_error_of_a_decoder_is_a_data_error(monkeypatch, error):
  def fail(*arguments, **options):
    raise error

  monkeypatch.setattr(Image, 'open', fail)
  with pytest.raises(errors.DataError, match=r"not a readable image \(('x'|TypeError|two lines)\)"):
    image_files.decode(file_of(colourful(9, 9)), 'a.png')


def test_formats_that_start_other_programs_are_not_tried():
  eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n'
  with pytest.raises(errors.DataError, match='not of a known image format'):
    image_files.decode(eps, 'a.jpg')


def colourful(width, height):
  """Smooth colours with some noise."""
  rows, columns = np.mgrid[:height, :width]
  noise = np.random.default_rng(6).integers(0, 40, (height, width, 3))
  ramps = np.stack([2 * rows, 3 * columns, rows + columns], -1) % 216
  return Image.fromarray((ramps + noise).astype(np.uint8))


def pillow_pixels(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


@pytest.mark.parametrize('size', [(1, 1), (7, 5), (16, 16), (131, 77)])
@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('progressive', [False, True])
def test_both_jpeg_decoders_give_the_same_pixels(size, subsampling, progressive):
  options = {'quality': 94, 'subsampling': subsampling, 'progressive': progressive}
  data = file_of(colourful(*size), 'JPEG', **options)
  np.testing.assert_array_equal(image_files.decode(data, 'a.jpg'), pillow_pixels(data))


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_other_jpegs_are_pillows(mode):
  data = file_of(colourful(33, 21).convert(mode), 'JPEG')
  np.testing.assert_array_equal(image_files.decode(data, 'a.jpg'), pillow_pixels(data))


def outcome(data):
  try:
    return image_files.decode(data, 'a.jpg').tobytes()
  except errors.DataError as error:
    return str(error)


@pytest.mark.parametrize('progressive', [False, True])
def test_a_damaged_jpeg_fares_as_with_pillow_alone(monkeypatch, progressive):
  data = file_of(colourful(40, 30), 'JPEG', quality=94, subsampling=0, progressive=progressive)
  cut = [data[:end] for end in range(0, len(data), 13)] + [data[:-1], data[:-2], data + b'more']
  rng = np.random.default_rng(7)
  for place, value in zip(rng.integers(2, len(data), 200), rng.integers(0, 256, 200)):
    changed = bytearray(data)
    changed[place] = value
    cut.append(bytes(changed))
  found = [outcome(content) for content in cut]
  monkeypatch.setattr(image_files, '_decode_colour_jpeg', lambda data: None)
  assert found == [outcome(content) for content in cut]
  assert all(isinstance(result, str) for result in found[: len(data) // 13])


def test_a_jpeg_that_claims_to_be_huge_is_refused():
  data = file_of(Image.new('RGB', (8, 8)), 'JPEG')
  start = data.index(b'\xff\xc0') + 5  # after the marker, its length and the depth
  data = data[:start] + struct.pack('>HH', 60000, 60000) + data[start + 4 :]
  with pytest.raises(errors.DataError, match='3600000000 pixels'):
    image_files.decode(data, 'bomb.jpg')


def test_one_pixel():
  found = image_files.decode(file_of(Image.new('RGB', (1, 1), RED)), 'dot.png')
  np.testing.assert_array_equal(found, [[RED]])
  patch = image_files.cut_patch(found, np.array([-3.0, -3]), np.array([5.0, 5]), canvas=8)
  np.testing.assert_array_equal(patch.pixels, found)
  np.testing.assert_array_equal(patch.origin, [0, 0])


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'the file is empty'),
    (b'404: Not Found\n', 'not of a known image format'),
    (file_of(Image.effect_noise((64, 64), 80), 'JPEG')[:2000], 'truncated'),
    (file_of(Image.effect_noise((64, 64), 80), 'PNG')[:2000], 'truncated'),
    (png_header(60000, 60000), '3600000000 pixels'),
    (png_header(9000, 9000), '9000x9000 pixels'),
    (b'DDS ' + struct.pack('<7I44x8I20x', 124, 7, 4, 4, 0, 0, 0, 32, *[0] * 7), 'not of a known'),
  ],
  ids=['empty', 'text', 'cut JPEG', 'cut PNG', 'bomb', 'large', 'DDS'],
)
def test_bad_files_are_named_with_their_reason(tmp_path, data, reason):
  path = tmp_path / 'person.jpg'
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match=reason) as raised:
    image_files.read(path)
  assert str(path) in str(raised.value)
  assert '\n' not in str(raised.value)


def test_missing_file_and_folder_are_named(tmp_path):
  with pytest.raises(errors.DataError, match=r'gone\.jpg: cannot be read \(No such file'):
    image_files.read(tmp_path / 'gone.jpg')
  with pytest.raises(errors.DataError, match='Is a directory'):
    image_files.read(tmp_path)


def test_jpeg_of_a_patch_is_close_to_it():
  ramp = np.linspace(0, 255, 64)
  pixels = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), -1).astype(np.uint8)
  found = image_files.decode(image_files.encode_jpeg(pixels, 95), 'patch.jpg')
  np.testing.assert_allclose(found.astype(int), pixels.astype(int), atol=4)


def test_patch_by_hand():
  image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
  patch = image_files.cut_patch(image, np.array([4.5, -2.0]), np.array([9.2, 6.0]), canvas=64)
  # x from floor(4.5) - 1 to ceil(9.2) + 1, y from 0 to 6 + 1.
  np.testing.assert_array_equal(patch.pixels, image[0:8, 3:12])
  np.testing.assert_array_equal(patch.origin, [3, 0])
  np.testing.assert_array_equal(patch.zoom, [1, 1])


def test_patch_larger_than_the_canvas_is_averaged():
  # A checkerboard of single pixels: a patch of picked pixels would be black or white.
  image = np.repeat(255 * (np.indices((60, 120)).sum(0) % 2)[..., None], 3, -1).astype(np.uint8)
  patch = image_files.cut_patch(image, np.array([0.0, 0]), np.array([120.0, 60]), canvas=40)
  assert patch.pixels.shape == (20, 40, 3)
  np.testing.assert_allclose(patch.pixels, 127.5, atol=10)
  np.testing.assert_allclose(patch.zoom, [1 / 3, 1 / 3])


def test_patch_beyond_any_number_is_the_nearest_pixel():
  image = np.random.default_rng(3).integers(0, 256, (6, 12, 3), np.uint8)
  patch = image_files.cut_patch(image, np.array([1e30, 1e30]), np.array([2e30, 2e30]), canvas=6)
  np.testing.assert_array_equal(patch.pixels, image[-1:, -1:])
  np.testing.assert_array_equal(patch.origin, [11, 5])


def to_image(patch):
  """Matrix [2, 3] from patch xy to image xy, which aligns pixel areas."""
  shift = patch.origin + 0.5 / patch.zoom - 0.5
  return np.concatenate([np.diag(1 / patch.zoom), shift[:, None]], -1)


def on_canvas(patch, canvas):
  pixels = np.zeros((canvas, canvas, 3), np.uint8)
  pixels[: patch.pixels.shape[0], : patch.pixels.shape[1]] = patch.pixels
  return pixels


def test_crop_of_a_patch_is_the_crop_of_the_image():
  rng = np.random.default_rng(4)
  image = rng.integers(0, 256, (40, 60, 3), np.uint8)
  n = 100
  center = rng.uniform(-20, 80, (n, 2))  # many of them partly or wholly outside
  size = rng.uniform(5, 50, (n, 1)) * [0.75, 1]
  flip, rotation = rng.random(n) < 0.5, rng.uniform(-180, 180, n)
  drawn = size * rng.uniform(0.6, 1.4, (n, 1))
  matrix = geometry.region_to_crop(center, drawn, (16, 12), rotation, flip)
  low, high = geometry.reach(center, size, scale=0.4, rotated=True)
  patches = [image_files.cut_patch(image, *corners, canvas=60) for corners in zip(low, high)]
  from_patch = geometry.compose(matrix, np.stack([to_image(patch) for patch in patches]))

  expected = affine(np.broadcast_to(image, (n, *image.shape)), matrix, (16, 12))
  found = affine(np.stack([on_canvas(patch, 60) for patch in patches]), from_patch, (16, 12))
  empty = ~np.asarray(expected).any((1, 2, 3))
  assert 5 < empty.sum() < 50
  assert sum(patch.pixels.size < image.size / 2 for patch in patches) > 20
  np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)  # float32 positions in noise


@pytest.mark.parametrize('canvas', [200, 64, 48])
def test_a_bright_dot_ends_where_the_geometry_says(canvas):
  center, size = np.array([90.0, 100.0]), np.array([120.0, 160.0])
  matrix = geometry.region_to_crop(center, size, (160, 120), rotation=25.0)
  patch_corners = geometry.reach(center, size, 0.4, rotated=True)
  rows, columns = np.mgrid[:200, :160]
  for dot in ((75, 80), (101, 125), (112, 72)):
    far = np.square(columns - dot[0]) + np.square(rows - dot[1])
    image = np.repeat(np.uint8(255 * np.exp(-far / 50))[..., None], 3, -1)
    patch = image_files.cut_patch(image, *patch_corners, canvas)
    assert max(patch.pixels.shape) <= canvas
    from_patch = geometry.compose(matrix, to_image(patch))
    crop = np.asarray(affine(on_canvas(patch, 200)[None], from_patch[None], (160, 120)))[0]
    mass = crop[..., 0] / crop[..., 0].sum()
    found = [(mass.sum(0) * np.arange(120)).sum(), (mass.sum(1) * np.arange(160)).sum()]
    expected = geometry.transform(matrix, np.array([dot], float))[0]
    # The tolerance is a tenth of a patch pixel; the usual mistake would be one half.
    np.testing.assert_allclose(found, expected, atol=0.1 / patch.zoom.min())


@pytest.mark.parametrize('corner', [(0.0, 0.0), (-60.0, -90.0), (77.3, 61.9), (119.5, 89.5)])
def test_a_zoom_that_was_asked_for_holds_at_the_border_too(corner):
  image = np.random.default_rng(5).integers(0, 256, (90, 120, 3), np.uint8)
  low = np.array(corner)
  patch = image_files.cut_patch(image, low, low + 100, canvas=60, max_zoom=0.43)
  height, width = patch.pixels.shape[:2]
  shown = np.minimum(np.ceil(low + 100) + 2, (120, 90)) - patch.origin
  np.testing.assert_array_equal([width, height], np.maximum(np.floor(shown * 0.43), 1))
  assert (patch.zoom <= np.float32(0.43)).all()
  assert (patch.zoom * (shown + 1 / 0.43) >= 0.43 * shown).all()  # up to a whole pixel
