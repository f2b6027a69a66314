"""`python -m cook_jupyter` is `cook-jupyter`."""

from cook_jupyter.cli import main

if __name__ == "__main__":
    main()
