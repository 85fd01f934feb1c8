"""Train DQN on CartPole-v1, stop, go on, and play with the result.

python examples/train_and_resume.py
"""

import gymnasium

import graftwork as gw

RUN = "runs/example"


def main() -> None:
    run = gw.train("dqn/cartpole", "steps=25_000", "agent.epsilon.steps=4_000", seed=0, run_dir=RUN)
    print(f"stopped at step {run.step:,}")

    # As if it had been one run of 50,000 steps; after a kill -9 the same call without an override goes on.
    run = gw.resume(RUN, "steps=50_000")
    result = gw.evaluate(RUN, episodes=100)
    print(f"step {result.step:,}: {result.mean:.1f} ± {result.std:.1f} over 100 fresh episodes of seed {result.seed}")

    play = gw.load(RUN).player()  # a player also carries the state of an agent with a memory
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=1)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(play(observation))
        total, ended = total + float(reward), terminated or truncated
    print(f"one more episode: {total:.0f}")


if __name__ == "__main__":
    main()
