"""An object as another process gets it. The one use of pickle here: nothing is read but what was written a line before."""

import pickle
from typing import Any


def round_trip(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))
