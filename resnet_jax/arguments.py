"""Command lines of commands that read no config file."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line with exit code 2, as commands with config files do."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"error: {message}; see --help\n")
