"""graftwork: reinforcement-learning agents for PyTorch and Gymnasium.

    import graftwork as gw
    run = gw.train("dqn/cartpole", seed=0)
    action = run.agent.predict(observation)
    agent = gw.load("runs/dqn-cartpole-0")
"""

from .runs import Run, RunConfig, evaluate, load, load_encoder, resume, train

__all__ = ["Run", "RunConfig", "evaluate", "load", "load_encoder", "resume", "train"]
