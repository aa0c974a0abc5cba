"""The PyTorch front end: a module is recorded, viewed, folded as a copy and checked; checkpoints and programs."""
