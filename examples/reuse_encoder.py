"""The encoder of a trained agent inside a supervised model, first as it is, then trained on.

    python examples/reuse_encoder.py

The model answers a question about CartPole: will a random player drop the pole within ten steps?
"""

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.networks import Encoder

RUN = "runs/reuse-encoder"


def labelled_observations(episodes: range) -> tuple[Tensor, Tensor]:
    """Observations [N, 4] of random play, and whether each is one of the last ten of its episode, [N]."""
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(episodes.start)
    observations, labels = [], []
    for episode in episodes:
        seen, ended = [env.reset(seed=episode)[0]], False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
            seen.append(observation)
        observations += seen
        labels += [len(seen) - row <= 10 for row in range(len(seen))]
    return torch.from_numpy(np.stack(observations)), torch.tensor(labels).float()


class Grafted(nn.Module):
    """A classifier on an encoder's features."""

    def __init__(self, encoder: Encoder, *, freeze: bool) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not freeze)
        self.head = nn.Linear(encoder.out_features, 1)

    def forward(self, observation: Tensor) -> Tensor:
        features, _ = self.encoder(observation.unsqueeze(0))  # an encoder reads [T, B, *obs], and gives [T, B, F]
        logit: Tensor = self.head(features[0])
        return logit.squeeze(-1)


def accuracy(model: Grafted, steps: int = 150) -> float:
    """Train the model, and return the share of held-out observations that it gets right."""
    x, y = labelled_observations(range(40))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=3e-3)
    for _ in range(steps):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = labelled_observations(range(1_000, 1_040))
    return float(((model(x) > 0) == y.bool()).float().mean())


def main() -> None:
    torch.manual_seed(0)
    gw.train("dqn/cartpole", seed=0, run_dir=RUN)
    for freeze in (True, False):
        share = accuracy(Grafted(gw.load_encoder(RUN), freeze=freeze))
        print(f"encoder {'as it is' if freeze else 'trained on'}: {share:.3f} right")


if __name__ == "__main__":
    main()
