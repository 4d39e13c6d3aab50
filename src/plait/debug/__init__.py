"""For seeing what a program does: carriers that are held up.

`import plait` does not import this, but in Python's development mode.
"""

from plait.debug._pins import Pin as Pin
from plait.debug._pins import PinWatch as PinWatch
