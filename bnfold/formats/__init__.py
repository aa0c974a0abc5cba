"""How models are stored: load, view, apply, save. Each heavy package has one home; no front end imports another."""
