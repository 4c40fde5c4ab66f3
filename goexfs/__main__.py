"""``python -m goexfs``: the same as the ``goexfs`` command."""

from goexfs.cli.main import main

if __name__ == "__main__":
    main()
