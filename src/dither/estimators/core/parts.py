"""What estimators and their parts are to the modules that hold them: listed, moved and saved, while the model that they are
built on belongs to somebody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dither.estimators.core.building import no_model
from dither.nodes import Node, as_module, named_nodes
from dither.scoped import Scoped
from dither.settings import Configured


class Part(nn.Module):
    """A module with a state besides parameters and buffers: `own_state`, which `load_own_state` takes back.

    Its keys in a state_dict are the paths of its parts, as in every module. Loading is strict, and an error of
    `load_state_dict` itself leaves all as it was; in a module that holds the part, torch reports what did not fit.
    """

    def own_state(self) -> dict[str, Tensor]:
        """What is to be saved besides parameters and buffers."""
        return {}

    def load_own_state(self, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        """Take it over, in new objects: (keys that are missing, keys that are not known). Raises ValueError for what makes no
        sense."""
        return [], list(state)

    def hint(self) -> str:
        """What an error of load_state_dict says besides."""
        return ""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        named = [*self.named_parameters(), *self.named_buffers()]
        before = {name: tensor.detach().clone() for name, tensor in named if not is_lazy(tensor)}
        own = [(part, vars(part).copy()) for part in self.modules() if isinstance(part, Part)]
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            super().load_state_dict(before, strict=False)
            for part, attributes in own:
                vars(part).update(attributes)
            raise ValueError(f"{error}{self.hint()}") from None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + key: tensor for key, tensor in self.own_state().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        registered = {*self._modules, *self._parameters, *self._buffers}
        keys = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        own = {key: state_dict.pop(prefix + key) for key in keys if key.partition(".")[0] not in registered}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        try:
            missing, unexpected = self.load_own_state(own)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        missing_keys += [prefix + key for key in missing]
        unexpected_keys += [prefix + key for key in unexpected]


class OnModel(Configured, Part):
    """A part that is built on a model without holding it.

    `model` is a plain attribute: its parameters are listed, moved and saved by whoever holds the model, and `train()` and
    `eval()` do not reach it. A copy made with the model (of a module that holds both, or of a tuple of them) is tied to the
    copied model, and one made by itself, by copy.deepcopy or pickle, has a copy of the model as its `model`: as an optimizer's
    copy has parameters of its own. copy.copy shares the model, and what has been learned.
    """

    model: nn.Module
    nodes: dict[str, Node]

    def __init__(self, model: nn.Module | Sequence[nn.Module]) -> None:
        super().__init__()
        model = as_module(model)
        if not isinstance(model, nn.Module):
            raise TypeError(no_model(model, type(self).__name__))
        vars(self)["model"] = model  # not by setattr, which would register it
        self.nodes = covered_nodes(model)

    def settings(self) -> dict[str, str]:
        """Every argument of the constructor, and the nodes that are covered where none were named."""
        given = super().settings()
        return given if given.get("nodes", "None") != "None" else {**given, "nodes": repr(list(self.nodes))}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.written()})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model":
            raise AttributeError(f"a {type(self).__name__} stays with the model that it was built on: build another one")
        if isinstance(value, int) and name in vars(self):  # no part; Module.__setattr__ takes ten times as long
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)  # type: ignore[arg-type]  # a Module takes any

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """The state as a flat dict of tensors. What takes its size at the first call is left out before."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for key in [key for key, tensor in state.items() if key.startswith(prefix) and is_lazy(tensor)]:
            del state[key]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, parameter in self.named_parameters():
            if is_lazy(parameter):
                state_dict.setdefault(prefix + name, parameter)  # neither has learned anything: nothing is missing
        super()._load_from_state_dict(state_dict, prefix, *args)

    def hint(self) -> str:
        return (
            f"\n\tThe nodes of the model are {', '.join(self.nodes)}: load the state into an estimator like the one that it "
            "was saved from, or rename its keys; strict=False takes what fits"
        )


class Named(nn.Module):
    """Parts by names of any kind, such as patterns of nodes: a dict of them that registers each, with "." written as "_"."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._paths: dict[str, str] = {}
        for name, part in parts.items():
            path = name.replace(".", "_") or "_"
            while path in self._modules:
                path += "_"
            self._modules[path], self._paths[name] = part, path

    def __getitem__(self, name: str) -> Any:
        return self._modules[self._paths[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def values(self) -> list[Any]:
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self[name]) for name in self]


# --- which nodes ----------------------------------------------------------------------------------------------------------
_COVERED: Scoped[frozenset[Node] | None] = Scoped(None)


@contextmanager
def covering(nodes: Iterable[Node]) -> Iterator[None]:
    """What is built within it on a model covers these of its nodes alone."""
    with _COVERED.set(frozenset(nodes)):
        yield


def covered_nodes(model: nn.Module) -> dict[str, Node]:
    """The nodes of a model by name: all of them, or those that are to be covered."""
    only = _COVERED.get()
    return {name: node for name, node in named_nodes(model).items() if only is None or node in only}
