"""`python -m diffclass`."""

from diffclass.cli import main

if __name__ == "__main__":
    main(prog_name="diffclass")
