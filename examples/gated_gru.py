"""A recurrent net that decides at each character whether to update its state.

The text is generated, sums in words: "forty-two and seven make forty-nine." The next character is predicted from the state and
the one just read, so within a word the state may often stay as it is. A hard gate decides on that, and an update has a price.
The cost is a sum over characters, (batch, terms), and a gate changes its own term and later ones, as `credit="causal"` says.
Look at `cost`, of a character of new text: its bits, and the price of its update. `skipped` is the share without an update.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import dither

score = partial(dither.ScoreFunction, credit="causal", vectorize=False)  # no vmap takes a GRUCell
leave_one_out, optimal = partial(score, baseline="leave-one-out", samples=4), partial(score, baseline="optimal")
ESTIMATORS = {"straight-through": dither.StraightThrough, "leave-one-out": leave_one_out, "optimal baseline": optimal}
SMALL = "zero one two three four five six seven eight nine ten eleven twelve thir four fif six seven eigh nine".split()
SMALL[13:] = [f"{word}teen" for word in SMALL[13:]]
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
LETTERS = sorted({*"".join(SMALL + TENS), *" -.andmake"})


def words(number):
    tens, ones = divmod(number, 10)
    return SMALL[number] if number < 20 else TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else "")


def text(sums, seed):
    terms = torch.randint(50, (sums, 2), generator=torch.Generator().manual_seed(seed))
    characters = "".join(f"{words(a)} and {words(b)} make {words(a + b)}. " for a, b in terms.tolist())
    return torch.tensor([LETTERS.index(c) for c in characters])


class GatedGRU(nn.Module):
    def __init__(self, node, width):
        super().__init__()
        self.embedding, self.cell = nn.Embedding(len(LETTERS), width), nn.GRUCell(width, width)
        self.logits, self.update = nn.Linear(2 * width, 1), node()
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, len(LETTERS)))

    def forward(self, characters):
        """(bits of each character but the first, which updates were made), both (batch, time)."""
        state, seen, updates = torch.zeros(len(characters), self.cell.hidden_size), [], []
        for x in self.embedding(characters[:, :-1]).unbind(1):
            update = self.update(self.logits(torch.cat([x, state], -1)))
            state = state + update * (self.cell(x, state) - state)
            seen.append(torch.cat([x, state], -1))
            updates.append(update)
        bits = F.cross_entropy(self.out(torch.stack(seen, 1)).mT, characters[:, 1:], reduction="none") / math.log(2)
        return bits, torch.cat(updates, 1)


def build(node=dither.Bernoulli, width=64):
    return GatedGRU(node, width)


def train(make=leave_one_out, *, node=dither.Bernoulli, steps=600, seed=0, lr=5e-3, price=0.3, length=32):
    torch.manual_seed(seed)
    training, held_out, net = text(5000, seed=0), text(1000, seed=1), build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        batch = training.unfold(0, length + 1, 1)[torch.randint(len(training) - length, (32,))]
        optimizer.zero_grad()
        estimator(lambda: torch.add(*net(batch), alpha=price)).backward()
        optimizer.step()
    with torch.no_grad():
        bits, updates = (float(figure.mean()) for figure in net(held_out.unfold(0, 101, 100)))
    return {"cost": bits + price * updates, "bits_per_character": bits, "skipped": 1 - updates}


if __name__ == "__main__":
    print(train())
