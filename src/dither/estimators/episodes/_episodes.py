"""Rewards that come later than the decisions that earned them: score-function gradients over episodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.baselines.learned import Learned
from dither.estimators.core.baselines.named import BaselineName, make_baseline
from dither.estimators.core.call import Call
from dither.estimators.core.parts import OnModel
from dither.estimators.core.recording import Recording
from dither.estimators.core.run import Handler
from dither.estimators.episodes.returns import Decision, Objective, Step, Stored
from dither.estimators.episodes.traces import Traces
from dither.functional import widen
from dither.nodes import Node


class Episodes(OnModel):
    """Score-function gradient of a return: decisions are taken now, rewards come later, the loss when the episodes are over.

    >>> import torch, dither
    >>> policy = torch.nn.Sequential(torch.nn.Linear(4, 8), dither.Bernoulli(), torch.nn.Linear(8, 2), dither.Categorical())
    >>> episodes, observation = dither.Episodes(policy, discount=0.5), torch.zeros(3, 4)
    >>> for _ in range(3):
    ...     with episodes.acting():  # every decision of the policy is recorded, hidden units included
    ...         action = policy(observation)  # three environments at once
    ...     episodes.reward(action.sum(1), done=torch.zeros(3, dtype=torch.bool))  # 1 for each
    >>> loss = episodes.loss()
    >>> loss.item()  # -(1 + 0.5 + 0.25)
    -1.75
    >>> loss.backward()

    Estimates   d loss / d theta, loss = -E[sum_t discount^t r_t] per episode: rewards are maximised, the loss is minimised.
    Formula     -1/envs sum over episodes, steps t and units i of w_t (G_t - b_i) d log P(h_ti) / d theta            (1)
                G_t = sum_{s >= t} discount^(s - t) r_s                                                              (2)
                G_t is the return-to-go: a decision is credited with what comes after it only.
    discount_from  "start": w_t = discount^t, which makes the estimate unbiased for the discounted return of the episode.
                "decision" (usual): w_t = 1, every step counts like a first one; not the gradient of any one objective
                (Thomas 2014), but late decisions are learned too. The same for discount=1.
    Baselines   None       b = 0.
                "mean"     moving average over previous losses of the returns-to-go, of all steps.
                "optimal"  per unit, E[|score|^2 G] / E[|score|^2] over previous losses (Bengio 2013, Corollary 1, Eq. 7).
                "leave-one-out"  mean return-to-go of the other environments at the same step; needs two or more.
                nn.Module  of the node's logits, fitted to G by squared error through the loss, as in `ScoreFunction`; add
                           `episodes.parameters()` to the optimizer.
                None of them sees what its own environment did after the decision, so none biases the estimate.
    traces      False: the graph of every step is kept until `loss()`. True: constant memory in the length of the episode.
                Each step is back-propagated at once into a score trace per environment, z <- discount z + d log P / d theta
                and gradient -= r z: envs times the size of the parameters. The estimate is the same, for the baselines None,
                "mean" and "optimal".
    nodes       names or shell-style patterns of the discrete nodes that get a score, default all. The others back-propagate by
                their own sampler (straight-through), which is biased. Continuous nodes do so always, which is not.
    autoreset   False: an environment that is done takes no further part until `loss()`. The modes of gymnasium's vector
                environments: "same-step", its next step is the first of a new episode; "next-step" (gymnasium's default,
                also True), its next step resets it: that action is not credited, its reward must be 0, the step after is
                the first. `loss()` remembers who is to be reset; if you reset all environments yourself, call `reset()` too.
    Truncation  reward(..., done=terminated, truncated=truncated, bootstrap=values): where the time limit cuts an episode off,
                the expected return from its last observation on stands for the rest, in (2), in that step.
    decay       of the moving averages, per loss.
    Raises      RuntimeError for calls out of order, and for logits that were changed in place after a node sampled from them;
                ValueError for wrong shapes; FloatingPointError for a reward that is not finite, naming the step.
    Reference   Williams 1992; Bengio 2013, Sec. 3.1 (its closing remark); Baxter & Bartlett 2001 for the traces; Weaver & Tao
                2001 for optimal baselines of returns.
    """

    needs_sample_gradients: ClassVar[bool] = False
    former_order = ("discount", "baseline")

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        discount: float = 0.99,
        baseline: BaselineName | nn.Module | Baseline | None = "optimal",
        discount_from: Literal["decision", "start"] = "decision",
        traces: bool = False,
        nodes: Collection[str] | None = None,
        autoreset: bool | Literal["same-step", "next-step"] = False,
        decay: float = 0.9,
    ) -> None:
        if not 0 <= discount <= 1:
            raise ValueError(f"discount is {discount}: it must be from 0 to 1, such as 0.99")
        if discount_from not in ("decision", "start"):
            raise ValueError(f"discount_from is {discount_from!r}: it must be 'decision' or 'start'")
        if autoreset not in (False, True, "same-step", "next-step"):
            raise ValueError(f"autoreset is {autoreset!r}: it must be False, 'same-step' or 'next-step'")
        super().__init__(model)
        self.handler = Handler()
        self.discount, self.discount_from = discount, discount_from
        self.autoreset, self.traces = "next-step" if autoreset is True else autoreset, traces
        self.credited = self._credited(nodes)
        self.leave_one_out = baseline == "leave-one-out"
        self.baseline = make_baseline(None if self.leave_one_out else baseline, decay, False, tuple(self.credited.values()))
        if traces and (self.leave_one_out or isinstance(self.baseline, Learned)):
            raise ValueError(
                f"baseline={baseline!r} needs the whole episode, traces=True forgets it: use traces=False or 'optimal'"
            )
        self._start()

    def _credited(self, nodes: Collection[str] | None) -> dict[Node, str]:
        patterns = ("*",) if nodes is None else (nodes,) if isinstance(nodes, str) else tuple(nodes)
        for pattern in patterns:
            if not any(node.discrete and fnmatchcase(name, pattern) for name, node in self.nodes.items()):
                if not any(node.discrete for node in self.nodes.values()):
                    raise ValueError(
                        f"{type(self.model).__name__} has no discrete node to take decisions: put a dither.Bernoulli() or "
                        "dither.Categorical() into the policy"
                    )
                raise ValueError(f"no discrete node is called {pattern!r}: the nodes of the model are {', '.join(self.nodes)}")
        return {
            node: name
            for name, node in self.nodes.items()
            if node.discrete and any(fnmatchcase(name, pattern) for pattern in patterns)
        }

    # --- an episode ---------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Forget all steps since the last loss: every environment begins an episode."""
        self._start()

    def _start(self, resetting: Tensor | None = None) -> None:
        self.steps = 0
        self._pending: list[Decision] = []
        self._check: Callable[[], None] | None = None
        self._running: Tensor | None = None  # (envs,) bool
        self._resetting = resetting  # (envs,) bool: whose next step only resets it; None: nobody's
        self._begun: Tensor | None = None  # (envs,) bool: who is in an episode of which a step has been credited
        self._weight: Tensor | None = None  # discount^(steps since the start of the episode)
        objective = Objective(self.model, self.discount, self.discount_from == "start", self.baseline, self.leave_one_out)
        self._record = (Traces if self.traces else Stored)(objective)

    @property
    def over(self) -> bool:
        """Whether every environment is done. Never with autoreset."""
        return self._running is not None and not bool(self._running.any())

    @contextmanager
    def acting(self) -> Iterator[None]:
        """One time step: within it the policy's decisions, for a batch of environments, are drawn and recorded."""
        if self._pending:
            raise RuntimeError("acting() again before reward(): give each step its reward, zeros if none has come yet")
        recording = Recording(self)
        with recording.opened():
            yield
        self._pending = [Decision(name, r.node, r.logits, r.sample) for name, r in recording.records()]
        self._check = recording.run.check_unchanged
        if not self._pending:
            raise ValueError(
                f"no decision was taken within acting(): call there the policy that Episodes was built on (its nodes to be "
                f"credited: {', '.join(self.credited.values())}), outside dither.deterministic"
            )

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """What a node gives within `acting`, and its sample if it is to be credited."""
        if call.node not in self.credited:
            return call.propagate(), None
        sample = call.sample()
        return call.output(sample), sample

    @torch.no_grad()
    def reward(self, reward: Any, done: Any = None, *, truncated: Any = None, bootstrap: Any = None) -> None:
        """What the step's decisions led to. reward: (envs,), to be maximised; done: (envs,) bool, whether the episode ended
        with this step, so that nothing follows; truncated: (envs,) bool, whether it was cut off with this step, and
        bootstrap: (envs,), the expected return of what would have followed, looked at where it was cut off (and not done).
        Tensors or arrays."""
        if not self._pending:
            raise RuntimeError("reward() before a decision: call the policy within `with episodes.acting():` first")
        logits = self._pending[0].logits
        earned = self._per_env("reward", reward, widen(logits).dtype)
        ended = self._per_env(
            "done", torch.zeros(len(logits), dtype=torch.bool, device=logits.device) if done is None else done, torch.bool
        )
        if not bool(torch.isfinite(earned).all()):
            raise FloatingPointError(f"the reward of step {self.steps} since the last loss is not finite: {earned.tolist()}")
        cut, beyond = self._cut_off(truncated, bootstrap, ended, earned)
        if self._running is None or self._weight is None:
            self._running, self._weight = torch.ones_like(ended), torch.ones_like(earned)
        running = self._stepping(self._running, ended | cut, earned)
        # What would follow a cut, discounted, is a part of that step's reward: then (2) need not know of it.
        earned = torch.where(running, earned + self.discount * beyond, 0)
        ended = (ended | cut) & running
        weight = self._weight if self.discount_from == "start" else torch.ones_like(earned)
        assert self._check is not None
        with torch.enable_grad():
            self._record.add(Step(self._pending, earned, running, ended, weight, self._check), self._weight)
        self._begun = running & ~ended
        self._weight = torch.where(self._begun, self._weight * self.discount, 1.0)
        if not self.autoreset:
            self._running = self._begun
        self._resetting = ended if self.autoreset == "next-step" else None
        self._pending, self._check, self.steps = [], None, self.steps + 1

    def _cut_off(self, truncated: Any, bootstrap: Any, ended: Tensor, earned: Tensor) -> tuple[Tensor, Tensor]:
        """(who was cut off and had not ended, what would have followed)."""
        if truncated is None and bootstrap is not None:
            raise ValueError("bootstrap is given, truncated is missing: say which environments were cut off with this step")
        if truncated is None:
            return torch.zeros_like(ended), torch.zeros_like(earned)
        cut = self._per_env("truncated", truncated, torch.bool) & ~ended
        if bootstrap is None and bool(cut.any()):
            raise ValueError(
                f"environments {cut.nonzero().flatten().tolist()} were cut off, but bootstrap is missing: give the expected "
                "return from the last observation on, (envs,), or done=terminated | truncated if nothing is to stand for it"
            )
        beyond = self._per_env("bootstrap", torch.zeros_like(earned) if bootstrap is None else bootstrap, earned.dtype)
        beyond = torch.where(cut, beyond, 0)
        if not bool(torch.isfinite(beyond).all()):
            raise FloatingPointError(f"the bootstrap of step {self.steps} since the last loss is not finite: {beyond.tolist()}")
        return cut, beyond

    def _stepping(self, running: Tensor, ended: Tensor, earned: Tensor) -> Tensor:
        """Whose decisions count: not those of environments that only reset themselves in this step."""
        if self._resetting is None:
            return running
        if bool((wrong := self._resetting & (ended | (earned != 0))).any()):
            raise ValueError(
                f"environments {wrong.nonzero().flatten().tolist()} have a reward or end in step {self.steps} since the last "
                "loss and ended in the step before, but autoreset='next-step' says that this step only resets them: if they "
                "reset in the same step use autoreset='same-step'; if you have reset them yourself call episodes.reset() then; "
                "else give them the reward 0, as gymnasium does"
            )
        return running & ~self._resetting

    def loss(self, bootstrap: Any = None) -> Tensor:
        """A scalar whose gradient is the estimate and whose value is minus the mean discounted return, over environments.

        Closes all episodes and starts anew. bootstrap: (envs,), the expected return of what would follow for environments
        that are still running, for example a learned value of the next observation; without it their returns end here.
        """
        if self._pending or not self.steps:
            raise RuntimeError("loss() needs reward() after every acting(), and at least one step")
        assert self._begun is not None and self._weight is not None
        beyond = torch.zeros_like(self._weight)
        if bootstrap is not None:
            beyond = self._per_env("bootstrap", bootstrap, beyond.dtype, len(beyond)).to(beyond.device)
            beyond = torch.where(self._begun, beyond, 0)
        loss = self._record.loss(beyond, self._weight)
        self._start(self._resetting)
        return loss

    def _per_env(self, name: str, values: Any, dtype: torch.dtype, envs: int | None = None) -> Tensor:
        plain = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))  # keeps the digits of floats
        tensor = plain.detach().to(self._pending[0].logits.device if self._pending else plain.device, dtype)
        decided = {len(d.logits) for d in self._pending} if envs is None else {envs}
        for known in (self._running, self._resetting):
            if known is not None:
                decided.add(len(known))
        if decided != {tensor.shape[0] if tensor.dim() == 1 else -1}:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but the policy decided for {' and '.join(map(str, sorted(decided)))} "
                "environments: one value per environment, (envs,), is needed, and the same environments in every step"
            )
        return tensor

    # --- state --------------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        if self._pending or self.steps:
            raise RuntimeError(
                f"Episodes is copied or pickled with {self.steps} steps since the last loss, whose graphs cannot be: do it "
                "after loss(), or after reset(), which forgets them; state_dict() is what it has learned, at any time"
            )
        return super().__getstate__()
