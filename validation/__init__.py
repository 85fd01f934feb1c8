"""Whether results agree with those of Stable-Baselines3: parity of weights, statistics of returns, their report."""
