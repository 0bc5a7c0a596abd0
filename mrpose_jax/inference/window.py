"""A window that shows the frames of a video, where the machine has a display."""

import numpy as np
from PIL import Image

from mrpose_jax import errors


class Window:
  """Shows frames as they are written; it closes by its button, Escape or q.

  Attributes:
    closed: whether the user has closed the window.

  Raises:
    ConfigError: Python has no Tk, or there is no display.
  """

  def __init__(self, title: str):
    try:
      import tkinter

      from PIL import ImageTk
    except ImportError as error:
      raise errors.ConfigError(
        f'no window can be opened: {error}; name a folder to write to with --output'
      ) from error
    try:
      self._root = tkinter.Tk()
    except tkinter.TclError as error:
      raise errors.ConfigError(
        f'no window can be opened: {error}; name a folder to write to with --output'
      ) from error
    self._to_photo = ImageTk.PhotoImage
    self._root.title(title)
    self._label = tkinter.Label(self._root)
    self._label.pack()
    self.closed = False
    self._root.protocol('WM_DELETE_WINDOW', self._mark_closed)
    for key in ('<Escape>', 'q'):
      self._root.bind(key, self._mark_closed)

  def write(self, pixels: np.ndarray, seconds: float):
    """Shows a frame, uint8 [H, W, 3] RGB, made smaller if the screen is; now, not at `seconds`."""
    del seconds
    image = Image.fromarray(pixels)
    image.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight()))
    self._photo = self._to_photo(image, master=self._root)  # Tk itself keeps no reference
    self._label.configure(image=self._photo)
    self._root.update()

  def close(self):
    self._root.destroy()

  def _mark_closed(self, event=None):
    del event
    self.closed = True
