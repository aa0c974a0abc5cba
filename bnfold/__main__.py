"""``python -m bnfold``: the same as ``bnfold``."""

from bnfold.cli import main

if __name__ == "__main__":
    main()
