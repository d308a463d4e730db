"""python -m pgtask."""

from pgtask.cli import main

if __name__ == "__main__":
    main()
