"""Safe reading and atomic writing: what a file is, its hash, and putting a new one in place. Stdlib only."""
