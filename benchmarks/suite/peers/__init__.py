"""The sides: each module drives one library as its users do. `child.py` imports the one that it needs."""
