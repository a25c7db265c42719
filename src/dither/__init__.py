"""dither: train networks that take hard, random decisions.

>>> import dither
>>> node = dither.Bernoulli()

The public names live in `dither._api`, which imports torch. They are loaded on first use, so that
`import dither` and `dither --help` answer at once.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dither._api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Private and dunder names are probed by every inspecting tool; they must not cost an import of torch.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Submodules before public names: `from dither import cli` must stay free of torch.
    if find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    api = import_module(f"{__name__}._api")
    globals().update({public: getattr(api, public) for public in api.__all__})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are {', '.join(api.__all__)}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({"__version__", *globals(), *import_module(f"{__name__}._api").__all__})
