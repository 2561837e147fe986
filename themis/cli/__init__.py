"""The command line: parse, call one function, print what it returns."""

from themis.cli.main import main as main
