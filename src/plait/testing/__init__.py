"""For tests of concurrent code: cancel it at each place where it can wait, and see what is left behind.

`import plait` does not import this.
"""

from plait.testing._faults import cancel_at_park as cancel_at_park
from plait.testing._faults import every_park as every_park
